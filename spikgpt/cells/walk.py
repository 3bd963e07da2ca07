"""Read an HDF5 file in a process of its own, because a damaged file may let the HDF5 library hang or crash.

The script is run as ``python walk.py FILE LIMIT SECONDS PATH...``. ``LIMIT`` is the largest size of an array in bytes.
After ``SECONDS`` the process ends. Each ``PATH`` is a folder to import from. The script imports nothing of SpikGPT, to
start quickly.
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

# Largest array of numbers in bytes that is read. Larger arrays of numbers are plain bytes without pointers. All text is
# read, because the library has to follow pointers to the text.
SMALL = 1024 * 1024


def read_all(path: Path, limit: int) -> int:
    """Read attributes, text and small arrays, and return the number of objects; ignore errors that Python can catch."""
    visited: set[int] = set()
    with suppress(Exception), h5py.File(path) as file:
        queue = [file["/"]]
        while queue:
            item = queue.pop()
            with suppress(Exception):
                address = h5py.h5o.get_info(item.id).addr
                if address not in visited:
                    visited.add(address)
                    queue += _read(item, limit)
    return len(visited)


def _read(item: Any, limit: int) -> list[Any]:
    """Read an object in spite of damaged parts; return the members of a group, or an empty list for an array."""
    with suppress(Exception):
        for name in item.attrs:
            with suppress(Exception):
                item.attrs[name]
    members = []
    if isinstance(item, h5py.Group):
        for name in item:
            # Only hard links are followed, because other links may lead to other files.
            with suppress(Exception):
                if isinstance(item.get(name, getlink=True), h5py.HardLink):
                    members.append(item[name])
    elif not item.external and not item.is_virtual:
        size = max(item.size, math.prod(item.chunks or ())) * item.dtype.itemsize
        if size <= (limit if item.dtype.hasobject else SMALL):
            item[()]
    return members


if __name__ == "__main__":
    if hasattr(signal, "alarm"):
        # The process ends even if its parent was killed.
        signal.alarm(int(sys.argv[3]))
    read_all(Path(sys.argv[1]), int(sys.argv[2]))
