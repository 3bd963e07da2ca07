"""What the files of a reference say, read strictly: nothing is guessed, and everything fits together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from spikgpt.cells.genes import GeneList
from spikgpt.errors import ConfigError, DamagedReference, GenesError
from spikgpt.files import decoded
from spikgpt.labels.familiarity import Familiarity
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.thresholds import Thresholds
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.layout import check_graphs, fields_of, parsed, verified_files

CLASSIFIER, EMBEDDER, FAMILIARITY = "classifier.", "embedder.", "familiarity."


@dataclass(frozen=True)
class Stored:
    """A reference as its files have it.

    ``embedder``, ``provenance`` and ``metrics`` are plain JSON values; ``tensors`` are named as in
    ``model.safetensors``, ``files`` holds every file.
    """

    name: str
    config: SpikGPTConfig
    embedder: dict[str, Any]
    provenance: dict[str, Any]
    labels: LabelMap
    thresholds: Thresholds
    genes: GeneList
    metrics: Any
    familiarity: Familiarity | None
    tensors: dict[str, npt.NDArray[Any]]
    files: dict[str, bytes]

    def part(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """Return the tensors of ``CLASSIFIER`` or ``EMBEDDER``, without the prefix."""
        return _part(self.tensors, prefix)


def read_stored(folder: Path) -> Stored:
    """Read a reference folder, every file of it checked against the manifest.

    Raises
    ------
    FormatError
        When the folder was written by a newer library.
    DamagedReference
        When a file is missing, altered or inconsistent with the others.
    """
    files = verified_files(folder)
    config = parsed(files["config.json"], "config.json")
    settings = fields_of(config, "config.json", {"name": str, "model": dict, "embedder": dict, "provenance": dict})
    if not settings["name"] or not settings["name"].isprintable():
        msg = f"The name of the reference, {settings['name']!r}, is empty or has control characters."
        raise DamagedReference(msg)
    try:
        network = SpikGPTConfig.from_dict(settings["model"])
        genes = _genes(parsed(files["genes.json"], "genes.json"))
        tensors = load_tensors(files["model.safetensors"])
    except SafetensorError as error:
        msg = f"{folder / 'model.safetensors'} is not a safetensors file ({error}). Get the reference again."
        raise DamagedReference(msg) from error
    except (ConfigError, GenesError) as error:
        msg = f"The reference in {folder} is inconsistent: {error}"
        raise DamagedReference(msg) from error
    labels = LabelMap.from_list(parsed(files["labels.json"], "labels.json"))
    if len(labels.names) != network.n_labels:
        msg = f"labels.json names {len(labels.names)} labels; the network has {network.n_labels}."
        raise DamagedReference(msg)
    check_graphs(files)
    if unknown := sorted(name for name in tensors if not name.startswith((CLASSIFIER, EMBEDDER, FAMILIARITY))):
        msg = f"model.safetensors holds unexpected tensors: {', '.join(unknown)}."
        raise DamagedReference(msg)
    _check_numbers(tensors)
    thresholds = decoded(files["thresholds.json"], "thresholds.json", Thresholds)
    familiarity = None
    if thresholds.single is not None:
        where = _part(tensors, FAMILIARITY)
        familiarity = Familiarity.from_tensors(where, network.n_labels, network.input_dim)
    return Stored(
        name=settings["name"],
        config=network,
        embedder=settings["embedder"],
        provenance=settings["provenance"],
        labels=labels,
        thresholds=thresholds,
        genes=genes,
        metrics=parsed(files["metrics.json"], "metrics.json"),
        familiarity=familiarity,
        tensors=tensors,
        files=files,
    )


def _part(tensors: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


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


def _check_numbers(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse weights that are NaN or infinite, or of a type that no reference has."""
    for name, array in tensors.items():
        if array.dtype not in (np.float32, np.int64):
            msg = f"The tensor {name} in model.safetensors is {array.dtype}; expected float32. Get the reference again."
            raise DamagedReference(msg)
        if not np.isfinite(array).all():
            msg = f"The tensor {name} in model.safetensors holds NaN or infinite values. Get the reference again."
            raise DamagedReference(msg)
