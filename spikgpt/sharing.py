"""Open, pull, push and verify references by name, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from spikgpt.engines.opening import torch_engine
from spikgpt.errors import (
    CheckpointError,
    DamagedReference,
    GraphError,
    ParityError,
    ReferenceNotFound,
    install_command,
)
from spikgpt.options import PushOptions
from spikgpt.reference.card import card_figures, same_card
from spikgpt.reference.files import Reference, card_text, read_reference, with_repository
from spikgpt.reference.format import MANIFEST, OPTIONAL, check_writable, stored_files, write_files
from spikgpt.reference.hub import Hub, Push
from spikgpt.reference.json_files import parsed
from spikgpt.reference.lockfile import VersionPin
from spikgpt.version import __version__


@dataclass(frozen=True)
class Verified:
    """A verified reference, and the checks that it passed, as text."""

    reference: Reference
    checks: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """A reference that was written to a folder; ``locked`` says whether it was added to a lock file."""

    folder: Path
    origin: str | None
    digest: str
    locked: bool


def open_reference(
    name: str | Path, revision: str | None = None, *, hub: Hub | None = None, pin: VersionPin | None = None
) -> Reference:
    """Return a reference by name, from a folder or from the Hub.

    The errors are those of :func:`spikgpt.reference.registry.resolve` and of :class:`VersionPin`.
    """
    pin = pin or VersionPin()
    resolved = pin.resolve(name, revision, hub=hub)
    reference = read_reference(resolved.source, resolved.origin)
    pin.check(name, revision, reference.digest)
    return reference


def pull(
    name: str,
    folder: str | Path,
    revision: str | None = None,
    *,
    overwrite: bool = False,
    hub: Hub | None = None,
    pin: VersionPin | None = None,
) -> Pulled:
    """Check a reference, and write its files to a folder; the errors are those of :func:`open_reference`."""
    check_writable(Path(folder), overwrite=overwrite)
    pin = pin or VersionPin()
    resolved = pin.resolve(name, revision, hub=hub)
    files = stored_files(resolved.source)
    reference = read_reference(files, resolved.origin)
    pin.check(name, revision, reference.digest)
    write_files(files, Path(folder))
    locked = pin.record(name, revision, reference.origin, reference.digest)
    return Pulled(Path(folder), reference.origin, reference.digest, locked)


def push(
    folder: str | Path,
    repo: str,
    options: PushOptions | None = None,
    *,
    hub: Hub | None = None,
    scgpt: str | Path | None = None,
) -> Push:
    """Push a reference to a repository ``org/name`` of the Hub, in one commit, after verifying it.

    The card is written anew, with the name of the repository in its examples. Only changed files are sent. The errors
    are those of :func:`verify` and :meth:`Hub.push`.
    """
    if not Path(folder).is_dir():
        msg = f"There is no folder {str(folder)!r}; give a folder that `spikgpt train`, `build` or `pull` wrote."
        raise ReferenceNotFound(msg)
    options = options or PushOptions()
    reference = verify(folder, hub=hub, scgpt=scgpt).reference
    message = options.message or f"Reference {reference.name}, {len(reference.labels.names)} labels"
    options = msgspec.structs.replace(options, message=message)
    return (hub or Hub()).push(repo, with_repository(reference, repo), options, removable=OPTIONAL)


def verify(
    source: str | Path | Mapping[str, bytes], *, hub: Hub | None = None, scgpt: str | Path | None = None
) -> Verified:
    """Check a reference in every way that needs no training cells; raise DamagedReference if a check fails.

    The checks cover sizes and hashes, weights, labels, thresholds, genes, metrics, the figures of the card, and the
    graphs. A graph is made again from the weights, and must be equal byte for byte. This needs onnx, and ``scgpt`` for
    graphs of scGPT. A graph and the weights must also give the same labels to simulated cells. This needs ONNX Runtime
    and torch. If a package is missing, the check is left out, and the returned text names the package.
    """
    reference = read_reference(source)
    _check_card(reference)
    checks = (
        f"{len(reference.files)} files have the size and sha256 that {MANIFEST} lists",
        f"weights, {len(reference.labels.names)} labels, thresholds, genes and metrics fit together",
        "the card states the figures of metrics.json",
    )
    return Verified(reference, (*checks, *_checked_by_running(reference, hub, scgpt)))


def _check_card(reference: Reference) -> None:
    """Raise DamagedReference if the card differs from the metrics or from the other files."""
    written_by = parsed(reference.files["config.json"], "config.json")["library"].get("version")
    card, held_out = reference.files["README.md"], reference.metrics["held_out"]
    figures = card_figures(card.decode(errors="replace"))
    measured = {"accuracy": held_out["accuracy"], "f1": held_out["macro_f1"]}
    # Another version may word its cards differently.
    if figures not in ({}, measured) or (written_by == __version__ and not same_card(card_text(reference.files), card)):
        msg = "The card differs from metrics.json or the other files. Save or push the reference again."
        raise DamagedReference(msg)


def _checked_by_running(reference: Reference, hub: Hub | None, scgpt: str | Path | None) -> list[str]:
    """Compare each graph with the weights, and return the checks as texts.

    The graphs are built again from the weights. If torch is installed, graphs and weights also label simulated cells.
    """
    graphs = [name for name in reference.files if name.endswith(".onnx")]
    lacking = [package for package in ("onnxruntime", "torch", "onnx") if find_spec(package) is None]
    advice = f"without {' and '.join(lacking)}: {install_command(*lacking)}"
    engine = None
    if not lacking and (graphs or reference.embedder["kind"] == "scgpt"):
        try:
            engine = torch_engine(reference, scgpt=scgpt, hub=hub)
        except CheckpointError:
            if scgpt is not None or not graphs:
                raise
            advice = "without the scGPT checkpoint: --scgpt FOLDER"
    if "onnx" in lacking or not graphs:
        return [f"{name} was made from these files; not read, {advice}" for name in graphs]
    from spikgpt_onnx.exporter import verify_graphs

    try:
        reports = verify_graphs(reference, engine)
    except (GraphError, ParityError) as error:
        msg = f"A graph differs from the weights: {error}"
        raise DamagedReference(msg) from None
    return [f"{name} {report}" + ("" if engine else f"; not run, {advice}") for name, report in reports.items()]
