"""The labels of cells, as a column of obs states them."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import LabelsError, listed, printable
from spikgpt.types import Bools, Strings

# Labels that say that there is none, in lower case. CELLxGENE writes "unknown".
NO_LABEL = frozenset(
    {"", "nan", "na", "n/a", "<na>", "none", "null", "unknown", "unassigned", "unlabeled", "unlabelled"}
)


def counted(labels: Strings) -> dict[str, int]:
    """Return the number of cells of each label, the largest first, equal ones by name."""
    names, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(names[place]): int(counts[place]) for place in order}


def labels_of(adata: AnnData, key: str) -> tuple[Strings, Bools]:
    """Return the labels of n cells, shape (n,), and whether each cell has one, shape (n,).

    A column holds text, categories, booleans, or whole numbers such as those of clusters; a measurement is refused.
    NaN, empty text and words such as "nan", "NA" and "unknown" are no label; these cells get an empty one.
    """
    if key not in adata.obs:
        near = difflib.get_close_matches(key, [str(column) for column in adata.obs.columns], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        msg = f"obs has no column {key!r}; it has {listed(adata.obs.columns)}.{hint}"
        raise LabelsError(msg)
    column = adata.obs[key]
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
