"""The cache of huggingface_hub, where ``models--ORG--NAME/snapshots/COMMIT/FILE`` is a link to ``blobs/HASH``.

The content of the cache is not trusted, because other programs may write to the cache. A link that does not lead to a
file in ``blobs`` counts as a missing file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spikgpt.files import replacing, sha256_of

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class RepositoryCache:
    """The cached commits of one repository, in the folder ``storage``."""

    storage: Path

    def folder(self, revision: str | None) -> Path | None:
        """Return the cache folder of a branch, a tag or a commit; None if there is no such folder.

        The folder may lack files. ``revision`` None stands for the main branch.
        """
        ref = self.storage / "refs" / (revision or "main")
        try:
            commit = ref.read_text()[:41].strip() if ref.is_file() else revision
        except (OSError, ValueError):
            return None
        if not commit or not COMMIT.fullmatch(commit):
            return None
        folder = self.storage / "snapshots" / commit
        return folder if folder.is_dir() and not folder.is_symlink() else None

    def write_ref(self, revision: str, commit: str) -> None:
        """Record which commit a branch or a tag names, if the cache can be written."""
        ref = self.storage / "refs" / revision
        try:
            if not COMMIT.fullmatch(revision) and not (ref.is_file() and ref.read_text() == commit):
                with replacing(ref) as temporary:
                    temporary.write_text(commit)
        except OSError:
            # The cache may belong to another user. A branch a/b cannot be stored if there is a branch a.
            return


def cached_file(folder: Path, name: str) -> Path | None:
    """Return the path of the content of a cached file; None if the file is missing or its link leaves the cache.

    The path is that of a blob or, in a cache without links, that of the file itself.
    """
    link = folder / name
    try:
        home, target = folder.resolve(strict=True), link.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    linked = target.parent == (home.parents[1] / "blobs").resolve() and HASH.fullmatch(target.name)
    inside = linked if link.is_symlink() else target == home / name
    return target if inside and stat.S_ISREG(target.lstat().st_mode) else None


def hashed(content: bytes, *, large: bool) -> str:
    """Return the hash by which the Hub identifies a file: sha256 for a large (LFS) file, else the git object id."""
    return hashlib.sha256(content).hexdigest() if large else git_oid(content)


def altered(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Return the names of cached files whose content does not have the hash that is the name of their blob.

    Files in a cache without links are not checked, because they have no blobs.
    """
    linked = [name for name in files if (folder / name).is_symlink()]
    hashes = {name: path.name if (path := cached_file(folder, name)) else "" for name in linked}
    return [name for name in linked if hashed(files[name], large=len(hashes[name]) == 64) != hashes[name]]


def hash_of_file(path: Path, *, large: bool) -> str:
    """Return the hash of a file, as :func:`hashed` does, without reading the whole file into memory."""
    if large:
        return sha256_of(path)
    with path.open("rb") as file:
        start = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: start).hexdigest()


def git_oid(content: bytes) -> str:
    """Return the git object id of a file's content, a SHA-1 hash."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
