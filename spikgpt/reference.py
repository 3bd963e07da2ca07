"""A trained reference: embedder, classifier, labels, thresholds, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
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

from spikgpt.card import card, check_provenance, confusion_picture
from spikgpt.config import SpikGPTConfig
from spikgpt.embedders import Embedder, PCAEmbedder, load_embedder
from spikgpt.errors import (
    CheckpointError,
    ConfigError,
    DamagedReference,
    HubError,
    LabelsError,
    ReferenceNotFound,
    SpikGPTError,
)
from spikgpt.genes import GeneList
from spikgpt.hub import Hub
from spikgpt.layout import (
    FORMAT_VERSION,
    GRAPH,
    LIBRARY_RANGE,
    PICTURE,
    check_graph,
    check_writable,
    dumped,
    fields_of,
    parsed,
    verified_files,
    with_manifest,
    write_files,
)
from spikgpt.metrics import check_metrics
from spikgpt.model import SpikingClassifier
from spikgpt.thresholds import UNKNOWN, Thresholds


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
        if strange := [name for name in self.names if not name or not name.isprintable()]:
            msg = f"Label names are printed, so {strange[0]!r} cannot be one; it is empty or has control characters."
            raise LabelsError(msg)
        if strange := [i for i in self.cell_ontology_ids if i is not None and not i.isprintable()]:
            msg = f"{strange[0]!r} is no Cell Ontology id, such as CL:0000169."
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

    ``provenance`` and ``metrics`` are plain JSON values. ``origin`` is the repository and the commit that it was pulled
    from.
    """

    name: str
    embedder: Embedder
    classifier: SpikingClassifier
    labels: LabelMap
    thresholds: Thresholds
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    origin: str | None = None

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


def save(
    reference: Reference, folder: str | Path, *, overwrite: bool = False, onnx: Mapping[str, bytes] | None = None
) -> Path:
    """Write a reference folder, all of it or nothing.

    Parameters
    ----------
    folder
        Where to write. The files are written to a temporary folder beside it, which then takes its name.
    overwrite
        Replace a reference that is already there.
    onnx
        The exported graph and its parity report, by file name.

    Raises
    ------
    ConfigError
        When something is in the way.
    """
    folder = Path(folder)
    check_writable(folder, overwrite=overwrite)
    return write_files(contents(reference, onnx), folder)


