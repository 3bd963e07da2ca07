"""Types and constants that the whole library shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spikgpt.constants import CONSTANTS

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Strings = npt.NDArray[np.str_]
# Row numbers of cells.
Rows = npt.NDArray[np.int64]
# Mean and standard deviation of each gene's log expression, each of shape (genes,).
Scale = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
# Called with the number of cells done since the last call.
OnCells = Callable[[int], None]

UNKNOWN = "Unknown"
# Energy of a cell without finite output.
NO_ENERGY = -1e4


@dataclass(frozen=True)
class NetworkOutput:
    """Output of a reference's network for n cells, before smoothing.

    Attributes
    ----------
    vectors
        Input of the classifier, shape (n, D).
    probabilities
        Label probabilities, softmax(logits / temperature), shape (n, L); 0 for a cell without finite output.
    energies
        Log of the summed exponentials of the logits, shape (n,). A low energy means that no label fits the cell.
    """

    vectors: Floats
    probabilities: Floats
    energies: Floats

    @classmethod
    def from_arrays(cls, vectors: Floats, probabilities: Floats, energies: Floats) -> NetworkOutput:
        """Return the output of a network; cells with NaN or infinite values get zeros, and the energy ``NO_ENERGY``."""
        finite = np.isfinite(probabilities).all(axis=1) & np.isfinite(energies) & np.isfinite(vectors).all(axis=1)
        if finite.all():
            return cls(vectors, probabilities, energies)
        kept = finite[:, None]
        return cls(np.where(kept, vectors, 0), np.where(kept, probabilities, 0), np.where(finite, energies, NO_ENERGY))

    def part(self, cells: Rows | slice | Bools) -> NetworkOutput:
        """Return the output for some of the cells."""
        return NetworkOutput(self.vectors[cells], self.probabilities[cells], self.energies[cells])


@dataclass(frozen=True)
class Profiles:
    """Expression of a reference's labels in the G genes that a query has.

    ``means``, shape (L, G), is the mean log expression of each label. ``within``, shape (G,), is the standard deviation
    within labels.
    """

    means: npt.NDArray[np.float64]
    within: npt.NDArray[np.float64]

    @cached_property
    def spread(self) -> npt.NDArray[np.float64]:
        """Standard deviation within labels plus a tenth of its median over genes, shape (G,).

        The added constant keeps genes with little variation from dominating.
        """
        return np.maximum(self.within + CONSTANTS.score.within_share * np.median(self.within), 1e-12)


@dataclass(frozen=True)
class InputReport:
    """Summary of a query: kind of values, number of shared genes, and scaling.

    Attributes
    ----------
    source, values
        Layer that was read, and kind of its values.
    scaling
        Scaling that was used.
    genes_matched, genes_total
        Number of genes that query and reference share, and of all genes of the reference; 0 for an embedding from
        ``obsm``.
    notes
        Sentences on everything unusual in the query.
    of_query
        True if genes_total counts the genes of the query instead. This holds for references whose vocabulary has all
        human genes, because no query has all of them.
    simulated_accuracy
        Share of simulated cells that get their own label from the genes of the query; None if few genes are missing.
    orthologues_of
        Species of the query if its genes were mapped to one-to-one orthologues; None without a mapping.
    """

    source: str
    values: str
    scaling: str
    genes_matched: int
    genes_total: int
    notes: tuple[str, ...] = ()
    of_query: bool = False
    simulated_accuracy: float | None = None
    orthologues_of: str | None = None

    @property
    def few_genes(self) -> bool:
        """Return True if the query has so few of the reference's genes that many labels can be wrong."""
        return self.simulated_accuracy is not None and self.simulated_accuracy < CONSTANTS.rejection.least_accuracy

    @property
    def genes(self) -> str:
        """Sentence on the number of shared genes; an empty text for an embedding from ``obsm``."""
        if not self.genes_total:
            return ""
        if self.of_query:
            return f"{self.genes_matched} of the query's {self.genes_total} genes are in the vocabulary."
        mapped = f", as one-to-one orthologues of {self.orthologues_of} genes" if self.orthologues_of else ""
        return f"{self.genes_matched} of the reference's {self.genes_total} genes are in the query{mapped}."


class AnnotatedQuery(Protocol):
    """Interface of the fitted query of an annotation, :class:`spikgpt.explain.query.FittedQuery`."""

    @property
    def genes(self) -> tuple[str, ...]:
        """Symbols of the genes that query and reference share."""

    @property
    def rows(self) -> Rows:
        """Row numbers of the query's sample, ascending."""
