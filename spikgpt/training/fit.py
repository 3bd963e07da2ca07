"""Fit a model to labelled cells: the embedding, the spiking classifier and the geometry of the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.engines.torch import TorchEngine
from spikgpt.options import TrainOptions
from spikgpt.sampling import stratified
from spikgpt.scoring.ood_scorer import LabelGeometry
from spikgpt.training.cells import TrainingCells
from spikgpt.training.classifier import Progress, fit_classifier
from spikgpt.training.pca import fit_pca
from spikgpt.training.recipes import TrainingRecipe
from spikgpt.training.simulation import simulated_vectors
from spikgpt.types import Integers, Rows

# Function that is called after each epoch with the name of the training step and its progress.
OnEpoch = Callable[[str, Progress], None]


@dataclass(frozen=True)
class FittedModel:
    """Engine and label geometry fitted to some of the labelled cells.

    ``names`` are the labels, by index. ``columns`` are the positions of the embedding's genes among the genes of the
    cells, ascending; None for a model that reads vectors.
    """

    engine: TorchEngine
    geometry: LabelGeometry
    names: tuple[str, ...]
    columns: Rows | None = None


def fit_model(
    cells: TrainingCells,
    rows: Integers,
    stage: str,
    recipe: TrainingRecipe,
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
    *,
    impute: bool = False,
) -> FittedModel:
    """Fit the embedding, the classifier and the label geometry to the cells at the positions ``rows``.

    Parameters
    ----------
    stage
        Name of the training step, for ``on_epoch`` and for the name of the checkpoint file.
    impute
        True if the PCA embedding shall impute genes that a query lacks.
    """
    labels = cells.labels[rows]
    names, index = np.unique(labels, return_inverse=True)
    embedding: Embedding
    columns = None
    if cells.embedding is not None:
        embedding = ObsmEmbedding("vectors", cells.embedding.dim)
        vectors = [cells.values.select(rows).vectors]
    else:
        sample = stratified(labels)
        every = cells.values.select(rows[sample])
        embedding = fit_pca(every, cells.genes, labels[sample], impute=impute, seed=options.seed)
        columns = cells.genes.positions(embedding.genes)
        read = cells.values.select(rows, columns)
        vectors = [embedding.project(read.values, read.totals)]
        # Copies of cells can only be simulated from counts.
        for copy in range(recipe.augmented_copies if read.kind == "counts" else 0):
            vectors.append(simulated_vectors(embedding, read, seed=options.seed + copy))
    classifier = fit_classifier(
        recipe,
        np.concatenate(vectors),
        np.tile(index, len(vectors)),
        len(names),
        seed=options.seed,
        device=options.device,
        checkpoint=options.checkpoints / f"{stage}.safetensors" if options.checkpoints else None,
        on_epoch=(lambda progress: on_epoch(stage, progress)) if on_epoch else None,
    )
    geometry = LabelGeometry.fit(vectors[0], index)
    return FittedModel(TorchEngine(embedding, classifier), geometry, tuple(names.tolist()), columns)
