"""The references that can be named: shipped with this package, in the cache, in a folder, and on the Hub."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from spikgpt.errors import ConfigError, DamagedReference, HubError, ReferenceNotFound, SpikGPTWarning
from spikgpt.reference.hub import Hub, parse
from spikgpt.reference.layout import FILES, LARGEST, LAYOUT, MANIFEST, altered_files
from spikgpt.reference.transfer.cache import read

SHORT_NAME = re.compile(r"(?P<name>[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Bytes of each file at most, and how often what is damaged is fetched again.
LIMITS, TRIES = {name: LARGEST[name] for name in LAYOUT}, 9
# Files that hold code when they are loaded as weights. They are never opened.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")


def namespace() -> str:
    """Return the namespace on the Hub that short names mean: ``SPIKGPT_NAMESPACE``, or ``spikgpt``."""
    return os.environ.get("SPIKGPT_NAMESPACE") or "spikgpt"


def shipped_references() -> dict[str, Path]:
    """Return the folders of the references inside this package, by name."""
    root = Path(str(files("spikgpt"))) / "references"
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()}


@dataclass(frozen=True)
class Found:
    """Where a reference is; ``origin`` is the repository and commit, for one that was pulled.

    ``files`` are those of one that was pulled, as they were checked: the cache may be written by others meanwhile.
    """

    folder: Path
    origin: str | None = None
    files: Mapping[str, bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> Path | Mapping[str, bytes]:
        """What to read it from."""
        return self.folder if self.files is None else self.files


def find(name: str | Path, revision: str | None = None, *, hub: Hub | None = None) -> Found:
    """Return where a reference is, after pulling it if it is on the Hub; every file of it was checked.

    A bare name means a shipped reference first, then a folder, then a repository of the namespace. A path object and
    ``./name`` mean the folder in any case. Where a name means two of these, a SpikGPTWarning says which one is used.

    Raises
    ------
    ReferenceNotFound
        When there is none of that name.
    DamagedReference
        When a file of it differs from its manifest or from what the Hub listed, even after it was fetched again.
    HubError
        When the Hub refuses or cannot be reached, and the reference is not cached.
    """
    hub = hub or Hub()
    shipped = shipped_references()
    if revision is None and str(name) in shipped and not (isinstance(name, Path) and name.is_dir()):
        if (Path(name) / MANIFEST).is_file():
            used = f"{str(name)!r} is the shipped reference; the folder ./{name} is not used: write ./{name}"
            warnings.warn(f"{used} for the folder.", SpikGPTWarning, stacklevel=5)
        return Found(shipped[str(name)])
    repo, stated = _repository(str(name))
    if Path(name).is_dir():
        if revision is not None:
            msg = f"{name} is a folder, which has no revisions; leave revision={revision!r} out."
            raise ConfigError(msg)
        if repo and isinstance(name, str) and hub.has_cached(repo):
            used = f"{str(name)!r} is the folder ./{name}; the repository {repo} is not used: write {repo}@main"
            warnings.warn(f"{used} for the repository.", SpikGPTWarning, stacklevel=5)
        return Found(Path(name))
    if Path(name).is_file():
        msg = f"{name} is a file; expected a reference: a name such as 'pancreas', a folder, or ORG/REPO[@REVISION]."
        raise ReferenceNotFound(msg)
    if repo is None or str(name).startswith(("./", "../", "~/")):
        msg = f"There is no folder {str(name)!r}; give the name of a reference, a folder, or ORG/REPO[@REVISION]."
        raise ReferenceNotFound(msg)
    if revision and stated:
        msg = f"{name} names the revision {stated}, and revision={revision!r} was given too; give one of them."
        raise ConfigError(msg)
    try:
        return _pulled(repo, revision or stated, hub)
    except (ReferenceNotFound, HubError) as error:
        if "/" in str(name):
            raise
        close = difflib.get_close_matches(str(name), shipped, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        msg = (
            f"There is no reference or folder {str(name)!r}.{hint} Shipped references: {', '.join(shipped)}. "
            f"Tried {repo} on the Hub too: {error}"
        )
        raise type(error)(msg) from None


def _repository(name: str) -> tuple[str | None, str | None]:
    """Return the repository and the revision that a name means; None for what is no such name."""
    if asked := parse(name):
        return asked
    match = SHORT_NAME.fullmatch(name)
    return (f"{namespace()}/{match['name']}", match["revision"]) if match else (None, None)


def _pulled(repo: str, revision: str | None, hub: Hub) -> Found:
    """Pull a reference, and fetch again what is cached damaged; what was right once is not read again."""
    folder = hub.snapshot(repo, revision, LAYOUT, required=(*FILES, MANIFEST))
    files, damaged = read(folder, LIMITS)
    if not damaged and not {MANIFEST, "config.json"} <= files.keys():
        _refuse_other_models(repo, folder.name, hub)
    unlike_manifest = False
    for _ in range(TRIES):
        if not damaged:
            # What is wrong with a manifest that came as the Hub lists it is its owner's doing, and is said.
            damaged = sorted(altered_files(files))
            if not damaged:
                return Found(folder, f"{repo}@{folder.name}", files)
            if unlike_manifest:
                msg = (
                    f"{repo} at {folder.name} does not hold what it lists, fetched twice: {', '.join(damaged)}. "
                    "Nothing of it was used; tell its owner."
                )
                raise DamagedReference(msg)
            unlike_manifest = True
        if hub.local_files_only:
            msg = f"The cached copy of {repo} is damaged ({', '.join(damaged)}); pull it again while online."
            raise DamagedReference(msg)
        hub.snapshot(repo, folder.name, LAYOUT, required=LAYOUT, again=damaged)
        again, damaged = read(folder, {name: LIMITS[name] for name in damaged})
        files |= again
    msg = (
        f"{', '.join(damaged)} of {repo} arrives whole and is damaged in {folder} at once. Check the disk of the cache."
    )
    raise DamagedReference(msg)


def _refuse_other_models(repo: str, commit: str, hub: Hub) -> None:
    """Say what a repository holds that is no reference."""
    names = [] if hub.local_files_only else hub.names(repo, commit)
    pickles = [name for name in names if name.endswith(PICKLES)]
    holds = f"It holds {', '.join(pickles)}, and pickled weights are never opened. " if pickles else ""
    msg = f"{repo} is no SpikGPT reference: it has no {MANIFEST} and config.json. {holds}Look at its page on the Hub."
    raise DamagedReference(msg)
