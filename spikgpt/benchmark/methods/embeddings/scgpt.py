"""The embedding of a pretrained scGPT, of the checkpoint ``options["scgpt"]``, with ``options["classifier"]``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.embeddings.classifiers import CLASSIFIERS
from spikgpt.benchmark.methods.preparing import Clock, labels_of, likeliest, versions_of
from spikgpt.types import Floats


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by a classifier on the embedding of scGPT."""
    import torch

    from spikgpt.engines.scgpt.embedding import Running
    from spikgpt.engines.scgpt.source import open_scgpt
    from spikgpt.engines.torch import embed_query

    torch.set_num_threads(settings.threads)
    source = open_scgpt(settings.options["scgpt"])

    def embedded(cells: AnnData) -> Floats:
        # Nothing is kept, so that each run takes the time that it takes.
        return embed_query(source, cells, Running())[0]

    clock = Clock()
    labels = labels_of(reference, settings.label_key)
    classify = CLASSIFIERS[settings.options["classifier"]](embedded(reference), labels, settings.seed)
    train_seconds = clock.lap()
    classes, probabilities = np.unique(labels), classify(embedded(query))
    return replace(
        likeliest(probabilities, classes),
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions={**versions_of("torch"), "scGPT checkpoint": source.checkpoint.sha256[:12]},
    )
