"""Choose the expression values of an AnnData or a file, and detect their unit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.content.features import rna_features
from spikgpt.cells.content.repeats import own_genes
from spikgpt.cells.content.row_order import out_of_place
from spikgpt.cells.content.values import (
    LARGEST_LOG,
    NOT_FINITE,
    Content,
    Kind,
    content_of,
    small_cells,
    untransformed,
    whole_cells,
)
from spikgpt.cells.formats.notes import reading_notes
from spikgpt.cells.matrices import MatrixOnDisk, read_rows
from spikgpt.cells.on_disk import keep_on_disk
from spikgpt.errors import DataError, listed, with_noun
from spikgpt.types import Integers, Rows

if TYPE_CHECKING:
    import pandas as pd

# Names of layers that are tried by default, in this order. "spliced" is not tried: it lacks the unspliced counts.
COUNT_LAYERS = ("counts", "raw_counts", "count", "raw", "umi_counts", "umi", "UMIs")
LOG_LAYERS = ("logcounts", "log1p", "lognorm", "log_normalized", "log_normalised", "data")
# A matrix with less than this share of the genes of another matrix is taken for a selection of variable genes. The
# other matrix is read.
SUBSET_SHARE = 0.5

READS = "SpikGPT reads raw counts or log-normalised values."
REMEDY = (
    f"{READS} Put the raw counts from before any scaling into layers['counts'] or raw, or name the layer that holds "
    "them with layer= (--layer)."
)
FINITE_REMEDY = (
    f"{READS} Take the counts from before the step that made NaN or infinite values, and put them into "
    "layers['counts'] or raw. If NaN stands for a gene that was not measured, leave the gene out."
)
MIXED_REMEDY = f"{READS} Join the raw counts of the parts and normalise all cells alike, or annotate each part alone."


# An AnnData whose matrices are in memory, or on disk as :func:`spikgpt.cells.reading.open_cells` returns it.
Cells: TypeAlias = AnnData


@dataclass(frozen=True)
class Expression:
    """The expression values of n cells, chosen from an AnnData but not read yet.

    ``matrix`` is a dense or CSR matrix in memory, or a matrix on disk. ``source`` names the matrix: ``X``,
    ``layers['NAME']`` or ``raw``. ``columns`` are the columns of the matrix that belong to the genes in ``var``; None
    for all columns. ``index``, shape (n,), holds the ascending rows of the cells in the matrix; None for all rows.
    ``notes`` are sentences on suspicious values.
    """

    adata: Cells
    matrix: Any
    source: str
    content: Content
    var: pd.DataFrame
    n_cells: int
    notes: tuple[str, ...] = ()
    columns: Rows | None = None
    index: Integers | None = None

    @property
    def kind(self) -> Kind:
        """Return ``counts``, ``linear`` (counts times a factor per cell, such as CPM) or ``log`` (log(1 + linear))."""
        return self.content.kind

    @property
    def log_base(self) -> float | None:
        """Return the base of the logarithms; None if no values are logarithms."""
        return self.content.log_base

    @property
    def target_sum(self) -> float | None:
        """Return the common total of all cells before the logarithm; None if the totals differ."""
        return self.content.target_sum

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the stored values of cells ``start`` to ``stop`` (excluded), float32, without explicit zeros.

        Raises
        ------
        DataError
            When a value is negative, infinite or NaN, or when a cell has another unit than the other cells.
        """
        index = slice(start, stop) if self.index is None else self.index[start:stop]
        rows = read_rows(self.matrix, index, self.columns)
        too_large = (rows.data > LARGEST_LOG) & (self.kind == "log")
        for invalid, problem, remedy in (
            (~np.isfinite(rows.data), "a NaN or infinite value", REMEDY),
            (rows.data < 0, "a negative value", REMEDY),
            (too_large, "a value too large for a logarithm, unlike other cells", MIXED_REMEDY),
        ):
            if invalid.any():
                first = int(invalid.argmax())
                cell = self._cell(start + int(np.searchsorted(rows.indptr, first, side="right")) - 1)
                msg = f"{self.source} holds {problem} ({rows.data[first]:g}) in {cell}. {remedy}"
                raise DataError(msg)
        if self.kind == "counts" and (np.rint(rows.data) != rows.data).any():
            other = small_cells(rows) & ~whole_cells(rows)
            if other.any():
                cell = self._cell(start + int(other.argmax()))
                msg = f"{self.source} holds counts, but other numbers in {cell}, as logarithms are. {MIXED_REMEDY}"
                raise DataError(msg)
        return rows

    def linear(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return counts, or counts times a factor per cell, of cells ``start`` to ``stop`` (excluded), float64."""
        rows = self.rows(start, stop)
        return untransformed(rows, self.content)

    def of_cells(self, adata: Cells, index: Integers) -> Expression:
        """Return values of the same source in ``adata``; ``index`` holds the ascending rows of the chosen cells."""
        if self.source in ("X", "raw"):
            matrix = adata.X if self.source == "X" else adata.raw.X
        else:
            matrix = next(adata.layers[name] for name in adata.layers if f"layers[{name!r}]" == self.source)
        matrix = _with_row_access(keep_on_disk(matrix, self.source))
        rows = None if len(index) == adata.n_obs else index
        return replace(self, adata=adata, matrix=matrix, n_cells=len(index), index=rows)

    def part(self, cells: Integers) -> Expression:
        """Return the values of the cells with the given ascending indices."""
        if len(cells) == self.n_cells:
            return self
        return replace(self, n_cells=len(cells), index=cells if self.index is None else self.index[cells])

    def _cell(self, position: int) -> str:
        """Return a phrase with the name and the row of a cell, for an error message."""
        row = position if self.index is None else int(self.index[position])
        return f"cell {self.adata.obs_names[row]!r} (row {row})"


def find_expression(adata: Cells, *, layer: str | None = None, gene_key: str | None = None) -> Expression:
    """Choose the matrix to read, and detect the unit of its values from a sample of cells.

    Counts are preferred to linear and log values. Among matrices of equal preference, X comes before layers, and layers
    before raw. A matrix with less than half the genes of another matrix is not read, because totals need all genes. An
    example is X after a selection of variable genes.

    Parameters
    ----------
    layer
        The only matrix to read: the name of a layer, ``X`` or ``raw``; None to choose among all.
    gene_key
        Column of ``var`` with the names of the genes. A matrix whose ``var`` lacks the column is not read.

    Raises
    ------
    DataError
        When no matrix holds readable values, or when ``layer`` or ``gene_key`` does not exist.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        size = f"{with_noun(adata.n_obs, 'cell')} and {with_noun(adata.n_vars, 'gene')}"
        msg = f"The AnnData has {size}; expected at least one cell and one gene. Check the filters of the AnnData."
        raise DataError(msg)
    candidates = _candidates(adata, layer, gene_key)
    contents = [_content_of(candidate) for candidate in candidates]
    usable = [index for index, content in enumerate(contents) if not content.problem]
    if not usable:
        pairs = zip(candidates, contents, strict=True)
        problems = "; ".join(f"{candidate.source} {content.problem}" for candidate, content in pairs)
        layers = f"The layers are {listed(adata.layers)}." if len(adata.layers) else "There are no layers."
        remedy = MIXED_REMEDY if any(content.mixed for content in contents) else REMEDY
        if contents and all(content.problem == NOT_FINITE for content in contents):
            remedy = FINITE_REMEDY
        msg = f"No expression values can be read: {problems or 'X is missing'}. {layers} {remedy}"
        raise DataError(msg)
    widest = max(len(candidates[index].var) for index in usable)
    complete = [index for index in usable if len(candidates[index].var) >= SUBSET_SHARE * widest]
    chosen = next((index for index in complete if contents[index].kind == "counts"), complete[0])
    candidate, content = candidates[chosen], contents[chosen]
    notes = tuple(_notes(candidates, contents, chosen))
    _check_row_order(adata, candidate, candidates)
    return Expression(
        adata=adata,
        matrix=_with_row_access(candidate.matrix),
        source=candidate.source,
        content=content,
        var=candidate.var,
        n_cells=adata.n_obs,
        notes=(*reading_notes(adata), *notes),
        columns=candidate.columns,
    )


def _with_row_access(matrix: Any) -> Any:
    """Return a sparse matrix in memory as CSR, because rows of CSC are read slowly; return other matrices unchanged."""
    return matrix.tocsr() if sparse.issparse(matrix) else matrix


def _check_row_order(adata: Cells, chosen: _Candidate, candidates: list[_Candidate]) -> None:
    """Raise DataError if the chosen rows are in another order than the rows of X, or of raw if X was chosen."""
    other = "raw" if chosen.source == "X" else "X"
    candidate = next((candidate for candidate in candidates if candidate.source == other), None)
    if candidate is None and other == "X" and adata.X is not None:
        candidate = _Candidate("X", keep_on_disk(adata.X, "X"), adata.var)
        if isinstance(candidate.matrix, MatrixOnDisk) and candidate.matrix.by_columns:
            return  # even a sample of rows would need the whole matrix to be read
    if candidate is None:
        return
    names = chosen.var.index, adata.var_names if candidate.var is adata.var else candidate.var.index
    if mismatch := out_of_place(chosen.matrix, candidate.matrix, names, (chosen.columns, candidate.columns)):
        msg = (
            f"The rows of {chosen.source} do not belong to the cells of {other}: {mismatch} are less like their own "
            f"row of {other} than like most other rows. Bring both into the order of obs_names, or pass layer='X' to "
            "read X alone."
        )
        raise DataError(msg)


@dataclass(frozen=True)
class _Candidate:
    """A matrix of an AnnData that may hold expression values.

    ``var`` describes the RNA features. ``columns`` are their columns in the matrix; None for all columns. ``left_out``
    is a phrase that names the features that are not read.
    """

    source: str
    matrix: Any
    var: pd.DataFrame
    columns: Rows | None = None
    left_out: str = ""


def _candidates(adata: Cells, layer: str | None, gene_key: str | None) -> list[_Candidate]:
    """Return the matrices to try, in order of preference."""
    main = [name for name, values in (("X", adata.X), ("raw", adata.raw)) if values is not None]
    if layer is not None and layer not in adata.layers and layer not in main:
        layers, alternatives = listed(adata.layers), " or ".join(main) or "none"
        present = f"the layers are {layers}. Name one of them, " if len(adata.layers) else "there are no layers. Name "
        msg = f"There is no layer {layer!r}; {present}{alternatives}, or leave it out."
        raise DataError(msg)
    if layer is not None and layer in adata.layers:
        main = []  # a layer that is itself named X or raw comes before the matrix of this name
    elif layer is not None:
        main = [layer]
    candidates = [_Candidate("X", adata.X, adata.var)] if "X" in main else []
    for name in COUNT_LAYERS + LOG_LAYERS if layer is None else (layer,):
        if name in adata.layers:
            candidates.append(_Candidate(f"layers[{name!r}]", adata.layers[name], adata.var))
    if "raw" in main:
        candidates.append(_Candidate("raw", adata.raw.X, adata.raw.var))
    on_disk = (replace(candidate, matrix=keep_on_disk(candidate.matrix, candidate.source)) for candidate in candidates)
    of_rna = [_select_rna(candidate) for candidate in on_disk]
    named = [candidate for candidate in of_rna if gene_key is None or gene_key in candidate.var]
    if of_rna and not named:
        columns = list(dict.fromkeys(str(column) for candidate in of_rna for column in candidate.var.columns))
        near = difflib.get_close_matches(str(gene_key), columns, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else "Name a column of gene symbols or ids, or leave gene_key out."
        msg = f"var has no column {gene_key!r}; it has {listed(columns) or 'none'}. {hint}"
        raise DataError(msg)
    return [_select_genes(candidate, gene_key) for candidate in named]


def _select_rna(candidate: _Candidate) -> _Candidate:
    """Return a matrix without features that are not RNA, such as antibodies."""
    # anndata.experimental.read_lazy returns var as a lazy table.
    if (to_memory := getattr(candidate.var, "to_memory", None)) is not None:
        candidate = replace(candidate, var=to_memory())
    is_rna, left_out = rna_features(candidate.var)
    if is_rna is None:
        return candidate
    return replace(candidate, var=candidate.var[is_rna], columns=np.flatnonzero(is_rna), left_out=left_out)


def _select_genes(candidate: _Candidate, gene_key: str | None) -> _Candidate:
    """Return a matrix without repeated columns and without genes of another species."""
    names: Any = candidate.var.index
    if gene_key is not None:
        column = candidate.var[gene_key]
        names = np.where(column.isna(), "", column.astype(object))
    kept, left_out = own_genes(names, candidate.matrix, candidate.columns)
    if kept is None:
        return candidate
    columns = np.flatnonzero(kept) if candidate.columns is None else candidate.columns[kept]
    phrases = " and ".join(filter(None, (candidate.left_out, left_out)))
    return replace(candidate, var=candidate.var[kept], columns=columns, left_out=phrases)


def _content_of(candidate: _Candidate) -> Content:
    if not len(candidate.var):
        return Content(problem=f"holds {candidate.left_out}")
    content = content_of(candidate.matrix, candidate.columns)
    note = f"Left out of {candidate.source}: {candidate.left_out}."
    return replace(content, notes=(note, *content.notes)) if candidate.left_out else content


def _notes(candidates: list[_Candidate], contents: list[Content], chosen: int) -> Iterable[str]:
    """Yield sentences on suspicious values, and a sentence with the reason if X was not read."""
    yield from contents[chosen].notes
    (first, *_), (content, *_) = candidates, contents
    if chosen == 0 or first.source != "X":
        return
    if content.problem:
        yield f"X {content.problem}, so {candidates[chosen].source} was read."
    elif len(first.var) < SUBSET_SHARE * len(candidates[chosen].var):
        yield (
            f"X has {with_noun(len(first.var), 'gene')} of {len(candidates[chosen].var)}, so "
            f"{candidates[chosen].source} was read."
        )
