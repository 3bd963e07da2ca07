"""References by name: find, pull, push and verify them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from spikgpt.card import card_figures
from spikgpt.catalogue import namespace, shipped_references
from spikgpt.errors import ConfigError, DamagedReference, HubError, ParityError, ReferenceNotFound
from spikgpt.hub import Hub, Push, altered, parse
from spikgpt.layout import (
    FILES,
    GRAPH,
    LAYOUT,
    MANIFEST,
    OPTIONAL,
    altered_files,
    check_writable,
    parsed,
    verified_files,
    write_files,
)
from spikgpt.reference import Reference, addressed, load, with_card

SHORT_NAME = re.compile(r"(?P<name>[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Files that hold code when they are loaded as weights. They are never opened.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")


@dataclass(frozen=True)
class Verified:
    """A reference that is whole, and in words what was checked."""

    reference: Reference
    checks: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """Where a reference is; ``origin`` is the repository and commit, for one that was pulled."""

    folder: Path
    origin: str | None = None


def find(name: str | Path, revision: str | None = None, *, hub: Hub | None = None) -> Found:
    """Return where a reference is, after pulling it if it is on the Hub; every file of it was checked.

    A bare name means a shipped reference first, then a folder, then a repository of the namespace; write ``./name`` for
    a folder in any case.

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
    if revision is None and str(name) in shipped:
        return Found(shipped[str(name)])
    if Path(name).is_dir():
        if revision is not None:
            msg = f"{name} is a folder, which has no revisions; leave revision={revision!r} out."
            raise ConfigError(msg)
        return Found(Path(name))
    if asked := parse(str(name)):
        repo, stated = asked
    elif match := SHORT_NAME.fullmatch(str(name)):
        repo, stated = f"{namespace()}/{match['name']}", match["revision"]
    else:
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
        raise type(error)(msg) from error


def open_reference(
    name: str | Path, revision: str | None = None, *, hub: Hub | None = None, scgpt: str | Path | None = None
) -> Reference:
    """Load a reference by name, from a folder or from the Hub; the arguments and errors are those of :func:`find`."""
    hub = hub or Hub()
    found = find(name, revision, hub=hub)
    return replace(load(found.folder, scgpt=scgpt, hub=hub), origin=found.origin)


def pull(name: str, folder: str | Path, revision: str | None = None, *, hub: Hub | None = None) -> Found:
    """Write a reference to a folder, all of it or nothing.

    Raises
    ------
    ConfigError
        When something is in the way.
    """
    folder = Path(folder)
    check_writable(folder, overwrite=False)
    found = find(name, revision, hub=hub)
    verified_files(found.folder)
    # Of an older format, the files go over as they are.
    names = [path for path in LAYOUT if (found.folder / path).is_file()]
    write_files({path: (found.folder / path).read_bytes() for path in names}, folder)
    return Found(folder, found.origin)


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    branch: str | None = None,
    tag: str | None = None,
    pull_request: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    hub: Hub | None = None,
    scgpt: str | Path | None = None,
) -> Push:
    """Put a reference into a repository ``org/name`` of the Hub, in one commit, after verifying it.

    The card is written anew, with the repository's name in its examples. Only the files of a reference are sent, and
    only those that differ.

    Parameters
    ----------
    private
        Make the repository private, if it is new.
    branch
        Where to commit; main by default.
    tag
        Name to give to the commit, by which ``revision=`` finds it.
    pull_request
        Open a pull request instead of committing.
    message
        Commit message.
    dry_run
        Change nothing; only tell what would change.
    scgpt
        Folder of the scGPT checkpoint, where the reference needs one.

    Raises
    ------
    DamagedReference
        When the reference is not whole.
    HubError
        When the Hub refuses, or somebody else has committed meanwhile. Nothing was committed then.
    """
    reference = verify(folder, hub=hub, scgpt=scgpt).reference
    return (hub or Hub()).push(
        repo,
        addressed(verified_files(Path(folder)), repo),
        removable=OPTIONAL,
        message=message or f"Reference {reference.name}, {len(reference.labels.names)} labels",
        private=private,
        branch=branch,
        tag=tag,
        pull_request=pull_request,
        dry_run=dry_run,
    )


