"""Cells from files: AnnData in HDF5 and zarr, with matrices left on disk, and what scanpy reads, in memory."""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import h5py
import zarr
from anndata import AnnData

from spikgpt.cells.matrices import check_sparse
from spikgpt.cells.storage import is_array, most_bytes, open_store, probe, refusing
from spikgpt.cells.stores.elements import stored_cells
from spikgpt.cells.stores.kinds import other_store
from spikgpt.errors import DataError, listed

H5AD, ZARR, TENX, MTX, TABLE = "h5ad", "zarr", "10x", "mtx", "table"
TABLES = (".csv", ".tsv", ".tab", ".txt")
# The matrix of a 10x folder; other studies' files may have a name before it.
MATRIX = re.compile(r"(.*)matrix\.mtx(\.gz)?")
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
            yield _through_scanpy(kind, found)
            return
        with open_store(found, name=path) as root:
            cells = stored_cells(root, path, in_memory=False)
            yield _in_memory(found, path) if cells is None else cells


def read_cells(path: str | Path) -> AnnData:
    """Read a file of cells into memory; repeated cell or gene names are accepted.

    Parameters
    ----------
    path
        An ``.h5ad`` file or a ``.zarr`` folder; through scanpy also a 10x ``.h5`` file, a folder with ``matrix.mtx``
        as Cell Ranger writes it, or a table of cells and genes. Files may be compressed with gzip.

    Raises
    ------
    DataError
        When there is no such file, it holds no cells, or it is damaged.
    """
    with _plain(Path(path)) as (kind, found):
        if kind not in (H5AD, ZARR):
            return _through_scanpy(kind, found)
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
    """Tell what a file is, and give it without compression."""
    with tempfile.TemporaryDirectory(prefix="spikgpt-") as folder:
        name = path
        with refusing(path):
            if path.is_file() and not MATRIX.fullmatch(path.name) and _is_gzip(path):
                plain = Path(folder) / path.name.removesuffix(".gz")
                with gzip.open(path) as compressed, plain.open("wb") as file:
                    shutil.copyfileobj(compressed, file, 1 << 20)
                path = plain
            if path.is_file() and h5py.is_hdf5(path):
                probe(path, name)
            kind = _kind(path)
        yield kind, path


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _kind(path: Path) -> str:
    """Tell what a file or a folder is by what it holds."""
    if path.is_dir():
        if path.suffix == ".zarr" or any((path / name).exists() for name in ("zarr.json", ".zgroup")):
            return ZARR
        if any(MATRIX.fullmatch(entry.name) for entry in path.iterdir()):
            return MTX
        found = f"is a folder with {listed(sorted(entry.name for entry in path.iterdir())[:5])}"
    elif not path.exists():
        found = "is not there"
    elif MATRIX.fullmatch(path.name):
        return MTX
    elif path.suffix.lower() in TABLES:
        return TABLE
    elif h5py.is_hdf5(path):
        with open_store(path) as file:
            if "obs" in file and "var" in file:
                return H5AD
            if any(isinstance(item, h5py.Group) and "barcodes" in item for item in file.values()):
                return TENX
            missing = [name for name in ("obs", "var") if name not in file]
            if other := other_store(file, path):
                msg = f"{path} {other}."
                raise DataError(msg)
            found = f"is HDF5 but neither AnnData nor 10x: it has {listed(file)} and lacks {listed(missing)}"
    else:
        found = "is no HDF5 file, which every .h5ad file is"
    msg = f"{path} {found}; give {EXPECTED}."
    raise DataError(msg)


def _through_scanpy(kind: str, path: Path) -> AnnData:
    """Read what other programs write."""
    try:
        import scanpy
    except ImportError as error:
        msg = (
            f"Reading {path} needs scanpy: pip install 'spikgpt[train]'. Or convert it where scanpy is, with "
            "scanpy.read_10x_h5(), read_10x_mtx() or read(), and write_h5ad()."
        )
        raise DataError(msg) from error
    with refusing(path):
        if kind == TENX:
            adata = scanpy.read_10x_h5(path, gex_only=False)
        elif kind == MTX:
            matrix = path if path.is_file() else next(file for file in path.iterdir() if MATRIX.fullmatch(file.name))
            with gzip.open(matrix) if _is_gzip(matrix) else matrix.open("rb") as file:
                check_header(file, matrix.stat().st_size, matrix)
            prefix = matrix.name[: matrix.name.rindex("matrix.mtx")]
            adata = scanpy.read_10x_mtx(matrix.parent, prefix=prefix, gex_only=False)
        else:
            adata = scanpy.read(path, cache=False)
        _checked(adata, path)
        # Proteins and guides are no part of a cell's RNA.
        types = adata.var.get("feature_types")
        other = None if types is None else (types != "Gene Expression").to_numpy()
        return adata if other is None or not other.any() or other.all() else adata[:, ~other].copy()


def check_header(file: Iterable[bytes], size: int, name: object) -> None:
    """Refuse a Matrix Market file that states more than it can hold, before memory for that is reserved."""
    stated = next((line.split() for line in file if not line.startswith(b"%")), [])
    if len(stated) != 3 or 8 * max(map(int, stated)) > most_bytes(size):
        msg = f"{name} has {size} bytes and states {b' '.join(stated).decode()!r}; expected genes, cells and values."
        raise DataError(msg)
