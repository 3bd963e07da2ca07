"""Label cells by ``options["classifier"]`` on the embedding of a pretrained scGPT, ``options["scgpt"]``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anndata import AnnData

from spikgpt.types import Floats
from spikgpt_benchmark.methods.embeddings.classifiers import CLASSIFIERS
from spikgpt_benchmark.methods.preprocess import labels_of, result_from_probabilities
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

IMPORTS, VERSIONS = ("torch", "spikgpt.engines.scgpt.source", "spikgpt.engines.torch"), ("torch",)


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Embed a reference with scGPT and train a classifier on the vectors."""
    import torch

    from spikgpt.engines.scgpt.embedding import RunSettings
    from spikgpt.engines.scgpt.source import open_scgpt
    from spikgpt.engines.torch import embed_query

    torch.set_num_threads(settings.threads)
    source = open_scgpt(settings.options["scgpt"])

    def embed(cells: AnnData) -> Floats:
        # Embeddings are not cached, so that each run is timed in full.
        return embed_query(source, cells, RunSettings())[0]

    labels = labels_of(reference, settings.label_key)
    classify = CLASSIFIERS[settings.options["classifier"]](embed(reference), labels, settings.seed)

    def predict(query: AnnData) -> MethodResult:
        result = result_from_probabilities(classify(embed(query)), np.unique(labels))
        return replace(result, versions={"scGPT checkpoint": source.checkpoint.sha256[:12]})

    return predict
