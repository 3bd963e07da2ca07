"""Attribution: the contribution of each gene to the log-odds of a label.

The log-odds of a label are its logit minus the log of the summed exponentials of the other logits. For cells with a
certain label, the probability levels off near 1, and the log-odds do not. Integrated gradients (Sundararajan et al.,
Axiomatic Attribution for Deep Networks, 2017) follow the log-odds from a baseline to the cell. The baselines are the
profiles of other labels in the reference. So the attribution answers why a cell has its label and not another label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.engines.restriction import RestrictedEngine
from spikgpt.explain.front import GeneFront
from spikgpt.explain.network import DifferentiableClassifier
from spikgpt.explain.query import FittedQuery
from spikgpt.reference.files import CLASSIFIER
from spikgpt.types import Floats, Integers

# Number of points on the path from a baseline to a cell.
STEPS = 4
# Largest number of other labels that serve as baselines.
BASELINES = 12
# A factor corrects the sum of the attributions of a cell if it is at most this number, and at least 1 over this number.
LARGEST_FACTOR = 2


@dataclass(frozen=True)
class Attributions:
    """Attributions of U genes to the log-odds of a label in n cells.

    Attributes
    ----------
    values
        Attributions, shape (n, U). The attributions of a cell add up to its log-odds minus ``baseline``, unless the
        surrogate derivatives miss this difference by more than a factor of two.
    log_odds
        Log-odds of the label in each cell, shape (n,).
    baseline
        Mean log-odds of the label in the profiles of the other labels.
    """

    values: npt.NDArray[np.float64]
    log_odds: npt.NDArray[np.float64]
    baseline: float


@dataclass(frozen=True)
class GeneAttributor:
    """Computes the attributions of the U genes that a query shares with a reference of L labels.

    ``allowed`` are the indices of the labels that cells may get.
    """

    front: GeneFront
    network: DifferentiableClassifier
    allowed: Integers

    @classmethod
    def from_query(cls, query: FittedQuery) -> Self:
        """Build the attributor of a query.

        Raises
        ------
        ConfigError
            When the reference reads no genes.
        """
        front, config = GeneFront.from_query(query), query.reference.config
        network = DifferentiableClassifier(config, query.reference.part(CLASSIFIER))
        restricted = isinstance(query.engine, RestrictedEngine)
        allowed = query.engine.allowed if restricted else np.arange(config.n_labels)  # type: ignore[attr-defined]
        return cls(front, network, allowed)

    def logits(self, scaled: Floats) -> npt.NDArray[np.float64]:
        """Return the logits of the allowed labels, shape (n, allowed), from scaled expression, shape (n, U)."""
        return np.asarray(self.network.logits(self.front.vectors(scaled))[:, self.allowed])

    def log_odds(self, scaled: Floats, label: int) -> npt.NDArray[np.float64]:
        """Return the log-odds of a label in cells, shape (n,), from scaled expression, shape (n, U)."""
        return self.log_odds_of(self.network.logits(self.front.vectors(scaled)), label)[0]

    def best(self, scaled: Floats) -> Integers:
        """Return the index of the label with the highest logit in each cell, shape (n,)."""
        return np.asarray(self.allowed[self.logits(scaled).argmax(axis=1)])

    def nearest_labels(self, scaled: Floats, label: int) -> Integers:
        """Return the allowed labels other than ``label``, in descending order of their mean logit in the cells."""
        order = self.allowed[np.argsort(-self.logits(scaled).mean(axis=0), kind="stable")]
        return np.asarray(order[order != label])

    def gradient(self, scaled: Floats, label: int) -> npt.NDArray[np.float64]:
        """Return the gradient of the log-odds of a label with respect to scaled expression, both of shape (n, U)."""
        vectors, pull_front = self.front.forward(scaled)
        logits, pull_network = self.network.forward(vectors)
        return pull_front(pull_network(self.log_odds_of(logits, label)[1]))

    def attribute(
        self, scaled: Floats, label: int, *, baselines: Integers | None = None, steps: int = STEPS
    ) -> Attributions:
        """Return the attributions of genes to the log-odds of a label in cells.

        Parameters
        ----------
        scaled
            Scaled expression of n cells, shape (n, U).
        baselines
            Labels whose profiles serve as baselines; None for the first 12 labels of :meth:`nearest_labels`.
        steps
            Number of points on the path from each baseline to a cell.
        """
        baselines = self.nearest_labels(scaled, label)[:BASELINES] if baselines is None else baselines
        shares = (np.arange(steps) + 0.5)[:, None, None] / steps
        total, log_odds = np.zeros(scaled.shape), self.log_odds(scaled, label)
        for other in baselines:
            difference = scaled - self.front.profiles[other]
            path = (scaled - (1 - shares) * difference).reshape(-1, scaled.shape[1])  # (steps n, U)
            total += difference * self.gradient(path, label).reshape(steps, *scaled.shape).mean(axis=0)
        total /= len(baselines)
        baseline = float(self.log_odds(self.front.profiles[baselines], label).mean())
        return Attributions(_completed(total, log_odds - baseline), log_odds, baseline)

    def log_odds_of(self, logits: Floats, label: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the log-odds of a label, shape (n,), from logits, shape (n, L), and their gradient, shape (n, L)."""
        other_labels = self.allowed[self.allowed != label]
        of_others = logits[:, other_labels]
        largest = of_others.max(axis=1, keepdims=True)
        weights = np.exp(of_others - largest)
        total = weights.sum(axis=1, keepdims=True)
        gradient = np.zeros(logits.shape)
        gradient[:, label] = 1
        gradient[:, other_labels] = -weights / total
        return logits[:, label] - (largest + np.log(total))[:, 0], gradient


def _completed(attributions: Floats, differences: Floats) -> npt.NDArray[np.float64]:
    """Multiply the attributions of each cell, shape (n, U), so that they add up to its difference, shape (n,).

    The attributions of a cell do not change if the factor would be below 1/2 or above 2.
    """
    sums = attributions.sum(axis=1)
    factors = np.divide(differences, sums, out=np.ones(len(sums)), where=np.abs(sums) > 1e-9)
    usable = (factors >= 1 / LARGEST_FACTOR) & (factors <= LARGEST_FACTOR)
    return np.asarray(attributions * np.where(usable, factors, 1)[:, None])
