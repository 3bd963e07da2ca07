"""Read and write references; refuse a reference whose files are missing, invalid or contradict each other."""

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
from spikgpt.errors import ConfigError, DamagedReference, GenesError, with_noun
from spikgpt.reference import format as stored_format
from spikgpt.reference.card import card
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.format import MANIFEST, PICTURE, RELIABILITY, digest_of, migrated, stored_files, with_manifest
from spikgpt.reference.json_files import converted, decoded, dumped, parsed
from spikgpt.reference.pictures import confusion_picture, reliability_picture
from spikgpt.reference.schema import Config, Genes, MetricsRecord, PCARecord, require
from spikgpt.reference.summary import label_agreement
from spikgpt.scoring.label_map import LabelMap, LabelRow
from spikgpt.scoring.ood_scorer import LabelGeometry
from spikgpt.scoring.thresholds import Thresholds
from spikgpt.version import __version__

CLASSIFIER, EMBEDDER, FAMILIARITY = "classifier.", "embedder.", "familiarity."
# The field "library" of config.json, with the versions of this library that can read the reference.
LIBRARY = {"name": "spikgpt", "version": __version__, "requires": stored_format.LIBRARY_RANGE}

# JSON files that the card is made from.
CARD_SOURCES = ("config", "labels", "thresholds", "metrics")

Tensors = dict[str, npt.NDArray[Any]]
# Limits of stored values: largest absolute value, largest log expression, smallest standard deviation of a gene, and
# largest number of principal components.
LARGEST_WEIGHT, LARGEST_LOG, LEAST_DEVIATION, MOST_COMPONENTS = 1e12, 50.0, 1e-6, 2048


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A trained reference: its network, embedding, labels, genes, thresholds for Unknown, and measured scores.

    ``embedder`` holds the settings of the embedding. ``embedder``, ``provenance`` and ``metrics`` are plain JSON
    values. ``more_genes`` are the genes that help to impute missing genes; None without imputation. ``familiarity``
    holds the centroids of the labels in the space of cell vectors; None for a reference of format 1. ``tensors`` have
    the names that ``model.safetensors`` uses. ``files`` holds the content of all files but the manifest, by name;
    ``files`` is empty until :func:`build_reference` has made them. ``origin`` is ``REPOSITORY@COMMIT`` on the Hub; None
    for a reference that is not from the Hub. ``digest`` is the sha256 of the manifest.
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
        """Return the tensors whose names start with ``prefix``, such as ``CLASSIFIER``, by name without the prefix."""
        return {name.removeprefix(prefix): self.tensors[name] for name in self.tensors if name.startswith(prefix)}


