"""Labels and batches of cells, from columns of obs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import LabelsError, listed, printable
from spikgpt.types import Bools, Floats, Integers, Strings

# Batches with fewer cells, or a smaller share of all cells, are joined into one batch. Scores are compared within each
# label of a batch, which needs enough cells.
CELLS_OF_BATCH, SHARE_OF_BATCH = 100, 0.005
# A column that is chosen by its name is used if at least this share of the cells is in batches of sufficient size.
SHARE_IN_BATCHES = 0.8
# Names of columns with batches, in lower case, without separators.
BATCH_KEYS = (
    *("batch", "batchid", "sample", "sampleid", "samplename", "library", "libraryid", "origident", "gsm", "channel"),
    *("donor", "donorid", "patient", "patientid", "individual", "subject", "subjectid", "mouse", "mouseid"),
    *("condition", "treatment", "stim", "platform", "assay", "technology", "dataset", "datasetid", "study"),
)

# Words for a missing label, in lower case. CELLxGENE writes "unknown".
NO_LABEL = frozenset(
    {"", "nan", "na", "n/a", "<na>", "none", "null", "unknown", "unassigned", "unlabeled", "unlabelled"}
)


class Batches(NamedTuple):
    """The batches of a query.

    ``key`` is the names of the columns of obs, joined by " x "; None if all cells are one batch. ``codes``, shape (n,),
    is the index of each cell's batch.
    """

    key: str | None
    codes: Integers

    @property
    def n_batches(self) -> int:
        """Return the number of batches."""
        return len(np.unique(self.codes))


def batches_of(adata: AnnData, batch_key: str | None, only: Bools | None = None) -> Batches:
    """Return the batches of cells, with small batches joined into one.

    Parameters
    ----------
    batch_key
        Column of ``obs``. None puts all cells into one batch. ``auto`` combines the columns that name batches, as long
        as 80% of the cells are in batches of sufficient size.
    only
        True for the cells that count towards the size of a batch, shape (n,); None for all cells.

    Raises
    ------
    LabelsError
        When ``obs`` has no column ``batch_key``.
    """
    obs = _in_memory(adata.obs)
    columns = {name: _codes_of(obs[name]) for name in batch_columns(obs, batch_key)}
    return combined_batches(columns, np.ones(adata.n_obs) if only is None else only.astype(np.float64), batch_key)


def batch_columns(obs: pd.DataFrame, batch_key: str | None) -> list[str]:
    """Return the columns of ``obs`` that may name batches, in the order in which they are tried.

    Raises
    ------
    LabelsError
        When there is no column ``batch_key``.
    """
    if batch_key is None:
        return []
    if batch_key != "auto" or "auto" in obs:
        _check_column(obs, batch_key)
        return [batch_key]
    columns: dict[str, Any] = {
        "".join(char for char in str(column).lower() if char.isalnum()): column for column in obs
    }
    return [columns[name] for name in BATCH_KEYS if name in columns]


def combined_batches(columns: Mapping[str, Integers], cells: Floats, batch_key: str | None) -> Batches:
    """Return the batches of n groups of cells, with small batches joined into one.

    A group is one cell, or several cells with the same values in all columns.

    Parameters
    ----------
    columns
        For each column of :func:`batch_columns`, the index of its value in each group, shape (n,).
    cells
        Number of cells in each group, shape (n,).
    """
    if batch_key is not None and (batch_key != "auto" or "auto" in columns):
        return Batches(batch_key, _joined_small(columns[batch_key], cells))
    keys, codes = [], np.zeros(len(cells), dtype=np.int64)
    for name, other in columns.items():
        present, crossed = np.unique(codes * (other.max(initial=0) + 1) + other, return_inverse=True)
        large = np.bincount(crossed, cells, minlength=1)[crossed] >= _least(cells)
        if len(present) > codes.max(initial=0) + 1 and cells[large].sum() >= SHARE_IN_BATCHES * cells.sum():
            keys.append(str(name))
            codes = crossed
    return Batches(" x ".join(keys), _joined_small(codes, cells)) if keys else Batches(None, codes)


def _codes_of(column: pd.Series[Any]) -> Integers:
    """Return the index of each row's value among the distinct values of a column; missing values count as a value."""
    return np.asarray(pd.factorize(column.astype(str), sort=True)[0], dtype=np.int64)


def _least(cells: Floats) -> float:
    """Return the smallest size of a batch in cells, given the number of cells in each group, shape (n,)."""
    return max(CELLS_OF_BATCH, SHARE_OF_BATCH * float(cells.sum()))


