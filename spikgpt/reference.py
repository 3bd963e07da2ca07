"""A trained reference, and its folder on disk (format 1).

======================  ==========================================================================
``config.json``         format and library versions, network, embedder, recipe and provenance
``model.safetensors``   weights of the classifier (``classifier.*``) and of the embedder (``embedder.*``)
``labels.json``         label index to name and Cell Ontology id
``thresholds.json``     when a cell is Unknown
``genes.json``          genes that the embedder reads, in order, with their sha256
``metrics.json``        what was measured on held-out reference cells
``README.md``           the card
``manifest.json``       size and sha256 of every other file
======================  ==========================================================================
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from spikgpt.card import card
from spikgpt.config import SpikGPTConfig
from spikgpt.embedders import Embedder, load_embedder
from spikgpt.errors import (
    CheckpointError,
    ConfigError,
    DamagedReference,
    FormatError,
    LabelsError,
    ReferenceNotFound,
    SpikGPTError,
)
from spikgpt.genes import GeneList
from spikgpt.model import SpikingClassifier
from spikgpt.thresholds import UNKNOWN, Thresholds

FORMAT_VERSION = 1
# The versions of this library that read format 1.
LIBRARY_RANGE = ">=0.1,<1"
MANIFEST = "manifest.json"
FILES = (
    "config.json",
    "model.safetensors",
    "labels.json",
    "thresholds.json",
    "genes.json",
    "metrics.json",
    "README.md",
)


@dataclass(frozen=True)
class LabelMap:
    """Names of the labels by index, and their Cell Ontology ids where they are known."""

    names: tuple[str, ...]
    cell_ontology_ids: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.cell_ontology_ids):
            msg = f"There are {len(self.names)} label names and {len(self.cell_ontology_ids)} Cell Ontology ids."
            raise LabelsError(msg)
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            msg = f"Label names must differ; {', '.join(twice)} occurs more than once."
            raise LabelsError(msg)
        if UNKNOWN in self.names:
            msg = f"{UNKNOWN!r} is what rejected cells are called, so no label may have that name; rename it."
            raise LabelsError(msg)

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain JSON values."""
        return [
            {"index": index, "name": name, "cell_ontology_id": ontology_id}
            for index, (name, ontology_id) in enumerate(zip(self.names, self.cell_ontology_ids, strict=True))
        ]

    @classmethod
    def from_list(cls, rows: list[dict[str, Any]]) -> LabelMap:
        """Read :meth:`to_list`'s output.

        Raises
        ------
        DamagedReference
            When rows are out of order or lack a field.
        """
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            msg = "labels.json does not hold a list of labels."
            raise DamagedReference(msg)
        for index, row in enumerate(rows):
            ontology_id = row.get("cell_ontology_id")
            if (
                row.keys() != {"index", "name", "cell_ontology_id"}
                or row["index"] != index
                or not isinstance(row["name"], str)
                or not (ontology_id is None or isinstance(ontology_id, str))
            ):
                expected = f"index {index}, a name, and a Cell Ontology id or null"
                msg = f"Row {index} of labels.json is {row}; expected {expected}."
                raise DamagedReference(msg)
        try:
            return cls(tuple(row["name"] for row in rows), tuple(row["cell_ontology_id"] for row in rows))
        except LabelsError as error:
            raise DamagedReference(str(error)) from error


@dataclass(frozen=True)
class Reference:
    """Everything that is needed to label cells: embedder, classifier, labels, thresholds, and where they come from.

    ``provenance`` and ``metrics`` are plain JSON values.
    """

    name: str
    embedder: Embedder
    classifier: SpikingClassifier
    labels: LabelMap
    thresholds: Thresholds
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    def probabilities(self, vectors: npt.NDArray[np.float64], *, batch_size: int = 4096) -> npt.NDArray[np.float64]:
        """Classify embedded cells.

        Runs in float64, in which rounding does not depend on the batch size in any digit that could move a spike.

        Parameters
        ----------
        vectors
            Cell embeddings, shape (n, dim).
        batch_size
            Cells at a time; memory grows with it, results do not change.

        Returns
        -------
        Class probabilities, shape (n, n_labels).
        """
        if batch_size < 1:
            msg = f"batch_size is {batch_size}; it must be at least 1."
            raise ConfigError(msg)
        folded = self.folded_classifier()
        rows = [np.empty((0, len(self.labels.names)))]
        with torch.inference_mode():
            for start in range(0, len(vectors), batch_size):
                batch = torch.as_tensor(vectors[start : start + batch_size], dtype=torch.float64)
                rows.append(folded(batch).softmax(dim=1).numpy())
        return np.concatenate(rows)

    def folded_classifier(self) -> SpikingClassifier:
        """Return the classifier for inference: float64, collapsed, every BatchNorm folded."""
        return SpikingClassifier.from_weights(self.classifier.config, self.classifier.state_dict()).double().folded()


