"""Where the labels of a query lie among its own cells.

Once the cells of a query have labels, each label has a place among them, and its cells deviate around it in much the
same way. A cell that the classifier is torn about is likelier of the label among whose cells it lies. That is what a
linear discriminant analysis says, learned from the query with the labels that its cells were given; as it repeats their
errors, it has a small say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.scoring.ood_scorer import squared_distances, whitening_of
from spikgpt.types import Floats

# Share of a discriminant, a difference in log probability, that counts.
SAY = 0.05
# Share of the deviation within labels that is taken to be the same in all directions.
SHRINKAGE = 0.1
# Cells that a label needs, in sum of their probabilities, for its place to count.
FEWEST_CELLS = 1.0


@dataclass(frozen=True)
class QueryLDA:
    """Where labels lie among a query's cells.

    Attributes
    ----------
    means
        Of each label, in the space of the query's cells, shape (L, D).
    whitening
        Maps differences to where all deviate alike within labels, shape (D, D).
    cells
        How many cells each label has, by their probabilities, shape (L,).
    """

    means: npt.NDArray[np.float64]
    whitening: npt.NDArray[np.float64]
    cells: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, points: Floats, probabilities: Floats) -> Self:
        """Learn from where a query's cells lie, shape (k, D), and the probabilities of their labels, shape (k, L)."""
        cells, places = probabilities.sum(axis=0, dtype=np.float64), points.astype(np.float64)
        means = probabilities.T @ places / np.maximum(cells, 1e-12)[:, None]  # (L, D)
        about = (places * probabilities.sum(axis=1)[:, None]).T @ places  # (D, D)
        within = (about - (means * cells[:, None]).T @ means) / max(cells.sum(), 1e-12)
        variance = max(within.trace() / len(within), 1e-12)
        shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * variance * np.eye(len(within))
        return cls(means, whitening_of(shrunk), cells)

    def weigh(self, probabilities: Floats, points: Floats) -> npt.NDArray[np.float64]:
        """Return probabilities, shape (n, L), weighed by where the cells lie, shape (n, D).

        Labels without a place here are weighed like the best of the others.
        """
        placed = self.cells >= FEWEST_CELLS
        if not placed.any():
            return np.asarray(probabilities, dtype=np.float64)
        far = squared_distances(points @ self.whitening, self.means @ self.whitening)  # (n, L)
        far -= far[:, placed].min(axis=1, keepdims=True)
        say = np.where(placed, -SAY / 2 * far, 0)
        # Some label of each cell that has one keeps its probability, however far the cell lies.
        best = np.where(probabilities > 0, say, -np.inf).max(axis=1, keepdims=True)
        weighed = probabilities * np.exp(np.minimum(say - np.where(np.isfinite(best), best, 0), 0))
        whole = weighed.sum(axis=1, keepdims=True)
        before = probabilities.sum(axis=1, keepdims=True)
        return np.asarray(weighed * np.divide(before, whole, out=np.zeros_like(whole), where=whole > 0))
