"""Read an AnnData from an open store, element by element, so that an unreadable element does not stop the reading."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.experimental import read_dispatched
from anndata.io import read_elem
from scipy import sparse

from spikgpt.cells.formats.unreadable import other_store
from spikgpt.cells.matrices import check_sparse, check_stored, read_matrix, stored_matrix
from spikgpt.cells.obs import text_of
from spikgpt.cells.storage import REMEDY, as_data_errors, is_array, missing_chunks, reason_of
from spikgpt.errors import DataError, SpikGPTWarning

# Number of bytes of a matrix that are read at a time.
BLOCK_BYTES = 32 * 1024 * 1024

# Possible names of the array with the names of cells or genes. They are tried if the attribute _index is missing, as in
# files of some writers in R.
NAMES = ("_index", "index", "obs_names", "var_names", "row_names", "rownames")

# Group of obs or var in which anndata 0.7 and SeuratDisk store the categories of categorical columns.
CATEGORIES = "__categories"


def stored_cells(root: Any, path: object, *, in_memory: bool) -> AnnData | None:
    """Return the cells of an open store, or None for a layout that is older than anndata 0.7.

    An unreadable element is left out, except for ``X`` and the names of cells and genes. A warning names the elements
    left out. Elements of ``uns`` are named only if ``in_memory`` is True, because labels do not need ``uns``.

    Parameters
    ----------
    in_memory
        True reads all elements into memory. False leaves matrices and large arrays of ``obsm`` in the store, and leaves
        out ``varm``, ``obsp`` and ``varp``.

    Warns
    -----
    SpikGPTWarning
        For unreadable elements.
    """
    errors: dict[str, str] = {}

    def attempt(name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # noqa: BLE001, readers of damaged data raise any exception class
            errors[name] = reason_of(error)
            return None

    def matrix(item: Any, name: str) -> Any:
        if is_array(item) and (in_memory or item.shape is None):
            return _element(item, name)
        stored = item if is_array(item) else stored_matrix(item, name)
        return read_matrix(stored, name) if in_memory else stored

    def raw(group: Any) -> dict[str, Any]:
        parts = {"X": matrix(group["X"], f"{path}, raw/X"), "var": _frame(group["var"], path, attempt)}
        if in_memory and "varm" in group:
            parts["varm"] = attempt("raw.varm", lambda: read_elem(group["varm"]))
        return parts

    with as_data_errors(path):
        if other := other_store(root, path):
            msg = f"{path} {other}."
            raise DataError(msg)
        if is_array(root["obs"]) or is_array(root["var"]) or "raw.X" in root:
            return None
        parts: dict[str, Any] = {axis: _frame(root[axis], path, attempt) for axis in ("obs", "var")}
        if "raw" in root and not is_array(root["raw"]) and "X" in root["raw"]:
            parts["raw"] = attempt("raw", lambda: raw(root["raw"]))
        cells = AnnData(matrix(root["X"], f"{path}, X") if "X" in root else None, **parts)
        readers: dict[str, Callable[[Any, str], Any]] = {"layers": matrix, "obsm": _large_element, "uns": _element}
        if in_memory:
            readers |= dict.fromkeys(("obsm", "varm", "obsp", "varp"), _element)
        for group, read in readers.items():
            for key in sorted(root[group]) if group in root else ():
                name = f"{group}[{key!r}]"
                value = attempt(name, lambda: read(root[group][key], f"{path}, {group}/{key}"))  # noqa: B023
                if value is not None or group == "uns":
                    attempt(name, lambda: getattr(cells, group).__setitem__(key, value))  # noqa: B023
    lost = [f"{name} ({reason})" for name, reason in errors.items() if in_memory or not name.startswith("uns")]
    if lost:
        warnings.warn(f"{path} holds unreadable elements, which were left out: {'; '.join(lost)}.", SpikGPTWarning, 3)
    return cells


def check_readable(root: Any, path: object) -> None:
    """Let anndata read all elements of an open store; large matrices are not held in memory.

    Raises
    ------
    DataError
        When anndata cannot read an element.
    """

    def read(function: Callable[[Any], Any], name: str, item: Any, iospec: Any) -> Any:
        if iospec.encoding_type == "anndata" or name.endswith("/"):
            # Old files hold raw.X and raw.var beside X, and anndata reads these elements separately.
            return AnnData(**{key: read_dispatched(item[key], read) for key in item if not key.startswith("raw.")})
        if name == "/raw" and not is_array(item):
            return {key: read_dispatched(item[key], read) for key in ("X", "var", "varm") if key in item}
        if iospec.encoding_type in ("csr_matrix", "csc_matrix"):
            check_stored(item, f"{path}, {name}")
            return sparse.csr_matrix(tuple(map(int, item.attrs["shape"])), dtype=np.float32)
        if _is_large(item):
            _check_blocks(item)
            return sparse.csr_matrix(item.shape, dtype=np.float32)
        return function(item)

    with as_data_errors(path, "read as a whole", "The output has the labels and a copy of the whole file."):
        read_dispatched(root, read)


def names_of(group: Any, path: object) -> str:
    """Return the name of the array that holds the cell or gene names of a stored obs or var."""
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
    return list(map(str, np.ravel(_column(root["obs"], names_of(root["obs"], path)))))


def columns_of(group: Any, names: str) -> list[str]:
    """Return the column names of a stored obs or var in order, without the array ``names`` of cell or gene names."""
    if "column-order" in group.attrs:
        return [str(text_of(name)) for name in np.ravel(group.attrs["column-order"])]
    return [name for name in sorted(group) if name not in (names, CATEGORIES)]


def _frame(group: Any, path: object, attempt: Callable[[str, Callable[[], Any]], Any]) -> pd.DataFrame:
    """Return a stored obs or var as a table, without unreadable columns."""
    names = names_of(group, path)
    if is_array(group[names]) and (lost := missing_chunks(group[names])):
        msg = f"{path} holds {group.name} with {lost} chunks of its names missing. {REMEDY}"
        raise DataError(msg)
    axis = group.name.strip("/")
    columns = {
        name: attempt(f"{axis}[{name!r}]", lambda: _column(group, name))  # noqa: B023
        for name in columns_of(group, names)
    }
    readable = {name: values for name, values in columns.items() if values is not None}
    frame = pd.DataFrame(readable, index=_column(group, names), columns=list(readable))
    frame.index.name = None if names == "_index" else names
    return frame


def _column(group: Any, name: str) -> Any:
    """Return a column of a stored obs or var; bytes, which writers in R store in place of text, are decoded."""
    item = group[name]
    if is_array(item) and CATEGORIES in group and name in group[CATEGORIES]:
        ordered = bool(group[CATEGORIES][name].attrs.get("ordered", False))
        return pd.Categorical.from_codes(item[...], _column(group[CATEGORIES], name), ordered=ordered)
    values = np.ravel(item[...]).astype(object) if is_array(item) and item.dtype.kind == "S" else read_elem(item)
    texts = values.categories if isinstance(values, pd.Categorical) else values
    if texts.dtype != object or not any(isinstance(text, bytes) for text in texts):
        return values
    if isinstance(values, pd.Categorical):
        return values.rename_categories(text_of)
    return np.array([text_of(text) for text in texts], dtype=object)


def _element(item: Any, name: str) -> Any:
    value = read_elem(item)
    check_sparse(value, name)
    return value


def _large_element(item: Any, name: str) -> Any:
    """Return a large array without loading it, after a check that it is readable; load any other element."""
    if not _is_large(item):
        return _element(item, name)
    _check_blocks(item)
    return item


def _is_large(item: Any) -> bool:
    """Return True for a dense matrix of more than ``BLOCK_BYTES`` bytes, which is read in blocks."""
    # A null element, such as uns["log1p"]["base"] of scanpy, has the shape None.
    if not is_array(item) or len(item.shape or ()) != 2 or item.attrs.get("encoding-type", "array") != "array":
        return False
    return bool(item.size * item.dtype.itemsize > BLOCK_BYTES)


def _check_blocks(array: Any) -> None:
    """Read a matrix in blocks, so that a damaged matrix raises an error; the values are not kept."""
    step = max(1, BLOCK_BYTES // (array.shape[1] * array.dtype.itemsize))
    for start in range(0, array.shape[0], step):
        array[start : start + step]
