"""h5ad files by h5py alone, for machines without the anndata package: read a few cells at a time, labels written.

The layout on disk is anndata's, versions 0.7 and newer:
https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.expression import listed
from spikgpt.errors import DataError
from spikgpt.files import replacing

# Bytes of the chunks kept of each matrix: rows that are read one by one often share a chunk.
CHUNK_CACHE = 16 * 1024 * 1024
REMEDY = "Write it again with adata.write_h5ad(), or copy it again if it was copied."


class H5adFile:
    """An open h5ad file with the attributes of an AnnData that annotation reads; use it in a ``with`` statement.

    Raises
    ------
    DataError
        When there is no such file, or it is no AnnData of version 0.7 or newer.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "nothing there"
            msg = f"{path} is no file ({found}); give the path of an .h5ad file."
            raise DataError(msg)
        try:
            check_is_anndata(self.path)
            self._file = h5py.File(self.path, "r", rdcc_nbytes=CHUNK_CACHE)
        except OSError as error:
            msg = f"{path} cannot be read: {error}. The file is damaged, incomplete or not readable for you. {REMEDY}"
            raise DataError(msg) from error
        try:
            self._obs, self.var = Table(self._file["obs"]), Table(self._file["var"])
            self.obs_names = Names(self.path)
            self.layers: Mapping[str, Any] = {name: _matrix(item) for name, item in self._group("layers").items()}
            self.obsm: Mapping[str, Any] = self._group("obsm")
            self.X = _matrix(self._file["X"]) if "X" in self._file else None
            self.raw = Raw(self._file["raw"]) if "raw" in self._file else None
        except (KeyError, AttributeError, TypeError, ValueError, OSError) as error:
            self._file.close()
            msg = f"{path} cannot be read: {error}. The file is damaged or of another layout. {REMEDY}"
            raise DataError(msg) from error

    def __enter__(self) -> H5adFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self._obs)

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return len(self.var)

    def _group(self, name: str) -> Mapping[str, Any]:
        """Return the members of a group, none of a group that is not there."""
        return self._file[name] if name in self._file else {}


class Table:
    """The names of ``obs`` or ``var``: the index, and columns of text."""

    def __init__(self, group: Any) -> None:
        if not isinstance(group, h5py.Group):
            msg = "obs or var is stored as anndata did before version 0.7"
            raise TypeError(msg)
        self._group = group
        self.columns = [str(name) for name in group.attrs["column-order"]]
        self.names = _Text(group[str(group.attrs["_index"])])

    def __len__(self) -> int:
        return len(self.names)

    @property
    def index(self) -> list[str]:
        """The index, one name a row."""
        return self.names[:]

    def __getitem__(self, column: str) -> list[Any]:
        """Return a column as text; missing values are None."""
        return _Text(self._group[column])[:]


