"""A walk over an HDF5 file in a process of its own, where the HDF5 library may hang or crash and do no harm.

A script that imports nothing of SpikGPT, so that it starts quickly: ``python probe.py FILE MOST SECONDS PATH...``, the
bytes that an array may state, the seconds after which the process ends, and where to import from.
"""

from __future__ import annotations

import math
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:] = sys.argv[4:]

import h5py

# Bytes of numbers that are read, and elements read at a time. More are only bytes on the disk; every text is read,
# since it lies in heaps that the library has to find its way through.
SMALL, BLOCK = 1024 * 1024, 65_536


def walk(path: Path, most: int) -> int:
    """Touch what a reader touches, except for large arrays of numbers, and return the number of objects.

    What raises is passed over: the reader says it better.

    Parameters
    ----------
    most
        Bytes that an array may state; a larger one is left alone, as the reader refuses it.
    """
    seen: set[Any] = set()
    with suppress(Exception), h5py.File(path) as file:
        waiting = [file["/"]]
        while waiting:
            with suppress(Exception):
                item = waiting.pop()
                address = h5py.h5o.get_info(item.id).addr
                if address not in seen:
                    seen.add(address)
                    waiting += _touch(item, most)
    return len(seen)


def _touch(item: Any, most: int) -> list[Any]:
    """Read the attributes of a group or an array, and an array that is small or text; return the members of a group."""
    with suppress(Exception):
        for name in item.attrs:
            with suppress(Exception):
                item.attrs[name]
    members = []
    if isinstance(item, h5py.Group):
        for name in item:
            with suppress(Exception):
                # Other links may lead elsewhere.
                if isinstance(item.get(name, getlink=True), h5py.HardLink):
                    members.append(item[name])
    elif isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
        _read(item, most)
    return members


def _read(array: Any, most: int) -> None:
    """Find the chunks of an array, and read it if it is small or text."""
    shape, width = array.shape, array.dtype.itemsize
    array.id.get_num_chunks() if array.chunks else array.id.get_storage_size()
    if not shape:
        array[()]
    elif math.prod(shape) * width <= (most if array.dtype.hasobject else SMALL):
        step = max(1, BLOCK // max(1, math.prod(shape[1:])))
        if math.prod(array.chunks or ()) * width <= most:
            for start in range(0, shape[0], step):
                array[start : start + step]


if __name__ == "__main__":
    if hasattr(signal, "alarm"):
        # Even when whoever started this was killed.
        signal.alarm(int(sys.argv[3]))
    walk(Path(sys.argv[1]), int(sys.argv[2]))
