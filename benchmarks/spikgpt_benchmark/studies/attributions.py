"""Rankings of genes that explain a label, and the deletion and insertion curves that test them.

Each ranking gives a score to each gene in each cell of a label, with the highest score for the gene that supports the
label most. Deletion removes genes in this order, and insertion starts without genes and adds them in this order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from spikgpt.explain.attribution import GeneAttributor
from spikgpt.explain.front import SHORTEST
from spikgpt.types import Floats, Integers

# Shares of all genes at which a curve is measured.
SHARES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1)
# Number of random orders of genes in the sampling of Shapley values.
ORDERS = 3


@dataclass(frozen=True)
class LabelCells:
    """Cells of one label that the network labels correctly.

    Attributes
    ----------
    logs
        Log expression of n cells and U genes, shape (n, U).
    means
        Mean log expression of the labels in the reference, shape (L, U).
    """

    attributor: GeneAttributor
    label: int
    logs: Floats
    means: Floats

    @property
    def scaled(self) -> npt.NDArray[np.float64]:
        """Scaled expression, shape (n, U)."""
        return self.attributor.front.scaled(self.logs)

    @property
    def other_labels(self) -> Integers:
        """Indices of the other labels."""
        return np.asarray(self.attributor.allowed[self.attributor.allowed != self.label])

    @property
    def silent(self) -> npt.NDArray[np.float64]:
        """Scaled expression of a cell that expresses nothing, shape (U,)."""
        return np.asarray(self.attributor.front.scaled(np.zeros((1, self.logs.shape[1])))[0])

    def probabilities(self, scaled: Floats) -> npt.NDArray[np.float64]:
        """Return the network's probability of the label, shape (n,), from scaled expression, shape (n, U)."""
        return np.asarray(expit(self.attributor.log_odds(scaled, self.label)))

    def log_odds_at(self, rows: Floats) -> npt.NDArray[np.float64]:
        """Return the log-odds of the label, shape (n,), from scores on the principal components, shape (n, D)."""
        vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST)
        return self.attributor.log_odds_of(self.attributor.network.logits(vectors), self.label)[0]


Ranking = Callable[[LabelCells], Floats]


def attribution(cells: LabelCells) -> Floats:
    """Return the attribution of each gene in each cell by :class:`GeneAttributor`, shape (n, U)."""
    return cells.attributor.attribute(cells.scaled, cells.label).values


def mean_attribution(cells: LabelCells) -> Floats:
    """Return the mean attribution of the label for each of its cells: one ranking for all cells."""
    return np.broadcast_to(attribution(cells).mean(axis=0), cells.logs.shape)


def shuffled_weights(cells: LabelCells) -> Floats:
    """Return the attributions of a network with shuffled weights."""
    return attribution(replace(cells, attributor=with_shuffled_weights(cells.attributor)))


def with_shuffled_weights(attributor: GeneAttributor, seed: int = 0) -> GeneAttributor:
    """Return an attributor whose network has the weights of each layer in random order."""
    random, network = np.random.default_rng(seed), copy.copy(attributor.network)
    network.layers = {
        name: (random.permuted(weight.ravel()).reshape(weight.shape), random.permuted(bias))
        for name, (weight, bias) in attributor.network.layers.items()
    }
    return replace(attributor, network=network)


def one_baseline(cells: LabelCells) -> Floats:
    """Return integrated gradients with one baseline: the profile of the second most probable label."""
    runner_up = cells.attributor.nearest_labels(cells.scaled, cells.label)[:1]
    return cells.attributor.attribute(cells.scaled, cells.label, baselines=runner_up, steps=16).values


def from_silence(cells: LabelCells) -> Floats:
    """Return integrated gradients with a cell that expresses nothing as the baseline."""
    scaled, total, steps = cells.scaled, np.zeros(cells.logs.shape), 16
    difference = scaled - cells.silent
    for step in range(steps):
        total += cells.attributor.gradient(scaled - (1 - (step + 0.5) / steps) * difference, cells.label)
    return difference * total / steps


def gradient_times_input(cells: LabelCells) -> Floats:
    """Return the gradient of the log-odds, multiplied by scaled expression."""
    return cells.scaled * cells.attributor.gradient(cells.scaled, cells.label)


def occlusion(cells: LabelCells) -> Floats:
    """Return the exact loss of log-odds when one gene alone is set to the mean of the reference."""
    components, lost = cells.attributor.front.components, np.empty(cells.logs.shape)
    for cell, values in enumerate(cells.scaled):
        whole = values @ components
        lost[cell] = cells.log_odds_at(whole[None])[0] - cells.log_odds_at(whole - values[:, None] * components)
    return lost


