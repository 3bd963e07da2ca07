"""Cells from files: AnnData in HDF5 and zarr, with matrices left on disk, and files of other programs, in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import h5py
import zarr
from anndata import AnnData

from spikgpt.cells.formats.mtx import holds_matrix, is_mtx, read_mtx
from spikgpt.cells.formats.streams import first_bytes, is_gzip, unpack
from spikgpt.cells.formats.tables import looks_like_table, read_table
from spikgpt.cells.formats.tenx import is_tenx, read_tenx
from spikgpt.cells.formats.unreadable import absent, hdf5_refusal, refusal
from spikgpt.cells.matrices import check_sparse
from spikgpt.cells.storage import is_array, open_store, probe, refusing
from spikgpt.cells.stores.elements import stored_cells
from spikgpt.cells.stores.kinds import other_store
from spikgpt.errors import DataError, listed

H5AD, ZARR, TENX, MTX, TABLE = "h5ad", "zarr", "10x", "mtx", "table"
HDF5_MARK = b"\x89HDF\r\n\x1a\n"
EXPECTED = "an .h5ad file, a .zarr folder, a 10x .h5 file, a folder with matrix.mtx, or a .csv table, also with .gz"


@contextmanager
def open_cells(path: str | Path) -> Iterator[AnnData]:
    """Open a file of cells and leave its matrices on disk, to be read a few cells at a time.

    Of an ``.h5ad`` file or a ``.zarr`` folder, ``X``, ``layers`` and ``raw.X`` stay there, ``varm``, ``obsp`` and
    ``varp`` are left out. AnnData files from before version 0.7 and other kinds of files are read into memory; see
    :func:`read_cells`.

    Raises
    ------
    DataError
        When there is no such file, it holds no cells, or it is damaged.
    """
    with _plain(Path(path)) as (kind, found):
        if kind not in (H5AD, ZARR):
            yield _read_other(kind, found, path)
            return
        with open_store(found, name=path) as root:
            cells = stored_cells(root, path, in_memory=False)
            yield _in_memory(found, path) if cells is None else cells


def read_cells(path: str | Path) -> AnnData:
    """Read a file of cells into memory; repeated cell or gene names are accepted.

    Parameters
    ----------
    path
        An ``.h5ad`` file, a ``.zarr`` folder, a 10x ``.h5`` file, a folder with a Matrix Market file and lists of
        cells and genes, or a table of cells and genes. Files may be compressed with gzip.

    Raises
    ------
    DataError
        When there is no such file, it holds no cells, or it is damaged.
    """
    with _plain(Path(path)) as (kind, found):
        if kind not in (H5AD, ZARR):
            return _read_other(kind, found, path)
        with open_store(found, name=path) as root:
            cells = stored_cells(root, path, in_memory=True)
        return _in_memory(found, path) if cells is None else cells


def stored_kind(path: Path) -> str:
    """Return what a file is: ``h5ad`` or ``zarr``, to which elements can be added, or another kind."""
    with _plain(path) as (kind, found):
        if found != path:
            return f"{kind}.gz"
        if kind in (H5AD, ZARR):
            with open_store(path) as root, refusing(path):
                return kind if not is_array(root["obs"]) and not is_array(root["var"]) else f"old {kind}"
        return kind


def _in_memory(found: Path, path: object) -> AnnData:
    """Let anndata read a store that was looked over."""
    with refusing(path):
        if found.is_dir():
            adata = anndata.io.read_zarr(zarr.open_group(found, mode="r", use_consolidated=False))
        else:
            adata = anndata.io.read_h5ad(found)
    return _checked(adata, path)


def _checked(adata: AnnData, path: object) -> AnnData:
    """Return an AnnData whose sparse matrices are safe to slice."""
    named = {"X": adata.X, "raw": None if adata.raw is None else adata.raw.X}
    for place in ("layers", "obsm", "varm", "obsp", "varp"):
        named |= {f"{place}[{key!r}]": value for key, value in getattr(adata, place).items()}
    for name, matrix in named.items():
        check_sparse(matrix, f"{path}, {name}")
    return adata


@contextmanager
def _plain(path: Path) -> Iterator[tuple[str, Path]]:
    """Tell what a file is, and give an HDF5 file without compression."""
    with tempfile.TemporaryDirectory(prefix="spikgpt-") as folder:
        name = path
        with refusing(path):
            if path.is_file() and is_gzip(path) and first_bytes(path, 8) == HDF5_MARK:
                plain = Path(folder) / path.name.removesuffix(".gz")
                unpack(path, plain)
                path = plain
            if path.is_file() and h5py.is_hdf5(path):
                probe(path, name)
            kind = _kind(path)
        yield kind, path


def _kind(path: Path) -> str:
    """Tell what a file or a folder is by what it holds."""
    if path.is_dir():
        if path.suffix == ".zarr" or any((path / name).exists() for name in ("zarr.json", ".zgroup")):
            return ZARR
        if holds_matrix(path):
            return MTX
        found = f"is a folder with {listed(sorted(entry.name for entry in path.iterdir())[:5])}"
    elif not path.exists():
        found = absent(path)
    elif not path.is_file():
        found = "is no regular file"
    elif h5py.is_hdf5(path):
        with open_store(path) as file:
            if "obs" in file and "var" in file:
                return H5AD
            if is_tenx(file):
                return TENX
            if sentence := hdf5_refusal(set(file)):
                msg = f"{path} {sentence.format(name=path.as_posix())}."
                raise DataError(msg)
            missing = [name for name in ("obs", "var") if name not in file]
            if other := other_store(file, path):
                msg = f"{path} {other}."
                raise DataError(msg)
            found = f"is HDF5 but neither AnnData nor 10x: it has {listed(file)} and lacks {listed(missing)}"
    else:
        return _kind_of_bytes(path)
    msg = f"{path} {found}; give {EXPECTED}."
    raise DataError(msg)


def _kind_of_bytes(path: Path) -> str:
    """Tell what a file is that is not HDF5, by its first bytes and its name."""
    head = first_bytes(path)
    if found := refusal(path, head):
        msg = f"{path} {found}."
        raise DataError(msg)
    if head.lower().startswith(b"%%matrixmarket") or is_mtx(path):
        return MTX
    if looks_like_table(path, head):
        return TABLE
    msg = f"{path} is no HDF5 file, which every .h5ad file is; give {EXPECTED}."
    raise DataError(msg)


def _read_other(kind: str, path: Path, name: object) -> AnnData:
    """Read what other programs write."""
    with refusing(name, why="Its layout is not one that SpikGPT reads: write the cells as .h5ad, and give that file."):
        if kind == TENX:
            adata = read_tenx(path, name)
        else:
            adata = read_mtx(path) if kind == MTX else read_table(path)
        return _checked(adata, path)