def read_reference(source: str | Path | Mapping[str, bytes], origin: str | None = None) -> Reference:
    """Return a reference from its folder or its files in memory; compare each file with the manifest.

    Raises
    ------
    FormatError
        When a newer library wrote the reference.
    DamagedReference
        When a file is missing, altered or inconsistent with the others.
    """
    stored = stored_files(source if isinstance(source, Mapping) else Path(source))
    files = migrated(stored)
    stored_format.check_graphs(files, stored_format.hashes_of(stored))
    config, labels, thresholds, metrics = (parsed(files[f"{name}.json"], f"{name}.json") for name in CARD_SOURCES)
    try:
        tensors = load_tensors(files["model.safetensors"])
    except (SafetensorError, KeyError, ValueError) as error:  # NumPy lacks some types of tensors
        msg = f"model.safetensors is not a safetensors file of known types ({error}). Get the reference again."
        raise DamagedReference(msg) from None
    genes = decoded(files["genes.json"], "genes.json", Genes)
    converted(metrics, "metrics.json", MetricsRecord)
    try:
        reference = Reference(
            name=converted(config, "config.json", Config).name,
            config=SpikGPTConfig.from_dict(config["model"]),
            embedder=config["embedder"],
            provenance=config["provenance"],
            labels=LabelMap.from_rows(converted(labels, "labels.json", list[LabelRow])),
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
    digest = reference.genes.sha256
    require(digest == genes.sha256, f"genes.json states sha256 {genes.sha256}, its genes have {digest}.")
    return _checked(reference)


def build_reference(parts: Reference) -> Reference:
    """Return a reference with its files, which :func:`build_files` makes and :func:`read_reference` checks."""
    return read_reference(build_files(parts), parts.origin)


def save(reference: Reference, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a reference to a folder, atomically; with ``overwrite``, replace a reference in this folder."""
    folder = Path(folder)
    stored_format.check_writable(folder, overwrite=overwrite)
    return stored_format.write_files(with_manifest(reference.files), folder)


def build_files(parts: Reference) -> dict[str, bytes]:
    """Return the contents of the files of a reference by name, the manifest last; ONNX graphs are not included."""
    config = {
        "format_version": stored_format.FORMAT_VERSION,
        "library": LIBRARY,
        "name": parts.name,
        "model": parts.config,
        "embedder": parts.embedder,
        "provenance": parts.provenance,
    }
    geometry = parts.familiarity.tensors() if parts.familiarity else {}
    files = {
        "config.json": dumped(config),
        "model.safetensors": save_tensors(parts.tensors | {FAMILIARITY + name: geometry[name] for name in geometry}),
        "labels.json": dumped(parts.labels.to_list()),
        "thresholds.json": dumped(parts.thresholds),
        "genes.json": dumped(_gene_names(parts)),
        "metrics.json": dumped(parts.metrics),
    }
    return with_card(files)


def _gene_names(parts: Reference) -> dict[str, Any]:
    if parts.more_genes is None:
        return parts.genes.to_dict()
    more = parts.more_genes
    return parts.genes.to_dict() | {"more": {"symbols": more.symbols, "ensembl_ids": more.ensembl_ids}}


def with_graphs(reference: Reference, graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference with new ONNX graphs; ``graphs`` holds also their parity report, by name."""
    kept = (*stored_format.FILES, PICTURE, RELIABILITY)
    return with_card({name: content for name, content in reference.files.items() if name in kept} | dict(graphs))


def with_repository(reference: Reference, repository: str) -> dict[str, bytes]:
    """Return the files of a reference with the name of its Hub repository added to ``config.json`` and the card."""
    config = parsed(reference.files["config.json"], "config.json")
    config["provenance"]["repository"] = repository
    config["library"] = LIBRARY
    return with_card(reference.files | {"config.json": dumped(config)})


def with_card(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference with a new card and manifest; missing pictures of the card are drawn."""
    metrics = parsed(files["metrics.json"], "metrics.json")
    made = {**files, "README.md": card_text(files)}
    if PICTURE not in files:
        made[PICTURE] = confusion_picture(label_agreement(metrics)["confusion"])
    if RELIABILITY not in files and "reliability" in metrics:
        made[RELIABILITY] = reliability_picture(metrics["reliability"]["bins"])
    return with_manifest(made)


def card_text(files: Mapping[str, bytes]) -> bytes:
    """Return the card of a reference as UTF-8 bytes, in the wording of this version."""
    config, labels, thresholds, metrics = (parsed(files[f"{name}.json"], f"{name}.json") for name in CARD_SOURCES)
    return card(
        config["name"], labels, thresholds, metrics, config["provenance"], onnx=stored_format.GRAPH in files
    ).encode()


def _checked(reference: Reference) -> Reference:
    """Return a reference with its label geometry; refuse a reference whose files contradict each other."""
    config, names, counted = reference.config, reference.labels.names, tuple(reference.metrics["cells_per_label"])
    require(
        len(names) == config.n_labels,
        f"labels.json names {with_noun(len(names), 'label')}; the network has {config.n_labels}.",
    )
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
    geometry = LabelGeometry.from_tensors(reference.part(FAMILIARITY), config.n_labels, config.input_dim)
    return replace(reference, familiarity=geometry)


def _largest(array: npt.NDArray[Any]) -> float:
    """Return the largest absolute value of a floating-point array; NaN counts as the largest.

    The bits of absolute values, read as integers, sort like the values. Integers are compared far faster.
    """
    bits = array.view(f"u{array.itemsize}")
    return float((bits & (np.iinfo(bits.dtype).max >> 1)).max(initial=0).view(array.dtype))


def _check_numbers(tensors: Tensors) -> None:
    """Refuse tensors of a pca embedder with impossible values, such as negative standard deviations."""
    deviations = [tensors[name] for name in sorted(tensors) if name.endswith(("std", "stds", "shares"))]
    above = [tensors[name].min(initial=1) >= LEAST_DEVIATION for name in ("std", "more_std") if name in tensors]
    valid = all(above) and all(array.min(initial=1) >= 0 for array in deviations)
    require(valid, f"The pca embedder holds negative deviations or shares, or a deviation below {LEAST_DEVIATION:g}.")
    logs = [tensors[name] for name in sorted(tensors) if name.endswith(("mean", "means", "std", "stds"))]
    largest = max(map(_largest, logs))
    require(largest <= LARGEST_LOG, f"The pca embedder holds log expression of {largest:g}; expected {LARGEST_LOG:g}.")
    total = float(tensors["label_shares"].sum(dtype=float))
    require(abs(total - 1) < 0.01, f"The label shares of the pca embedder add up to {total:g}; expected 1.")
    if "more_scatter" in tensors:
        scatter = tensors["more_scatter"].astype(float)
        lowest = float(np.linalg.eigvalsh((scatter + scatter.T) / 2)[0])
        valid = np.allclose(scatter, scatter.T, atol=1e-3 * np.trace(scatter)) and lowest > -1e-3 * np.trace(scatter)
        require(valid and np.trace(scatter) > 0, "The scatter of the pca embedder is no covariance.")


def _check_embedder(reference: Reference) -> None:
    """Refuse an embedder that does not fit the network. An scGPT embedder is checked when it is opened."""
    settings, tensors, config = reference.embedder, reference.part(EMBEDDER), reference.config
    if settings.get("kind") == "pca":
        genes, labels = len(reference.genes), config.n_labels
        require(config.input_dim <= MOST_COMPONENTS, f"The pca embedder has more than {MOST_COMPONENTS} components.")
        shapes: dict[str, tuple[int, ...]] = {"mean": (genes,), "std": (genes,)}
        shapes["components"] = genes, config.input_dim
        shapes |= {"label_means": (labels, genes), "label_stds": (labels, genes), "label_shares": (labels,)}
        if reference.more_genes is not None:
            shapes |= more_shapes(len(reference.more_genes), config.input_dim, labels)
        stored = {name: array.shape for name, array in tensors.items()}
        for name in sorted(shapes | stored):
            shape, expected = stored.get(name), shapes.get(name)
            require(shape == expected, f"The pca embedder has the tensor {name} of shape {shape}; expected {expected}.")
        converted({name: settings.get(name) for name in ("clip", "target_sum")}, "The pca embedder", PCARecord)
        _check_numbers(tensors)
    elif settings.get("kind") == "obsm" and isinstance(settings.get("key"), str) and not tensors:
        size = settings.get("dim")
        require(size == config.input_dim, f"The embedder has {size} dimensions; the network takes {config.input_dim}.")
    else:
        require(settings.get("kind") == "scgpt", f"config.json has the embedder {settings}; expected pca, scgpt, obsm.")
