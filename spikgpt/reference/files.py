"""What the files of a reference say, read strictly: nothing is guessed, and everything fits together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.imputation import shapes as more_shapes
from spikgpt.errors import ConfigError, DamagedReference, GenesError
from spikgpt.reference import layout
from spikgpt.reference.card import card
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.json_files import converted, decoded, dumped, parsed
from spikgpt.reference.layout import MANIFEST, PICTURE, RELIABILITY, digest_of, migrated, stored_files, with_manifest
from spikgpt.reference.pictures import confusion_picture, reliability_picture
from spikgpt.reference.schema import Config, Genes, Metrics, Projection, require
from spikgpt.scoring.label_map import LabelMap, LabelRow
from spikgpt.scoring.ood_scorer import LabelGeometry
from spikgpt.scoring.thresholds import Thresholds
from spikgpt.version import __version__

CLASSIFIER, EMBEDDER, FAMILIARITY = "classifier.", "embedder.", "familiarity."
# What config.json says of this library.
LIBRARY = {"name": "spikgpt", "version": __version__, "requires": layout.LIBRARY_RANGE}

# JSON files that the card is made from.
CARD_SOURCES = ("config", "labels", "thresholds", "metrics")

Tensors = dict[str, npt.NDArray[Any]]
# Of what is stored: the largest number, the largest of log expression, the least deviation, and components.
LARGEST_WEIGHT, LARGEST_LOG, LEAST_DEVIATION, MOST_COMPONENTS = 1e12, 50.0, 1e-6, 2048


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference as its files have it.

    ``embedder``, its settings, ``provenance`` and ``metrics`` are plain JSON values. ``tensors`` are named as in
    ``model.safetensors``. ``files`` holds all files by name, but the manifest; none before it was written first, see
    :func:`reference_of`. ``origin`` is the repository and the commit that it was pulled from, ``digest`` the sha256 of
    the manifest that was read.
    """

    name: str
    config: SpikGPTConfig
    embedder: dict[str, Any]
    provenance: dict[str, Any]
    labels: LabelMap
    thresholds: Thresholds
    genes: GeneList
    more_genes: GeneList | None = None
    metrics: dict[str, Any]
    familiarity: LabelGeometry | None
    tensors: Tensors = field(repr=False)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    origin: str | None = None
    digest: str = ""

    def part(self, prefix: str) -> Tensors:
        """Return the tensors of ``CLASSIFIER``, ``EMBEDDER`` or ``FAMILIARITY``, without the prefix."""
        return {name.removeprefix(prefix): self.tensors[name] for name in self.tensors if name.startswith(prefix)}


def read_reference(source: str | Path | Mapping[str, bytes], origin: str | None = None) -> Reference:
    """Read a reference from its folder, or from its files in memory; every one is checked against the manifest.

    Raises
    ------
    FormatError
        When it was written by a newer library.
    DamagedReference
        When a file is missing, altered or inconsistent with the others.
    """
    stored = stored_files(source if isinstance(source, Mapping) else Path(source))
    files = migrated(stored)
    layout.check_graphs(files, layout.hashes_of(stored))
    config, labels, thresholds, metrics = (parsed(files[f"{name}.json"], f"{name}.json") for name in CARD_SOURCES)
    try:
        tensors = load_tensors(files["model.safetensors"])
    except (SafetensorError, KeyError, ValueError) as error:  # of types and shapes that NumPy has not
        msg = f"model.safetensors is not a safetensors file, or of other types ({error}). Get the reference again."
        raise DamagedReference(msg) from None
    genes = decoded(files["genes.json"], "genes.json", Genes)
    converted(metrics, "metrics.json", Metrics)
    try:
        reference = Reference(
            name=converted(config, "config.json", Config).name,
            config=SpikGPTConfig.stated(config["model"]),
            embedder=config["embedder"],
            provenance=config["provenance"],
            labels=LabelMap.of(converted(labels, "labels.json", list[LabelRow])),
            thresholds=converted(thresholds, "thresholds.json", Thresholds),
            genes=GeneList(genes.symbols, genes.ensembl_ids),
            more_genes=GeneList(genes.more.symbols, genes.more.ensembl_ids) if genes.more else None,
            metrics=metrics,
            familiarity=None,
            tensors=tensors,
            files=files,
            origin=origin,
            digest=digest_of(stored[MANIFEST]),
        )
    except (ConfigError, GenesError) as error:
        msg = f"The reference is inconsistent: {error}"
        raise DamagedReference(msg) from None
    found = reference.genes.sha256
    require(found == genes.sha256, f"genes.json states sha256 {genes.sha256}, its genes have {found}.")
    return _fitting(reference)


