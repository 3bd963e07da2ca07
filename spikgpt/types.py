"""Types and small values that the whole library shares, each with one home."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

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
# Added to deviations within labels, as a share of their median.
WITHIN_SHARE = 0.1
# Simulated accuracy below which a query has few of the reference's genes.
ENOUGH_GENES = 0.95
# Energy of a cell of which the network says nothing.
NO_SUPPORT = -1e4


@dataclass(frozen=True)
class NetworkOutput:
    """What a reference's network says of n cells, each seen alone.

    ``vectors``, shape (n, D), is what the classifier read; ``probabilities``, shape (n, L), are the labels', already
    divided by the reference's temperature; ``energies``, shape (n,), the log of the summed exponentials of the logits,
    low where no label is supported. A cell of which the network says nothing has probabilities of 0.
    """

    vectors: Floats
    probabilities: Floats
    energies: Floats

    @classmethod
    def of(cls, vectors: Floats, probabilities: Floats, energies: Floats) -> NetworkOutput:
        """Return what a network says, and nothing of cells for which it gives no finite numbers."""
        finite = np.isfinite(probabilities).all(axis=1) & np.isfinite(energies) & np.isfinite(vectors).all(axis=1)
        if finite.all():
            return cls(vectors, probabilities, energies)
        kept = finite[:, None]
        return cls(np.where(kept, vectors, 0), np.where(kept, probabilities, 0), np.where(finite, energies, NO_SUPPORT))

    def part(self, cells: Rows | slice | Bools) -> NetworkOutput:
        """Return what it says of some of the cells."""
        return NetworkOutput(self.vectors[cells], self.probabilities[cells], self.energies[cells])


@dataclass(frozen=True)
class Profiles:
    """What a reference's labels express, of the G genes that a query has.

    ``means``, shape (L, G), is the mean log expression of each label; ``within``, shape (G,), the deviation of a cell
    from the mean of its label.
    """

    means: npt.NDArray[np.float64]
    within: npt.NDArray[np.float64]

    @cached_property
    def spread(self) -> npt.NDArray[np.float64]:
        """The deviation within labels and a tenth of its median, so that genes that hardly vary do not rule."""
        return np.maximum(self.within + WITHIN_SHARE * np.median(self.within), 1e-12)


@dataclass(frozen=True)
class InputReport:
    """How the cells of a query were read, for the user and for provenance.

    ``genes_matched`` counts the genes that reference and query share, of ``genes_total`` genes of the reference; or of
    the query, where ``of_query`` says so, as a vocabulary of all human genes is never found whole. Both counts are 0
    for an embedding that the user brings. ``notes`` are whole sentences on anything suspicious. ``simulated_accuracy``
    is the share of simulated cells that get their label with the genes of the query; None where few genes are missing.
    """

    source: str
    values: str
    scaling: str
    genes_matched: int
    genes_total: int
    notes: tuple[str, ...] = ()
    of_query: bool = False
    simulated_accuracy: float | None = None

    @property
    def few_genes(self) -> bool:
        """Whether so few of the reference's genes are there that many labels can be wrong."""
        return self.simulated_accuracy is not None and self.simulated_accuracy < ENOUGH_GENES

    @property
    def genes(self) -> str:
        """Say how many genes matched, in a sentence; nothing for an embedding that the user brings."""
        if not self.genes_total:
            return ""
        if self.of_query:
            return f"{self.genes_matched} of the query's {self.genes_total} genes are in the vocabulary."
        return f"{self.genes_matched} of the reference's {self.genes_total} genes are in the query."
