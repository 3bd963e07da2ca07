"""Open HDF5 files and zarr folders, after a check of their structure.

A file of a hundred bytes may declare an array of a terabyte, or link to other files on the machine. Files of either
kind are refused.
A damaged file may also let the HDF5 library hang, so a second process reads it first; see :mod:`spikgpt.cells.walk`.
"""

from __future__ import annotations

import math
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
# Pattern in the error message of a library, and a sentence on the cause and the remedy. {0} is the first group of the
# pattern.
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
        "The installed anndata does not know the encoding {0!r} {1!r}. Upgrade anndata, or write the file again "
        "without that element.",
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
    "This is the message of the library. If anndata reads the file, write it again with adata.write_h5ad(); if not, "
    "make or copy the file again."
)
# Size in bytes of HDF5's chunk cache for each array: rows that are read one by one often share a chunk.
CHUNK_CACHE = 16 * 1024 * 1024
# Largest ratio of the declared size of all arrays to the size of the file. Size of all arrays in bytes that any file
# may declare.
LARGEST_RATIO, ALWAYS_ALLOWED = 500, 256 * 1024 * 1024
# Number of chunks that any array may have. For more chunks, the store must have more files or more bytes.
MOST_CHUNKS = 10_000
# Time limit of the second process in seconds, and number of bytes for each further second. Most files need less than
# one second. The limit leaves time for a busy machine or a slow disk.
WALK_SECONDS, WALK_BYTES = 8, 20 * 1024 * 1024

# Path, device, inode, size and time of change of each file.
Identity: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


