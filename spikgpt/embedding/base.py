"""Protocols of embeddings, which read cells, and of engines, which run the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.expression import Cells, Expression
from spikgpt.cells.genes import GeneList
from spikgpt.types import Bools, Floats, InputReport, NetworkOutput, OnCells, Profiles, Scale

# Function that returns the network's output for cells, none of them empty. Its second argument is the gene means and
# deviations that scale the cells; None for no scaling.
Run = Callable[[AlignedCells, Scale | None], NetworkOutput]


@dataclass(frozen=True)
class QueryCells:
    """Cells of a query, which are read in chunks.

    Attributes
    ----------
    rows
        Function that reads the cells of a range of rows in chunks, while the caller iterates. Its second argument is
        the number of chunks to align at the same time.
    expression
        Expression values that are read; None for an embedding without expression values.
    """

    n_obs: int
    rows: Callable[[range, int], Iterator[AlignedCells]]
    report: InputReport
    expression: Expression | None = None

    @property
    def chunks(self) -> Iterator[AlignedCells]:
        """Yield all cells of the query in chunks."""
        return self.rows(range(self.n_obs), 1)

    def only(self, kept: Bools) -> QueryCells:
        """Return all n cells, with the values of a cell set to 0 where ``kept``, shape (n,), is False."""

        def rows(part: range, threads: int) -> Iterator[AlignedCells]:
            start = part.start
            for chunk in self.rows(part, threads):
                yield chunk.only(kept[start : start + len(chunk.totals)])
                start += len(chunk.totals)

        return replace(self, rows=rows)


@dataclass(frozen=True)
class Scaled:
    """Gene means and deviations that scale a query, with notes for the user.

    ``scale`` is None for an embedding without a scale. ``name`` is the scaling method. ``output`` is the output of the
    network for the sample of the query in this scale; None if the network was not run. ``simulated_accuracy`` is
    described in :class:`spikgpt.types.InputReport`.
    """

    scale: Scale | None
    name: str
    notes: tuple[str, ...] = ()
    output: NetworkOutput | None = None
    simulated_accuracy: float | None = None

    def reported(self, report: InputReport) -> InputReport:
        """Return a copy of a report with the scaling method, its notes and the simulated accuracy."""
        notes = report.notes + self.notes
        return replace(report, scaling=self.name, notes=notes, simulated_accuracy=self.simulated_accuracy)


class Embedding(Protocol):
    """Method that turns cells into vectors, in the same way for the reference and for a query."""

    @property
    def kind(self) -> str:
        """Name of the embedding on the command line: ``pca``, ``scgpt``, or ``obsm:KEY``."""

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""

    def read(
        self,
        cells: Cells,
        *,
        layer: str | None,
        scaling: str,
        gene_key: str | None = None,
        species: str | None = None,
    ) -> QueryCells:
        """Return the cells of a query, which are read in chunks.

        Raises
        ------
        DataError
            When the cells cannot be read.
        ConfigError
            When the embedding does not support an option.
        """

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return the scale of a query, fitted to a sample of its cells."""

    def logs(self, cells: AlignedCells) -> sparse.csr_matrix | None:
        """Return log expression of the genes that query and reference share, (n, G); None without expression values."""

    def profiles(self, cells: AlignedCells) -> Profiles | None:
        """Return the labels' expression profiles in the genes of :meth:`logs`; None if :meth:`logs` returns None."""

    def gene_names(self, cells: AlignedCells) -> tuple[str, ...] | None:
        """Return the symbols of the columns of :meth:`logs`; None if :meth:`logs` returns None."""

    @property
    def stored_genes(self) -> GeneList:
        """Genes that ``genes.json`` stores; empty if the reference stores no genes."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that ``config.json`` stores."""

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors that ``model.safetensors`` stores."""


class WithoutExpression:
    """Mixin for embeddings without expression values."""

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return a result with the scale None, because the vectors are not scaled."""
        return Scaled(None, "none")

    def logs(self, cells: AlignedCells) -> None:
        """Return None, because this embedding has no expression values."""

    def profiles(self, cells: AlignedCells) -> None:
        """Return None, because this embedding has no expression values."""

    def gene_names(self, cells: AlignedCells) -> None:
        """Return None, because this embedding has no expression values."""


class Engine(Protocol):
    """Program that runs the network of a reference: NumPy, ONNX Runtime or torch."""

    @property
    def name(self) -> str:
        """Name of the program that runs the network, and of the hardware."""

    @property
    def embedding(self) -> Embedding:
        """Embedding that reads the cells."""

    @property
    def chunk_threads(self) -> int:
        """Number of chunks of cells to label at the same time: 1 where the network itself uses all of the hardware."""

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return the output of the network for each cell.

        Parameters
        ----------
        cells
            Cells, none of them empty.
        scale
            Gene means and deviations that scale the cells; None where the embedding has no scale.
        batch_size
            Number of cells classified at a time; None lets the engine choose a fast number.
        on_cells
            Function that is called with the number of cells finished since the last call.
        """