class Names:
    """The names of the cells, read from the file when they are asked for, whether it is open or not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, index: int | slice) -> Any:
        part = index if isinstance(index, slice) else slice(index, index + 1)
        with h5py.File(self._path, "r") as file:
            names = Table(file["obs"]).names[part]
        return names if isinstance(index, slice) else names[0]


class Raw:
    """The ``raw`` of an AnnData: a matrix of the same cells with genes of its own."""

    def __init__(self, group: h5py.Group) -> None:
        self.X, self.var = _matrix(group["X"]), Table(group["var"])


class SparseOnDisk:
    """A CSR or CSC matrix in an h5ad file, whose rows are read when they are asked for."""

    def __init__(self, group: h5py.Group, layout: str) -> None:
        self.format = layout
        self._group = group
        stated = group.attrs["shape"] if "shape" in group.attrs else group.attrs["h5sparse_shape"]
        self.shape = (int(stated[0]), int(stated[1]))
        lengths = {len(group["indices"]), len(group["data"])}
        expected = self.shape[0 if layout == "csr" else 1] + 1
        if len(lengths) > 1 or len(group["indptr"]) != expected:
            msg = f"the sparse matrix {group.name} has {lengths} values and {len(group['indptr'])} row starts"
            raise ValueError(msg)

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """Return where each row starts, checked so that a damaged file cannot lead elsewhere."""
        starts = np.asarray(self._group["indptr"][:], dtype=np.int64)
        if starts[0] != 0 or starts[-1] != len(self._group["data"]) or (np.diff(starts) < 0).any():
            msg = f"The starts of the rows of {self._group.name} are out of order. The file is damaged. {REMEDY}"
            raise DataError(msg)
        return starts

    def __getitem__(self, index: slice | npt.NDArray[np.int64]) -> sparse.csr_matrix:
        """Return some rows, by a slice or by ascending indices."""
        if isinstance(index, slice):
            first, last = index.indices(self.shape[0])[:2]
            return self._rows([slice(first, max(first, last))])
        return self._rows([slice(row, row + 1) for row in index.tolist()])

    def _rows(self, parts: list[slice]) -> sparse.csr_matrix:
        """Return the rows of some parts, one after the other."""
        spans = [slice(int(self._starts[part.start]), int(self._starts[part.stop])) for part in parts]
        lengths = np.concatenate([np.diff(self._starts[part.start : part.stop + 1]) for part in parts])
        values, columns = (np.concatenate([self._group[name][span] for span in spans]) for name in ("data", "indices"))
        if len(columns) and not 0 <= columns.min() <= columns.max() < self.shape[1]:
            msg = f"{self._group.name} names genes beyond its {self.shape[1]}. The file is damaged. {REMEDY}"
            raise DataError(msg)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return sparse.csr_matrix((values, columns, starts), (len(lengths), self.shape[1]))

    def to_memory(self) -> sparse.csc_matrix:
        """Return a CSC matrix as a whole: its rows cannot be read one by one."""
        starts, columns = self._starts, self._group["indices"][:]
        if len(columns) and not 0 <= columns.min() <= columns.max() < self.shape[0]:
            msg = f"{self._group.name} names cells beyond its {self.shape[0]}. The file is damaged. {REMEDY}"
            raise DataError(msg)
        return sparse.csc_matrix((self._group["data"][:], columns, starts), self.shape)


def check_is_anndata(path: Path) -> None:
    """Refuse a file that is no AnnData before its parts are read."""
    if not h5py.is_hdf5(path):
        msg = f"{path} is no HDF5 file, which every .h5ad file is; give a file written by adata.write_h5ad()."
        raise DataError(msg)
    with h5py.File(path, "r") as file:
        if missing := [name for name in ("obs", "var") if name not in file]:
            msg = (
                f"{path} is HDF5 but not AnnData: it has {listed(file)} and lacks {listed(missing)}. "
                "Read it with the function made for it, such as scanpy.read_10x_h5(), and adata.write_h5ad() it."
            )
            raise DataError(msg)


def write_with(
    source: Path,
    target: Path,
    obs: Mapping[str, Any],
    obsm: Mapping[str, npt.NDArray[Any]],
    uns: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a copy of a file with elements added or replaced; ``target`` is not there before it is whole.

    Parameters
    ----------
    obs
        Columns by name: numbers, shape (n,), or a pair of codes, shape (n,), and the categories that they number.
    obsm
        Arrays by key, shape (n, d).
    uns
        By key, mappings of text, numbers, booleans and arrays of text.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        with h5py.File(temporary, "r+") as file:
            order = [str(name) for name in file["obs"].attrs["column-order"]]
            for name, column in obs.items():
                _write(file["obs"], name, column)
            added = [name for name in obs if name not in order]
            file["obs"].attrs.create("column-order", [*order, *added], dtype=h5py.string_dtype())
            for group, elements in (("obsm", obsm), ("uns", uns)):
                if group not in file:
                    _write(file, group, {})
                for name, element in elements.items():
                    _write(file[group], name, element)


def _write(group: h5py.Group, name: str, value: Any) -> None:
    """Write one element in place of any of that name, encoded as anndata does."""
    if name in group:
        del group[name]
    if isinstance(value, Mapping):
        item, encoding = group.create_group(name), ("dict", "0.1.0")
        for key, part in value.items():
            _write(item, key, part)
    elif isinstance(value, tuple):
        codes, categories = value
        item, encoding = group.create_group(name), ("categorical", "0.2.0")
        item.attrs["ordered"] = False
        _write(item, "codes", codes)
        _write(item, "categories", np.array(categories, dtype=object))
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        item, encoding = group.create_dataset(name, data=value, dtype=h5py.string_dtype()), ("string-array", "0.2.0")
    elif isinstance(value, np.ndarray):
        item, encoding = group.create_dataset(name, data=value), ("array", "0.2.0")
    elif isinstance(value, str):
        item, encoding = group.create_dataset(name, data=value, dtype=h5py.string_dtype()), ("string", "0.2.0")
    else:
        item, encoding = group.create_dataset(name, data=value), ("numeric-scalar", "0.2.0")
    item.attrs["encoding-type"], item.attrs["encoding-version"] = encoding


def _matrix(item: Any) -> Any:
    """Return a dense matrix as h5py has it, or a sparse one."""
    if isinstance(item, h5py.Dataset):
        return item
    stated = item.attrs["encoding-type"] if "encoding-type" in item.attrs else item.attrs["h5sparse_format"]
    layout = str(stated).removesuffix("_matrix")
    if layout not in ("csr", "csc"):
        msg = f"{item.name} is stored as {stated!r}; expected a dense, CSR or CSC matrix"
        raise ValueError(msg)
    return SparseOnDisk(item, layout)


class _Text:
    """A column as text: plain strings, categories, or values with a mask of those that are missing."""

    def __init__(self, item: Any) -> None:
        self._item = item
        self._values = item if isinstance(item, h5py.Dataset) else item["codes" if "codes" in item else "values"]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, part: slice) -> list[Any]:
        values = self._values[part]
        if isinstance(self._item, h5py.Dataset):
            return [_text(value) for value in values.tolist()]
        if "codes" in self._item:
            return [self._categories[code] if code >= 0 else None for code in values.tolist()]
        missing = self._item["mask"][part].tolist() if "mask" in self._item else [False] * len(values)
        return [None if absent else _text(value) for value, absent in zip(values.tolist(), missing, strict=True)]

    @cached_property
    def _categories(self) -> list[Any]:
        return _Text(self._item["categories"])[:]


def _text(value: object) -> Any:
    """Return bytes as text, and anything else as it is."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
