"""The cache of the client: MODELS--ORG--NAME/snapshots/COMMIT/FILE, each a link to MODELS--ORG--NAME/blobs/HASH.

Nothing is ever deleted here, and a file is replaced only when another of the right hash has arrived. A link that leads
anywhere else than to a file among the blobs is as good as none.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spikgpt.errors import ConfigError
from spikgpt.reference.transfer.requests import Listed

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Opens a pipe without waiting for who writes into it, and no link; not every system has these.
CAREFULLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class Cache:
    """What the cache holds of one repository, in its folder."""

    storage: Path

    def folder(self, revision: str | None) -> Path | None:
        """Return the folder of a branch, a tag or a commit, whatever files it has; None where there is none."""
        ref = self.storage / "refs" / (revision or "main")
        try:
            commit = ref.read_text()[:41].strip() if ref.is_file() else revision
        except (OSError, ValueError):
            return None
        if not commit or not COMMIT.fullmatch(commit):
            return None
        folder = self.storage / "snapshots" / commit
        return folder if folder.is_dir() and not folder.is_symlink() else None

    @contextmanager
    def arriving(self, *names: str) -> Iterator[dict[str, tuple[Path, BinaryIO]]]:
        """Give an open temporary file for each of some files; what is left of them in the end goes."""
        blobs, opened = self.storage / "blobs", dict[str, tuple[Path, BinaryIO]]()
        try:
            with writable(self.storage):
                blobs.mkdir(parents=True, exist_ok=True)
                for name in names:
                    path = _beside(blobs)
                    opened[name] = path, path.open("xb")
            yield opened
        finally:
            for path, file in opened.values():
                # Whoever still writes to it writes into the void.
                path.unlink(missing_ok=True)
                try:
                    file.close()
                except OSError:
                    continue

    def keep(self, commit: str, file: Listed, temporary: Path) -> None:
        """Take a file of the right hash in, in place of what was there by its name."""
        with writable(self.storage):
            blob, link = self.storage / "blobs" / file.oid, self.storage / "snapshots" / commit / file.rfilename
            temporary.replace(blob)
            self._link(blob, link)

    def link(self, commit: str, file: Listed) -> bool:
        """Let a commit have a file that another has, and return whether there is one of its size."""
        blob = self.storage / "blobs" / file.oid
        try:
            found = blob.lstat()
        except OSError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.bytes:
            return False
        with writable(self.storage):
            self._link(blob, self.storage / "snapshots" / commit / file.rfilename)
        return True

    def _link(self, blob: Path, link: Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = _beside(blob.parent)
        try:
            fresh.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:  # not every file system has links
            shutil.copyfile(blob, fresh)
        fresh.replace(link)

    def name(self, revision: str, commit: str) -> None:
        """Remember which commit a branch or a tag is at."""
        ref = self.storage / "refs" / revision
        if COMMIT.fullmatch(revision) or (ref.is_file() and ref.read_text() == commit):
            return
        try:
            ref.parent.mkdir(parents=True, exist_ok=True)
            fresh = _beside(self.storage / "blobs")
            fresh.write_text(commit)
            fresh.replace(ref)
        except OSError:
            # Somebody else's cache may be read; and a branch a/b cannot stand beside the branch a.
            return


def place(folder: Path, name: str) -> Path | None:
    """Return where a file of a cached commit lies, among the blobs or in the folder itself; None if it is not there."""
    link = folder / name
    try:
        home, target = folder.resolve(strict=True), link.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    linked = target.parent == (home.parents[1] / "blobs").resolve() and HASH.fullmatch(target.name)
    inside = linked if link.is_symlink() else target == home / name
    return target if inside and stat.S_ISREG(target.lstat().st_mode) else None


def read(folder: Path, limits: Mapping[str, int]) -> tuple[dict[str, bytes], list[str]]:
    """Return the files of a cached commit, each read once, and the names of those that are not what the Hub listed.

    Where a cache has no links there is nothing to compare with.
    """
    files, wrong = {}, []
    for name, limit in limits.items():
        if not os.path.lexists(folder / name):
            continue
        path = place(folder, name)
        content = None if path is None else _content(path, limit)
        linked = (folder / name).is_symlink()
        if path and content is not None and (not linked or hashed(content, large=len(path.name) == 64) == path.name):
            files[name] = content
        else:
            wrong.append(name)
    return files, sorted(wrong)


def hashed(content: bytes, *, large: bool) -> str:
    """Return the hash by which the Hub calls a file: sha256, or git's own for small ones."""
    return hashlib.sha256(content).hexdigest() if large else git_oid(content)


def git_oid(content: bytes) -> str:
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Tell what keeps files from being written as what it is."""
    try:
        yield
    except OSError as error:
        msg = (
            f"The cache cannot be written ({error.strerror or error}: {error.filename or folder}). Free some space, or "
            "name a folder of yours: cache_dir=, --cache-dir or HF_HOME."
        )
        raise ConfigError(msg) from None


def _content(path: Path, limit: int) -> bytes | None:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | CAREFULLY), "rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(limit + 1) if stat.S_ISREG(found.st_mode) and found.st_size <= limit else None
    except OSError:
        return None
    return content if content is None or len(content) <= limit else None


def _beside(blobs: Path) -> Path:
    """Return a name that no other process takes, and that the client takes for a download that broke off."""
    return blobs / f"{uuid.uuid4().hex}.incomplete"
