"""Write files and folders completely or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from spikgpt.errors import ConfigError

if sys.platform != "win32":
    import fcntl

# Name of the old folder while a new folder takes its place.
REPLACED = ".replaced"
# Age in seconds after which an unlocked folder of another machine counts as left behind by a killed process.
LEFT_AFTER = 24 * 3600


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; at the end, move the file or folder written there to ``path``.

    If the block raises an error, ``path`` stays as it was. If ``path`` is a link, its target is replaced, and the link
    is kept. The next call for the same path removes the temporary folders of killed processes.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    with _temporary_folder(target) as folder:
        temporary = folder / target.name
        yield temporary
        replaced = folder / REPLACED
        if target.is_dir():
            # The two folders are exchanged in one step: a kill between two renames would leave no folder.
            if _swapped(temporary, target):
                return
            target.replace(replaced)
        elif target.is_file() and temporary.is_file():
            shutil.copymode(target, temporary)
        try:
            temporary.replace(target)
        except OSError:
            if replaced.exists():
                replaced.replace(target)
            raise


@contextmanager
def hold_lock(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file, or raise ConfigError with ``refusal`` if another process holds it."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(refusal) from None
    try:
        yield
    finally:
        lock.release()


def check_target(path: Path) -> None:
    """Raise ConfigError if :func:`replacing` could not write to ``path``; called before the work starts."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        msg = f"{path} is a link that leads to itself; name another path."
        raise ConfigError(msg)
    if Path.cwd().is_relative_to(target):
        msg = f"{path} is the current folder or holds it; name a new folder in it, such as {path / 'NAME'}."
        raise ConfigError(msg)
    folder = next(part for part in target.parents if part.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "not writable for you" if folder.is_dir() else "a file"
        msg = f"{path} cannot be written: {folder} is {reason}. Name another path."
        raise ConfigError(msg)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def user_cache() -> Path:
    """Return the cache folder: the environment variable ``SPIKGPT_CACHE``, or ``spikgpt`` in the user's cache."""
    if named := os.environ.get("SPIKGPT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikgpt"


def _swapped(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders atomically; return False if the system or the disk cannot do so."""
    names = os.fsencode(first), os.fsencode(second)
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(library.renamex_np(*names, 2) == 0)
        # -100 is AT_FDCWD: paths are relative to the working directory. 2 is RENAME_EXCHANGE.
        return bool(library.renameat2(-100, names[0], -100, names[1], 2) == 0)
    except (AttributeError, OSError, TypeError):
        return False


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a target, locked as long as this process lives, and remove it at the end."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(locked_folder(target.parent, f"{_prefix(target)}{_machine()}."))
        except FileNotFoundError:  # /proc raises FileNotFoundError for every new name
            msg = f"{target} cannot be written: {target.parent} takes no new files. Name another path."
            raise ConfigError(msg) from None
        yield folder


@contextmanager
def locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder that only this user can open, and remove the folder at the end.

    The folder is locked as long as this process lives.
    """
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = lock_folder(folder, wait=True)
        # Before the folder is locked, another process may remove it as the leftover of a killed process.
        if folder.exists():
            break
        if lock is not None:
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of a target whose processes were killed."""
    pattern = re.compile(re.escape(_prefix(target)) + r"([0-9a-f]{8})\.[a-z0-9_]{8}")
    for folder in target.parent.iterdir():
        match = pattern.fullmatch(folder.name)
        if not match or folder.is_symlink() or (lock := lock_folder(folder)) is None:
            continue
        try:
            # Locks of other machines may be invisible on a shared disk.
            if match[1] != _machine() and time.time() - _last_written(folder) < LEFT_AFTER:
                continue
            if (folder / REPLACED).exists() and not target.exists():
                (folder / REPLACED).replace(target)  # the process was killed between two renames
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _prefix(target: Path) -> str:
    """Return the prefix of the names of a target's temporary folders.

    File names have at most 255 bytes, so a name of 200 bytes or more is replaced by its hash.
    """
    name = target.name if len(os.fsencode(target.name)) < 200 else hashlib.sha256(os.fsencode(target.name)).hexdigest()
    return f".{name}."


def _machine() -> str:
    """Return an id of 8 characters for this machine; all containers on one machine have the same id."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_bytes() if boot.exists() else platform.node().encode()
    return hashlib.sha256(name).hexdigest()[:8]


def _last_written(folder: Path) -> float:
    """Return the time of the last change to a folder or to its content, in seconds since 1970."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def lock_folder(folder: Path, *, wait: bool = False) -> int | None:
    """Lock a folder until the returned file descriptor is closed; return None if the folder cannot be locked.

    While another process holds the lock, wait if ``wait`` is True, else return None.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
