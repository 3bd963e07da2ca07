"""References by name: open, pull, push and verify them. None of it needs torch."""

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
from spikgpt.reference.card import card_figures
from spikgpt.reference.files import Reference, card_text, read_reference, with_repository
from spikgpt.reference.hub import Hub, Push
from spikgpt.reference.json_files import parsed
from spikgpt.reference.layout import MANIFEST, OPTIONAL, check_writable, stored_files, write_files
from spikgpt.reference.pins import Pin
from spikgpt.version import __version__


@dataclass(frozen=True)
class Verified:
    """A reference that is whole, and in words what was checked."""

    reference: Reference
    checks: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """A reference that was written to a folder: ``origin`` and ``digest`` as of :class:`Reference`.

    ``locked`` says whether a lock file has taken it in.
    """

    folder: Path
    origin: str | None
    digest: str
    locked: bool


def open_reference(
    name: str | Path, revision: str | None = None, *, hub: Hub | None = None, pin: Pin | None = None
) -> Reference:
    """Read a reference by name, from a folder or from the Hub.

    The errors are those of :func:`spikgpt.reference.registry.find` and :meth:`spikgpt.reference.pins.Pin.check`.
    """
    pin = pin or Pin()
    found = pin.find(name, revision, hub=hub)
    reference = read_reference(found.source, found.origin)
    pin.check(name, revision, reference.digest)
    return reference


def pull(
    name: str,
    folder: str | Path,
    revision: str | None = None,
    *,
    overwrite: bool = False,
    hub: Hub | None = None,
    pin: Pin | None = None,
) -> Pulled:
    """Write a reference to a folder, to the last byte what was checked; the errors are those of :func:`open_reference`.

    A lock file takes it in.
    """
    check_writable(Path(folder), overwrite=overwrite)
    pin = pin or Pin()
    found = pin.find(name, revision, hub=hub)
    files = stored_files(found.source)
    reference = read_reference(files, found.origin)
    pin.check(name, revision, reference.digest)
    write_files(files, Path(folder))
    locked = pin.keep(name, revision, reference.origin, reference.digest)
    return Pulled(Path(folder), reference.origin, reference.digest, locked)


def push(
    folder: str | Path,
    repo: str,
    options: PushOptions | None = None,
    *,
    hub: Hub | None = None,
    scgpt: str | Path | None = None,
) -> Push:
    """Put a reference into a repository ``org/name`` of the Hub, in one commit, after verifying it.

    The card is written anew, with the repository's name in its examples. Only the files of a reference are sent, and
    only those that differ. The errors are those of :func:`verify` and :meth:`Hub.push`.
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
    """Check everything about a reference that can be checked without its cells.

    Sizes and hashes; shapes and values of weights; labels, thresholds, genes and metrics; the figures of the card; and
    and that the graphs, where there are some, are those that the weights make, byte for byte, and give the same labels
    to made-up cells. The former needs onnx, and for scGPT's graphs the folder ``scgpt``; the latter ONNX Runtime and
    torch too. What is missing, the checks say. Anything wrong is a DamagedReference.
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
    """Refuse a card whose figures are not those of the metrics."""
    written_by = parsed(reference.files["config.json"], "config.json")["library"].get("version")
    card, held_out = reference.files["README.md"], reference.metrics["held_out"]
    stated = card_figures(card.decode(errors="replace"))
    measured = {"accuracy": held_out["accuracy"], "f1": held_out["macro_f1"]}
    # Another version may word its cards differently.
    if stated not in ({}, measured) or (written_by == __version__ and card_text(reference.files) != card):
        msg = "The card states something else than metrics.json and the other files. Save or push the reference again."
        raise DamagedReference(msg)


def _checked_by_running(reference: Reference, hub: Hub | None, scgpt: str | Path | None) -> list[str]:
    """Make the graphs again and run them, beside the weights where torch is installed, and say what was done."""
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
    from spikgpt_onnx.exporter import check_again

    try:
        found = check_again(reference, engine)
    except (GraphError, ParityError) as error:
        msg = f"A graph does not do what the weights do: {error}"
        raise DamagedReference(msg) from None
    return [f"{name} {said}" + ("" if engine else f"; not run, {advice}") for name, said in found.items()]
