"""From labelled cells to a trained reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.cells.obs import check_trainable, labels_of
from spikgpt.engines.model import SpikingClassifier
from spikgpt.errors import LabelsError
from spikgpt.labels.familiarity import Familiarity
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.reading import Readings
from spikgpt.labels.thresholds import (
    PAPER_THRESHOLD,
    Calibration,
    Thresholds,
    confidence_of,
    conformal_threshold,
    fit_temperature,
    is_unknown,
    tempered,
)
from spikgpt.pipeline import label, read
from spikgpt.scgpt.source import ScGPTSource
from spikgpt.training.embedders import Classify, Embedder, Embedding, fit_embedder
from spikgpt.training.evaluation import ontology_ids
from spikgpt.training.fit import Progress, fit, hold_out
from spikgpt.training.metrics import measure, reliability
from spikgpt.training.recipes import network_config, recipe_named
from spikgpt.training.reference import Reference


def train(
    adata: AnnData,
    label_key: str,
    *,
    batch_key: str | None = None,
    embedder: str | ScGPTSource | Embedder = "pca",
    layer: str | None = None,
    recipe: str = "default",
    name: str = "reference",
    seed: int = 0,
    device: str | None = None,
    provenance: dict[str, Any] | None = None,
    checkpoints: Path | None = None,
    on_cells: Callable[[int], None] | None = None,
    on_epoch: Callable[[str, Progress], None] | None = None,
) -> Reference:
    """Train a reference on labelled cells.

    A part of the cells is held out, whole donors or batches if ``batch_key`` names their column, else 30% of each
    label. What the reference states about itself, and its threshold, is measured on that part. The default recipe
    then trains again on all cells.

    Parameters
    ----------
    label_key
        Column of ``obs`` with the cell types. Cells without a label, and types of fewer than 5 cells, are left out.
    embedder
        ``pca``, ``obsm:KEY`` for an embedding that the AnnData brings, or an scGPT checkpoint as
        :func:`spikgpt.scgpt.source.open_scgpt` returns it.
    recipe
        ``default`` or ``paper``.
    provenance
        More about the cells that the reference should keep, such as their source and licence; plain JSON values.
    checkpoints
        Folder to keep the state of the training in, to resume from after an interruption.
    on_cells
        Called with the number of cells embedded since the last call, by an embedder that needs no fitting.
    on_epoch
        Called with the stage and its progress after each epoch.

    Raises
    ------
    DataError
        When the cells cannot be read or the labels cannot be learned from.
    ConfigError
        When an option is out of range.
    CheckpointError
        When ``checkpoints`` holds the state of another training.
    """
    chosen = recipe_named(recipe)
    labels, labelled = labels_of(adata, label_key)
    dropped = check_trainable(labels[labelled])
    used = labelled & ~np.isin(labels, list(dropped))
    groups = None if batch_key is None else _groups(adata, batch_key)[used]
    cells, labels = adata[used], labels[used]
    names, label_index = np.unique(labels, return_inverse=True)

    everything: Embedding | None = None

    def embedded(fitted: Embedder, part: npt.NDArray[Any], classify: Classify | None = None) -> Embedding:
        # An embedder that was not fitted gives a cell the same vector every time, so it is asked once.
        nonlocal everything
        if fitted.fitted:
            scaling = "auto" if classify else "reference"
            return fitted.embed(cells[part], layer=layer, scaling=scaling, classify=classify)
        everything = everything or fitted.embed(cells, layer=layer, on_cells=on_cells)
        return everything.part(part)

    def trained(stage: str, part: npt.NDArray[Any]) -> tuple[Embedder, SpikingClassifier, Familiarity, tuple[str, ...]]:
        fitted = fit_embedder(embedder, cells[part], labels[part], layer=layer, seed=seed)
        vectors = [embedded(fitted, part).vectors]
        for copy in range(chosen.augmented_copies):
            vectors += fitted.augment(cells[part], layer=layer, seed=seed + copy)
        present, index = np.unique(label_index[part], return_inverse=True)
        classifier = fit(
            network_config(chosen, fitted.dim, len(present)),
            chosen,
            np.concatenate(vectors),
            np.tile(index, len(vectors)),
            seed=seed,
            device=device,
            checkpoint=checkpoints / f"{stage}.safetensors" if checkpoints else None,
            on_epoch=(lambda progress: on_epoch(stage, progress)) if on_epoch else None,
        )
        return fitted, classifier, Familiarity.fit(vectors[0], index), tuple(names[present].tolist())

    train_part, held_part = hold_out(labels, groups, seed=seed)
    fitted, classifier, familiarity, known = trained("held-out", train_part)
    held_known = held_part[np.isin(labels[held_part], known)]
    known_ids = ontology_ids(cells, labels)
    measured = Reference(
        name=name,
        embedder=fitted,
        classifier=classifier,
        labels=_label_map(known, known_ids),
        thresholds=conformal_threshold(np.ones(1)),
        metrics={},
        provenance={},
        familiarity=familiarity,
    )
    embedding = embedded(fitted, held_known, measured.probabilities)
    truth = np.searchsorted(np.array(known), labels[held_known])[~embedding.empty]
    measured = replace(measured, thresholds=calibrated(measured, embedding, truth, temperature=chosen.calibrate))
    annotation = label(measured, embedding, cells.obs_names[held_known])
    if chosen.refit:
        fitted, classifier, familiarity, known = trained("all-cells", np.arange(len(labels)))
    return Reference(
        name=name,
        embedder=fitted,
        classifier=classifier,
        labels=_label_map(known, known_ids),
        thresholds=measured.thresholds,
        metrics={
            "cells": len(labels),
            "cells_per_label": {label: int((labels == label).sum()) for label in known},
            "held_out_by": _held_out_by(batch_key, groups, held_part),
            "held_out": measure(labels[held_known], annotation.best_labels).to_dict(),
            "reliability": held_out_reliability(measured, embedding, truth, temperature=chosen.calibrate),
            "paper_threshold_rejects": float(
                is_unknown(annotation.confidence[~embedding.empty], PAPER_THRESHOLD).mean()
            ),
        },
        provenance={
            **(provenance or {}),
            "label_key": label_key,
            "batch_key": batch_key,
            "recipe": chosen.to_dict(),
            "seed": seed,
            "cells_without_label": int((~labelled).sum()),
            "labels_left_out": dropped,
        },
        familiarity=familiarity,
    )


def calibrated(
    reference: Reference, embedding: Embedding, truth: npt.NDArray[Any], *, temperature: bool = True
) -> Thresholds:
    """Return thresholds set on held-out cells.

    Parameters
    ----------
    reference
        What was trained without these cells, with a temperature of 1.
    embedding
        The held-out cells.
    truth
        Index of the label of each that is not empty, shape (n,).
    temperature
        Whether to calibrate the probabilities too.
    """
    names = np.array(reference.labels.names)

    def calibration(found: Readings) -> Calibration:
        fitted = fit_temperature(found.probabilities, truth) if temperature else 1.0
        assert found.scores is not None  # the reference has been given a familiarity
        return Calibration.of(found.scores, names[found.probabilities.argmax(axis=1)], fitted)

    seen_alone = read(reference, embedding, neighbours=False)
    alone = calibration(seen_alone)
    confidence = confidence_of(tempered(seen_alone.probabilities, alone.temperature))
    thresholds = replace(conformal_threshold(confidence), alone=alone, together=alone)
    # Neighbours lend each other calibrated probabilities.
    together = calibration(read(replace(reference, thresholds=thresholds), embedding))
    return replace(thresholds, together=together)


def held_out_reliability(
    reference: Reference, embedding: Embedding, truth: npt.NDArray[Any], *, temperature: bool
) -> dict[str, Any]:
    """Return how well probabilities agree with how often labels are right, on cells that set no temperature.

    One half of the held-out cells sets the temperature for the other.
    """
    found = read(reference, embedding).probabilities
    confidence, right = np.empty(len(truth)), found.argmax(axis=1) == truth
    halves = np.arange(len(truth)) % 2 == 0
    for half in (halves, ~halves):
        fitted = fit_temperature(found[~half], truth[~half]) if temperature and (~half).any() else 1.0
        confidence[half] = confidence_of(tempered(found[half], fitted))
    return reliability(confidence, right)


def _groups(adata: AnnData, batch_key: str) -> npt.NDArray[np.str_]:
    """Return the donor or batch of each cell."""
    groups, stated = labels_of(adata, batch_key)
    if not stated.all():
        missing = int((~stated).sum())
        msg = f"{missing} cells have no value in obs[{batch_key!r}]; fill them in, or leave the batch key out."
        raise LabelsError(msg)
    return groups


def _label_map(names: tuple[str, ...], ontology_ids: dict[str, str]) -> LabelMap:
    """Return the label map of the labels that a classifier knows."""
    return LabelMap(names, tuple(ontology_ids.get(name) for name in names))


def _held_out_by(batch_key: str | None, groups: npt.NDArray[np.str_] | None, held: npt.NDArray[Any]) -> str:
    """Say in words which cells were held out."""
    if groups is None:
        return "30% of the cells of each label"
    return f"{batch_key} {', '.join(np.unique(groups[held]).tolist())}"
