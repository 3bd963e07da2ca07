"""Linear discriminant analysis (LDA) of a query, fitted with the label probabilities of the query's own cells.

A cell between two labels more likely belongs to the label whose mean is nearer. Distances are Mahalanobis distances
with the covariance within labels. LDA repeats the errors of the labels in its fit, so its weight is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.constants import CONSTANTS
from spikgpt.scoring.ood_scorer import squared_distances, whitening_matrix
from spikgpt.types import Floats

LDA = CONSTANTS.query_lda


@dataclass(frozen=True)
class QueryLDA:
    """Means of the labels of a query, and the covariance within labels.

    Attributes
    ----------
    means
        Mean coordinates of each label, shape (L, D).
    whitening
        Matrix that makes the covariance within labels the identity, shape (D, D).
    cells
        Number of cells of each label, as the sum of the label's probabilities over cells, shape (L,).
    """

    means: npt.NDArray[np.float64]
    whitening: npt.NDArray[np.float64]
    cells: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, points: Floats, probabilities: Floats) -> Self:
        """Fit the LDA to the coordinates, shape (k, D), and label probabilities, shape (k, L), of a sample of cells."""
        cells, points = probabilities.sum(axis=0, dtype=np.float64), points.astype(np.float64)
        means = probabilities.T @ points / np.maximum(cells, 1e-12)[:, None]  # (L, D)
        second_moment = (points * probabilities.sum(axis=1)[:, None]).T @ points  # (D, D)
        within = (second_moment - (means * cells[:, None]).T @ means) / max(cells.sum(), 1e-12)
        variance = max(within.trace() / len(within), 1e-12)
        shrunk = (1 - LDA.shrinkage) * within + LDA.shrinkage * variance * np.eye(len(within))
        return cls(means, whitening_matrix(shrunk), cells)

    def reweight(self, probabilities: Floats, points: Floats) -> npt.NDArray[np.float64]:
        """Return label probabilities, shape (n, L), reweighted by the coordinates of the cells, shape (n, D).

        A label with too few cells gets the weight of the best other label.
        """
        fitted = self.cells >= LDA.least_cells
        if not fitted.any():
            return np.asarray(probabilities, dtype=np.float64)
        distances = squared_distances(points @ self.whitening, self.means @ self.whitening)  # (n, L)
        distances -= distances[:, fitted].min(axis=1, keepdims=True)
        weights = np.where(fitted, -LDA.weight / 2 * distances, 0)  # (n, L), logarithms
        # The best label of a cell keeps its probability, however far the cell lies from all means.
        best = np.where(probabilities > 0, weights, -np.inf).max(axis=1, keepdims=True)
        product = probabilities * np.exp(np.minimum(weights - np.where(np.isfinite(best), best, 0), 0))
        total = product.sum(axis=1, keepdims=True)
        before = probabilities.sum(axis=1, keepdims=True)
        return np.asarray(product * np.divide(before, total, out=np.zeros_like(total), where=total > 0))
