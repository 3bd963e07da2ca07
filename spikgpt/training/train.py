"""Train a reference on labelled cells in four steps: prepare, fit, calibrate, refit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
from anndata import AnnData

from spikgpt.cells.obs import counted
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.errors import ConfigError
from spikgpt.options import TrainOptions
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, Reference, build_reference
from spikgpt.reference.json_files import converted
from spikgpt.reference.schema import Agreement, CrossValidation, GroupScore
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.thresholds import Thresholds
from spikgpt.training.calibration import calibrate
from spikgpt.training.cells import TrainingCells, prepare
from spikgpt.training.fit import FittedModel, OnEpoch, fit_model
from spikgpt.training.metrics import pooled
from spikgpt.training.recipes import RECIPES, TrainingRecipe
from spikgpt.training.split import folds, hold_out, training_notes
from spikgpt.types import Integers, OnCells, Strings


def train(
    adata: AnnData,
    label_key: str,
    *,
    embedder: str | ScGPTSource = PCA,
    options: TrainOptions | None = None,
    on_cells: OnCells | None = None,
    on_epoch: OnEpoch | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Reference:
    """Train a reference on labelled cells.

    Some cells are held out: whole donors or batches if ``batch_key`` names their column, else 30% of each label. The
    accuracy and the thresholds of the reference are measured on the held-out cells. The default recipe then trains
    again on all cells.

    Parameters
    ----------
    label_key
        Column of ``obs`` with the cell types. Cells without a label, and types of fewer than 5 cells, are left out.
    embedder
        ``pca``, ``obsm:KEY`` for an embedding in the AnnData, or the result of
        :func:`spikgpt.engines.scgpt.source.open_scgpt`.
    on_cells
        Called with the number of cells that scGPT embedded since the last call.
    on_epoch
        Called after each epoch with the name of the training step and its progress.
    on_note
        Called before the training with each note: on suspicious values, cells left out, and labels without a measured
        accuracy.

    Raises
    ------
    DataError
        When the cells cannot be read, or too few labels have enough cells.
    ConfigError
        When an option is out of range, or ``embedder`` is not the name of an embedder.
    CheckpointError
        When ``checkpoints`` holds the state of another training.
    """
    options = options or TrainOptions()
    if options.cross_validate and options.batch_key is None:
        msg = "cross_validate holds out donors or batches in turn; name their column too: batch_key (--batch-key)."
        raise ConfigError(msg)
    recipe = RECIPES[options.recipe]
    cells = prepare(adata, label_key, embedder, options, on_cells)
    labels, groups = cells.labels, cells.labelled.groups
    train_rows, held_rows = hold_out(labels, groups, seed=options.seed)
    if on_note:
        for note in (*cells.notes, *training_notes(cells.labelled, train_rows, held_rows, refit=recipe.refit)):
            on_note(note)
    stages = {"held-out": train_rows} | ({"all-cells": np.arange(len(labels))} if recipe.refit else {})
    models = [
        fit_model(cells, rows, stage, recipe, options, on_epoch, impute=number == len(stages))
        for number, (stage, rows) in enumerate(stages.items(), start=1)
    ]
    measured, final = models[0], models[-1]
    known = held_rows[np.isin(labels[held_rows], measured.names)]
    known_cells = cells.values.select(known, measured.columns)
    thresholds, measures = calibrate(measured, known_cells, labels[known], temperature=recipe.calibrate)
    held_out_by = "30% of the cells of each label"
    if groups is not None:
        held_out_by = f"{options.batch_key} {', '.join(np.unique(groups[held_rows]).tolist())}"
    metrics = {"held_out_by": held_out_by, **measures}
    if options.cross_validate and groups is not None:
        validation = cross_validate(cells, groups, final.names, (train_rows, measured), recipe, options, on_epoch)
        metrics["cross_validation"] = msgspec.to_builtins(validation)
    settings = {"label_key": label_key, "batch_key": options.batch_key, "recipe": asdict(recipe), "seed": options.seed}
    provenance = {**(options.provenance or {}), **settings}
    return _reference(cells, final, thresholds, metrics, provenance, options.name)


def cross_validate(
    cells: TrainingCells,
    groups: Strings,
    names: tuple[str, ...],
    fitted: tuple[Integers, FittedModel],
    recipe: TrainingRecipe,
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
) -> CrossValidation:
    """Hold out each donor or batch in turn, and return the agreement of predicted and true labels.

    The cells of each donor or batch are labelled as a query of their own.

    Parameters
    ----------
    groups
        Donor or batch of each cell, shape (n,).
    names
        Labels of the reference. Cells of other labels, and of labels that only held-out cells have, are left out.
    fitted
        Training cells of a model that was fitted before, and the model; its training is not repeated.
    """
    labels, agreements = cells.labels, {}
    for number, (train, held_out) in enumerate(folds(labels, groups, seed=options.seed), start=1):
        model = fitted[1]
        if not np.array_equal(train, fitted[0]):
            model = fit_model(cells, train, f"held-out {number}", recipe, options, on_epoch)
        known = held_out[np.isin(labels[held_out], model.names) & np.isin(labels[held_out], names)]
        for group in np.unique(groups[known]).tolist():
            rows = known[groups[known] == group]
            part = cells.values.select(rows, model.columns)
            _, measures = calibrate(model, part, labels[rows], temperature=recipe.calibrate)
            agreements[group] = converted(measures["held_out"], group, Agreement)
    scores = [
        GroupScore(group, agreement.cells, agreement.accuracy, agreement.macro_f1)
        for group, agreement in sorted(agreements.items())
    ]
    return CrossValidation.summarise(options.batch_key or "", scores, pooled(list(agreements.values())))


def _reference(
    cells: TrainingCells,
    fitted: FittedModel,
    thresholds: Thresholds,
    metrics: dict[str, Any],
    provenance: dict[str, Any],
    name: str,
) -> Reference:
    """Return the trained reference with all its files."""
    embedding, labelled = cells.embedding or fitted.engine.embedding, cells.labelled
    imputer = embedding.imputer if isinstance(embedding, PCAProjection) else None
    tensors = {CLASSIFIER + name: array for name, array in fitted.engine.weights().items()}
    tensors |= {EMBEDDER + name: array for name, array in embedding.tensors().items()}
    counts = counted(cells.labels)
    parts = Reference(
        name=name,
        config=fitted.engine.classifier.config,
        embedder=embedding.settings(),
        genes=embedding.stored_genes,
        more_genes=imputer.genes if imputer else None,
        tensors=tensors,
        labels=LabelMap(fitted.names, tuple(labelled.ontology_ids[name] for name in fitted.names)),
        thresholds=thresholds,
        familiarity=fitted.geometry,
        metrics={
            "cells": len(cells.labels),
            "cells_per_label": {name: counts[name] for name in fitted.names},
            **metrics,
        },
        provenance=provenance | {"cells_without_label": labelled.unlabelled, "labels_left_out": labelled.dropped},
    )
    return build_reference(parts)
