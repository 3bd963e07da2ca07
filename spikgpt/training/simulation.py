"""Simulate cells as if they came from another sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.pca import CHUNK, PCAProjection

# Depth of another sample as a share of a cell's own depth, and largest share of ambient RNA.
OTHER_DEPTH, LARGEST_AMBIENT = (0.3, 1.0), 0.6


def simulated_vectors(projection: PCAProjection, cells: AlignedCells, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return the vectors of cells as if they came from another sample, shape (n, dim).

    Samples differ in depth and in ambient RNA. A cell keeps a share of its counts, uniform over ``OTHER_DEPTH``. A
    Beta(1, 4) share of the remaining counts is the mean profile of the cells. Counts are drawn from a Poisson
    distribution.

    Parameters
    ----------
    cells
        Raw counts of the genes of the projection.
    """
    random = np.random.default_rng(seed)
    totals = np.maximum(cells.totals, 1.0)
    depths = totals * random.uniform(*OTHER_DEPTH, len(totals))  # (n,)
    ambient = np.minimum(random.beta(1, 4, len(totals)), LARGEST_AMBIENT)  # (n,)
    profile = np.asarray(cells.values.sum(axis=0, dtype=np.float64)).ravel() / totals.sum()  # (G,)
    vectors = np.empty((len(totals), projection.dim))
    for start in range(0, len(vectors), CHUNK):
        part = slice(start, start + CHUNK)
        share = ambient[part, None]
        own = cells.values[part].toarray() / totals[part, None]
        drawn = random.poisson(depths[part, None] * ((1 - share) * own + share * profile))  # (chunk, G)
        vectors[part] = projection.project(drawn.astype(np.float64), depths[part])
    return vectors