def reference_of(parts: Reference) -> Reference:
    """Return a reference with its files as :func:`contents` makes them, checked as when they are read."""
    return read_reference(contents(parts), parts.origin)


def save(reference: Reference, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a reference folder, all of it or nothing; with ``overwrite`` in place of a reference that is there."""
    folder = Path(folder)
    layout.check_writable(folder, overwrite=overwrite)
    return layout.write_files(with_manifest(reference.files), folder)


def contents(parts: Reference) -> dict[str, bytes]:
    """Return every file of a reference but graphs, made anew from its other fields, the manifest last."""
    config = {
        "format_version": layout.FORMAT_VERSION,
        "library": LIBRARY,
        "name": parts.name,
        "model": parts.config,
        "embedder": parts.embedder,
        "provenance": parts.provenance,
    }
    where = parts.familiarity.tensors() if parts.familiarity else {}
    files = {
        "config.json": dumped(config),
        "model.safetensors": save_tensors(parts.tensors | {FAMILIARITY + name: where[name] for name in where}),
        "labels.json": dumped(parts.labels.to_list()),
        "thresholds.json": dumped(parts.thresholds),
        "genes.json": dumped(_names(parts)),
        "metrics.json": dumped(parts.metrics),
    }
    return with_card(files)


def _names(parts: Reference) -> dict[str, Any]:
    """Return what ``genes.json`` holds."""
    if parts.more_genes is None:
        return parts.genes.to_dict()
    more = parts.more_genes
    return parts.genes.to_dict() | {"more": {"symbols": more.symbols, "ensembl_ids": more.ensembl_ids}}


def with_graphs(reference: Reference, graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference with these graphs and their parity report instead of those that it has."""
    kept = (*layout.FILES, PICTURE, RELIABILITY)
    return with_card({name: content for name, content in reference.files.items() if name in kept} | dict(graphs))


def with_repository(reference: Reference, repository: str) -> dict[str, bytes]:
    """Return the files of a reference with a card that says where to pull it from."""
    config = parsed(reference.files["config.json"], "config.json")
    config["provenance"]["repository"] = repository
    config["library"] = LIBRARY
    return with_card(reference.files | {"config.json": dumped(config)})


def with_card(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference in order, with the card, its pictures and the manifest made from the others."""
    metrics = parsed(files["metrics.json"], "metrics.json")
    made = {**files, "README.md": card_text(files)}
    if PICTURE not in files:
        made[PICTURE] = confusion_picture(metrics["held_out"]["confusion"])
    if RELIABILITY not in files and "reliability" in metrics:
        made[RELIABILITY] = reliability_picture(metrics["reliability"]["bins"])
    return with_manifest(made)


def card_text(files: Mapping[str, bytes]) -> bytes:
    """Return the card of a reference as this version words it."""
    config, labels, thresholds, metrics = (parsed(files[f"{name}.json"], f"{name}.json") for name in CARD_SOURCES)
    return card(config["name"], labels, thresholds, metrics, config["provenance"], onnx=layout.GRAPH in files).encode()


def _fitting(reference: Reference) -> Reference:
    """Return a reference with its familiarity, after checking that its parts fit together."""
    config, names, counted = reference.config, reference.labels.names, tuple(reference.metrics["cells_per_label"])
    require(len(names) == config.n_labels, f"labels.json names {len(names)} labels; the network has {config.n_labels}.")
    require(counted == names, "cells_per_label in metrics.json does not count the cells of each label of labels.json.")
    known = (CLASSIFIER, EMBEDDER, FAMILIARITY)
    for name, array in reference.tensors.items():
        require(name.startswith(known), f"model.safetensors holds the tensor {name!r}; expected those of {known}.")
        half = name.startswith(EMBEDDER + "more_") and not name.endswith(("centroids", "scatter"))
        kind = np.dtype("int64" if name.endswith("num_batches_tracked") else "float16" if half else "float32")
        require(array.dtype == kind, f"The tensor {name} in model.safetensors is {array.dtype}; expected {kind}.")
        largest = _largest(array) if array.dtype.kind == "f" else 0.0
        require(np.isfinite(largest), f"The tensor {name} in model.safetensors holds NaN or infinite values.")
        require(largest <= LARGEST_WEIGHT, f"The tensor {name} holds {largest:g}; expected at most {LARGEST_WEIGHT:g}.")
        if name.endswith("running_var"):
            require(array.min(initial=0) >= 0, f"The tensor {name} holds a variance below 0.")
    config.check(reference.part(CLASSIFIER))
    _check_embedder(reference)
    if reference.thresholds.single is None:
        return reference
    where = LabelGeometry.from_tensors(reference.part(FAMILIARITY), config.n_labels, config.input_dim)
    return replace(reference, familiarity=where)


def _largest(array: npt.NDArray[Any]) -> float:
    """Return the largest absolute value; that of NaN is NaN, and larger than any.

    Without their signs, floating-point numbers are in the order of their bits, and integers are compared far sooner.
    """
    bits = array.view(f"u{array.itemsize}")
    return float((bits & (np.iinfo(bits.dtype).max >> 1)).max(initial=0).view(array.dtype))


def _check_numbers(tensors: Tensors) -> None:
    """Refuse numbers of a pca embedder that no expression has."""
    deviations = [tensors[name] for name in sorted(tensors) if name.endswith(("std", "stds", "shares"))]
    above = [tensors[name].min(initial=1) >= LEAST_DEVIATION for name in ("std", "more_std") if name in tensors]
    sound = all(above) and all(array.min(initial=1) >= 0 for array in deviations)
    require(sound, f"The pca embedder holds negative deviations or shares, or a deviation below {LEAST_DEVIATION:g}.")
    logs = [tensors[name] for name in sorted(tensors) if name.endswith(("mean", "means", "std", "stds"))]
    largest = max(map(_largest, logs))
    require(largest <= LARGEST_LOG, f"The pca embedder holds log expression of {largest:g}; expected {LARGEST_LOG:g}.")
    total = float(tensors["label_shares"].sum(dtype=float))
    require(abs(total - 1) < 0.01, f"The label shares of the pca embedder add up to {total:g}; expected 1.")
    if "more_scatter" in tensors:
        scatter = tensors["more_scatter"].astype(float)
        lowest = float(np.linalg.eigvalsh((scatter + scatter.T) / 2)[0])
        sound = np.allclose(scatter, scatter.T, atol=1e-3 * np.trace(scatter)) and lowest > -1e-3 * np.trace(scatter)
        require(sound and np.trace(scatter) > 0, "The scatter of the pca embedder is no covariance.")


def _check_embedder(reference: Reference) -> None:
    """Refuse an embedder that does not fit the network. What an scGPT is like shows when it is opened."""
    settings, tensors, config = reference.embedder, reference.part(EMBEDDER), reference.config
    if settings.get("kind") == "pca":
        genes, labels = len(reference.genes), config.n_labels
        require(config.input_dim <= MOST_COMPONENTS, f"The pca embedder has more than {MOST_COMPONENTS} components.")
        shapes: dict[str, tuple[int, ...]] = {"mean": (genes,), "std": (genes,)}
        shapes["components"] = genes, config.input_dim
        shapes |= {"label_means": (labels, genes), "label_stds": (labels, genes), "label_shares": (labels,)}
        if reference.more_genes is not None:
            shapes |= more_shapes(len(reference.more_genes), config.input_dim, labels)
        found = {name: array.shape for name, array in tensors.items()}
        for name in sorted(shapes | found):
            told = f"has the tensor {name} of shape {found.get(name)}; expected {shapes.get(name)}"
            require(found.get(name) == shapes.get(name), f"The pca embedder {told}.")
        converted({name: settings.get(name) for name in ("clip", "target_sum")}, "The pca embedder", Projection)
        _check_numbers(tensors)
    elif settings.get("kind") == "obsm" and isinstance(settings.get("key"), str) and not tensors:
        same = settings.get("dim") == config.input_dim
        require(
            same, f"The embedder makes vectors of {settings.get('dim')} values; the network takes {config.input_dim}."
        )
    else:
        require(settings.get("kind") == "scgpt", f"config.json has the embedder {settings}; expected pca, scgpt, obsm.")
