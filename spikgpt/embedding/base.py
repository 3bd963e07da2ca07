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

# Runs the network on cells, none of them empty, with a scale.
Run = Callable[[AlignedCells, Scale | None], NetworkOutput]


@dataclass(frozen=True)
class QueryCells:
    """Cells of a query, which are read in chunks.

    Attributes
    ----------
    rows
        Reads the cells of a range of rows in chunks, while the caller iterates; the second argument is the number of
        chunks to align at the same time.
    expression
        Chosen values; None without expression.
    """

    n_obs: int
    rows: Callable[[range, int], Iterator[AlignedCells]]
    report: InputReport
    expression: Expression | None = None

    @property
    def chunks(self) -> Iterator[AlignedCells]:
        """Read all cells."""
        return self.rows(range(self.n_obs), 1)

    def only(self, kept: Bools) -> QueryCells:
        """Return the same cells with the counts of all but the ``kept`` cells removed; ``kept`` has shape (n,)."""

        def rows(part: range, threads: int) -> Iterator[AlignedCells]:
            start = part.start
            for chunk in self.rows(part, threads):
                yield chunk.only(kept[start : start + len(chunk.totals)])
                start += len(chunk.totals)

        return replace(self, rows=rows)


@dataclass(frozen=True)
class Scaled:
    """Scale of a query, with notes.

    ``output`` is the output of the network for the sample in this scale, if it was run. ``simulated_accuracy`` is that
    of :class:`spikgpt.types.InputReport`.
    """

    scale: Scale | None
    name: str
    notes: tuple[str, ...] = ()
    output: NetworkOutput | None = None
    simulated_accuracy: float | None = None

    def reported(self, report: InputReport) -> InputReport:
        """Return a report with the scaling and its notes."""
        notes = report.notes + self.notes
        return replace(report, scaling=self.name, notes=notes, simulated_accuracy=self.simulated_accuracy)


class Embedding(Protocol):
    """Turns cells into vectors, in the same way for the reference and for a query."""

    @property
    def kind(self) -> str:
        """Name on the command line: ``pca``, ``scgpt``, or ``obsm:KEY``."""

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
        """Return log expression of the genes that query and reference share, shape (n, G); None without expression."""

    def profiles(self, cells: AlignedCells) -> Profiles | None:
        """Return the profiles of the labels in the same genes; None without expression."""

    def gene_names(self, cells: AlignedCells) -> tuple[str, ...] | None:
        """Return the symbols of the columns of :meth:`logs`; None without expression."""

    @property
    def stored_genes(self) -> GeneList:
        """Genes that ``genes.json`` stores; empty where a checkpoint holds them."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that ``config.json`` stores."""

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors that ``model.safetensors`` stores."""


class WithoutExpression:
    """Mixin for embeddings without expression values."""

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return no scale, as vectors are not scaled."""
        return Scaled(None, "none")

    def logs(self, cells: AlignedCells) -> None:
        """Return None, as there is no expression."""

    def profiles(self, cells: AlignedCells) -> None:
        """Return None, as there is no expression."""

    def gene_names(self, cells: AlignedCells) -> None:
        """Return None, as there is no expression."""


class Engine(Protocol):
    """Runs the network of a reference with NumPy, ONNX Runtime or torch."""

    @property
    def name(self) -> str:
        """Name of the program and the hardware."""

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
            Cells classified at a time; None for a fast number.
        on_cells
            Called with the number of cells done since the last call.
        """