def save(reference: Reference, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a reference folder, all of it or nothing.

    Parameters
    ----------
    folder
        Where to write. The files are written to a temporary folder beside it, which then takes its name.
    overwrite
        Replace a reference that is already there.

    Raises
    ------
    ConfigError
        When something is in the way.
    """
    folder = Path(folder)
    check_writable(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        for name, content in _contents(reference).items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            folder.replace(Path(temporary) / "replaced")
        fresh.replace(folder)
    return folder


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write a reference over something else, before hours of work depend on it.

    Raises
    ------
    ConfigError
        When something is in the way.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file():
        msg = f"{folder} exists and is not a reference; choose another folder."
        raise ConfigError(msg)
    if not overwrite:
        msg = f"{folder} already holds a reference; choose another folder, or ask to overwrite it."
        raise ConfigError(msg)


def load(folder: str | Path, *, scgpt: str | Path | None = None) -> Reference:
    """Read a reference folder, strictly: nothing is guessed, and every file is checked against the manifest.

    Parameters
    ----------
    scgpt
        Folder of the scGPT checkpoint that the reference was trained with, where it neither carries it nor names a
        repository.

    Raises
    ------
    CheckpointError
        When the scGPT checkpoint is missing, or another one.
    FormatError
        When the folder was written by a newer library.
    DamagedReference
        When a file is missing, altered or inconsistent with the others.
    """
    folder = Path(folder)
    config = _json(_read(folder, "config.json"), "config.json")
    _check_format(config, folder)
    files = verified_files(folder)
    settings = _fields(config, "config.json", {"name": str, "model": dict, "embedder": dict, "provenance": dict})
    try:
        network = SpikGPTConfig.from_dict(settings["model"])
        labels = LabelMap.from_list(_json(files["labels.json"], "labels.json"))
        if len(labels.names) != network.n_labels:
            msg = f"labels.json names {len(labels.names)} labels; the network has {network.n_labels}."
            raise DamagedReference(msg)
        genes = _genes(_json(files["genes.json"], "genes.json"))
        tensors = load_tensors(files["model.safetensors"])
        weights = {n.removeprefix("classifier."): t for n, t in tensors.items() if n.startswith("classifier.")}
        others = {n.removeprefix("embedder."): t.numpy() for n, t in tensors.items() if n.startswith("embedder.")}
        if unknown := sorted(name for name in tensors if not name.startswith(("classifier.", "embedder."))):
            msg = f"model.safetensors holds unexpected tensors: {', '.join(unknown)}."
            raise DamagedReference(msg)
        _check_finite(tensors)
        embedder = load_embedder(settings["embedder"], others, genes, scgpt=scgpt)
        if embedder.dim != network.input_dim:
            msg = f"The embedder makes vectors of {embedder.dim} values; the network takes {network.input_dim}."
            raise DamagedReference(msg)
        return Reference(
            name=settings["name"],
            embedder=embedder,
            classifier=SpikingClassifier.from_weights(network, weights),
            labels=labels,
            thresholds=Thresholds.from_dict(_json(files["thresholds.json"], "thresholds.json")),
            metrics=_json(files["metrics.json"], "metrics.json"),
            provenance=settings["provenance"],
        )
    except SafetensorError as error:
        msg = f"{folder / 'model.safetensors'} is not a safetensors file ({error}). Get the reference again."
        raise DamagedReference(msg) from error
    except (DamagedReference, CheckpointError, ReferenceNotFound):
        raise
    except SpikGPTError as error:
        msg = f"The reference in {folder} is inconsistent: {error}"
        raise DamagedReference(msg) from error


def verified_files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a reference, each checked against the manifest.

    Raises
    ------
    DamagedReference
        When the manifest does not list the files of format 1, or a file differs from what it lists.
    """
    manifest = _json(_read(folder, MANIFEST), MANIFEST)
    entries = _fields(manifest, MANIFEST, {"files": dict})["files"]
    if missing := sorted(set(FILES) - entries.keys()):
        msg = f"{MANIFEST} does not list {', '.join(missing)}. Get the reference again."
        raise DamagedReference(msg)
    files = {}
    for name in FILES:
        content = _read(folder, name)
        found = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if found != entries[name]:
            listed = f"found {found}, listed {entries[name]}"
            msg = f"{folder / name} differs from what {MANIFEST} lists ({listed}). Get the reference again."
            raise DamagedReference(msg)
        files[name] = content
    return files


def _contents(reference: Reference) -> dict[str, bytes]:
    """Return every file of a reference by name, the manifest last."""
    tensors = {f"classifier.{name}": tensor for name, tensor in reference.classifier.state_dict().items()}
    tensors |= {f"embedder.{name}": torch.as_tensor(array) for name, array in reference.embedder.tensors().items()}
    genes = reference.embedder.genes or GeneList((), ())
    config = {
        "format_version": FORMAT_VERSION,
        "library": {"name": "spikgpt", "version": version("spikgpt"), "requires": LIBRARY_RANGE},
        "name": reference.name,
        "model": reference.classifier.config.to_dict(),
        "embedder": reference.embedder.settings(),
        "provenance": reference.provenance,
    }
    files = {
        "config.json": _dump(config),
        "model.safetensors": save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}),
        "labels.json": _dump(reference.labels.to_list()),
        "thresholds.json": _dump(reference.thresholds.to_dict()),
        "genes.json": _dump(genes.to_dict()),
        "metrics.json": _dump(reference.metrics),
        "README.md": card(
            reference.name,
            reference.labels.to_list(),
            reference.thresholds.to_dict(),
            reference.metrics,
            reference.provenance,
        ).encode(),
    }
    entries = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    return files | {MANIFEST: _dump({"files": entries})}


