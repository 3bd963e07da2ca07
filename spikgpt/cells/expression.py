"""The expression values of an AnnData, or of a file: which are read, and what they are."""

from __future__ import annotations

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
from spikgpt.cells.matrices import SparseOnDisk, left_on_disk, read_rows
from spikgpt.errors import DataError, listed
from spikgpt.types import Rows

if TYPE_CHECKING:
    import pandas as pd

# Layers looked at when none is asked for, in this order. "spliced" is not among them: it lacks a part of the counts.
COUNT_LAYERS = ("counts", "raw_counts", "count", "raw", "umi_counts", "umi", "UMIs")
LOG_LAYERS = ("logcounts", "log1p", "lognorm", "log_normalized", "log_normalised", "data")
# X with fewer of raw's genes than this is a selection of variable genes, and raw is the data.
SUBSET_SHARE = 0.5

READS = "SpikGPT reads raw counts or log-normalised values."
REMEDY = (
    f"{READS} Scaling cannot be undone: take the counts from before it, put "
    "them into layers['counts'] or raw, or name the layer that holds them."
)
FINITE_REMEDY = (
    f"{READS} Take the counts from before the step that made NaN or infinite values, and put them into "
    "layers['counts'] or raw. If NaN stands for a gene that was not measured, leave the gene out."
)
MIXED_REMEDY = f"{READS} Join the raw counts of the parts and normalise all cells alike, or annotate each part alone."


# In memory, or with matrices left on disk, as :func:`spikgpt.cells.reading.open_cells` gives them.
Cells: TypeAlias = AnnData


@dataclass(frozen=True)
class Expression:
    """The expression values of n cells that were chosen from an AnnData, still unread.

    ``matrix`` is dense, CSR, or on disk; it stands behind ``source``, which is ``X``, ``layers['NAME']`` or ``raw``. Of
    its columns, ``columns`` are the genes of ``var``, None if all are. Of each ``kind``, ``counts`` are whole numbers;
    ``linear`` are counts up to a factor a cell (CPM, TPM, corrected counts); ``log`` are log(1 + linear) to the base
    ``log_base``, and would be taken for counts if they were all whole. ``target_sum`` is the sum that every cell was
    scaled to before the logarithm, None when there is no such constant. ``notes`` are whole sentences on anything
    suspicious.
    """

    adata: Cells
    matrix: Any
    source: str
    content: Content
    var: pd.DataFrame
    n_cells: int
    notes: tuple[str, ...] = ()
    columns: Rows | None = None

    @property
    def kind(self) -> Kind:
        """What the values are."""
        return self.content.kind

    @property
    def log_base(self) -> float | None:
        """The base of logarithms."""
        return self.content.log_base

    @property
    def target_sum(self) -> float | None:
        """The sum that every cell was scaled to before the logarithm."""
        return self.content.target_sum

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells from ``start`` to before ``stop`` as they are stored, float32, without explicit zeros.

        A value that is negative, not finite, or no logarithm among logarithms is refused.
        """
        rows = read_rows(self.matrix, slice(start, stop), self.columns)
        too_large = (rows.data > LARGEST_LOG) & (self.kind == "log")
        for wrong, what, remedy in (
            (~np.isfinite(rows.data), "a NaN or infinite value", REMEDY),
            (rows.data < 0, "a negative value", REMEDY),
            (too_large, "a value too large for a logarithm, unlike other cells", MIXED_REMEDY),
        ):
            if wrong.any():
                first = int(wrong.argmax())
                row = start + int(np.searchsorted(rows.indptr, first, side="right")) - 1
                cell = f"cell {self.adata.obs_names[row]!r} (row {row})"
                msg = f"{self.source} holds {what} ({rows.data[first]:g}) in {cell}. {remedy}"
                raise DataError(msg)
        if self.kind == "counts" and (np.rint(rows.data) != rows.data).any():
            other = small_cells(rows) & ~whole_cells(rows)
            if other.any():
                row = start + int(other.argmax())
                cell = f"cell {self.adata.obs_names[row]!r} (row {row})"
                msg = f"{self.source} holds counts, but other numbers in {cell}, as logarithms are. {MIXED_REMEDY}"
                raise DataError(msg)
        return rows

    def linear(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return counts, or counts up to a factor a cell, of the cells from ``start`` to before ``stop``, float64."""
        return untransformed(self.rows(start, stop), self.content)