def shapley_sampling(cells: LabelCells) -> Floats:
    """Return Shapley values by sampling: the exact gain of log-odds as genes are added in random order.

    The genes of a cell are added to the mean profile of the other labels. The values of a cell add up to its log-odds
    minus the log-odds of this profile.
    """
    front, random = cells.attributor.front, np.random.default_rng(0)
    base, gains = front.profiles[cells.other_labels].mean(axis=0), np.zeros(cells.logs.shape)
    for _ in range(ORDERS):
        order = random.permutation(len(base))
        for cell, values in enumerate(cells.scaled):
            steps = np.cumsum((values - base)[order, None] * front.components[order], axis=0)
            path = base @ front.components + np.concatenate([np.zeros((1, steps.shape[1])), steps])
            gains[cell, order] += np.diff(cells.log_odds_at(path))
    return gains / ORDERS


def random_order(cells: LabelCells) -> Floats:
    """Return a random score for each gene in each cell."""
    return np.random.default_rng(0).random(cells.logs.shape)


def expression(cells: LabelCells) -> Floats:
    """Return the log expression of each gene in each cell."""
    return cells.logs


def fold_change(cells: LabelCells) -> Floats:
    """Return the log fold change of the label against the other labels in the reference."""
    contrast = cells.means[cells.label] - cells.means[cells.other_labels].mean(axis=0)
    return np.broadcast_to(contrast, cells.logs.shape)


def absolute_fold_change(cells: LabelCells) -> Floats:
    """Return the absolute log fold change of the label against the other labels."""
    return np.abs(fold_change(cells))


def fold_change_to_runner_up(cells: LabelCells) -> Floats:
    """Return the log fold change of the label against the second most probable label in the reference."""
    runner_up = cells.attributor.nearest_labels(cells.scaled, cells.label)[0]
    return np.broadcast_to(cells.means[cells.label] - cells.means[runner_up], cells.logs.shape)


# The attributions, the rankings that they are compared with, and variants of the attributions.
RANKINGS: dict[str, Ranking] = {
    "attribution": attribution,
    "attribution, mean of the label": mean_attribution,
    "random": random_order,
    "expression": expression,
    "logFC to the others": fold_change,
    "absolute logFC to the others": absolute_fold_change,
    "logFC to the runner-up": fold_change_to_runner_up,
    "shuffled weights": shuffled_weights,
}
VARIANTS: dict[str, Ranking] = {
    "variant: runner-up as only baseline": one_baseline,
    "variant: no expression as baseline": from_silence,
    "variant: gradient x input": gradient_times_input,
    "variant: exact occlusion": occlusion,
    "variant: Shapley sampling": shapley_sampling,
}


def curve_areas(cells: LabelCells, scores: Floats, base: Floats) -> tuple[Floats, Floats]:
    """Return the areas under the deletion and insertion curves of cells, each of shape (n,).

    A curve shows the probability of the label against the share of genes that are deleted or inserted.

    Parameters
    ----------
    scores
        Score of each gene in each cell, shape (n, U); genes of equal score are in random order.
    base
        Scaled expression of a deleted gene, shape (U,).
    """
    size = scores.shape[1]
    counts = np.unique(np.round(np.array(SHARES) * size).astype(int))
    noise = np.random.default_rng(1).random(scores.shape)
    ranks = np.empty(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, np.lexsort((noise, -scores), axis=1), np.arange(size)[None], axis=1)
    scaled, deleted, inserted = cells.scaled, [], []
    for count in counts:
        first = ranks < count
        deleted.append(cells.probabilities(np.where(first, base, scaled)))
        inserted.append(cells.probabilities(np.where(first, scaled, base)))
    shares = counts / size
    deletion, insertion = (np.asarray(np.trapezoid(curve, shares, axis=0)) for curve in (deleted, inserted))
    return deletion, insertion


def ranked_areas(cells: LabelCells, *, variants: bool) -> Iterator[tuple[str, str, Floats, Floats]]:
    """Yield the ranking, the value of deleted genes, and the areas under both curves, each of shape (n,)."""
    bases = {"mean of the reference": np.zeros(cells.logs.shape[1]), "no expression": cells.silent}
    for name, ranking in (RANKINGS | (VARIANTS if variants else {})).items():
        scores = ranking(cells)
        for kind, base in bases.items():
            yield name, kind, *curve_areas(cells, scores, base)
