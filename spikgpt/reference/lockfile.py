"""Pinned versions of references: a digest, or a lock file that records digests for the next run.

docs/guides/trust.md shows a lock file. The file is replaced atomically, by one process at a time. The file records the
digest of each reference and, for a reference from the Hub, also the repository and the commit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.files import replacing
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_requests import Commit, Sha256
from spikgpt.reference.json_files import decoded, dumped
from spikgpt.reference.registry import Resolved, resolve

LOCK = "spikgpt.lock"
# Largest lock file in bytes, and seconds to wait while other processes write to the lock file.
LARGEST, LOCK_PATIENCE = 1024 * 1024, 60.0
DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


class LockedReference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A reference in a lock file; ``repository`` and ``commit`` are None if the reference is not from the Hub."""

    digest: Sha256
    repository: str | None = None
    commit: Commit | None = None


class LockFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a lock file: references by the name that the user gave."""

    version: Literal[1]
    references: dict[str, LockedReference]


@dataclass(frozen=True)
class VersionPin:
    """The version that a reference must have.

    Parameters
    ----------
    expect
        The digest of the reference; None for any.
    lock
        A lock file; None without one. A reference in the file must have the recorded version. :meth:`record` adds new
        references.
    """

    expect: str | None = None
    lock: Path | None = None

    def __post_init__(self) -> None:
        if self.expect is not None:
            if not (match := DIGEST.fullmatch(self.expect)):
                msg = (
                    f"The digest to expect is {self.expect!r}; give the 64 digits of a sha256 that spikgpt pull prints."
                )
                raise ConfigError(msg)
            object.__setattr__(self, "expect", match[1].lower())

    def resolve(self, name: str | Path, revision: str | None = None, *, hub: Hub | None = None) -> Resolved:
        """Return a reference, at the recorded commit if the lock file lists the reference.

        The name is resolved as by :func:`spikgpt.reference.registry.resolve`.
        """
        locked = self._references().get(_key(name, revision))
        if locked is None or locked.repository is None:
            return resolve(name, revision, hub=hub)
        # Put the commit into the name, because a folder may have the same name as the repository.
        return resolve(f"{locked.repository}@{locked.commit}" if locked.commit else locked.repository, hub=hub)

    def check(self, name: str | Path, revision: str | None, digest: str) -> None:
        """Refuse a reference that does not have the pinned version.

        Raises
        ------
        DamagedReference
            When the digest is not the expected or recorded one.
        """
        key = _key(name, revision)
        if self.expect is not None and digest != self.expect:
            msg = f"{key} has the digest {digest}; expected {self.expect}. Nothing was written. Check its origin."
            raise DamagedReference(msg)
        locked = self._references().get(key)
        if locked and digest != locked.digest:
            msg = (
                f"{key} has the digest {digest}; {self.lock} has {locked.digest}. Nothing was written. To use the new "
                f"version, delete {key!r} from {self.lock}."
            )
            raise DamagedReference(msg)

    def record(self, name: str | Path, revision: str | None, origin: str | None, digest: str) -> bool:
        """Add a reference to the lock file, unless the file lists it already; return True if the file was written."""
        if self.lock is None:
            self.check(name, revision, digest)
            return False
        from filelock import FileLock

        key, (repository, _, commit) = _key(name, revision), (origin or "").partition("@")
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        # Let one process at a time read and replace the lock file. A separate empty file serves as the lock, and is not
        # deleted.
        with FileLock(self.lock.with_name(f".{self.lock.name}.held"), timeout=LOCK_PATIENCE):
            references = self._references()
            if key in references:
                self.check(name, revision, digest)
                return False
            locked = LockedReference(digest=digest, repository=repository or None, commit=commit or None)
            content = LockFile(1, dict(sorted({**references, key: locked}.items())))
            with replacing(self.lock) as temporary:
                temporary.write_bytes(dumped(content))
        return True

    def _references(self) -> dict[str, LockedReference]:
        if self.lock is None or not self.lock.exists():
            return {}
        try:
            if not self.lock.is_file() or self.lock.stat().st_size > LARGEST:
                msg = f"{self.lock} is no lock file; name another one, or delete it."
                raise ConfigError(msg)
            return decoded(self.lock.read_bytes(), str(self.lock), LockFile).references
        except DamagedReference as error:
            reason = str(error).removesuffix(" Get the reference again.")
            msg = f"{reason} Correct the lock file, or delete it to pin anew."
            raise ConfigError(msg) from None


def _key(name: str | Path, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else str(name)
