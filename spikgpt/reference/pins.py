"""Which bytes a reference has to have: those of a digest, or those of a lock file, which keeps them for the next run.

The digest of a reference is the sha256 of its manifest, which lists the sha256 of every other file. A lock file is
JSON, written whole or not at all, by one process at a time::

    {
     "version": 1,
     "references": {
      "islets": {"digest": "9f86...", "repository": "spikgpt/islets", "commit": "3f2a..."}
     }
    }

What ships with this package or lies in a folder has a digest alone.
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
from spikgpt.reference.json_files import decoded, dumped
from spikgpt.reference.registry import Found, find
from spikgpt.reference.transfer.requests import Commit, Sha256

LOCK = "spikgpt.lock"
# Bytes of a lock file at most, and seconds to wait for others who write to it.
LARGEST, PATIENCE = 1024 * 1024, 60.0
DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


class Locked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A reference in a lock file."""

    digest: Sha256
    repository: str | None = None
    commit: Commit | None = None


class LockFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a lock file holds: references by the name that they were asked for by."""

    version: Literal[1]
    references: dict[str, Locked]


@dataclass(frozen=True)
class Pin:
    """What a reference has to be.

    Parameters
    ----------
    expect
        The digest that it has to have.
    lock
        A lock file. A reference that it names is the one that it names; others are taken into it by :meth:`keep`.
    """

    expect: str | None = None
    lock: Path | None = None

    def __post_init__(self) -> None:
        if self.expect is not None:
            if not (match := DIGEST.fullmatch(self.expect)):
                msg = (
                    f"The digest to expect is {self.expect!r}; give the 64 digits of a sha256, as spikgpt pull prints."
                )
                raise ConfigError(msg)
            object.__setattr__(self, "expect", match[1].lower())

    def find(self, name: str | Path, revision: str | None = None, *, hub: Hub | None = None) -> Found:
        """Return where a reference is, at the commit of the lock file; see :func:`spikgpt.reference.registry.find`."""
        locked = self._locked(_key(name, revision))
        if locked is None or locked.repository is None:
            return find(name, revision, hub=hub)
        # With the commit in the name, as a folder may be called like the repository.
        return find(f"{locked.repository}@{locked.commit}" if locked.commit else locked.repository, hub=hub)

    def check(self, name: str | Path, revision: str | None, digest: str) -> None:
        """Refuse a reference that is another one.

        Raises
        ------
        DamagedReference
            When its digest is not the one that was expected or locked.
        """
        key = _key(name, revision)
        if self.expect is not None and digest != self.expect:
            msg = (
                f"{key} has the digest {digest}; expected {self.expect}. Nothing was written. See where it comes from."
            )
            raise DamagedReference(msg)
        locked = self._locked(key)
        if locked and digest != locked.digest:
            msg = (
                f"{key} has the digest {digest}; {self.lock} has {locked.digest}. Nothing was written. If it is meant "
                f"to be another one now, delete {key!r} from {self.lock}."
            )
            raise DamagedReference(msg)

    def keep(self, name: str | Path, revision: str | None, origin: str | None, digest: str) -> bool:
        """Take a reference into the lock file, unless it is there, and return whether that was written."""
        if self.lock is None:
            self.check(name, revision, digest)
            return False
        from filelock import FileLock

        key, (repository, _, commit) = _key(name, revision), (origin or "").partition("@")
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        # One process at a time reads, adds and writes. The file that it holds meanwhile stays there, empty.
        with FileLock(self.lock.with_name(f".{self.lock.name}.held"), timeout=PATIENCE):
            references = self._references()
            if key in references:
                self.check(name, revision, digest)
                return False
            locked = Locked(digest=digest, repository=repository or None, commit=commit or None)
            held = LockFile(1, dict(sorted({**references, key: locked}.items())))
            with replacing(self.lock) as temporary:
                temporary.write_bytes(dumped(held))
        return True

    def _locked(self, key: str) -> Locked | None:
        return self._references().get(key)

    def _references(self) -> dict[str, Locked]:
        if self.lock is None or not self.lock.exists():
            return {}
        try:
            if not self.lock.is_file() or self.lock.stat().st_size > LARGEST:
                msg = f"{self.lock} is no lock file; name another one, or delete it."
                raise ConfigError(msg)
            return decoded(self.lock.read_bytes(), str(self.lock), LockFile).references
        except DamagedReference as error:
            reason = str(error).removesuffix(" Get the reference again.")
            msg = f"{reason} Mend the lock file, or delete it to lock anew."
            raise ConfigError(msg) from None


def _key(name: str | Path, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else str(name)
