"""Read an HDF5 file in a process of its own, because a damaged file may let the HDF5 library hang or crash.

The script is run as ``python walk.py FILE LIMIT SECONDS PATH...``. ``LIMIT`` is the largest size of an array in bytes,
``SECONDS`` the time after which the process ends, and each ``PATH`` a folder to import from. The script imports nothing
of SpikGPT, to start quickly.
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

# Bytes of the largest array of numbers that is read. Larger arrays are plain bytes, but all text is read, because the
# library has to follow pointers to it.
SMALL = 1024 * 1024


def read_all(path: Path, limit: int) -> None:
    """Read attributes, text and small arrays; errors are left to the reader."""

    def read(_: str, item: Any) -> None:
        with suppress(Exception):
            dict(item.attrs)
        # Groups raise here; data in other files is left alone.
        with suppress(Exception):
            size = max(item.size, math.prod(item.chunks or ())) * item.dtype.itemsize
            if size <= (limit if item.dtype.hasobject else SMALL) and not item.external and not item.is_virtual:
                item[()]

    with suppress(Exception), h5py.File(path) as file:
        read("/", file)
        file.visititems(read)  # follows no links


if __name__ == "__main__":
    if hasattr(signal, "alarm"):
        # The process ends even if its parent was killed.
        signal.alarm(int(sys.argv[3]))
    read_all(Path(sys.argv[1]), int(sys.argv[2]))