def load(folder: str | Path, *, scgpt: str | Path | None = None, hub: Hub | None = None) -> Reference:
    """Read a reference folder, strictly: nothing is guessed, and every file is checked against the manifest.

    Parameters
    ----------
    scgpt
        Folder of the scGPT checkpoint that the reference was trained with, where it neither carries it nor names a
        repository.
    hub
        How to get an scGPT checkpoint that the reference names on the Hub.

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
    files = verified_files(folder)
    config = parsed(files["config.json"], "config.json")
    settings = fields_of(config, "config.json", {"name": str, "model": dict, "embedder": dict, "provenance": dict})
    if not settings["name"] or not settings["name"].isprintable():
        msg = f"The name of the reference, {settings['name']!r}, is empty or has control characters."
        raise DamagedReference(msg)
    check_provenance(settings["provenance"])
    try:
        network = SpikGPTConfig.from_dict(settings["model"])
        labels = LabelMap.from_list(parsed(files["labels.json"], "labels.json"))
        if len(labels.names) != network.n_labels:
            msg = f"labels.json names {len(labels.names)} labels; the network has {network.n_labels}."
            raise DamagedReference(msg)
        metrics = parsed(files["metrics.json"], "metrics.json")
        check_metrics(metrics, labels.names)
        genes = _genes(parsed(files["genes.json"], "genes.json"))
        check_graph(files)
        tensors = load_tensors(files["model.safetensors"])
        weights = {n.removeprefix("classifier."): t for n, t in tensors.items() if n.startswith("classifier.")}
        others = {n.removeprefix("embedder."): t for n, t in tensors.items() if n.startswith("embedder.")}
        if unknown := sorted(name for name in tensors if not name.startswith(("classifier.", "embedder."))):
            msg = f"model.safetensors holds unexpected tensors: {', '.join(unknown)}."
            raise DamagedReference(msg)
        _check_numbers(tensors)
        arrays = {name: tensor.numpy() for name, tensor in others.items()}
        embedder = load_embedder(settings["embedder"], arrays, genes, scgpt=scgpt, hub=hub)
        if embedder.dim != network.input_dim:
            msg = f"The embedder makes vectors of {embedder.dim} values; the network takes {network.input_dim}."
            raise DamagedReference(msg)
        if isinstance(embedder, PCAEmbedder) and len(embedder.label_means) != network.n_labels:
            msg = f"The embedder knows {len(embedder.label_means)} labels; the network has {network.n_labels}."
            raise DamagedReference(msg)
        return Reference(
            name=settings["name"],
            embedder=embedder,
            classifier=SpikingClassifier.from_weights(network, weights),
            labels=labels,
            thresholds=Thresholds.from_dict(parsed(files["thresholds.json"], "thresholds.json")),
            metrics=metrics,
            provenance=settings["provenance"],
        )
    except SafetensorError as error:
        msg = f"{folder / 'model.safetensors'} is not a safetensors file ({error}). Get the reference again."
        raise DamagedReference(msg) from error
    except (DamagedReference, CheckpointError, ReferenceNotFound, HubError):
        raise
    except SpikGPTError as error:
        msg = f"The reference in {folder} is inconsistent: {error}"
        raise DamagedReference(msg) from error


def contents(reference: Reference, onnx: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return every file of a reference by name, the manifest last."""
    tensors = {f"classifier.{name}": tensor for name, tensor in reference.classifier.state_dict().items()}
    tensors |= {f"embedder.{name}": torch.as_tensor(array) for name, array in reference.embedder.tensors().items()}
    genes = reference.embedder.genes or GeneList((), ())
    config = {
        "format_version": FORMAT_VERSION,
        "library": _library(),
        "name": reference.name,
        "model": reference.classifier.config.to_dict(),
        "embedder": reference.embedder.settings(),
        "provenance": reference.provenance,
    }
    files = {
        "config.json": dumped(config),
        "model.safetensors": save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}),
        "labels.json": dumped(reference.labels.to_list()),
        "thresholds.json": dumped(reference.thresholds.to_dict()),
        "genes.json": dumped(genes.to_dict()),
        "metrics.json": dumped(reference.metrics),
    }
    return with_card(files | dict(onnx or {}))


def addressed(files: Mapping[str, bytes], repository: str) -> dict[str, bytes]:
    """Return the files of a reference with a card that says where to pull it from."""
    config = parsed(files["config.json"], "config.json")
    config["provenance"]["repository"] = repository
    config["library"] = _library()
    return with_card({**files, "config.json": dumped(config)})


def _library() -> dict[str, str]:
    """Return what ``config.json`` says of this library."""
    return {"name": "spikgpt", "version": version("spikgpt"), "requires": LIBRARY_RANGE}


def with_card(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference in order, with the card, its picture and the manifest made from the others."""
    config, labels, thresholds, metrics = (
        parsed(files[name], name) for name in ("config.json", "labels.json", "thresholds.json", "metrics.json")
    )
    made = {
        **files,
        "README.md": card(
            config["name"], labels, thresholds, metrics, config["provenance"], onnx=GRAPH in files
        ).encode(),
        PICTURE: files.get(PICTURE) or confusion_picture(metrics["held_out"]["confusion"]),
    }
    return with_manifest(made)


def _genes(values: Any) -> GeneList:
    """Return the gene list of ``genes.json`` after checking its sha256."""
    fields = fields_of(values, "genes.json", {"sha256": str, "symbols": list, "ensembl_ids": list})
    symbols, ids = fields["symbols"], fields["ensembl_ids"]
    if not all(isinstance(s, str) for s in symbols) or not all(i is None or isinstance(i, str) for i in ids):
        msg = "genes.json holds names that are no text. Get the reference again."
        raise DamagedReference(msg)
    genes = GeneList(tuple(symbols), tuple(ids))
    if genes.sha256 != fields["sha256"]:
        msg = f"genes.json states sha256 {fields['sha256']}, its genes have {genes.sha256}. Get the reference again."
        raise DamagedReference(msg)
    return genes


def _check_numbers(tensors: dict[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite, or of a type that no reference has."""
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.int64):
            msg = (
                f"The tensor {name} in model.safetensors is {tensor.dtype}; expected float32. Get the reference again."
            )
            raise DamagedReference(msg)
        if not torch.isfinite(tensor).all():
            msg = f"The tensor {name} in model.safetensors holds NaN or infinite values. Get the reference again."
            raise DamagedReference(msg)
