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
from safetensors.numpy import save as save_tensors

from spikgpt.cells.genes import GeneList
from spikgpt.errors import ConfigError, DamagedReference, GenesError
from spikgpt.files import converted, decoded, dumped, parsed
from spikgpt.labels.familiarity import Familiarity
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.thresholds import Thresholds
from spikgpt.reference.card import card
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.layout import (
    FILES,
    FORMAT_VERSION,
    GRAPH,
    LIBRARY_RANGE,
    PICTURE,
    RELIABILITY,
    check_graphs,
    check_writable,
    verified_files,
    with_manifest,
    write_files,
)
from spikgpt.reference.pictures import confusion_picture, reliability_picture
from spikgpt.reference.schema import Config, Genes, Library, Metrics
from spikgpt.version import __version__

CLASSIFIER, EMBEDDER, FAMILIARITY = "classifier.", "embedder.", "familiarity."
# Tensors of an embedder by principal components.
NOT_NEGATIVE = ("std", "label_stds", "label_shares")

Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ReferenceParts:
    """What a reference is made of.

    ``embedder``, its settings, ``provenance`` and ``metrics`` are plain JSON values, described by
    :mod:`spikgpt.reference.schema`. ``tensors`` are named as in ``model.safetensors``.
    """

    name: str
    config: SpikGPTConfig
    embedder: dict[str, Any]
    provenance: dict[str, Any]
    labels: LabelMap
    thresholds: Thresholds
    genes: GeneList
    metrics: dict[str, Any]
    familiarity: Familiarity | None
    tensors: Tensors

    def part(self, prefix: str) -> Tensors:
        """Return the tensors of ``CLASSIFIER``, ``EMBEDDER`` or ``FAMILIARITY``, without the prefix."""
        return _part(self.tensors, prefix)


@dataclass(frozen=True, kw_only=True)
class ReferenceFiles(ReferenceParts):
    """A reference as its files have it.

    ``files`` holds all of them by name, but the manifest. ``origin`` is the repository and the commit that it was
    pulled from.
    """

    files: dict[str, bytes]
    origin: str | None = None


def read_reference(folder: str | Path, origin: str | None = None) -> ReferenceFiles:
    """Read a reference folder, every file of it checked against the manifest.

    Raises
    ------
    FormatError
        When the folder was written by a newer library.
    DamagedReference
        When a file is missing, altered or inconsistent with the others.
    """
    return _reference(verified_files(Path(folder)), origin)


def reference_from(files: Mapping[str, bytes], origin: str | None = None) -> ReferenceFiles:
    """Return the reference whose files, the manifest among them, are in memory; the errors are the same."""
    return _reference(verified_files(files), origin)


def save(reference: ReferenceFiles, folder: str | Path, *, overwrite: bool = False) -> Path:
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
    return write_files(with_manifest(reference.files), folder)


