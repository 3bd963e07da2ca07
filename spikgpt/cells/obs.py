"""The labels of cells and their batches, as columns of obs state them."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import LabelsError, listed, printable
from spikgpt.types import Bools, Integers, Strings

# Batches of fewer cells, or of a smaller share of all, are taken together: a label needs cells for a level of its own.
CELLS_OF_BATCH, SHARE_OF_BATCH = 100, 0.005
# A column found by its name splits the cells into batches if so many of them are in batches that are large enough.
SHARE_IN_BATCHES = 0.8
# Columns of obs that name batches, in lower case, without separators.
BATCH_KEYS = (
    *("batch", "batchid", "sample", "sampleid", "samplename", "library", "libraryid", "origident", "gsm", "channel"),
    *("donor", "donorid", "patient", "patientid", "individual", "subject", "subjectid", "mouse", "mouseid"),
    *("condition", "treatment", "stim", "platform", "assay", "technology", "dataset", "datasetid", "study"),
)

# Labels that say that there is none, in lower case. CELLxGENE writes "unknown".
NO_LABEL = frozenset(
    {"", "nan", "na", "n/a", "<na>", "none", "null", "unknown", "unassigned", "unlabeled", "unlabelled"}
)


class Batches(NamedTuple):
    """The batches of a query.

    ``key`` joins the names of the columns by " x "; None for one batch. ``codes``, shape (n,), is the index of each
    cell's batch.
    """

    key: str | None
    codes: Integers

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return len(np.unique(self.codes))


def batches_of(adata: AnnData, batch_key: str | None) -> Batches:
    """Return the batches of cells; small batches are one batch together.

    Parameters
    ----------
    batch_key
        Column of ``obs``; None for one batch; ``auto`` for the columns that name batches, combined as long as most
        cells are in batches that are large enough.

    Raises
    ------
    LabelsError
        When there is no such column.
    """
    whole = Batches(None, np.zeros(adata.n_obs, dtype=np.int64))
    if batch_key is None:
        return whole
    if batch_key != "auto" or "auto" in adata.obs:
        codes = _joined_small(_codes_of(column_of(adata, batch_key)))
        return Batches(batch_key, codes)
    keys, codes = [], whole.codes
    named = {"".join(char for char in str(column).lower() if char.isalnum()): column for column in adata.obs}
    for name in BATCH_KEYS:
        if name not in named:
            continue
        other = _codes_of(adata.obs[named[name]])
        present, crossed = np.unique(codes * (other.max(initial=0) + 1) + other, return_inverse=True)
        large = np.bincount(crossed, minlength=1)[crossed] >= _least(len(codes))
        if len(present) > codes.max(initial=0) + 1 and large.mean() >= SHARE_IN_BATCHES:
            keys.append(str(named[name]))
            codes = crossed
    return Batches(" x ".join(keys), _joined_small(codes)) if keys else whole


def _codes_of(column: pd.Series[Any]) -> Integers:
    """Return an index for each value of a column; missing values are a value of their own."""
    return np.asarray(pd.factorize(column.astype(str), sort=True)[0], dtype=np.int64)


def _least(cells: int) -> float:
    """Return how many cells a batch of its own needs, given the number of all cells."""
    return max(CELLS_OF_BATCH, SHARE_OF_BATCH * cells)


def _joined_small(codes: Integers) -> Integers:
    """Return codes from 0 where batches that are too small share one code."""
    sizes = np.bincount(codes, minlength=1)[codes]
    joined = np.where(sizes >= _least(len(codes)), codes + 1, 0)
    return np.asarray(np.unique(joined, return_inverse=True)[1].ravel(), dtype=np.int64)


def counted(labels: Strings) -> dict[str, int]:
    """Return the number of cells of each label, the largest first, equal ones by name."""
    names, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(names[place]): int(counts[place]) for place in order}


def column_of(adata: AnnData, key: str) -> Any:
    """Return a column of obs; refuse a name that is not there."""
    if key not in adata.obs:
        near = difflib.get_close_matches(key, [str(column) for column in adata.obs.columns], n=1, cutoff=0.5)
        hint = "Name one of these." if len(adata.obs.columns) else "Add it first."
        hint = f"Did you mean {near[0]!r}?" if near else hint
        msg = f"obs has no column {key!r}; it has {listed(adata.obs.columns)}. {hint}"
        raise LabelsError(msg)
    return adata.obs[key]


def labels_of(adata: AnnData, key: str) -> tuple[Strings, Bools]:
    """Return the labels of n cells, shape (n,), and whether each cell has one, shape (n,).

    A column holds text, categories, booleans, or whole numbers such as those of clusters; a measurement is refused.
    NaN, empty text and words such as "nan", "NA" and "unknown" are no label; these cells get an empty one.
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
    """Return the text for which bytes stand, as R writes it, and any other value as it is."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def check_trainable(labels: Strings, *, minimum_classes: int = 2, minimum_cells: int = 5) -> dict[str, int]:
    """Return the classes that are too small to be learned, with their cells, and refuse labels that leave too few.

    A class of fewer than ``minimum_cells`` cannot be split into a part to learn from and a part to test on.
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
    """Return a label as one line of text, empty when it says that there is none."""
    text = str(text_of(value)).strip()
    if not text.isprintable():
        text = printable(" ".join(text.split()))
    return "" if text.lower() in NO_LABEL else text
