"""Find references by name: shipped with this package, in a folder, in the cache, or on the Hub."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from spikgpt.errors import ConfigError, DamagedReference, FormatError, HubError, ReferenceNotFound, SpikGPTWarning
from spikgpt.reference.format import FILES, LAYOUT, MANIFEST, read_file, stored_files
from spikgpt.reference.hub import Hub, parse
from spikgpt.reference.hub_cache import altered
from spikgpt.reference.schema import require

# Name that stands for the available reference that suits a query best.
AUTO = "auto"
SHORT_NAME = re.compile(r"(?P<name>[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Largest number of downloads of damaged files, and number of checks before a repository counts as damaged although its
# cached files seem intact. Several attempts are needed, because other processes may write to the cache.
TRIES, CHECKS = 9, 3
# Files that can run code when they are loaded as weights, so SpikGPT never opens them.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")


def namespace() -> str:
    """Return the Hub namespace of short names: the environment variable ``SPIKGPT_NAMESPACE``, or ``spikgpt``."""
    return os.environ.get("SPIKGPT_NAMESPACE") or "spikgpt"


def shipped_references() -> dict[str, Path]:
    """Return the folders of the references inside this package, by name."""
    root = Path(str(files("spikgpt"))) / "references"
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()}


@dataclass(frozen=True)
class Resolved:
    """The folder of a reference; ``origin`` is ``REPOSITORY@COMMIT`` on the Hub, None for other references.

    ``files`` holds the checked files of a reference from the Hub, by name; None for other references. The files are
    kept in memory, because other processes may change the cache.
    """

    folder: Path
    origin: str | None = None
    files: Mapping[str, bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> Path | Mapping[str, bytes]:
        """The checked files in memory or, if there are none, the folder of the reference."""
        return self.folder if self.files is None else self.files


def resolve(name: str | Path, revision: str | None = None, *, hub: Hub | None = None) -> Resolved:
    """Find a reference by name, and download the reference if it is on the Hub.

    A bare name means a shipped reference first, then a folder, then a repository of the namespace. A path object and
    ``./name`` always mean the folder. An ambiguous name gives a SpikGPTWarning that says which reference is used.

    Raises
    ------
    ReferenceNotFound
        When there is no reference of that name.
    DamagedReference
        When a file differs from the manifest or from the hash that the Hub lists, even after a second download.
    HubError
        When the Hub refuses or cannot be reached, and the reference is not cached.
    """
    hub, shipped = hub or Hub(), shipped_references()
    if name == AUTO or (isinstance(name, str) and len(separate_names(name)) > 1):
        msg = (
            f"One reference is needed here, not {name!r}. `spikgpt annotate` without --out-dir, `spikgpt explain` and "
            "spikgpt.annotate(adata, model) take auto alone, or several names. `spikgpt evaluate` takes auto or one "
            "name. Write ./auto for a folder of that name."
        )
        raise ConfigError(msg)
    if revision is None and str(name) in shipped and not (isinstance(name, Path) and name.is_dir()):
        if (Path(name) / MANIFEST).is_file():
            used = f"{str(name)!r} is the shipped reference; the folder ./{name} is not used: write ./{name}"
            warnings.warn(f"{used} for the folder.", SpikGPTWarning, stacklevel=5)
        return Resolved(shipped[str(name)])
    repo, stated = _repository(str(name))
    if Path(name).is_dir():
        if revision is not None:
            msg = f"{name} is a folder, which has no revisions; leave revision={revision!r} out."
            raise ConfigError(msg)
        if repo and isinstance(name, str) and hub.has_cached(repo):
            used = f"{str(name)!r} is the folder ./{name}; the repository {repo} is not used: write {repo}@main"
            warnings.warn(f"{used} for the repository.", SpikGPTWarning, stacklevel=5)
        return Resolved(Path(name))
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
        return _downloaded(repo, revision or stated, hub)
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


def separate_names(model: str) -> list[str]:
    """Split a text at its commas into names of references; the path of an existing folder is one name."""
    return [model] if Path(model).exists() else [name.strip() for name in model.split(",")]


def _repository(name: str) -> tuple[str | None, str | None]:
    """Return the Hub repository and the revision that a name means; None for a repository or revision not named."""
    if parts := parse(name):
        return parts
    match = SHORT_NAME.fullmatch(name)
    return (f"{namespace()}/{match['name']}", match["revision"]) if match else (None, None)


def _downloaded(repo: str, revision: str | None, hub: Hub) -> Resolved:
    """Return a reference from the Hub; download damaged files of the cache again."""
    folder = hub.snapshot(repo, revision, LAYOUT, required=(*FILES, MANIFEST))
    if not all(os.path.lexists(folder / name) for name in (MANIFEST, "config.json")):
        _refuse_other_model(repo, folder.name, hub)
    intact = 0
    for _ in range(TRIES):
        try:
            return Resolved(folder, f"{repo}@{folder.name}", _checked_files(folder))
        except FormatError:
            raise
        except DamagedReference as error:
            if hub.local_files_only:
                msg = f"The cached copy of {repo} is damaged; pull it again while online. {error}"
                raise DamagedReference(msg) from None
            # An invalid file with the hash that the Hub lists means a damaged repository. Another process may repair
            # the cache between two checks, so the cache is checked again before the repository is reported as damaged.
            intact = 0 if hub.repair(repo, folder.name, LAYOUT) else intact + 1
            if intact == CHECKS:
                raise
    msg = f"{repo} is damaged in {folder} after each download. Check the disk of the cache."
    raise DamagedReference(msg)


def _checked_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a cached commit, each compared with the hash that the Hub listed and with the manifest."""
    try:
        files = {name: read_file(folder, name) for name in LAYOUT if os.path.lexists(folder / name)}
    except FileNotFoundError as error:  # another process has just deleted a damaged file
        msg = f"{error.filename} is missing. Pull the reference again."
        raise DamagedReference(msg) from None
    damaged = altered(folder, files)
    require(not damaged, f"{', '.join(damaged)} differs from what the Hub listed.")
    return stored_files(files)


def _refuse_other_model(repo: str, commit: str, hub: Hub) -> None:
    """Refuse a repository that holds no reference; the message names pickled weights in the repository.

    A repository that lists ``manifest.json`` and ``config.json`` holds a reference and is not refused. If the cache
    lacks one of the two files, another process has just deleted the file, because it was damaged.
    """
    names = [] if hub.local_files_only else hub.names(repo, commit)
    if {MANIFEST, "config.json"} <= {*names}:
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    holds = f"It holds {', '.join(pickles)}, and pickled weights are never opened. " if pickles else ""
    msg = f"{repo} is no SpikGPT reference: it lacks {MANIFEST} or config.json. {holds}Look at its page on the Hub."
    raise DamagedReference(msg)
