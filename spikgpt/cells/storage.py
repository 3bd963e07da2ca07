"""HDF5 files and zarr folders, looked over before anything is read from them.

A file may state a terabyte in a hundred bytes, or lead to other files on the machine: neither is believed. It may also
send the HDF5 library round in circles, which is found out in a process that can be ended.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import zarr

from spikgpt.errors import DataError, SpikGPTError, fault

REMEDY = "Write it again with adata.write_h5ad() or adata.write_zarr(), or copy it again if it was copied."
# What the message of a library says, and the cause and the remedy. Groups of the pattern are put in.
DAMAGES = (
    (
        r"truncated file: eof = (\d+),.* stored_eof = (\d+)",
        "The file is cut short: {0} of {1} bytes are there. Copy or download it again.",
    ),
    (r"ended before the end-of-stream|Truncated", "The file is cut short. Copy or download it again."),
    (r"CRC check failed|while decompressing", "Its compressed bytes are damaged. Copy or download it again."),
)
CAUSES = (
    (
        r"unable to lock file|file is already open for (write|read)",
        "Another program has the file open for writing, or did not close it. Close the file there; if nothing writes "
        "to it, set HDF5_USE_FILE_LOCKING=FALSE, or run h5clear -s on a copy.",
    ),
    (
        r"required filter|can't open directory|unable to load plugin|filter.* not (registered|available|found)",
        "The values are compressed with an HDF5 filter that is not installed: pip install hdf5plugin. Or write the "
        'file again with adata.write_h5ad(path, compression="gzip").',
    ),
    (
        r"codec not available|Unknown codec|UnknownCodec|not find codec",
        "The values are compressed with a codec that is not installed here. Upgrade zarr and numcodecs, or write the "
        "cells again with adata.write_h5ad().",
    ),
    (
        r"No read method registered for IOSpec\(encoding_type='(.*?)', encoding_version='(.*?)'",
        "The anndata that is installed does not know the encoding {0!r} {1!r}. Upgrade anndata, or write the file "
        "again without that element.",
    ),
    (
        r"No group found in store|Unable to find group",
        "The folder has no metadata of zarr: no zarr.json and no .zgroup. Give the folder that has them, or copy the "
        "folder again.",
    ),
    (r"zarr_format. Expected", "The folder is of a format that zarr here does not know. Upgrade zarr."),
    (r"[Uu]nable to allocate|MemoryError", "There is not enough memory. Read fewer cells, or use a larger machine."),
)
UNKNOWN_CAUSE = (
    "This is the reason that the library gives. If anndata reads the file, write it again with adata.write_h5ad(); if "
    "not, make or copy the file again."
)
# Bytes of the HDF5 chunks kept of each matrix: rows that are read one by one often share a chunk.
CHUNK_CACHE = 16 * 1024 * 1024
# Arrays may be this much larger than the file that states them, and this large in any case.
LARGEST_RATIO, ALWAYS_ALLOWED = 500, 256 * 1024 * 1024
# Chunks that an array may have in any case; more need files, or bytes, of their own.
MOST_CHUNKS = 10_000
# Seconds that the HDF5 library gets to walk over a file, and the bytes for which it gets one more. Mostly it needs less
# than one, but a busy machine or a slow disk is no damage.
WALK_SECONDS, WALK_BYTES = 8, 20 * 1024 * 1024

# Path, device, inode, size and time of change of each file.
Identity: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


@contextmanager
def refusing(what: object, done: str = "read", why: str = "") -> Iterator[None]:
    """Turn whatever damaged files make their readers raise into a DataError of one line, and keep their warnings.

    ``why`` says what may be wrong, and the remedy, where the bytes are damaged or the cause is not known.
    """
    try:
        with warnings.catch_warnings():
            # Repeated names, old encodings and metadata that zarr finds odd are no obstacle.
            warnings.simplefilter("ignore")
            yield
    except SpikGPTError:
        raise
    except Exception as error:  # noqa: BLE001
        # Readers of damaged bytes raise whatever they stumble over, and anndata a bare Exception.
        reason = reason_of(error)
        why = _cause(reason, CAUSES) or fault(error) or why or _cause(reason, DAMAGES) or UNKNOWN_CAUSE
        msg = f"{what} cannot be {done}: {reason}. {why}"
        raise DataError(msg) from None


def reason_of(error: BaseException) -> str:
    """Return what a reader says of an error, on one line."""
    notes = " ".join(getattr(error, "__notes__", ()))
    return " ".join(f"{error} {notes}".split())[:400].rstrip(".") or type(error).__name__


def _cause(reason: str, causes: tuple[tuple[str, str], ...]) -> str | None:
    """Return the cause and the remedy of what a library says, or None where it is not known."""
    for pattern, sentence in causes:
        if match := re.search(pattern, reason):
            return sentence.format(*match.groups())
    return None


@contextmanager
def open_store(path: Path, *, writable: bool = False, name: object = None) -> Iterator[Any]:
    """Open an HDF5 file or a zarr folder, and close it again; messages call it ``name``, by default ``path``.

    What states more than it can hold, or leads to other files, is refused.
    """
    name, mode = name or path, "r+" if writable else "r"
    if find_spec("hdf5plugin"):
        import_module("hdf5plugin")  # makes more compression filters known to h5py
    with refusing(name):
        # What zarr's consolidated metadata repeat may be out of date.
        root = (
            zarr.open_group(path, mode=mode, use_consolidated=False)  # type: ignore[arg-type]
            if path.is_dir()
            else h5py.File(path, mode, rdcc_nbytes=CHUNK_CACHE)
        )
    try:
        with refusing(name):
            _look_over(root, path, name)
        yield root
    finally:
        if isinstance(root, h5py.File):
            root.close()


def probe(path: Path, name: object) -> None:
    """Refuse an HDF5 file over which the HDF5 library hangs or crashes, as a process of its own finds out.

    In this process nothing could end that. Files pass where no other process can be started.

    Parameters
    ----------
    name
        What messages call it.

    Raises
    ------
    DataError
        When the other process hangs or crashes.
    """
    found = path.stat()
    _probe(path.resolve(), name, found.st_size, (found.st_dev, found.st_ino, found.st_mtime_ns))


@lru_cache(maxsize=64)
def _probe(path: Path, name: object, size: int, _: tuple[int, ...]) -> None:
    """Have a file walked over, once as long as it stays the same."""
    if not Path(sys.executable or "").name.lower().startswith(("python", "pypy")):
        return  # an application that brings Python along, which would be started once more
    limit = WALK_SECONDS + size // WALK_BYTES
    script = Path(__file__).with_name("probe.py")
    numbers = str(most_bytes(size)), str(limit + 5)
    try:
        code = subprocess.run(
            [sys.executable, "-I", script, path, *numbers, *filter(None, sys.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        ).returncode
    except OSError:
        return
    except subprocess.TimeoutExpired:
        reason = f"the HDF5 library found no end to its structure in {limit} s"
    else:
        if 0 <= code < 256:
            return  # it came to its end, or h5py could not be imported there
        # A signal, or what Windows has instead.
        reason = f"the HDF5 library crashed over it ({signal.Signals(-code).name if code < 0 else hex(code)})"
    msg = f"{name} cannot be read: {reason}; expected an undamaged file. {REMEDY}"
    raise DataError(msg)


def identity_of(path: Path) -> Identity:
    """Return what differs once a file, or a file of a folder, is changed or replaced; nothing where there is none."""
    files = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    states = [(file, file.stat()) for file in files if file.exists()]
    return tuple((str(file), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) for file, state in states)


def is_array(item: Any) -> bool:
    """Tell an array from a group."""
    return isinstance(item, h5py.Dataset | zarr.Array)


def most_bytes(size: int) -> int:
    """Return how many bytes of arrays a file of some size may state."""
    return max(ALWAYS_ALLOWED, LARGEST_RATIO * size)


def missing_chunks(array: Any) -> int:
    """Return how many chunks of an array are not there, and read as zeros or empty text."""
    if isinstance(array, zarr.Array):
        return max(0, int(array.nchunks - array.nchunks_initialized))
    if not array.chunks:
        return int(array.size > 0 and array.id.get_storage_size() == 0)
    return _count(array.shape, array.chunks) - int(array.id.get_num_chunks())


def _look_over(root: Any, path: Path, name: object) -> None:
    """Refuse what states more than it can hold, and links."""
    size, files = _folder(path, name) if path.is_dir() else (path.stat().st_size, 0)
    most = most_bytes(size)
    most_chunks = MOST_CHUNKS + 10 * files if files else 10 * MOST_CHUNKS + size // 8
    total = 0
    for array, width, chunks in _zarr_arrays(root) if path.is_dir() else _hdf5_arrays(root, name):
        shape = tuple(map(int, array.shape or ()))
        total += math.prod(shape) * width
        if total > most or (chunks and (math.prod(chunks) * width > most or _count(shape, chunks) > most_chunks)):
            cut = f" in chunks of {chunks}" if chunks else ""
            msg = f"{name} has {size} bytes and states an array {array.name} of shape {shape}{cut}. {REMEDY}"
            raise DataError(msg)


def _count(shape: tuple[int, ...], chunks: tuple[int, ...]) -> int:
    """Return the number of chunks of an array."""
    return math.prod(-(-length // max(1, chunk)) for length, chunk in zip(shape, chunks, strict=True))


def _folder(path: Path, name: object) -> tuple[int, int]:
    """Return the bytes and the number of the files in a folder."""
    size = files = 0
    folders = [os.fspath(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    msg = f"{name} holds a link, {entry.name}; put the file itself there."
                    raise DataError(msg)
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    size, files = size + entry.stat().st_size, files + 1
    return size, files


def _zarr_arrays(root: zarr.Group) -> Iterator[tuple[Any, int, tuple[int, ...]]]:
    """Give the arrays of a zarr folder, the bytes of a value, and the shape of what a file holds."""
    for _, item in root.members(max_depth=None):
        if isinstance(item, zarr.Array):
            yield item, item.dtype.itemsize, item.shards or item.chunks


def _hdf5_arrays(root: h5py.File, name: object) -> Iterator[tuple[Any, int, tuple[int, ...] | None]]:
    """Give the arrays of an HDF5 file, the bytes of a value, and the shape of a chunk."""
    groups, seen = [root["/"]], set()
    while groups:
        group = groups.pop()
        seen.add(h5py.h5o.get_info(group.id).addr)
        for key in group:
            item = group[key] if isinstance(group.get(key, getlink=True), h5py.HardLink) else None
            again = isinstance(item, h5py.Group) and h5py.h5o.get_info(item.id).addr in seen
            elsewhere = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
            if item is None or again or elsewhere:
                msg = f"{name} holds a link, {group.name.rstrip('/')}/{key}; put the data itself there."
                raise DataError(msg)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                yield item, item.dtype.itemsize, item.chunks
