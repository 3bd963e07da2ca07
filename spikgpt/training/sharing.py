"""References by name: open, pull, push and verify them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from spikgpt.errors import DamagedReference, GraphError, ParityError
from spikgpt.options import PushOptions
from spikgpt.reference.card import card_figures
from spikgpt.reference.hub import Hub, Push
from spikgpt.reference.layout import (
    LAYOUT,
    MANIFEST,
    OPTIONAL,
    PARITY,
    check_writable,
    parsed,
    verified_files,
    write_files,
)
from spikgpt.reference.registry import Found, find
from spikgpt.training.reference import Reference, addressed, load, with_card
from spikgpt.version import __version__


@dataclass(frozen=True)
class Verified:
    """A reference that is whole, and in words what was checked."""

    reference: Reference
    checks: tuple[str, ...]


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
    options = PushOptions(
        private=private,
        branch=branch,
        tag=tag,
        pull_request=pull_request,
        message=message or f"Reference {reference.name}, {len(reference.labels.names)} labels",
        dry_run=dry_run,
    )
    return (hub or Hub()).push(repo, addressed(verified_files(Path(folder)), repo), options, removable=OPTIONAL)


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
    if PARITY in content:
        checks += _checked_graphs(reference, content)
    return Verified(reference, tuple(checks))


def _check_card(content: Mapping[str, bytes]) -> None:
    """Refuse a card whose figures are not those of the metrics."""
    config = parsed(content["config.json"], "config.json")
    same_version = config["library"].get("version") == __version__
    held_out = parsed(content["metrics.json"], "metrics.json")["held_out"]
    stated = card_figures(content["README.md"].decode(errors="replace"))
    measured = {"accuracy": held_out["accuracy"], "f1": held_out["macro_f1"]}
    # Another version may word its cards differently.
    if stated not in ({}, measured) or (same_version and with_card(content)["README.md"] != content["README.md"]):
        msg = "The card states something else than metrics.json and the other files. Save or push the reference again."
        raise DamagedReference(msg)


def _checked_graphs(reference: Reference, content: Mapping[str, bytes]) -> list[str]:
    """Run the graphs beside the weights, where the packages for that are installed."""
    try:
        from spikgpt_onnx.exporter import check_again
    except ImportError:
        return ["the graphs were made from these files (not run: pip install 'spikgpt-onnx[export,cpu]' for that)"]
    try:
        reports = check_again(reference, content)
    except (GraphError, ParityError) as error:
        msg = f"A graph does not do what the weights do: {error}"
        raise DamagedReference(msg) from error
    return [f"{name} carries the same labels and thresholds; {parity}" for name, parity in reports.items()]
