"""From labelled cells to a reference, in four steps: prepare, fit, calibrate, refit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from anndata import AnnData

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.cell_cache import CellCache
from spikgpt.cells.content.values import SAMPLE_CELLS
from spikgpt.cells.expression import find_expression
from spikgpt.cells.obs import check_trainable, counted, labels_of
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import PREFIX, ObsmEmbedding, vector_cells, vectors_of
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.query_model import QueryModel
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.engines.torch import TorchEngine, scgpt_embedding, scgpt_vectors
from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, Reference, reference_of
from spikgpt.sampling import stratified
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.ood_scorer import LabelGeometry
from spikgpt.scoring.rejection import CellScores
from spikgpt.scoring.thresholds import PAPER_THRESHOLD, Calibration, Thresholds, fit_temperature, tempered
from spikgpt.training.evaluation import ontology_ids
from spikgpt.training.fit import Progress, fit
from spikgpt.training.metrics import measure, reliability
from spikgpt.training.pca import augmented, fit_pca, more_genes
from spikgpt.training.recipes import Recipe, network_config, recipe_named
from spikgpt.training.split import batches_of, check_names, hold_out, training_notes
from spikgpt.types import UNKNOWN, Floats, InputReport, Integers, OnCells, Strings

# Cells whose genes are all read at a time, where only some genes of them are kept.
PART = 50_000
# Called with the stage of the training and its progress after each epoch.
OnEpoch = Callable[[str, Progress], None]


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

    A part of the cells is held out, whole donors or batches if ``batch_key`` names their column, else 30% of each
    label. What the reference states about itself, and its thresholds, are measured on that part. The default recipe
    then trains again on all cells.

    Parameters
    ----------
    label_key
        Column of ``obs`` with the cell types. Cells without a label, and types of fewer than 5 cells, are left out.
    embedder
        ``pca``, ``obsm:KEY`` for an embedding that the AnnData brings, or what
        :func:`spikgpt.engines.scgpt.source.open_scgpt` returns.
    on_cells
        Called with the number of cells embedded since the last call, by scGPT.
    on_epoch
        Called with the stage and its progress after each epoch.
    on_note
        Called before the work with each sentence on values, on what is left out, and on labels not measured.

    Raises
    ------
    DataError
        When the cells cannot be read or the labels cannot be learned from.
    ConfigError
        When an option is out of range, or there is no such embedder.
    CheckpointError
        When ``checkpoints`` holds the state of another training.
    """
    options = options or TrainOptions()
    recipe = recipe_named(options.recipe)
    cells = prepare(adata, label_key, embedder, options, on_cells)
    train_rows, held_rows = hold_out(cells.labels, cells.groups, seed=options.seed)
    if on_note:
        for note in _notes(cells, train_rows, held_rows, options.layer, refit=recipe.refit):
            on_note(note)
    measured = fit_part(cells, train_rows, "held-out", recipe, options, on_epoch)
    known_rows = held_rows[np.isin(cells.labels[held_rows], measured.names)]
    thresholds, metrics = calibrate(cells, measured, known_rows, layer=options.layer, temperature=recipe.calibrate)
    metrics["held_out_by"] = _held_out_by(options.batch_key, cells.groups, held_rows)
    final = measured
    if recipe.refit:
        final = fit_part(cells, np.arange(len(cells.labels)), "all-cells", recipe, options, on_epoch)
    if isinstance(projection := final.engine.embedding, PCAProjection) and cells.stored is None:
        sample = stratified(cells.labels)
        others = more_genes(projection, cells.adata[sample], cells.labels[sample], layer=options.layer)
        final = replace(final, engine=replace(final.engine, embedding=replace(projection, more=others)))
    told = {"label_key": label_key, "batch_key": options.batch_key, "recipe": recipe.to_dict(), "seed": options.seed}
    return _reference(cells, final, thresholds, metrics, {**(options.provenance or {}), **told}, options.name)


def _notes(
    cells: TrainingCells, train_rows: Integers, held_rows: Integers, layer: str | None, *, refit: bool
) -> Iterator[str]:
    """Yield whole sentences on expression values, features and cells that are left out, and labels not measured."""
    if not isinstance(cells.stored, ObsmEmbedding):
        n_cells = len(cells.labels)
        rows = np.unique(np.linspace(0, n_cells - 1, min(n_cells, SAMPLE_CELLS)).astype(np.int64))
        yield from find_expression(cells.adata[rows], layer=layer).notes
    left_out: dict[str, Any] = {"dropped": cells.dropped, "unlabelled": cells.unlabelled, "refit": refit}
    yield from training_notes(cells.labels, train_rows, held_rows, **left_out)


