"""Does a label of a query look like the same label of the reference? Contrast and marker genes of labels.

A missing type is given some label of the reference. Two findings on the mean expression of the label's cells in a batch
tell a missing type from a known one:

- The contrast is C = -log(1.02 - r). r is the correlation of the label's mean profile with the reference's profile of
  the label, after the batch effect seen in the *other* labels is subtracted. A known type keeps what sets it apart.
- The level of marker genes is 1 where the cells express the markers of the label as it does in the reference, and 0
  where they do as the other labels do there. M = min(level - usual level, 0). Low marker expression counts against a
  label. High marker expression does not count for a label, as a closely related type can express the same markers. The
  usual level is the mean of 0.7 and the median level of the other labels in the batch, as another chemistry shows all
  markers less. M is 0 without expression, or with fewer than ten marker genes.

The support of a label is C + 1.5 M.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.types import Floats, Integers, Profiles, Rows

# A label needs so many cells in a batch for values of its own.
CELLS_FOR_LEVEL = 10
# Bounds the contrast.
LARGEST_CORRELATION = 1.02
# Weight of a low level of marker genes against the contrast, and the usual level of a label that is alone.
MARKER_WEIGHT, USUAL_LEVEL = 1.5, 0.7
# Marker genes of a label, and the fewest that will do.
MARKERS, LEAST_MARKERS = 20, 10
# Least denominator of the level of a marker, and bounds of the level.
LEAST_DIFFERENCE, LEVELS = 0.05, (-0.5, 1.5)
# Least expression, of 10,000 counts, of the genes that a panel is found by.
LEAST_EXPRESSED = 0.1


# A label, its marker genes, and the mean of the other labels in each of these.
MarkerGenes = tuple[int, Rows, Floats]


def label_support(
    values: sparse.csr_matrix | Floats, best: Integers, batches: Integers, profiles: Profiles
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the contrast C and the support C + 1.5 M of each label in each batch, each of shape (B, L).

    M is 0 for labels of few cells.

    Parameters
    ----------
    values
        Log expression of k cells, or their vectors where there is no expression, shape (k, G).
    best, batches
        Index of the most probable label of each, and of its batch, shape (k,).
    """
    markers = marker_genes(profiles) if sparse.issparse(values) else []
    shape = int(batches.max(initial=0)) + 1, len(profiles.means)
    contrasts, below = np.zeros(shape), np.zeros(shape)
    for batch in range(shape[0]):
        means, counts = _label_means(values, best, np.flatnonzero(batches == batch), shape[1])
        contrasts[batch] = _contrasts(means, counts, profiles)
        below[batch] = _below_usual(means, counts, profiles, markers)
    return contrasts, contrasts + MARKER_WEIGHT * below


