"""A trained reference: embedder, classifier, labels, thresholds, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spikgpt.cells.genes import GeneList
from spikgpt.engines.model import SpikingClassifier
from spikgpt.errors import (
    CheckpointError,
    ConfigError,
    DamagedReference,
    HubError,
    ReferenceNotFound,
    SpikGPTError,
)
from spikgpt.files import dumped
from spikgpt.labels.familiarity import Familiarity
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.thresholds import Thresholds
from spikgpt.reference import files
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, ReferenceFiles, read_reference
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import (
    FORMAT_VERSION,
    GRAPH,
    LIBRARY_RANGE,
    PICTURE,
    RELIABILITY,
    check_writable,
    parsed,
    with_manifest,
    write_files,
)
from spikgpt.reference.stored import CLASSIFIER, EMBEDDER, read_stored
from spikgpt.training.embedders import Embedder, PCAEmbedder, load_embedder
from spikgpt.training.metrics import check_metrics
from spikgpt.version import __version__


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
    familiarity: Familiarity | None = None
    origin: str | None = None

    def probabilities(self, vectors: npt.NDArray[np.float64], *, batch_size: int = 4096) -> npt.NDArray[np.float64]:
        """Return the class probabilities of :meth:`classified`."""
        return self.classified(vectors, batch_size=batch_size)[0]

    def classified(
        self, vectors: npt.NDArray[np.float64], *, batch_size: int = 4096
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
        Class probabilities, shape (n, n_labels), and energies, the log of the summed exponentials of the logits, shape
        (n,).
        """
        if batch_size < 1:
            msg = f"batch_size is {batch_size}; it must be at least 1."
            raise ConfigError(msg)
        folded = self.folded_classifier()
        rows, energies = [np.empty((0, len(self.labels.names)))], [np.empty(0)]
        with torch.inference_mode():
            for start in range(0, len(vectors), batch_size):
                batch = torch.as_tensor(vectors[start : start + batch_size], dtype=torch.float64)
                logits = folded(batch)
                rows.append((logits / self.thresholds.temperature).softmax(dim=1).numpy())
                energies.append(logits.logsumexp(dim=1).numpy())
        return np.concatenate(rows), np.concatenate(energies)

    @property
    def config(self) -> SpikGPTConfig:
        """Shape and neurons of the classifier."""
        return self.classifier.config

    def files(self, onnx: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
        """Return every file of the reference by name, the manifest last, with exported graphs if some are given."""
        tensors = {CLASSIFIER + name: array for name, array in self.weights().items()}
        tensors |= {EMBEDDER + name: np.asarray(array) for name, array in self.embedder.tensors().items()}
        parts = ReferenceFiles(
            name=self.name,
            config=self.config,
            embedder=self.embedder.settings(),
            provenance=self.provenance,
            labels=self.labels,
            thresholds=self.thresholds,
            genes=self.embedder.genes or GeneList((), ()),
            metrics=self.metrics,
            familiarity=self.familiarity,
            tensors=tensors,
        )
        made = files.contents(parts)
        return files.with_card(made | dict(onnx)) if onnx else made

    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """Return the weights of the classifier by name."""
        return {name: tensor.numpy() for name, tensor in self.classifier.state_dict().items()}

    def folded_weights(self) -> dict[str, npt.NDArray[Any]]:
        """Return the same in float64, with every BatchNorm folded into the layer before it."""
        return {name: tensor.numpy() for name, tensor in self.folded_classifier().state_dict().items()}

    def folded_classifier(self) -> SpikingClassifier:
        """Return the classifier for inference: float64, collapsed, every BatchNorm folded."""
        return SpikingClassifier.from_weights(self.classifier.config, self.classifier.state_dict()).double().folded()


def save(reference: Reference, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a reference folder; see :func:`spikgpt.reference.files.save`."""
    folder = Path(folder)
    check_writable(folder, overwrite=overwrite)
    return write_files(reference.files(), folder)


def load(folder: str | Path, *, scgpt: str | Path | None = None, hub: Hub | None = None) -> Reference:
    """Read a reference folder; see :func:`spikgpt.reference.files.read_reference` and :func:`trained`."""
    return trained(read_reference(folder), scgpt=scgpt, hub=hub)


def trained(stored: ReferenceFiles, *, scgpt: str | Path | None = None, hub: Hub | None = None) -> Reference:
    """Return what the files of a reference hold, ready to run.

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
    DamagedReference
        When the embedder does not fit the network.
    """
    embedder = load_embedder(stored.embedder, stored.part(EMBEDDER), stored.genes, scgpt=scgpt, hub=hub)
    if embedder.dim != stored.config.input_dim:
        msg = f"The embedder makes vectors of {embedder.dim} values; the network takes {stored.config.input_dim}."
        raise DamagedReference(msg)
    weights = {name: torch.from_numpy(array) for name, array in stored.part(CLASSIFIER).items()}
    return Reference(
        name=stored.name,
        embedder=embedder,
        classifier=SpikingClassifier.from_weights(stored.config, weights),
        labels=stored.labels,
        thresholds=stored.thresholds,
        metrics=stored.metrics,
        provenance=stored.provenance,
        familiarity=stored.familiarity,
        origin=stored.origin,
    )


def contents(reference: Reference, onnx: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return every file of a reference by name, the manifest last."""
    tensors = {f"classifier.{name}": tensor for name, tensor in reference.classifier.state_dict().items()}
    tensors |= {f"embedder.{name}": torch.as_tensor(array) for name, array in reference.embedder.tensors().items()}
    where = reference.familiarity.tensors() if reference.familiarity else {}
    tensors |= {f"familiarity.{name}": torch.as_tensor(array) for name, array in where.items()}
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
        "thresholds.json": dumped(reference.thresholds),
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
    return {"name": "spikgpt", "version": __version__, "requires": LIBRARY_RANGE}


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
    if "reliability" in metrics:
        made[RELIABILITY] = files.get(RELIABILITY) or reliability_picture(metrics["reliability"]["bins"])
    return with_manifest(made)
