"""Simulated annotated cells for the tests of plots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

# Names with markup and control characters.
HOSTILE = (
    "$x_{$",
    "$\\frac{1}{2}$",
    "<b>bold</b>",
    "_hidden",
    "a\nb\x1b[2J",
    "\u202eright to left",
    "\u05e9\u05dc\u05d5\u05dd",
    200 * "x",
    "long name " * 20,
    "",
    "%s {0} & # ~ ^",
)


def annotated(names: Sequence[str], cells: int = 600) -> AnnData:
    """Return cells with labels, a map, confidence, typicality and OOD score, and donors; 5% are Unknown."""
    random = np.random.default_rng(len(names))
    codes = np.arange(cells) % len(names)
    labels = np.array(names, dtype=object)[codes]
    rejected = random.random(cells) < 0.05
    labels[rejected] = "Unknown"
    obs = pd.DataFrame(
        {
            "spikgpt_label": pd.Categorical(labels),
            "spikgpt_confidence": random.uniform(0.2, 1, cells).astype(np.float32),
            "spikgpt_typicality": random.uniform(0, 1, cells).astype(np.float32),
            "spikgpt_ood_score": np.where(rejected, 1, -1) * random.uniform(0.1, 3, cells),
            "donor": np.array(["d10", "d9", "d1"])[np.arange(cells) % 3],
            "depth": random.integers(500, 9000, cells),
        },
        index=[f"cell {row}" for row in range(cells)],
    )
    adata = AnnData(np.zeros((cells, 1), dtype=np.float32), obs=obs)
    centres = random.standard_normal((len(names), 2)) * 4
    adata.obsm["X_umap"] = centres[codes] + 0.3 * random.standard_normal((cells, 2))
    adata.uns["spikgpt"] = {"labels": np.array(names, dtype=object), "batch_key": "donor", "threshold": np.nan}
    return adata