def verify(folder: str | Path, *, hub: Hub | None = None, scgpt: str | Path | None = None) -> Verified:
    """Check everything about a reference that can be checked without its cells.

    Sizes and hashes; shapes and values of weights; labels, thresholds, genes and metrics; the figures of the card; and
    that the graph, where there is one, carries the same labels and thresholds and gives the same labels to cells.

    Raises
    ------
    DamagedReference
        When anything is wrong.
    """
    folder = Path(folder)
    reference = load(folder, scgpt=scgpt, hub=hub)
    content = verified_files(folder)
    checks = [
        f"{len(content)} files have the size and sha256 that {MANIFEST} lists",
        f"weights, {len(reference.labels.names)} labels, thresholds, genes and metrics fit together",
    ]
    _check_card(content)
    checks.append("the card states the figures of metrics.json")
    if GRAPH in content:
        checks.append(_checked_graph(reference, folder))
    return Verified(reference, tuple(checks))


def _check_card(content: Mapping[str, bytes]) -> None:
    """Refuse a card whose figures are not those of the metrics."""
    config = parsed(content["config.json"], "config.json")
    same_version = config["library"].get("version") == version("spikgpt")
    held_out = parsed(content["metrics.json"], "metrics.json")["held_out"]
    stated = card_figures(content["README.md"].decode(errors="replace"))
    measured = {"accuracy": held_out["accuracy"], "f1": held_out["macro_f1"]}
    # Another version may word its cards differently.
    if stated not in ({}, measured) or (same_version and with_card(content)["README.md"] != content["README.md"]):
        msg = "The card states something else than metrics.json and the other files. Save or push the reference again."
        raise DamagedReference(msg)


def _checked_graph(reference: Reference, folder: Path) -> str:
    """Run the graph beside the weights, where the packages for that are installed."""
    try:
        from spikgpt_onnx import Graph, GraphError
        from spikgpt_onnx.exporter import check_parity
    except ImportError:
        return f"{GRAPH} was made from these files (it was not run: spikgpt-onnx[export] is not installed)"
    try:
        parity = check_parity(reference, Graph(folder))
    except (GraphError, ParityError) as error:
        msg = f"{GRAPH} does not do what the weights do: {error}"
        raise DamagedReference(msg) from error
    return f"{GRAPH} carries the same labels and thresholds, and gives {parity.cells} random cells the same labels"


def _pulled(repo: str, revision: str | None, hub: Hub) -> Found:
    """Pull a reference, and fetch once more what arrived or was cached damaged."""
    folder = hub.snapshot(repo, revision, LAYOUT, required=(*FILES, MANIFEST))
    if not (folder / MANIFEST).is_file() or not (folder / "config.json").is_file():
        _refuse_other_models(repo, folder.name, hub)
    if damaged := _damaged(folder):
        if hub.local_files_only:
            msg = f"The cached copy of {repo} is damaged ({', '.join(damaged)}); pull it again while online."
            raise DamagedReference(msg)
        hub.forget(folder, damaged)
        folder = hub.snapshot(repo, folder.name, LAYOUT, required=LAYOUT, fresh=True)
        if damaged := _damaged(folder):
            hub.forget(folder, damaged)
            msg = (
                f"{repo} at {folder.name} does not hold what it lists, fetched twice: {', '.join(damaged)}. "
                "Nothing of it was used; tell its owner."
            )
            raise DamagedReference(msg)
    return Found(folder, f"{repo}@{folder.name}")


def _damaged(folder: Path) -> list[str]:
    """Return the files of a cached reference that its manifest or the Hub knows otherwise."""
    wrong = set(altered(folder, LAYOUT))
    # What is wrong with a manifest that came as the Hub lists it is its owner's doing, and is said.
    return sorted(wrong if wrong & {MANIFEST, "config.json"} else wrong.union(altered_files(folder)))


def _refuse_other_models(repo: str, commit: str, hub: Hub) -> None:
    """Say what a repository holds that is no reference."""
    names = [] if hub.local_files_only else hub.names(repo, commit)
    pickles = [name for name in names if name.endswith(PICKLES)]
    holds = f"It holds {', '.join(pickles)}, and pickled weights are never opened. " if pickles else ""
    msg = f"{repo} is no SpikGPT reference: it has no {MANIFEST} and config.json. {holds}Look at its page on the Hub."
    raise DamagedReference(msg)
