"""SpikGPT itself, by the recipe ``options["recipe"]``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from anndata import AnnData

from spikgpt.api import SpikGPT
from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.options import AnnotateOptions, options_of
from spikgpt.pipeline import annotate
from spikgpt.version import __version__

# The paper labels each cell alone, in the reference's scale, and calls it Unknown below a fixed confidence.
PAPER: dict[str, Any] = {"scaling": "reference", "neighbours": False, "threshold": 0.95}


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Train a reference and annotate the query."""
    recipe: Any = settings.options.get("recipe", "default")
    start = time.perf_counter()
    model = SpikGPT.train(
        reference, settings.label_key, recipe=recipe, seed=settings.seed, batch_key=settings.batch_key
    )
    trained = time.perf_counter()
    options = options_of(AnnotateOptions, PAPER if recipe == "paper" else {})
    annotation = annotate(model.reference, model.engine, query, options)
    done = time.perf_counter()
    names = np.array(model.reference.labels.names)
    certainty = annotation.familiarity if annotation.cutoffs.threshold is None else None
    return Answer(
        labels=names[annotation.best],
        assigned=~annotation.rejected,
        confidence=annotation.confidence if certainty is None else certainty,
        probabilities=annotation.probabilities,
        classes=names,
        train_seconds=trained - start,
        predict_seconds=done - trained,
        versions={"spikgpt": __version__},
    )