def _joined_small(codes: Integers, cells: Floats) -> Integers:
    """Return the batch index of each group, shape (n,), with one index for all batches that are too small.

    ``codes`` is the batch index of each group before joining, and ``cells`` its number of cells, both of shape (n,).
    """
    sizes = np.bincount(codes, cells, minlength=1)[codes]
    joined = np.where(sizes >= _least(cells), codes + 1, 0)
    return np.asarray(np.unique(joined, return_inverse=True)[1].ravel(), dtype=np.int64)


def counted(labels: Strings) -> dict[str, int]:
    """Return the number of cells of each label, the most frequent label first, then by name."""
    names, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(names[at]): int(counts[at]) for at in order}


def column_of(adata: AnnData, key: str) -> Any:
    """Return a column of obs; raise LabelsError if obs has no such column."""
    obs = _in_memory(adata.obs)
    _check_column(obs, key)
    return obs[key]


def _in_memory(obs: Any) -> pd.DataFrame:
    """Return obs as a pandas table in memory, also if anndata.experimental.read_lazy returned it as a lazy table."""
    table: pd.DataFrame = obs.to_memory() if hasattr(obs, "to_memory") else obs
    return table


def _check_column(obs: pd.DataFrame, key: str) -> None:
    if key not in obs:
        near = difflib.get_close_matches(key, [str(column) for column in obs.columns], n=1, cutoff=0.5)
        hint = "Name one of these." if len(obs.columns) else "Add it first."
        hint = f"Did you mean {near[0]!r}?" if near else hint
        msg = f"obs has no column {key!r}; it has {listed(obs.columns)}. {hint}"
        raise LabelsError(msg)


def labels_of(adata: AnnData, key: str) -> tuple[Strings, Bools]:
    """Return the labels of n cells, shape (n,), and a mask of the labelled cells, shape (n,).

    A column holds text, categories, booleans, or whole numbers such as those of clusters. Other numbers are taken for a
    measurement and refused. Cells with NaN, empty text or a word such as "nan", "NA" or "unknown" get an empty label.
    """
    column = column_of(adata, key)
    stated = column.dropna()
    if pd.api.types.is_numeric_dtype(stated) and not pd.api.types.is_bool_dtype(stated):
        distinct = stated.nunique()
        if (stated % 1 != 0).any() or distinct > max(50, len(stated) / 5):
            msg = (
                f"obs[{key!r}] holds {distinct} different numbers in {len(stated)} cells: a measurement, not labels. "
                f"Choose a column of cell types; obs has {listed(adata.obs.columns)}."
            )
            raise LabelsError(msg)
        # A missing value turns whole numbers into floats; "1.0" and "1" are the same label.
        stated = stated.astype(np.int64)
    labels = np.zeros(adata.n_obs, dtype=object)
    labels[:] = ""
    labels[column.notna().to_numpy()] = [_label(value) for value in stated.tolist()]
    labelled = labels != ""
    if not labelled.any():
        msg = f"obs[{key!r}] holds no label in any of {adata.n_obs} cells; choose another column or fill it in."
        raise LabelsError(msg)
    return labels.astype(np.str_), np.asarray(labelled, dtype=bool)


def text_of(value: Any) -> Any:
    """Decode bytes, which R writes in place of text; return any other value unchanged."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def check_trainable(labels: Strings, *, minimum_classes: int = 2, minimum_cells: int = 5) -> dict[str, int]:
    """Return the number of cells of each class that is too small for training.

    A class with fewer than ``minimum_cells`` cannot be split into training and test cells.

    Raises
    ------
    LabelsError
        When fewer than ``minimum_classes`` classes are large enough.
    """
    counts = counted(labels)
    dropped = {label: count for label, count in sorted(counts.items()) if count < minimum_cells}
    if len(counts) - len(dropped) < minimum_classes:
        largest = listed(f"{label} ({count})" for label, count in list(counts.items())[:5])
        msg = (
            f"{len(counts) - len(dropped)} of {len(counts)} classes have {minimum_cells} cells or more; at least "
            f"{minimum_classes} are needed. Largest: {largest}. Add cells, or join or choose other labels."
        )
        raise LabelsError(msg)
    return dropped


def _label(value: object) -> str:
    """Return a label as one line of text; the text is empty for a missing label."""
    text = str(text_of(value)).strip()
    if not text.isprintable():
        text = printable(" ".join(text.split()))
    return "" if text.lower() in NO_LABEL else text
