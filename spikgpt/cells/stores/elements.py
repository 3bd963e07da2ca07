"""An AnnData from an open store, element by element, so that an element that nobody needs is in nobody's way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.experimental import read_dispatched
from anndata.io import read_elem

from spikgpt.cells.matrices import SparseOnDisk, check_sparse
from spikgpt.cells.obs import text_of
from spikgpt.cells.storage import REMEDY, is_array, missing_chunks, reason_of, refusing
from spikgpt.cells.stores.kinds import other_store
from spikgpt.errors import DataError, SpikGPTWarning

# Arrays that hold names of cells or genes where no attribute says so, as some writers in R leave it.
NAMES = ("_index", "index", "obs_names", "var_names", "row_names", "rownames")

# Group of obs or var with the categories of columns that hold codes, as anndata 0.7 and SeuratDisk write it.
CATEGORIES = "__categories"


def stored_cells(root: Any, path: object, *, in_memory: bool) -> AnnData | None:
    """Return the cells of an open store, or None where anndata alone knows its layout, that of before version 0.7.

    An element that cannot be read is left out, except for ``X`` and the names of cells and genes. A warning names such
    elements; ``uns``, which labels do not need, goes without one unless everything is read.

    Parameters
    ----------
    in_memory
        Read everything. By default matrices are left in the store, and ``varm``, ``obsp`` and ``varp`` are left out.

    Warns
    -----
    SpikGPTWarning
        For elements that cannot be read.
    """
    passed_over: dict[str, str] = {}

    def attempt(name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # noqa: BLE001, readers raise whatever they stumble over, and anndata a bare one
            passed_over[name] = reason_of(error)
            return None

    with refusing(path):
        if other := other_store(root, path):
            msg = f"{path} {other}."
            raise DataError(msg)
        if is_array(root["obs"]) or is_array(root["var"]) or "raw.X" in root:
            return None
        parts: dict[str, Any] = {axis: _frame(root[axis], path, attempt) for axis in ("obs", "var")}
        matrix = _loaded if in_memory else _left
        if "raw" in root and not is_array(root["raw"]) and "X" in root["raw"]:
            parts["raw"] = attempt("raw", lambda: _raw(root["raw"], path, matrix, attempt))
        cells = AnnData(matrix(root["X"], f"{path}, X") if "X" in root else None, **parts)
        readers: dict[str, Callable[[Any, str], Any]] = {"layers": matrix, "obsm": _element, "uns": _element}
        if in_memory:
            readers |= dict.fromkeys(("varm", "obsp", "varp"), _element)
        for place, read in readers.items():
            for key in sorted(root[place]) if place in root else ():
                name = f"{place}[{key!r}]"
                value = attempt(name, lambda: read(root[place][key], f"{path}, {place}/{key}"))  # noqa: B023
                if value is not None or place == "uns":
                    attempt(name, lambda: getattr(cells, place).__setitem__(key, value))  # noqa: B023
    lost = {name: reason for name, reason in passed_over.items() if in_memory or not name.startswith("uns")}
    if lost:
        told = "; ".join(f"{name} ({reason})" for name, reason in lost.items())
        warnings.warn(f"{path} holds elements that cannot be read and were left out: {told}.", SpikGPTWarning, 3)
    return cells


def assembled(root: Any, instead: Callable[[str, Any, str], Any]) -> AnnData:
    """Let anndata assemble what an open store holds.

    Parameters
    ----------
    instead
        From the name of an element, the element and its encoding to what takes its place, or None to have it read.
    """

    def read(function: Callable[[Any], Any], name: str, item: Any, iospec: Any) -> Any:
        if iospec.encoding_type == "anndata" or name.endswith("/"):
            # raw.X and raw.var of old files; anndata itself reads these apart.
            return AnnData(**{key: read_dispatched(item[key], read) for key in item if not key.startswith("raw.")})
        if name == "/raw" and not is_array(item):
            return {key: read_dispatched(item[key], read) for key in ("X", "var", "varm") if key in item}
        found = instead(name, item, iospec.encoding_type)
        return function(item) if found is None else found

    return read_dispatched(root, read)


def names_of(group: Any, path: object) -> str:
    """Return which array of a stored obs or var holds the names of its cells or genes."""
    axis = group.name.rpartition("/")[2]
    if "_index" in group.attrs:
        return str(text_of(np.ravel(group.attrs["_index"])[0]))
    for name in NAMES:
        if name in group:
            return name
    msg = (
        f"{path} cannot be read: {axis} holds no names of its {'cells' if axis == 'obs' else 'genes'}; expected the "
        f"attribute _index, or an array named {NAMES[0]} or {NAMES[1]}. {REMEDY}"
    )
    raise DataError(msg)


def obs_names_of(root: Any, path: object) -> list[str]:
    """Return the names of the cells of an open store."""
    return [str(text_of(name)) for name in np.ravel(_column(root["obs"], names_of(root["obs"], path)))]


def columns_of(group: Any, names: str) -> list[str]:
    """Return the columns of a stored obs or var, in order, without that of the ``names``."""
    if "column-order" in group.attrs:
        return [str(text_of(name)) for name in np.ravel(group.attrs["column-order"])]
    return [name for name in sorted(group) if name not in (names, CATEGORIES)]


def _frame(group: Any, path: object, attempt: Callable[[str, Callable[[], Any]], Any]) -> pd.DataFrame:
    """Return obs or var, without columns that cannot be read, and text where bytes stand for it."""
    names = names_of(group, path)
    if is_array(group[names]) and (lost := missing_chunks(group[names])):
        msg = f"{path} holds {group.name} with {lost} chunks of its names missing. {REMEDY}"
        raise DataError(msg)
    try:
        frame = None if CATEGORIES in group else read_elem(group)
    except Exception:  # noqa: BLE001, any column may be the reason
        frame = None
    if not isinstance(frame, pd.DataFrame):
        axis = group.name.strip("/")
        columns = {
            name: attempt(f"{axis}[{name!r}]", lambda: _column(group, name))  # noqa: B023
            for name in columns_of(group, names)
        }
        frame = pd.DataFrame(
            {name: values for name, values in columns.items() if values is not None}, index=_column(group, names)
        )
    for name in frame.columns:
        if _holds_bytes(frame[name]):
            frame[name] = _decoded(frame[name])
    if _holds_bytes(frame.index.to_series()):
        frame.index = frame.index.map(text_of)
    return frame


def _column(group: Any, name: str) -> Any:
    item = group[name]
    if is_array(item) and item.dtype.kind == "S":
        return np.array([text_of(value) for value in np.ravel(item[...])], dtype=object)
    if is_array(item) and CATEGORIES in group and name in group[CATEGORIES]:
        ordered = bool(group[CATEGORIES][name].attrs.get("ordered", False))
        return pd.Categorical.from_codes(item[...], _column(group[CATEGORIES], name), ordered=ordered)
    return read_elem(item)


def _holds_bytes(column: pd.Series[Any]) -> bool:
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return bool(values.dtype == object and any(isinstance(value, bytes) for value in values))


def _decoded(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column with text in place of bytes."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.rename_categories(text_of)
    return column.map(text_of)


def _raw(group: Any, path: object, matrix: Callable[[Any, str], Any], attempt: Any) -> dict[str, Any]:
    parts = {"X": matrix(group["X"], f"{path}, raw/X"), "var": _frame(group["var"], path, attempt)}
    if matrix is _loaded and "varm" in group:
        parts["varm"] = attempt("raw.varm", lambda: read_elem(group["varm"]))
    return parts


def _left(item: Any, name: str) -> Any:
    """Return a matrix that stays in the store; None for a null element."""
    if is_array(item):
        return None if item.shape is None else item
    return SparseOnDisk(item, name).stored


def _loaded(item: Any, name: str) -> Any:
    return _element(item, name) if is_array(item) else SparseOnDisk(item, name).in_memory()


def _element(item: Any, name: str) -> Any:
    value = read_elem(item)
    check_sparse(value, name)
    return value