def contents(parts: ReferenceParts, graphs: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return every file of a reference by name, the manifest last.

    Parameters
    ----------
    graphs
        Exported graphs and their parity report, by file name.
    """
    where = parts.familiarity.tensors() if parts.familiarity else {}
    config = {
        "format_version": FORMAT_VERSION,
        "library": _library(),
        "name": parts.name,
        "model": parts.config,
        "embedder": parts.embedder,
        "provenance": parts.provenance,
    }
    files = {
        "config.json": dumped(config),
        "model.safetensors": save_tensors(parts.tensors | {FAMILIARITY + name: where[name] for name in where}),
        "labels.json": dumped(parts.labels.to_list()),
        "thresholds.json": dumped(parts.thresholds.to_dict()),
        "genes.json": dumped(parts.genes.to_dict()),
        "metrics.json": dumped(parts.metrics),
    }
    return with_card(files | dict(graphs or {}))


def with_graphs(reference: ReferenceFiles, graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference with these graphs and their parity report instead of those that it has."""
    kept = (*FILES, PICTURE, RELIABILITY)
    return with_card({name: content for name, content in reference.files.items() if name in kept} | dict(graphs))


def with_repository(reference: ReferenceFiles, repository: str) -> dict[str, bytes]:
    """Return the files of a reference with a card that says where to pull it from."""
    config = parsed(reference.files["config.json"], "config.json")
    config["provenance"]["repository"] = repository
    config["library"] = _library()
    return with_card(reference.files | {"config.json": dumped(config)})


def with_card(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference in order, with the card, its pictures and the manifest made from the others."""
    metrics = parsed(files["metrics.json"], "metrics.json")
    made = {
        **files,
        "README.md": card_text(files),
        PICTURE: files.get(PICTURE) or confusion_picture(metrics["held_out"]["confusion"]),
    }
    if "reliability" in metrics:
        made[RELIABILITY] = files.get(RELIABILITY) or reliability_picture(metrics["reliability"]["bins"])
    return with_manifest(made)


def card_text(files: Mapping[str, bytes]) -> bytes:
    """Return the card of a reference as this version words it."""
    config, labels, thresholds, metrics = (
        parsed(files[name], name) for name in ("config.json", "labels.json", "thresholds.json", "metrics.json")
    )
    return card(config["name"], labels, thresholds, metrics, config["provenance"], onnx=GRAPH in files).encode()


def _reference(files: dict[str, bytes], origin: str | None) -> ReferenceFiles:
    """Return what verified files say, after checking that they fit together."""
    check_graphs(files)
    config, metrics = (parsed(files[name], name) for name in ("config.json", "metrics.json"))
    checked = converted(config, "config.json", Config)
    labels = LabelMap.from_list(parsed(files["labels.json"], "labels.json"))
    thresholds = Thresholds.from_dict(parsed(files["thresholds.json"], "thresholds.json"))
    try:
        network = SpikGPTConfig.stated(config["model"])
        genes = _genes(decoded(files["genes.json"], "genes.json", Genes))
        tensors = load_tensors(files["model.safetensors"])
    except (SafetensorError, KeyError) as error:  # a KeyError names a type that NumPy has not
        msg = f"model.safetensors is not a safetensors file ({error}). Get the reference again."
        raise DamagedReference(msg) from error
    except (ConfigError, GenesError) as error:
        msg = f"The reference is inconsistent: {error}"
        raise DamagedReference(msg) from error
    if len(labels.names) != network.n_labels:
        msg = f"labels.json names {len(labels.names)} labels; the network has {network.n_labels}."
        raise DamagedReference(msg)
    if tuple(converted(metrics, "metrics.json", Metrics).cells_per_label) != labels.names:
        msg = "cells_per_label in metrics.json does not count the cells of each label of labels.json."
        raise DamagedReference(msg)
    _check_tensors(tensors, network, config["embedder"], len(genes))
    familiarity = None
    if thresholds.alone is not None:
        where = _part(tensors, FAMILIARITY)
        familiarity = Familiarity.from_tensors(where, network.n_labels, network.input_dim)
    return ReferenceFiles(
        name=checked.name,
        config=network,
        embedder=config["embedder"],
        provenance=config["provenance"],
        labels=labels,
        thresholds=thresholds,
        genes=genes,
        metrics=metrics,
        familiarity=familiarity,
        tensors=tensors,
        files=files,
        origin=origin,
    )


def _library() -> Library:
    """Return what ``config.json`` says of this library."""
    return Library(version=__version__, requires=LIBRARY_RANGE)


def _part(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors of a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _genes(stated: Genes) -> GeneList:
    """Return the genes of ``genes.json`` after checking their sha256."""
    genes = GeneList(stated.symbols, stated.ensembl_ids)
    if genes.sha256 != stated.sha256:
        msg = f"genes.json states sha256 {stated.sha256}, its genes have {genes.sha256}. Get the reference again."
        raise DamagedReference(msg)
    return genes


def _check_tensors(tensors: Tensors, config: SpikGPTConfig, embedder: dict[str, Any], genes: int) -> None:
    """Refuse weights that do not fit the network and the embedder, or hold what no training gives."""
    if embedder["kind"] == "obsm" and embedder["dim"] != config.input_dim:
        msg = f"The embedder makes vectors of {embedder['dim']} values; the network takes {config.input_dim}."
        raise DamagedReference(msg)
    expected = {CLASSIFIER + name: shape for name, shape in config.shapes().items()}
    if embedder["kind"] == "pca":
        expected |= {EMBEDDER + name: shape for name, shape in _pca_shapes(config, genes).items()}
    # Familiarity has a check of its own, and what a bundled scGPT is like only its own settings say.
    others = (FAMILIARITY, EMBEDDER) if embedder.get("bundled") else (FAMILIARITY,)
    found = {name: array.shape for name, array in tensors.items() if not name.startswith(others)}
    if wrong := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        shown = ", ".join(f"{name!r} (expected {expected.get(name)}, found {found.get(name)})" for name in wrong[:3])
        msg = f"The weights do not fit config.json and genes.json: {len(wrong)} tensors differ, such as {shown}."
        raise DamagedReference(msg)
    for name, array in tensors.items():
        kind = np.int64 if name.endswith("num_batches_tracked") else np.float32
        if array.dtype != kind:
            msg = f"The tensor {name!r} in model.safetensors is {array.dtype}; expected {kind.__name__}."
            raise DamagedReference(msg)
        if not np.isfinite(array).all():
            msg = f"The tensor {name!r} in model.safetensors holds NaN or infinite values. Get the reference again."
            raise DamagedReference(msg)
    part = _part(tensors, EMBEDDER)
    if embedder["kind"] == "pca" and not (part["std"].all() and all((part[name] >= 0).all() for name in NOT_NEGATIVE)):
        msg = "The pca embedder holds standard deviations or shares that are negative, or a deviation of 0."
        raise DamagedReference(msg)


def _pca_shapes(config: SpikGPTConfig, genes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an embedder by principal components, by name."""
    labels = config.n_labels
    of_genes = {"mean": (genes,), "std": (genes,), "components": (genes, config.input_dim)}
    return of_genes | {"label_means": (labels, genes), "label_stds": (labels, genes), "label_shares": (labels,)}