@dataclass(frozen=True)
class TrainingCells:
    """n labelled cells that can be learned from.

    ``groups`` are their donors or batches; ``ontology_ids`` the Cell Ontology id of each label. For an embedding that
    needs no fitting, ``vectors`` holds the cells embedded, and ``stored`` is what the reference keeps of it.
    """

    adata: AnnData
    labels: Strings
    groups: Strings | None
    ontology_ids: dict[str, str | None]
    dropped: dict[str, int]
    unlabelled: int
    vectors: AlignedCells | None = None
    stored: Embedding | None = None

    def read(self, embedding: Embedding, rows: Integers, layer: str | None) -> AlignedCells:
        """Return some of the cells as an embedding reads them."""
        if self.vectors is not None:
            return self.vectors.part(rows)
        parts = [self.adata[part] for part in np.split(rows, range(PART, len(rows), PART))]
        chunks = [chunk for part in parts for chunk in embedding.read(part, layer=layer, scaling="auto").chunks]
        # Parts of several studies may hold counts and values that are none.
        kinds = {chunk.kind for chunk in chunks}
        return replace(joined(chunks), kind=chunks[0].kind if len(kinds) == 1 else "linear")


@dataclass(frozen=True)
class FittedPart:
    """What was learned from a part of the cells: ``names`` are its labels, by index."""

    engine: TorchEngine
    familiarity: LabelGeometry
    names: tuple[str, ...]


def prepare(
    adata: AnnData, label_key: str, embedder: str | ScGPTSource, options: TrainOptions, on_cells: OnCells | None = None
) -> TrainingCells:
    """Choose the cells that can be learned from; an embedding that needs no fitting embeds them, once.

    Raises
    ------
    LabelsError
        When the labels cannot be learned from, or a cell has no donor or batch.
    ConfigError
        When there is no such embedder.
    """
    labels, labelled = labels_of(adata, label_key)
    dropped = check_trainable(labels[labelled])
    used = labelled & ~np.isin(labels, list(dropped))
    cells, labels = adata[used], labels[used]
    groups = batches_of(cells, label_key, options.batch_key)
    ids = dict.fromkeys(np.unique(labels).tolist()) | ontology_ids(cells, labels)
    # Refuses names that no label can have, before the work.
    check_names(LabelMap(tuple(ids), tuple(ids.values())))
    prepared = TrainingCells(cells, labels, groups, ids, dropped, int((~labelled).sum()))
    if embedder == PCA:
        return prepared
    if isinstance(embedder, str):
        key = embedder.removeprefix(PREFIX)
        if not key or key == embedder:
            msg = f"There is no embedder {embedder!r}; choose pca, scgpt, or obsm:KEY for an embedding in the AnnData."
            raise ConfigError(msg)
        stored: Embedding = ObsmEmbedding.fit(cells, key)
        vectors = joined(list(stored.read(cells, layer=options.layer, scaling="auto").chunks))
        return replace(prepared, vectors=vectors, stored=stored)
    stored = scgpt_embedding(embedder)
    read = joined(list(stored.read(cells, layer=options.layer, scaling="auto").chunks))
    found = scgpt_vectors(embedder, read, on_cells=on_cells)
    return replace(prepared, vectors=vector_cells(found, read.empty), stored=stored)


def fit_part(
    cells: TrainingCells,
    rows: Integers,
    stage: str,
    recipe: Recipe,
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
) -> FittedPart:
    """Fit embedding, classifier and familiarity to some of the cells.

    Parameters
    ----------
    stage
        Name of the step, for ``on_epoch`` and for the checkpoint.
    """
    labels = cells.labels[rows]
    names, index = np.unique(labels, return_inverse=True)
    embedding: Embedding
    if cells.vectors is not None:
        embedding = ObsmEmbedding("vectors", cells.vectors.values.shape[1])
        vectors = [vectors_of(cells.vectors.part(rows))]
    else:
        sample = stratified(labels)
        embedding = fit_pca(cells.adata[rows[sample]], labels[sample], layer=options.layer, seed=options.seed)
        read = cells.read(embedding, rows, options.layer)
        vectors = [embedding.project(read.values, read.totals)]
        for copy in range(recipe.augmented_copies):
            vectors += augmented(embedding, read, seed=options.seed + copy)
    classifier = fit(
        network_config(recipe, embedding.dim, len(names)),
        recipe,
        np.concatenate(vectors),
        np.tile(index, len(vectors)),
        seed=options.seed,
        device=options.device,
        checkpoint=options.checkpoints / f"{stage}.safetensors" if options.checkpoints else None,
        on_epoch=(lambda progress: on_epoch(stage, progress)) if on_epoch else None,
    )
    engine = TorchEngine(embedding, classifier)
    return FittedPart(engine, LabelGeometry.fit(vectors[0], index), tuple(names.tolist()))


