"""SpikGPT itself, by the recipe ``options["recipe"]``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.engines.opening import torch_engine
from spikgpt.options import AnnotateOptions, TrainOptions, options_of
from spikgpt.pipeline import annotate
from spikgpt.training.train import train
from spikgpt.version import __version__

# The paper labels each cell alone, in the reference's scale, and calls it Unknown below a fixed confidence.
PAPER: dict[str, Any] = {"scaling": "reference", "neighbours": False, "threshold": 0.95}


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Train a reference and annotate the query."""
    # Torch's optimisers import it on first use, for seconds; no method's imports count.
    import torch._dynamo  # noqa: F401

    recipe = settings.options["recipe"]
    chosen = {"recipe": recipe, "seed": settings.seed, "batch_key": settings.batch_key}
    start = time.perf_counter()
    trained = train(reference, settings.label_key, options=options_of(TrainOptions, chosen))
    learned = time.perf_counter()
    options = options_of(AnnotateOptions, PAPER if recipe == "paper" else {})
    annotation = annotate(trained, torch_engine(trained), query, options)
    done = time.perf_counter()
    names = np.array(trained.labels.names)
    # The score that decides which cells are Unknown; empty cells have none, and are Unknown.
    ood = annotation.ood_score
    confidence = annotation.confidence if ood is None else -np.nan_to_num(ood, nan=np.inf)
    return Answer(
        labels=names[annotation.best],
        assigned=~annotation.rejected,
        confidence=confidence,
        probabilities=annotation.probabilities,
        classes=names,
        train_seconds=learned - start,
        predict_seconds=done - learned,
        versions={"spikgpt": __version__},
    )
