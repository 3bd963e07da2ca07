"""SpikGPT, trained by the recipe ``options["recipe"]``."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from spikgpt.engines.opening import torch_engine
from spikgpt.options import AnnotateOptions, TrainOptions, options_of
from spikgpt.pipeline import annotate
from spikgpt.training.train import train
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

# The first use of an optimiser of torch imports torch._dynamo, which takes seconds.
IMPORTS, VERSIONS = ("torch._dynamo",), ("spikgpt",)
# The paper labels each cell by itself, in the reference's scale; below a fixed confidence a cell is Unknown.
PAPER: dict[str, Any] = {"scaling": "reference", "smoothing": False, "threshold": 0.95}


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Train a reference; the returned function annotates a query."""
    recipe = settings.options["recipe"]
    chosen = {"recipe": recipe, "seed": settings.seed, "batch_key": settings.batch_key}
    trained = train(reference, settings.label_key, options=options_of(TrainOptions, chosen))

    def predict(query: AnnData) -> MethodResult:
        options = options_of(AnnotateOptions, PAPER if recipe == "paper" else {})
        annotation = annotate(trained, torch_engine(trained), query, options)
        names, ood = np.array(trained.labels.names), annotation.ood_score
        return MethodResult(
            labels=names[annotation.best],
            assigned=~annotation.rejected,
            # The score that decides which cells are Unknown; empty cells have no score, and are Unknown.
            confidence=annotation.confidence if ood is None else -np.nan_to_num(ood, nan=np.inf),
            probabilities=annotation.probabilities,
            classes=names,
        )

    return predict