@contextmanager
def as_data_errors(name: object, action: str = "read", remedy: str = "") -> Iterator[None]:
    """Turn any exception of a reader or writer into a one-line DataError, and silence warnings.

    Parameters
    ----------
    name
        Name of the file, or of a part of the file, in the message.
    action
        Verb of the message, such as "read" in "cannot be read".
    remedy
        Likely cause and remedy, for an error whose cause is not in ``CAUSES``.
    """
    try:
        with warnings.catch_warnings():
            # Warnings about repeated names, old encodings and unusual zarr metadata are harmless.
            warnings.simplefilter("ignore")
            yield
    except SpikGPTError:
        raise
    except Exception as error:  # noqa: BLE001
        # Damaged bytes lead to any exception class, and anndata raises a bare Exception.
        reason = reason_of(error)
        advice = _cause(reason, CAUSES) or fault(error) or remedy or _cause(reason, DAMAGES) or UNKNOWN_CAUSE
        msg = f"{name} cannot be {action}: {reason}. {advice}"
        raise DataError(msg) from None


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line."""
    notes = " ".join(getattr(error, "__notes__", ()))
    return " ".join(f"{error} {notes}".split())[:400].rstrip(".") or type(error).__name__


def _cause(reason: str, causes: tuple[tuple[str, str], ...]) -> str | None:
    """Return the sentence on cause and remedy for the error message of a library; None for an unknown message."""
    for pattern, sentence in causes:
        if match := re.search(pattern, reason):
            return sentence.format(*match.groups())
    return None


@contextmanager
def open_store(path: Path, *, writable: bool = False, name: object = None) -> Iterator[Any]:
    """Open an HDF5 file or a zarr folder after a check for links and impossible sizes, and close it again.

    Parameters
    ----------
    name
        Name of the file in messages, by default ``path``.
    """
    name, mode = name or path, "r+" if writable else "r"
    if find_spec("hdf5plugin"):
        import_module("hdf5plugin")  # registers more compression filters
    with as_data_errors(name):
        # Consolidated metadata of zarr may be out of date.
        root = (
            zarr.open_group(path, mode=mode, use_consolidated=False)  # type: ignore[arg-type]
            if path.is_dir()
            else h5py.File(path, mode, rdcc_nbytes=CHUNK_CACHE)
        )
    try:
        with as_data_errors(name):
            _check_arrays(root, path, name)
        yield root
    finally:
        if isinstance(root, h5py.File):
            root.close()


@lru_cache(maxsize=64)
def check_hdf5(path: Path, name: object, identity: Identity) -> None:
    """Refuse an HDF5 file that makes the HDF5 library hang or crash, as tested in a second process.

    If no second process can be started, the file is accepted. A file with the same ``identity`` is tested only once.

    Raises
    ------
    DataError
        When the second process hangs or crashes.
    """
    if not Path(sys.executable or "").name.lower().startswith(("python", "pypy")):
        return  # an application with Python inside; a second process would start the application again
    size = identity[0][3]
    seconds = WALK_SECONDS + size // WALK_BYTES
    arguments = map(
        str,
        (Path(__file__).with_name("walk.py"), path.resolve(), most_bytes(size), seconds + 5, *filter(None, sys.path)),
    )
    command = [sys.executable, "-I", *arguments]
    no_window = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, creationflags=no_window
        ).returncode
    except OSError:
        return
    except subprocess.TimeoutExpired:
        reason = f"the HDF5 library did not finish within {seconds} s"
    else:
        if 0 <= code < 256:
            return  # the second process finished, or could not import h5py
        # The exit code is negative after a signal; on Windows it is large after a crash.
        reason = f"the HDF5 library crashed ({signal.Signals(-code).name if code < 0 else hex(code)})"
    msg = f"{name} cannot be read: {reason}; expected an undamaged file. {REMEDY}"
    raise DataError(msg)


def identity_of(path: Path) -> Identity:
    """Return a key that changes if a file, or any file in a folder, is changed or replaced; empty for no file."""
    files = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    states = [(file, file.stat()) for file in files if file.exists()]
    return tuple((str(file), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) for file, state in states)


def is_array(item: Any) -> bool:
    """Return True for an array of a store, False for a group."""
    return isinstance(item, h5py.Dataset | zarr.Array)


def most_bytes(size: int) -> int:
    """Return the largest size in bytes of all arrays together that a file of ``size`` bytes may declare."""
    return max(ALWAYS_ALLOWED, LARGEST_RATIO * size)


def missing_chunks(array: Any) -> int:
    """Return the number of missing chunks of an array; missing chunks would be read as zeros or empty text."""
    if isinstance(array, zarr.Array):
        return max(0, int(array.nchunks - array.nchunks_initialized))
    if not array.chunks:
        return int(array.size > 0 and array.id.get_storage_size() == 0)
    return _n_chunks(array.shape, array.chunks) - int(array.id.get_num_chunks())


def _n_chunks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> int:
    return math.prod(-(-length // max(1, chunk)) for length, chunk in zip(shape, chunks, strict=True))


def _check_arrays(root: Any, path: Path, name: object) -> None:
    """Raise DataError for links, and for arrays that are larger than a file of this size can hold."""
    files = [part for part in path.rglob("*") if not part.is_dir() or part.is_symlink()] if path.is_dir() else [path]
    if link := next((part for part in files if part.is_symlink() and part != path), None):
        msg = f"{name} holds a link, {link.name}; put the file itself there."
        raise DataError(msg)
    size = sum(part.stat().st_size for part in files)
    limit = most_bytes(size)
    most_chunks = MOST_CHUNKS + 10 * len(files) if path.is_dir() else 10 * MOST_CHUNKS + size // 8
    total = 0
    members = root.members(max_depth=None) if path.is_dir() else _members(root)
    for member, item in members:
        if item is None:
            msg = f"{name} holds a link, {member}; put the data itself there."
            raise DataError(msg)
        if not is_array(item):
            continue
        shape, width = tuple(map(int, item.shape or ())), item.dtype.itemsize
        chunks = (getattr(item, "shards", None) or item.chunks) if shape else None
        total += math.prod(shape) * width
        if total > limit or (chunks and (math.prod(chunks) * width > limit or _n_chunks(shape, chunks) > most_chunks)):
            layout = f" in chunks of {chunks}" if chunks else ""
            msg = f"{name} has {size} bytes and declares an array {item.name} of shape {shape}{layout}. {REMEDY}"
            raise DataError(msg)


def _members(root: h5py.Group) -> Iterator[tuple[str, Any]]:
    """Yield the path and the object of each member of an HDF5 file, with None for links and repeated groups."""
    groups, seen = [root], set()
    while groups:
        group = groups.pop()
        seen.add(h5py.h5o.get_info(group.id).addr)
        for key in group:
            item = group[key] if isinstance(group.get(key, getlink=True), h5py.HardLink) else None
            if isinstance(item, h5py.Group):
                if h5py.h5o.get_info(item.id).addr in seen:
                    item = None
                else:
                    groups.append(item)
            elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                item = None
            yield f"{group.name.rstrip('/')}/{key}", item
