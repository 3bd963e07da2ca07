"""Files and folders that are whole or not there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spikgpt.errors import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, for a file or a folder that takes its name when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        replaced = Path(folder) / f"{path.name}.replaced"
        if path.is_dir():
            # A kill between two renames would leave nothing in place.
            if _swapped(temporary, path):
                return
            path.replace(replaced)
        try:
            temporary.replace(path)
        except OSError:
            if replaced.exists():
                replaced.replace(path)
            raise


@contextmanager
def alone(path: Path, refusal: str) -> Iterator[None]:
    """Hold an empty file, which stays there, or refuse where another process does. One that ends lets go of it."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(refusal) from error
    try:
        yield
    finally:
        lock.release()


def check_place(path: Path) -> None:
    """Refuse a path where :func:`replacing` could write nothing, before the work."""
    folder = next(part for part in path.absolute().parents if part.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        msg = f"{path} cannot be written: {folder} is {'not yours to write to' if folder.is_dir() else 'a file'}."
        raise ConfigError(msg)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def user_cache() -> Path:
    """Return the folder of what is kept between runs: ``SPIKGPT_CACHE``, or one in the user's cache folder."""
    if named := os.environ.get("SPIKGPT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikgpt"


def _swapped(one: Path, other: Path) -> bool:
    """Let two files or folders swap their names at once; return whether the system and the disk could."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(library.renamex_np(*names, 2) == 0)
        # Relative to the working directory; exchange.
        return bool(library.renameat2(-100, names[0], -100, names[1], 2) == 0)
    except (AttributeError, OSError, TypeError):
        return False