def find_expression(adata: Cells, *, layer: str | None = None) -> Expression:
    """Choose the values that are to be read, and tell what they are from a sample of cells.

    Counts are preferred to linear and log values, and X to layers to raw. A place with less than half the genes of
    another, such as X after a selection of variable genes, comes last: totals need all genes. With ``layer``, no other
    place is looked at. Cells without values that can be read are refused.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        size = f"{adata.n_obs} cells and {adata.n_vars} genes"
        msg = f"The AnnData has {size}; it needs at least one of each. Check the filters that it went through."
        raise DataError(msg)
    places = _places(adata, layer)
    contents = [_content_of(place) for place in places]
    usable = [index for index, content in enumerate(contents) if not content.problem]
    if not usable:
        found = "; ".join(f"{place.source} {content.problem}" for place, content in zip(places, contents, strict=True))
        layers = f"The layers are {listed(adata.layers)}." if len(adata.layers) else "There are no layers."
        remedy = MIXED_REMEDY if any(content.mixed for content in contents) else REMEDY
        if contents and all(content.problem == NOT_FINITE for content in contents):
            remedy = FINITE_REMEDY
        msg = f"No expression values can be read: {found or 'X is missing'}. {layers} {remedy}"
        raise DataError(msg)
    widest = max(len(places[index].var) for index in usable)
    complete = [index for index in usable if len(places[index].var) >= SUBSET_SHARE * widest]
    chosen = next((index for index in complete if contents[index].kind == "counts"), complete[0])
    place, content = places[chosen], contents[chosen]
    _check_row_order(adata, place, places)
    return Expression(
        adata=adata,
        # Rows of a CSC matrix are slow to read, so it is turned once.
        matrix=place.matrix.tocsr() if sparse.issparse(place.matrix) else place.matrix,
        source=place.source,
        content=content,
        var=place.var,
        n_cells=adata.n_obs,
        notes=(*reading_notes(adata), *_notes(places, contents, chosen)),
        columns=place.columns,
    )


def _check_row_order(adata: Cells, chosen: _Place, places: list[_Place]) -> None:
    """Refuse values whose rows are in another order than those of X, or than those of raw if X was chosen."""
    other = "raw" if chosen.source == "X" else "X"
    place = next((place for place in places if place.source == other), None)
    if place is None and other == "X" and adata.X is not None:
        place = _Place("X", left_on_disk(adata.X, "X"), adata.var)
        if isinstance(place.matrix, SparseOnDisk) and place.matrix.format == "csc":
            return  # all of it would be read
    if place is None:
        return
    names = chosen.var.index, adata.var_names if place.var is adata.var else place.var.index
    if wrong := out_of_place(chosen.matrix, place.matrix, names, (chosen.columns, place.columns)):
        msg = (
            f"The rows of {chosen.source} do not belong to the cells of {other}: {wrong} are less like their own row "
            f"of {other} than like most other rows. Bring both into the order of obs_names, or pass layer='X' to read "
            "X alone."
        )
        raise DataError(msg)


@dataclass(frozen=True)
class _Place:
    """A matrix of an AnnData that may hold expression values.

    ``var`` describes its features that are RNA, which are those in ``columns``, and ``left_out`` the others.
    """

    source: str
    matrix: Any
    var: pd.DataFrame
    columns: Rows | None = None
    left_out: str = ""


def _places(adata: Cells, layer: str | None) -> list[_Place]:
    """Return the places to look at, in order of preference."""
    main = [name for name, values in (("X", adata.X), ("raw", adata.raw)) if values is not None]
    if layer is not None and layer not in adata.layers and layer not in main:
        layers, others = listed(adata.layers), " or ".join(main) or "none"
        there = f"the layers are {layers}. Name one of them, " if len(adata.layers) else "there are no layers. Name "
        msg = f"There is no layer {layer!r}; {there}{others}, or leave it out."
        raise DataError(msg)
    if layer is not None and layer in adata.layers:
        main = []  # a layer called X or raw
    elif layer is not None:
        main = [layer]
    places = [_Place("X", adata.X, adata.var)] if "X" in main else []
    for name in COUNT_LAYERS + LOG_LAYERS if layer is None else (layer,):
        if name in adata.layers:
            places.append(_Place(f"layers[{name!r}]", adata.layers[name], adata.var))
    if "raw" in main:
        places.append(_Place("raw", adata.raw.X, adata.raw.var))
    return [_of_genes(_of_rna(replace(place, matrix=left_on_disk(place.matrix, place.source)))) for place in places]


def _of_rna(place: _Place) -> _Place:
    """Return a place without features that are not RNA, such as antibodies."""
    # Frames are lazy in what anndata.experimental.read_lazy returns.
    if (to_memory := getattr(place.var, "to_memory", None)) is not None:
        place = replace(place, var=to_memory())
    is_rna, left_out = rna_features(place.var)
    if is_rna is None:
        return place
    return replace(place, var=place.var[is_rna], columns=np.flatnonzero(is_rna), left_out=left_out)


def _of_genes(place: _Place) -> _Place:
    """Return a place without repeated columns and without genes of another species."""
    kept, left_out = own_genes(place.var.index, place.matrix, place.columns)
    if kept is None:
        return place
    columns = np.flatnonzero(kept) if place.columns is None else place.columns[kept]
    phrases = " and ".join(filter(None, (place.left_out, left_out)))
    return replace(place, var=place.var[kept], columns=columns, left_out=phrases)


def _content_of(place: _Place) -> Content:
    if not len(place.var):
        return Content(problem=f"holds {place.left_out}")
    content = content_of(place.matrix, place.columns)
    note = f"{place.source} holds {place.left_out}, which were left out."
    return replace(content, notes=(note, *content.notes)) if place.left_out else content


def _notes(places: list[_Place], contents: list[Content], chosen: int) -> Iterable[str]:
    """Say why X was passed over, if it was, and what is suspicious in the values."""
    yield from contents[chosen].notes
    (first, *_), (content, *_) = places, contents
    if chosen == 0 or first.source != "X":
        return
    if content.problem:
        yield f"X {content.problem}, so {places[chosen].source} was read."
    elif len(first.var) < SUBSET_SHARE * len(places[chosen].var):
        yield f"X has {len(first.var)} genes of {len(places[chosen].var)}, so {places[chosen].source} was read."
