"""Cell agreement: how well the labels of a query explain the differences in expression between its cells.

The labels of a suitable reference explain most of these differences. If a reference has one label for many types, the
differences between these types stay unexplained. If a reference is of another tissue, the profiles of its labels differ
in other genes than the cells. docs/concepts/formulas.md defines the measures.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from scipy import sparse

from spikgpt.constants import CONSTANTS
from spikgpt.sampling import content_keys, sample_of
from spikgpt.scoring.ood_scorer import OODScorer
from spikgpt.types import Bools, Floats, Integers, Rows

LIMITS = CONSTANTS.compatibility
# Number of cells whose dense expression is in memory at a time.
CHUNK = 256


class CellAgreement(NamedTuple):
    """Agreement of the cells of a query with the expression of their labels in the reference.

    Attributes
    ----------
    correlation
        Correlation of the expression of cells with the profiles of their labels, both as differences from the mean of
        the batch. 0 if all cells of each batch have one label.
    unexplained
        Variance of the cells that the labels do not explain, as a share of the variance of the reference.
    """

    correlation: float
    unexplained: float

    @classmethod
    def fit(cls, scorer: OODScorer, best: Integers, neighbours: Rows) -> Self | None:
        """Compare a sample of cells, each averaged with its neighbours, with the profiles of their labels.

        With three labels or more, the label that agrees least is left out: its cells may be of a missing type.

        Parameters
        ----------
        scorer
            Scorer of the query, with the expression of its sample of k cells and the profiles of the labels.
        best, neighbours
            Index of the most probable label, shape (k,), and positions of the neighbours of each cell, shape (k, 14).

        Returns
        -------
        The agreement; None if there is no expression, or if no neighbours were searched.
        """
        profiles, logs = scorer.profiles, scorer.logs
        if logs is None or profiles is None or not neighbours.shape[1]:
            return None
        between, within = profiles.means.var(axis=0), profiles.within**2  # each (G,)
        weights = between / profiles.spread**2
        scale = np.sqrt(weights / max(weights @ (between + within), 1e-300))
        cells = sample_of(content_keys(logs), LIMITS.agreement_cells)
        pairs, pair = np.unique(np.stack([scorer.batches[cells], best[cells]]), axis=1, return_inverse=True)
        pair = pair.ravel()
        sums, squares = np.zeros((pairs.shape[1], len(scale))), np.zeros(pairs.shape[1])
        for start in range(0, len(cells), CHUNK):
            part, of_pair = cells[start : start + CHUNK], pair[start : start + CHUNK]
            near = neighbours[part]
            means = scorer.mean_logs(sparse.csr_matrix(logs[part]), near, np.ones(near.shape, dtype=bool)) * scale
            ones = np.ones(len(part))
            sums += sparse.csr_matrix((ones, (of_pair, np.arange(len(part)))), (len(sums), len(part))) @ means
            squares += np.bincount(of_pair, (means**2).sum(axis=1), minlength=len(squares))
        counts = np.bincount(pair, minlength=len(sums)).astype(np.float64)
        batches, labels = pairs
        pools = _Pools(batches, labels, counts, sums / counts[:, None], squares, profiles.means[labels] * scale)
        of_label = np.bincount(labels, counts)
        frequent = np.flatnonzero(of_label >= max(LIMITS.least_cells, LIMITS.least_share * len(cells)))
        left_out = frequent if len(frequent) >= LIMITS.several_labels else frequent[:0]
        return cls(*max(pools.agreement(labels != label) for label in (-1, *left_out)))


class _Pools(NamedTuple):
    """Sums and means of the cells that share a batch and a label, for K pairs of batch and label.

    ``batches``, ``labels`` and ``cells`` (number of cells) have shape (K,). ``squares`` is the squared expression,
    summed over cells and genes, shape (K,). ``means`` (mean expression) and ``expected`` (profile of the label) have
    shape (K, G). All expression values are multiplied by the weights of the genes.
    """

    batches: Integers
    labels: Integers
    cells: Floats
    means: Floats
    squares: Floats
    expected: Floats

    def agreement(self, chosen: Bools) -> tuple[float, float]:
        """Return the correlation and the unexplained variance of the cells of some pools.

        ``chosen``, shape (K,), is True for these pools.
        """
        common = own = expected = 0.0
        for batch in np.unique(self.batches[chosen]):
            pools = np.flatnonzero(chosen & (self.batches == batch))
            cells = self.cells[pools]
            shares = cells / cells.sum()
            centre = shares @ self.means[pools]
            profiles = self.expected[pools] - shares @ self.expected[pools]
            common += float(cells @ ((self.means[pools] - centre) * profiles).sum(axis=1))
            own += float(self.squares[pools].sum() - cells.sum() * (centre @ centre))
            expected += float(cells @ (profiles**2).sum(axis=1))
        correlation = common / float(np.sqrt(max(own * expected, 1e-300)))
        unexplained = (1 - max(correlation, 0.0) ** 2) * own / self.cells[chosen].sum()
        return correlation, float(unexplained)
