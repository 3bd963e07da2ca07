"""Columns that colour the cells of a map: labels, scores, clusters and columns of ``obs``, as small arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spikgpt.cells.obs import NO_LABEL
from spikgpt.errors import printable
from spikgpt.scoring.annotation import BEST_LABEL, BROAD_LABEL, CLUSTER_LABEL, LABEL, Annotation
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from spikgpt.tables import by_number
from spikgpt.types import UNKNOWN, Floats, Integers

if TYPE_CHECKING:
    from anndata import AnnData

# Largest number of different values in a column of categories. Columns with more, such as barcodes, are left out.
MOST_VALUES = 200
# Largest number of columns of obs in a report. If the query has more than 200,000 cells, the report has at most 12
# columns, with fewer digits.
MOST_COLUMNS, FEW_COLUMNS, MANY_CELLS = 40, 12, 200_000
# Largest number of characters of a text from obs.
LONGEST = 200
# Share of the cells beyond each end of the colour scale of a measurement, such as counts per cell.
BEYOND = 0.01
MISSING = "not stated"
# Columns of labels, and their names in a report.
TITLES = {LABEL: "Label", BEST_LABEL: "Best label", BROAD_LABEL: "Broad label", CLUSTER_LABEL: "Cluster label"}


@dataclass(frozen=True)
class Categories:
    """A column of categories of n cells.

    ``codes``, shape (n,), has the index of each cell's value in ``values``. ``colors`` are hex codes. ``labels`` is
    True for a column of labels of SpikGPT.
    """

    name: str
    values: tuple[str, ...]
    colors: tuple[str, ...]
    codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    labels: bool = False

    @property
    def counts(self) -> list[int]:
        """Return the number of cells of each value."""
        counts: list[int] = np.bincount(self.codes, minlength=len(self.values)).tolist()
        return counts


@dataclass(frozen=True)
class Numbers:
    """A column of numbers of n cells.

    ``steps``, shape (n,), has each number as a whole number of equal steps from ``least`` to ``largest``. The largest
    integer of its type means that the number is missing. The colour scale runs from ``low`` to ``high``.
    """

    name: str
    steps: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    least: float
    largest: float
    low: float
    high: float


Column = Categories | Numbers


def label_columns(annotation: Annotation) -> list[Categories]:
    """Return the columns of labels of an annotation, the labels first."""
    obs, columns = annotation.obs(), []
    for name, title in TITLES.items():
        if annotation.named(name) in obs:
            columns.append(_labels(annotation, title, obs[annotation.named(name)].array))
    label, broad = columns[0], columns[2]
    if label.values == broad.values and np.array_equal(label.codes, broad.codes):
        columns.remove(broad)
    return columns


def score_columns(annotation: Annotation) -> list[Numbers]:
    """Return the scores of an annotation; an Unknown cell has no confidence."""
    confidence = np.where(annotation.rejected, np.nan, annotation.confidence)
    columns = [numbers("Confidence", confidence, limits=(0, 1), small=True)]
    if annotation.typicality is not None:
        columns.append(numbers("Typicality", annotation.typicality, limits=(0, 1), small=True))
    if annotation.ood_score is not None:
        columns.append(numbers("OOD score", annotation.ood_score))
    return [column for column in columns if column is not None]


def obs_columns(annotation: Annotation, adata: AnnData | None) -> tuple[list[Column], list[str]]:
    """Return the columns of ``obs`` that can colour a map, and the names of the columns that are left out."""
    named = (categories(name.capitalize(), values) for name, values in annotation.columns.items())
    columns: list[Column] = [column for column in named if column is not None]
    left_out: list[str] = []
    if adata is None:
        return columns, left_out
    obs = adata.obs.to_memory() if hasattr(adata.obs, "to_memory") else adata.obs
    known = dict(zip(annotation.label_names, annotation.colors(annotation.label_names).tolist(), strict=True))
    many = len(obs) > MANY_CELLS
    most = FEW_COLUMNS if many else MOST_COLUMNS
    for name, values in obs.items():
        if str(name).startswith(f"{annotation.key_added}_"):
            continue
        column = column_of(str(name), values, known, small=many) if len(columns) < most else None
        if column is None:
            left_out.append(shortened(str(name)))
        else:
            columns.append(column)
    return columns, left_out


def column_of(
    name: str, values: pd.Series[Any], known: Mapping[str, str] | None = None, *, small: bool = False
) -> Column | None:
    """Return a column of obs as categories or numbers; None for a column with too many values, such as barcodes."""
    try:
        return _column(name, values, known, small=small)
    except (TypeError, ValueError):  # values that cannot be compared or are no texts, such as lists
        return None


def _column(name: str, values: pd.Series[Any], known: Mapping[str, str] | None, *, small: bool) -> Column | None:
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(kind):
        return categories(name, values, known)
    if pd.api.types.is_bool_dtype(kind):
        return categories(name, values.astype(object).astype(str).where(values.notna()))
    if pd.api.types.is_complex_dtype(kind):
        return None
    whole = pd.api.types.is_integer_dtype(kind)
    if whole and values.nunique() <= min(MOST_VALUES, 50):
        return categories(name, values)
    return numbers(name, values.to_numpy(dtype=np.float64, na_value=np.nan), small=small)


def categories(name: str, values: Any, known: Mapping[str, str] | None = None) -> Categories | None:
    """Return a column of categories; missing values form the category "not stated".

    None if all values are missing, or if there are more than 200 different values.

    Parameters
    ----------
    known
        Colours of labels by name. A column of cell types gets the same colours for the same names.
    """
    column = values if isinstance(values, pd.Categorical) else pd.Categorical(values)
    used, codes = np.unique(column.codes, return_inverse=True)
    if len(used) > MOST_VALUES:
        return None
    present = [code for code in used.tolist() if code >= 0]
    names = [shortened(str(column.categories[code])) for code in present]
    if not any(name.strip() for name in names):
        return None  # all values are missing
    order = sorted(range(len(names)), key=lambda at: by_number(names[at]))
    rank = np.empty(len(used), dtype=np.int64)
    offset = len(used) - len(present)
    rank[np.array(order, dtype=np.int64) + offset] = np.arange(len(names))
    if offset:
        rank[0] = len(names)
    texts = [names[at] for at in order]
    colors = _colors(texts, known or {})
    missing = [MISSING] * offset, [UNKNOWN_COLOR] * offset
    return Categories(shortened(name), (*texts, *missing[0]), (*colors, *missing[1]), _small(rank[codes]))


def _colors(values: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Return the colours of the values of a column: label colours for cell types, and grey for words like Unknown."""
    stated = [value for value in values if value.lower() not in NO_LABEL]
    shared = [value for value in stated if value in known]
    colors = dict(zip(stated, palette(len(stated)), strict=True))
    if 2 * len(shared) >= len(stated):
        unlisted = [value for value in stated if value not in known]
        free = [color for color in palette(len(known) + len(unlisted)) if color not in known.values()]
        colors = {value: known[value] for value in shared} | dict(zip(unlisted, free, strict=False))
    return [colors.get(value, UNKNOWN_COLOR) for value in values]


