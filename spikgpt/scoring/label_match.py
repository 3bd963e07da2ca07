"""Label match: agreement of the expression of a label in the query with the same label of the reference.

The match is C + 1.5 M, with the contrast C and the marker deficit M of docs/concepts/formulas.md. Low marker expression
counts against a label. High marker expression does not count for the label, as a closely related type can express the
same markers. M depends on the other labels of the batch, because some chemistries detect all markers less well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.constants import CONSTANTS
from spikgpt.types import Floats, Integers, Profiles, Rows

MATCH = CONSTANTS.label_match

# Index of a label, columns of its marker genes, and mean expression of the other labels in each of these genes.
MarkerGenes = tuple[int, Rows, Floats]


@dataclass(frozen=True)
class LabelMeans:
    """Mean log expression of the cells of each label.

    ``means`` has shape (L, G), with rows of 0 for labels without cells. ``cells``, shape (L,), is the number of cells
    of each label.
    """

    means: npt.NDArray[np.float64]
    cells: npt.NDArray[np.int64]

    @classmethod
    def fit(cls, values: sparse.csr_matrix | Floats, best: Integers, labels: int) -> LabelMeans:
        """Average the values of cells, shape (n, G), by the index of their label, shape (n,)."""
        cells = np.bincount(best, minlength=labels)
        selection = sparse.csr_matrix((np.ones(len(best)), (best, np.arange(len(best)))), (labels, len(best)))
        # Summed in double precision, so that the order of cells does not change the result.
        total = selection @ values.astype(np.float64)
        means = np.asarray(total.todense() if sparse.issparse(total) else total)  # (L, G)
        return cls(means / np.maximum(cells, 1)[:, None], cells)


@dataclass(frozen=True)
class LabelMatch:
    """Contrast C, marker deficit M and number of cells of each label in each batch, each of shape (B, L)."""

    contrast: npt.NDArray[np.float64]
    marker_deficit: npt.NDArray[np.float64]
    cells: npt.NDArray[np.int64]

    @classmethod
    def fit(
        cls,
        values: sparse.csr_matrix | Floats,
        best: Integers,
        batches: Integers,
        profiles: Profiles,
        markers: list[MarkerGenes],
    ) -> LabelMatch:
        """Compare the mean expression of labels in each batch with the profiles of the reference.

        Parameters
        ----------
        values
            Log expression of k cells, shape (k, G). Without expression, the vectors of the cells, shape (k, D).
        best, batches
            Index of the most probable label and of the batch of each cell, each of shape (k,).
        markers
            Genes that :func:`marker_genes` returns; an empty list without expression.
        """
        rows = []
        for batch in range(int(batches.max(initial=0)) + 1):
            cells = np.flatnonzero(batches == batch)
            means = LabelMeans.fit(values[cells], best[cells], len(profiles.means))
            rows.append((_contrast(means, profiles), _marker_deficit(means, profiles, markers), means.cells))
        return cls(*(np.stack(part) for part in zip(*rows, strict=True)))

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """Match of each label in each batch, C + 1.5 M, shape (B, L)."""
        return np.asarray(self.contrast + MATCH.marker_weight * self.marker_deficit)

    @property
    def mean_contrast(self) -> float | None:
        """Mean contrast over the cells of labels with at least 10 cells in a batch; None without such labels."""
        cells = np.where(self.cells >= MATCH.least_cells, self.cells, 0)
        return float((self.contrast * cells).sum() / cells.sum()) if cells.any() else None


def _contrast(batch: LabelMeans, profiles: Profiles) -> npt.NDArray[np.float64]:
    """Return the contrast of each label in a batch, shape (L,).

    The weight of a gene is its variance between labels, divided by the variance within labels.
    """
    weights = profiles.means.var(axis=0) / profiles.spread**2  # (G,)
    roots = np.sqrt(weights / max(weights.sum(), 1e-300))
    middle = profiles.means.mean(axis=0)
    expected = (profiles.means - middle) * roots  # (L, G)
    enough = batch.cells >= MATCH.least_cells
    shifts = batch.means[enough] - profiles.means[enough]
    # The batch effect of a label is the median shift of the other labels; for a label of few cells, of all labels.
    effects = np.zeros_like(batch.means) + (np.median(shifts, axis=0) if len(shifts) else 0.0)
    effects[enough] = _medians_of_others(shifts)
    own = (batch.means - effects - middle) * roots  # (L, G)
    lengths = np.sqrt((own**2).sum(axis=1) * (expected**2).sum(axis=1) + 1e-12)
    correlation = (own * expected).sum(axis=1) / lengths
    return np.asarray(-np.log(MATCH.largest_correlation - correlation) * (batch.cells > 0))


def _marker_deficit(batch: LabelMeans, profiles: Profiles, markers: list[MarkerGenes]) -> npt.NDArray[np.float64]:
    """Return the marker deficit M of each label in a batch, shape (L,)."""
    deficit = np.zeros(len(batch.cells))
    labels = np.flatnonzero(batch.cells >= MATCH.least_cells)
    levels = marker_levels(batch, labels, profiles, markers)[np.arange(len(labels)), labels]
    labels, levels = labels[~np.isnan(levels)], np.minimum(levels[~np.isnan(levels)], 1)
    other_levels = _medians_of_others(levels[:, None])[:, 0] if len(labels) > 1 else MATCH.usual_markers
    deficit[labels] = np.minimum(levels - (MATCH.usual_markers + other_levels) / 2, 0)
    return deficit


def marker_genes(profiles: Profiles) -> list[MarkerGenes]:
    """Return the marker genes of each label that has at least ten marker genes.

    The lead of a gene is the mean of the label minus the highest mean of another label, divided by the spread within
    labels. The marker genes are the 20 genes with the largest lead, if the lead is positive.
    """
    reference, markers = profiles.means, list[MarkerGenes]()
    if len(reference) < 2:
        return []
    # The two largest means and the sum of each gene give the highest mean and the sum of the other labels.
    second, first = np.partition(reference, -2, axis=0)[-2:]
    highest, total = reference.argmax(axis=0), reference.sum(axis=0)
    for label in range(len(reference)):
        lead = (reference[label] - np.where(highest == label, second, first)) / profiles.spread
        genes = np.argsort(-lead, kind="stable")[: MATCH.markers]
        genes = genes[lead[genes] > 0]
        if len(genes) >= MATCH.least_markers:
            markers.append((label, genes, (total[genes] - reference[label, genes]) / (len(reference) - 1)))
    return markers


def marker_levels(
    query: LabelMeans, labels: Integers, profiles: Profiles, markers: list[MarkerGenes]
) -> npt.NDArray[np.float64]:
    """Return the marker level of each of the reference's L labels in the cells of some labels, shape (labels, L).

    The level of a marker gene is (q - o) / (p - o). In log expression, q is the mean of the cells, p the mean of the
    label in the reference, and o the mean of the other labels in the reference. The level of a label is the mean over
    its marker genes; NaN for a label with too few marker genes.

    Parameters
    ----------
    query
        Mean log expression of the labels of the query.
    labels
        Index of the labels of the query whose cells are compared, shape (labels,).
    """
    levels = np.full((len(labels), len(profiles.means)), np.nan)
    if not len(labels) or not markers:
        return levels
    means = _without_panel_excess(query.means[labels], query.cells[labels], profiles.means[labels])
    for label, genes, base in markers:
        part = (means[:, genes] - base) / np.maximum(profiles.means[label, genes] - base, MATCH.least_difference)
        levels[:, label] = np.clip(part, *MATCH.marker_range).mean(axis=1)
    return levels


def _without_panel_excess(means: Floats, cells: Integers, reference: Floats) -> Floats:
    """Return mean log expression, shape (labels, G), after dividing expression by the excess of a gene panel.

    In a panel of few genes, each gene has a larger share of the total than in the reference. The excess is the median
    over genes of expression in the query, divided by expression in the reference. An excess below 1 counts as 1.
    """
    query, expected = (np.expm1(cells @ values / cells.sum()) for values in (means, reference))  # (G,)
    both = (query > MATCH.least_expression) & (expected > MATCH.least_expression)
    excess = max(float(np.median(np.log(query[both] / expected[both]))), 0.0) if both.any() else 0.0
    return np.asarray(np.log1p(np.expm1(means) * np.exp(-excess)))


def _medians_of_others(rows: Floats) -> npt.NDArray[np.float64]:
    """Return the median over all other rows for each row of an (n, G) table, shape (n, G); 0 for a single row."""
    n = len(rows)
    if n < 2:
        return np.zeros_like(rows)
    ordered, ranks = np.sort(rows, axis=0), rows.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    # If one value is left out, each larger value moves down by one rank.
    pair = [np.take_along_axis(ordered, rank + (ranks <= rank), axis=0) for rank in ((n - 2) // 2, (n - 1) // 2)]
    return np.asarray((pair[0] + pair[1]) / 2)
