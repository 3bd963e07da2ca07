"""Read cells from AnnData in HDF5 and zarr, with matrices left on disk, and from the files of other programs."""

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
from spikgpt.cells.formats.tenx import is_tenx, read_tenx, tenx_cells
from spikgpt.cells.formats.unreadable import absent, other_store, refusal
from spikgpt.cells.matrices import check_sparse
from spikgpt.cells.storage import as_data_errors, check_hdf5, identity_of, is_array, open_store
from spikgpt.cells.stored import stored_cells
from spikgpt.errors import DataError, listed

H5AD, ZARR, TENX, MTX, TABLE = "h5ad", "zarr", "10x", "mtx", "table"
HDF5_MARK = b"\x89HDF\r\n\x1a\n"
EXPECTED = "an .h5ad file, a .zarr folder, a 10x .h5 file, a folder with matrix.mtx, or a .csv table, also with .gz"
OTHER_LAYOUT = "SpikGPT does not know this layout: write the cells as .h5ad, and give that file."


@contextmanager
def open_cells(path: str | Path) -> Iterator[AnnData]:
    """Open a file of cells and leave its matrices on disk, to be read a few cells at a time.

    In an ``.h5ad`` file or a ``.zarr`` folder, ``X``, ``layers`` and ``raw.X`` stay on disk, and ``varm``, ``obsp`` and
    ``varp`` are left out. In a 10x ``.h5`` file the counts stay on disk. AnnData files from before version 0.7, and
    other kinds of files, are read into memory; see :func:`read_cells`.

    Raises
    ------
    DataError
        When there is no such file, it holds no cells, or it is damaged.
    """
    with _unpacked(Path(path)) as (kind, unpacked):
        if kind not in (H5AD, ZARR, TENX):
            yield _read_other(kind, unpacked, path)
            return
        with open_store(unpacked, name=path) as root:
            if kind == TENX:
                yield tenx_cells(root, path, in_memory=False)
                return
            cells = stored_cells(root, path, in_memory=False)
            yield _read_old(unpacked, path) if cells is None else cells


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
    with _unpacked(Path(path)) as (kind, unpacked):
        if kind not in (H5AD, ZARR):
            return _read_other(kind, unpacked, path)
        with open_store(unpacked, name=path) as root:
            cells = stored_cells(root, path, in_memory=True)
        return _read_old(unpacked, path) if cells is None else cells


def stored_kind(path: Path) -> str:
    """Return ``h5ad`` or ``zarr`` for a file to which elements can be added, and another word for other files."""
    with _unpacked(path) as (kind, unpacked):
        if unpacked != path:
            return f"{kind}.gz"
        if kind in (H5AD, ZARR):
            with open_store(path) as root, as_data_errors(path):
                return f"old {kind}" if is_array(root["obs"]) or is_array(root["var"]) else kind
        return kind


def _read_old(unpacked: Path, path: object) -> AnnData:
    """Read a store that was written by anndata before version 0.7."""
    with as_data_errors(path):
        if unpacked.is_dir():
            adata = anndata.io.read_zarr(zarr.open_group(unpacked, mode="r", use_consolidated=False))
        else:
            adata = anndata.io.read_h5ad(unpacked)
    return _checked(adata, path)


def _read_other(kind: str, unpacked: Path, path: object) -> AnnData:
    with as_data_errors(path, remedy=OTHER_LAYOUT):
        if kind == TENX:
            return _checked(read_tenx(unpacked, path), path)
        return _checked(read_mtx(unpacked) if kind == MTX else read_table(unpacked), path)


def _checked(adata: AnnData, path: object) -> AnnData:
    """Return an AnnData after a check of the structure of its sparse matrices."""
    matrices = {"X": adata.X, "raw": None if adata.raw is None else adata.raw.X}
    for group in ("layers", "obsm", "varm", "obsp", "varp"):
        matrices |= {f"{group}[{key!r}]": value for key, value in getattr(adata, group).items()}
    for name, matrix in matrices.items():
        check_sparse(matrix, f"{path}, {name}")
    return adata


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the kind of a file and its path; for gzipped HDF5, the path of an unpacked temporary copy."""
    with tempfile.TemporaryDirectory(prefix="spikgpt-") as folder:
        name = path
        with as_data_errors(path):
            if path.is_file() and is_gzip(path) and first_bytes(path, 8) == HDF5_MARK:
                path = Path(folder) / path.name.removesuffix(".gz")
                unpack(name, path)
            if path.is_file() and h5py.is_hdf5(path):
                check_hdf5(path, name, identity_of(path))
            kind = _kind(path)
        yield kind, path


def _kind(path: Path) -> str:
    if path.is_dir():
        if path.suffix == ".zarr" or any((path / name).exists() for name in ("zarr.json", ".zgroup")):
            return ZARR
        if holds_matrix(path):
            return MTX
        problem = f"is a folder with {listed(sorted(entry.name for entry in path.iterdir())[:5])}"
    elif not path.exists():
        problem = absent(path)
    elif not path.is_file():
        problem = "is no regular file"
    elif h5py.is_hdf5(path):
        with open_store(path) as file:
            if "obs" in file and "var" in file:
                return H5AD
            if is_tenx(file):
                return TENX
            if other := other_store(file, path):
                msg = f"{path} {other}."
                raise DataError(msg)
            missing = [name for name in ("obs", "var") if name not in file]
            problem = f"is HDF5 but neither AnnData nor 10x: it has {listed(file)} and lacks {listed(missing)}"
    else:
        head = first_bytes(path)
        if sentence := refusal(path, head):
            msg = f"{path} {sentence}."
            raise DataError(msg)
        if head.lower().startswith(b"%%matrixmarket") or is_mtx(path):
            return MTX
        if looks_like_table(path, head):
            return TABLE
        problem = "is no HDF5 file, which every .h5ad file is"
    msg = f"{path} {problem}; give {EXPECTED}."
    raise DataError(msg)