def numbers(
    name: str, values: Floats, *, limits: tuple[float, float] | None = None, small: bool = False
) -> Numbers | None:
    """Return a column of numbers; None if no number is finite. ``small`` stores one byte per cell instead of two."""
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return None
    stated = values[finite]
    low, high = limits or np.quantile(stated, [BEYOND, 1 - BEYOND]).tolist()
    least, largest = limits or ((low, high) if small else (float(stated.min()), float(stated.max())))
    dtype: Any = np.uint8 if small else np.uint16
    top = np.iinfo(dtype).max - 1
    span = largest - least
    scaled = (np.clip(stated, least, largest) - least) / (span if span > 0 else 1.0)
    steps = np.full(len(values), top + 1, dtype=dtype)
    steps[finite] = np.rint(scaled * top).astype(dtype)
    return Numbers(shortened(name), steps, float(least), float(largest), float(low), float(high))


def shortened(text: str) -> str:
    """Return text without control characters, on one line, of at most 200 characters."""
    text = printable(text[: LONGEST + 1])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def shortened_lines(texts: Sequence[str]) -> str:
    """Apply :func:`shortened` to each text, and join the results with line breaks; fast if no text has to change."""
    joined = "\n".join(texts)
    plain = joined.count("\n") == len(texts) - 1 and joined.replace("\n", "").isprintable()
    if plain and max(map(len, texts), default=0) <= LONGEST:
        return joined
    return "\n".join(map(shortened, texts))


def _labels(annotation: Annotation, name: str, column: Any) -> Categories:
    """Return a column of labels, the largest first, and Unknown last."""
    names = [str(value) for value in column.categories]
    counts = np.bincount(column.codes, minlength=len(names))
    order = sorted(range(len(names)), key=lambda at: (names[at] == UNKNOWN, -counts[at], names[at]))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    values = [names[at] for at in order]
    colors = tuple(annotation.colors(values).tolist())
    return Categories(name, tuple(map(shortened, values)), colors, _small(rank[column.codes]), labels=True)


def _small(codes: Integers) -> Any:
    """Return codes as one byte each if all are below 255, else as two bytes each."""
    return codes.astype(np.uint8 if codes.max(initial=0) < 255 else np.uint16)