def _dump(value: object) -> bytes:
    """Return JSON that is the same bytes for the same value."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read(folder: Path, name: str) -> bytes:
    """Return the content of a file of a reference."""
    if not folder.is_dir():
        msg = f"There is no folder {folder}."
        raise DamagedReference(msg)
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        msg = f"{folder} has no {name}, which every reference has. Get the reference again, or name another folder."
        raise DamagedReference(msg) from error
    except OSError as error:
        msg = f"{folder / name} cannot be read: {error.strerror}."
        raise DamagedReference(msg) from error


def _json(content: bytes, name: str) -> Any:
    """Parse a JSON file of a reference."""
    try:
        return json.loads(content)
    except ValueError as error:
        msg = f"{name} is not valid JSON ({error}). Get the reference again."
        raise DamagedReference(msg) from error


def _fields(values: Any, name: str, types: dict[str, type]) -> dict[str, Any]:
    """Return a JSON object after checking that it has fields of the given types."""
    for field, expected in types.items():
        if not isinstance(values, dict) or not isinstance(values.get(field), expected):
            msg = f"{name} has no valid {field!r} (expected {expected.__name__}). Get the reference again."
            raise DamagedReference(msg)
    return dict(values)


def _check_format(config: Any, folder: Path) -> None:
    """Refuse a format that this library does not know."""
    found = _fields(config, "config.json", {"format_version": int, "library": dict})["format_version"]
    if found > FORMAT_VERSION:
        needs = config["library"].get("requires", "a newer version")
        msg = (
            f"{folder} is in format {found}; spikgpt {version('spikgpt')} reads up to format {FORMAT_VERSION}. "
            f"It needs spikgpt {needs}: pip install --upgrade spikgpt"
        )
        raise FormatError(msg)
    if found < 1:
        msg = f"config.json states format {found}; formats start at 1. Get the reference again."
        raise DamagedReference(msg)


def _genes(values: Any) -> GeneList:
    """Return the gene list of ``genes.json`` after checking its sha256."""
    fields = _fields(values, "genes.json", {"sha256": str, "symbols": list, "ensembl_ids": list})
    genes = GeneList(tuple(fields["symbols"]), tuple(fields["ensembl_ids"]))
    if genes.sha256 != fields["sha256"]:
        msg = f"genes.json states sha256 {fields['sha256']}, its genes have {genes.sha256}. Get the reference again."
        raise DamagedReference(msg)
    return genes


def _check_finite(tensors: dict[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            msg = f"The tensor {name} in model.safetensors holds NaN or infinite values. Get the reference again."
            raise DamagedReference(msg)