def _label_means(
    values: sparse.csr_matrix | Floats, best: Integers, rows: Rows, labels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the mean values of some cells of each label, shape (L, G), and their number, shape (L,)."""
    counts = np.bincount(best[rows], minlength=labels)
    picked = sparse.csr_matrix((np.ones(len(rows)), (best[rows], np.arange(len(rows)))), (labels, len(rows)))
    # Summed in double precision, so that the order of cells does not show.
    summed = picked @ values[rows].astype(np.float64)
    means = np.asarray(summed.todense() if sparse.issparse(summed) else summed)  # (L, G)
    return means / np.maximum(counts, 1)[:, None], counts


def _contrasts(means: Floats, counts: Integers, profiles: Profiles) -> npt.NDArray[np.float64]:
    """Return the contrast of each label from its mean in a batch, (L, G) to (L,).

    Genes count by their variance between labels, in units of that within.
    """
    weights = profiles.means.var(axis=0) / profiles.spread**2  # (G,)
    roots = np.sqrt(weights / max(weights.sum(), 1e-300))
    middle = profiles.means.mean(axis=0)
    expected = (profiles.means - middle) * roots  # (L, G)
    seen = counts >= CELLS_FOR_LEVEL
    shifts = means[seen] - profiles.means[seen]
    # A label of few cells has the median shift of all labels that have enough.
    effects = np.zeros_like(means) + (np.median(shifts, axis=0) if len(shifts) else 0.0)
    effects[seen] = _medians_of_others(shifts)
    own = (means - effects - middle) * roots  # (L, G)
    lengths = np.sqrt((own**2).sum(axis=1) * (expected**2).sum(axis=1) + 1e-12)
    return np.asarray(-np.log(LARGEST_CORRELATION - (own * expected).sum(axis=1) / lengths) * (counts > 0))


def _below_usual(
    means: Floats, counts: Integers, profiles: Profiles, markers: list[MarkerGenes]
) -> npt.NDArray[np.float64]:
    """Return M of each label from its mean in a batch, (L, G) to (L,)."""
    seen, below = np.flatnonzero(counts >= CELLS_FOR_LEVEL), np.zeros(len(counts))
    levels = marker_levels(means[seen], counts[seen], seen, profiles, markers)[np.arange(len(seen)), seen]
    seen, levels = seen[~np.isnan(levels)], np.minimum(levels[~np.isnan(levels)], 1)
    others = _medians_of_others(levels[:, None])[:, 0] if len(seen) > 1 else USUAL_LEVEL
    below[seen] = np.minimum(levels - (USUAL_LEVEL + others) / 2, 0)
    return below


def mean_contrast(contrasts: Floats, best: Integers, batches: Integers) -> float | None:
    """Return the mean contrast of a sample's cells, each with that of its label in its batch.

    Labels of few cells in a batch are left out; None where no label has enough cells.
    """
    cells = np.zeros(contrasts.shape)
    np.add.at(cells, (batches, best), 1)
    cells[cells < CELLS_FOR_LEVEL] = 0
    return float((contrasts * cells).sum() / cells.sum()) if cells.any() else None


def marker_genes(profiles: Profiles) -> list[MarkerGenes]:
    """Return the marker genes of each label with at least ten.

    Markers are the genes in which the mean of the label exceeds the highest mean of another label most, in units of the
    spread within labels.
    """
    reference, markers = profiles.means, list[MarkerGenes]()
    if len(reference) < 2:
        return []
    # The largest value of the other labels, and their sum, are derived without a copy for each label.
    second, first = np.partition(reference, -2, axis=0)[-2:]
    highest, total = reference.argmax(axis=0), reference.sum(axis=0)
    for label in range(len(reference)):
        lead = (reference[label] - np.where(highest == label, second, first)) / profiles.spread
        genes = np.argsort(-lead, kind="stable")[:MARKERS]
        genes = genes[lead[genes] > 0]
        if len(genes) >= LEAST_MARKERS:
            markers.append((label, genes, (total[genes] - reference[label, genes]) / (len(reference) - 1)))
    return markers


def marker_levels(
    means: Floats, cells: Integers, labels: Integers, profiles: Profiles, markers: list[MarkerGenes]
) -> npt.NDArray[np.float64]:
    """Return the level of the marker genes of each label of the reference, shape (labels, L); NaN where there are few.

    The level of a marker is (q - o) / (p - o) of log expression: q in the cells, p in the label in the reference, and o
    the mean of the other labels there. It is averaged over the markers of a label.

    Parameters
    ----------
    means, cells
        Mean log expression of some labels of the query, shape (labels, G), and their number of cells, shape (labels,).
    labels
        Their index, shape (labels,).
    markers
        What :func:`marker_genes` returns.
    """
    expressed = np.full((len(labels), len(profiles.means)), np.nan)
    if not len(labels) or not markers:
        return expressed
    means = _without_panel_excess(means, cells, profiles.means[labels])
    for label, genes, base in markers:
        part = (means[:, genes] - base) / np.maximum(profiles.means[label, genes] - base, LEAST_DIFFERENCE)
        expressed[:, label] = np.clip(part, *LEVELS).mean(axis=1)
    return expressed


def _without_panel_excess(means: Floats, cells: Integers, reference: Floats) -> Floats:
    """Divide the expression of a panel of genes by its excess, (labels, G) to the same.

    In a panel each gene has a larger share of the total than in the reference. The excess is the median ratio of query
    to reference over genes; below 1 nothing is changed.
    """
    if not len(cells):
        return means
    found, expected = (np.expm1(cells @ values / cells.sum()) for values in (means, reference))  # (G,)
    both = (found > LEAST_EXPRESSED) & (expected > LEAST_EXPRESSED)
    excess = max(float(np.median(np.log(found[both] / expected[both]))), 0.0) if both.any() else 0.0
    return np.asarray(np.log1p(np.expm1(means) * np.exp(-excess)))


def _medians_of_others(rows: Floats) -> npt.NDArray[np.float64]:
    """Return for each row the median over all other rows, (n, G) to (n, G); 0 where there is no other row."""
    n = len(rows)
    if n < 2:
        return np.zeros_like(rows)
    ordered, ranks = np.sort(rows, axis=0), rows.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    # Without a value, each larger one moves down by one rank.
    pair = [np.take_along_axis(ordered, place + (ranks <= place), axis=0) for place in ((n - 2) // 2, (n - 1) // 2)]
    return np.asarray((pair[0] + pair[1]) / 2)
