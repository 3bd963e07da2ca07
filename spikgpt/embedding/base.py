"""What an embedding offers the pipeline, and what runs the network behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.expression import Cells
from spikgpt.cells.genes import GeneList
from spikgpt.types import Floats, InputReport, NetworkOutput, OnCells, Profiles, Scale

# From cells of which none is empty, and the scale to see them in, to what the network says of them.
Run = Callable[[AlignedCells, Scale | None], NetworkOutput]


@dataclass(frozen=True)
class QueryCells:
    """The cells of a query as an embedding reads them, still unread: ``chunks`` can be iterated over once."""

    n_obs: int
    chunks: Iterator[AlignedCells]
    report: InputReport


@dataclass(frozen=True)
class Scaled:
    """The scale to see a query in.

    ``notes`` on it, what the network says of the sample in it, if it ran, and the ``simulated_accuracy`` of
    :class:`spikgpt.types.InputReport`.
    """

    scale: Scale | None
    name: str
    notes: tuple[str, ...] = ()
    output: NetworkOutput | None = None
    simulated_accuracy: float | None = None

    def reported(self, report: InputReport) -> InputReport:
        """Return a report that says how the query was scaled."""
        notes = report.notes + self.notes
        return replace(report, scaling=self.name, notes=notes, simulated_accuracy=self.simulated_accuracy)


class Embedding(Protocol):
    """Turns cells into what a network reads, the same way for the reference and for a query."""

    @property
    def kind(self) -> str:
        """Name on the command line: ``pca``, ``scgpt``, or ``obsm:KEY``."""

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""

    def read(self, cells: Cells, *, layer: str | None, scaling: str) -> QueryCells:
        """Return the cells of a query, to be read a few at a time.

        Raises
        ------
        DataError
            When they cannot be read.
        ConfigError
            When a layer or a scaling is asked for that this embedding has no use for.
        """

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return the scale to see a query in, learned from a sample of its cells."""

    def logs(self, cells: AlignedCells) -> sparse.csr_matrix | None:
        """Return log expression of the genes that the query has, shape (n, found genes); None without expression."""

    def profiles(self, cells: AlignedCells) -> Profiles | None:
        """Return what the labels express of the genes that a query has; None without expression."""

    @property
    def stored_genes(self) -> GeneList:
        """What ``genes.json`` keeps: the genes that the embedding reads; none where a checkpoint knows them."""

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedding."""

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps of the embedding."""


class WithoutExpression:
    """What embeddings share whose vectors are all there is of a cell: neighbours and familiarity go by these alone."""

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return no scale: vectors are taken as they are."""
        return Scaled(None, "none")

    def logs(self, cells: AlignedCells) -> None:
        """Return nothing: there is no expression."""

    def profiles(self, cells: AlignedCells) -> None:
        """Return nothing: there is no expression."""


class Engine(Protocol):
    """Runs the network of a reference: with torch, or with ONNX Runtime."""

    @property
    def name(self) -> str:
        """What runs the network, and where."""

    @property
    def embedding(self) -> Embedding:
        """How cells are read for it."""

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return what the network says of cells, each seen alone.

        Parameters
        ----------
        cells
            None of them empty.
        scale
            Gene means and deviations to see them in; None where the embedding has no scale.
        batch_size
            Cells at a time; by default what is fast.
        on_cells
            Called with the number of cells done since the last call.
        """