def calibrate(
    cells: TrainingCells, fitted: FittedPart, held_rows: Integers, *, layer: str | None = None, temperature: bool = True
) -> tuple[Thresholds, dict[str, Any]]:
    """Measure what was fitted on cells that it has not seen.

    Parameters
    ----------
    held_rows
        Those cells; of each, the label is known to what was fitted.
    temperature
        Whether to calibrate the probabilities too.

    Returns
    -------
    When a cell is Unknown, and what ``metrics.json`` keeps: ``held_out``, ``reliability``, ``paper_threshold_rejects``.
    """
    held = cells.read(fitted.engine.embedding, held_rows, layer)
    filled = ~held.empty
    names = np.array(fitted.names)
    truth = np.searchsorted(names, cells.labels[held_rows])[filled]

    def calibration(found: CellScores) -> Calibration:
        fitted_temperature = fit_temperature(found.probabilities, truth) if temperature else 1.0
        assert found.familiarity is not None  # what was fitted has one
        return Calibration.of(found.familiarity, names[found.probabilities.argmax(axis=1)], fitted_temperature)

    _, alone = score_all(fitted.engine, fitted.familiarity, held, neighbours=False)
    single = calibration(alone)
    confidence = tempered(alone.probabilities, single.temperature).max(axis=1)
    # Neighbours lend each other calibrated probabilities.
    calibrated = replace(fitted.engine, temperature=single.temperature)
    model, together = score_all(calibrated, fitted.familiarity, held, neighbours=True)
    smoothed = calibration(together)
    thresholds = Thresholds.of(confidence, single=single, smoothed=smoothed)
    final = tempered(together.probabilities, smoothed.temperature if model.smoothed else 1.0)
    best = np.full(len(held_rows), UNKNOWN, dtype=object)
    best[filled] = names[final.argmax(axis=1)]
    return thresholds, {
        "held_out": measure(cells.labels[held_rows], best.astype(str)).to_dict(),
        "reliability": held_out_reliability(together.probabilities, truth, temperature=temperature),
        "paper_threshold_rejects": float((final.max(axis=1).astype(np.float32) < PAPER_THRESHOLD).mean()),
    }


def score_all(
    engine: TorchEngine,
    familiarity: LabelGeometry,
    cells: AlignedCells,
    *,
    neighbours: bool,
    batches: Integers | None = None,
    batch_key: str | None = None,
) -> tuple[QueryModel, CellScores]:
    """Return what the pipeline says of the cells that are not empty: their scores, and the model behind these.

    Parameters
    ----------
    batches
        Index of the batch of each cell, shape (n,); by default all are of one batch.
    batch_key
        With "auto", batches are inferred from the cells if all are of one batch.
    """
    filled, options = cells.part(~cells.empty), AnnotateOptions(neighbours=neighbours, batch_key=batch_key)
    batches = np.zeros(len(cells.totals), dtype=np.int64) if batches is None else batches
    batches = batches[~cells.empty]
    report = InputReport("training cells", cells.kind, "auto", 0, 0)
    with CellCache() as spool:
        spool.add(filled)
        sample, rows = spool.sample()
    of_sample = batches[rows]
    model = QueryModel.fit(engine, familiarity, sample, rows, batches=of_sample, report=report, options=options)
    return model, model.score(engine, filled, np.arange(len(filled.totals)), batches=batches)


def held_out_reliability(probabilities: Floats, truth: Integers, *, temperature: bool) -> dict[str, Any]:
    """Return how well probabilities agree with how often labels are right, on cells that set no temperature.

    One half of the held-out cells sets the temperature for the other.

    Parameters
    ----------
    probabilities
        Of held-out cells seen with their neighbours, shape (n, L), before their temperature.
    truth
        Index of each cell's label, shape (n,).
    """
    confidence, right = np.empty(len(truth)), probabilities.argmax(axis=1) == truth
    halves = np.arange(len(truth)) % 2 == 0
    for half in (halves, ~halves):
        fitted = fit_temperature(probabilities[~half], truth[~half]) if temperature and (~half).any() else 1.0
        confidence[half] = tempered(probabilities[half], fitted).max(axis=1)
    return reliability(confidence, right)


def _reference(
    cells: TrainingCells,
    fitted: FittedPart,
    thresholds: Thresholds,
    metrics: dict[str, Any],
    provenance: dict[str, Any],
    name: str,
) -> Reference:
    """Return the reference that was trained, with all its files."""
    embedding = cells.stored or fitted.engine.embedding
    known = embedding.more if isinstance(embedding, PCAProjection) else None
    tensors = {CLASSIFIER + name: array for name, array in fitted.engine.weights().items()}
    tensors |= {EMBEDDER + name: array for name, array in embedding.tensors().items()}
    occurring = counted(cells.labels)
    counts = {name: occurring.get(name, 0) for name in fitted.names}
    left_out = {"cells_without_label": cells.unlabelled, "labels_left_out": cells.dropped}
    first = ("held_out_by", "held_out", "reliability", "paper_threshold_rejects")
    parts = Reference(
        name=name,
        config=fitted.engine.classifier.config,
        embedder=embedding.settings(),
        genes=embedding.stored_genes,
        more_genes=known.genes if known else None,
        tensors=tensors,
        labels=LabelMap(fitted.names, tuple(cells.ontology_ids[name] for name in fitted.names)),
        thresholds=thresholds,
        familiarity=fitted.familiarity,
        metrics={"cells": len(cells.labels), "cells_per_label": counts, **{key: metrics[key] for key in first}},
        provenance=provenance | left_out,
    )
    return reference_of(parts)


def _held_out_by(batch_key: str | None, groups: Strings | None, held: Integers) -> str:
    """Say in words which cells were held out."""
    if groups is None:
        return "30% of the cells of each label"
    return f"{batch_key} {', '.join(np.unique(groups[held]).tolist())}"
