"""Compatibility of a reference with a query: same tissue and species, or not.

Cells of another study lie far from the reference, and so do cells of another tissue. The similarity of
docs/concepts/formulas.md separates the two cases, also in queries of one or two cell types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from spikgpt.constants import CONSTANTS
from spikgpt.scoring.cell_agreement import CellAgreement
from spikgpt.scoring.label_match import LabelMeans, MarkerGenes, marker_levels
from spikgpt.scoring.thresholds import ConformalScores
from spikgpt.types import Floats, Integers, Profiles

Kind = Literal["like the reference", "another study, labels hold", "another tissue or species, do not use"]
LIKE: Kind = "like the reference"
STUDY: Kind = "another study, labels hold"
OTHER: Kind = "another tissue or species, do not use"
# Sentences for users. The texts above are stored in files, so their wording is fixed.
SENTENCES: dict[Kind, str] = {
    LIKE: "The cells are like those of the reference",
    STUDY: "The cells are of another study, and the labels can be used",
    OTHER: "The cells are of another tissue or species; do not use the labels",
}
# Reason why a reference does not suit a query. Messages add the correlation after this text.
OTHER_GENES = "other genes than in the reference separate the cell types"

LIMITS = CONSTANTS.compatibility


@dataclass(frozen=True)
class Compatibility:
    """Answer to the question whether a reference suits a query.

    Attributes
    ----------
    kind
        The answer: one of three texts.
    evidence
        Reason for the answer, in words.
    values
        Numbers behind the answer, such as the similarity.
    """

    kind: Kind
    evidence: str
    # The values are not compared, because the last digits depend on the order of cells and on the engine.
    values: dict[str, float] = field(compare=False)

    @property
    def usable(self) -> bool:
        """False if the query is of another tissue or species."""
        return self.kind != OTHER

    @property
    def sentence(self) -> str:
        """Sentence with the answer and the reason."""
        return f"{SENTENCES[self.kind]}: {self.evidence}."


@dataclass(frozen=True)
class Comparison:
    """Comparison of the labels of a query with the same labels of the reference.

    A measure that cannot be computed is None.

    Attributes
    ----------
    labels
        Number of labels with enough cells to be compared with each other.
    correlation
        Correlation of the differences between labels in query and reference. None for fewer than two labels. The weight
        of a gene is its variance between labels over its variance within labels. The weight of a label is the square
        root of its number of cells. With three labels or more, the label that agrees least is left out, because its
        cells may be of a missing type.
    own_markers, other_markers
        Marker level of the cells' own label, and of the other label with the highest marker level, averaged over cells.
    cells
        Agreement of the cells with the expression of their labels.
    """

    labels: int
    correlation: float | None = None
    own_markers: float | None = None
    other_markers: float | None = None
    cells: CellAgreement | None = None

    @classmethod
    def fit(cls, query: LabelMeans, profiles: Profiles, markers: list[MarkerGenes]) -> Comparison:
        """Compare the mean log expression of the labels of a query with the profiles of the reference."""
        own, other = _mean_marker_levels(query, profiles, markers)
        least = max(LIMITS.least_cells, LIMITS.least_share * query.cells.sum())
        labels = np.flatnonzero(query.cells >= least)
        if len(labels) < 2:
            return cls(len(labels), None, own, other)
        weights = (profiles.means.std(axis=0) / profiles.spread) ** 2  # (G,)
        subsets = [labels]
        if len(labels) >= LIMITS.several_labels:
            subsets = [np.delete(labels, index) for index in range(len(labels))]
        counts = np.sqrt(query.cells)
        pairs = ((query.means[some], profiles.means[some], counts[some]) for some in subsets)
        return cls(len(labels), max(_correlation(*pair, weights) for pair in pairs), own, other)


def _mean_marker_levels(
    query: LabelMeans, profiles: Profiles, markers: list[MarkerGenes]
) -> tuple[float | None, float | None]:
    """Return the marker level of the cells' own label, and that of the highest other label, averaged over cells.

    Both are None if too few cells have a label with enough marker genes.
    """
    labels = np.flatnonzero(query.cells >= LIMITS.least_cells)
    levels, cells = marker_levels(query, labels, profiles, markers), query.cells[labels]
    index = np.arange(len(labels))
    own, other_levels = levels[index, labels], levels.copy()
    other_levels[index, labels] = np.nan
    known = ~np.isnan(own) & ~np.isnan(other_levels).all(axis=1)
    if not len(labels) or cells[known].sum() < LIMITS.marker_share * cells.sum():
        return None, None
    shares = cells[known] / cells[known].sum()
    return float(shares @ own[known]), float(shares @ np.nanmax(other_levels[known], axis=1))


def _correlation(query: Floats, reference: Floats, label_weights: Floats, gene_weights: Floats) -> float:
    """Return the weighted correlation of two tables of label means, shape (labels, G), both centred over labels."""
    shares = label_weights / label_weights.sum()
    weights = shares[:, None] * gene_weights  # (labels, G)
    query_deviations, reference_deviations = (means - shares @ means for means in (query, reference))
    lengths = (weights * query_deviations**2).sum() * (weights * reference_deviations**2).sum()
    return float((weights * query_deviations * reference_deviations).sum() / np.sqrt(max(lengths, 1e-300)))


def score_loss(id_scores: Floats, best: Integers, held_out: ConformalScores) -> float:
    """Return the loss: how far the ID scores of a query lie below the ID scores of held-out cells.

    The loss is the median score of the held-out cells, minus the median score of the query. For the query, the median
    is taken within each label that has enough cells, and then over these labels.
    """
    cells = np.bincount(best)
    medians = [np.median(id_scores[best == label]) for label in np.flatnonzero(cells >= LIMITS.least_cells)]
    return held_out.median - float(np.median(medians or id_scores))


def check_compatibility(
    comparison: Comparison | None,
    mean_contrast: float | None,
    loss: float,
    false_rejection: float | None,
    unknown_rate: float,
) -> Compatibility:
    """Return the compatibility of a reference with a query.

    Parameters
    ----------
    comparison, mean_contrast
        Comparison of the labels, and :attr:`spikgpt.scoring.label_match.LabelMatch.mean_contrast`; both None without
        expression.
    loss
        Loss of the ID score that :func:`score_loss` returns.
    false_rejection, unknown_rate
        Expected share of false rejections, None if the share could not be estimated, and the guaranteed share.
    """
    comparison = comparison or Comparison(labels=0)
    own, other = comparison.own_markers, comparison.other_markers
    similarity = None
    if mean_contrast is not None and own is not None and other is not None:
        similarity = LIMITS.least_correlation if comparison.correlation is None else comparison.correlation
        similarity += LIMITS.contrast_weight * mean_contrast + min(own, 1.0) - LIMITS.other_weight * other
    measures = {
        "similarity": similarity,
        "correlation": comparison.correlation,
        "mean_contrast": mean_contrast,
        "score_loss": loss,
        "own_markers": own,
        "other_markers": other,
        "cell_correlation": comparison.cells and comparison.cells.correlation,
        "unexplained_variance": comparison.cells and comparison.cells.unexplained,
    }
    values = {name: float(value) for name, value in measures.items() if value is not None}
    if reason := _reason_to_refuse(comparison, similarity, mean_contrast, loss):
        return Compatibility(OTHER, reason, values)
    texts = [_separation(comparison), _markers(own)]
    if false_rejection is not None and loss > 0 and false_rejection > LIMITS.another_study * unknown_rate:
        texts.append("cells are less typical than held-out cells of the reference, within the range of a batch effect")
        return Compatibility(STUDY, "; ".join(filter(None, texts)), values)
    few = loss > 0 and false_rejection is None
    texts.append(
        "too few cells of one label to recognise a batch effect"
        if few
        else "cells are about as typical as held-out cells of the reference"
    )
    return Compatibility(LIKE, "; ".join(filter(None, texts)), values)


def _separation(comparison: Comparison) -> str:
    """Return a phrase on the correlation of the differences between labels."""
    if comparison.correlation is None:
        return "too few cell types to compare"
    return f"the same genes separate the cell types as in the reference (r = {comparison.correlation:.2f})"


def _markers(own: float | None) -> str:
    """Return a phrase on the marker level of the cells' own labels; an empty text if the level is None."""
    if own is None:
        return ""
    return f"cells express the markers of their labels at {100 * max(own, 0.0):.0f}% of the usual level"


def _reason_to_refuse(
    comparison: Comparison, similarity: float | None, mean_contrast: float | None, loss: float
) -> str | None:
    """Return the reason to refuse the query as another tissue or species; None if there is no reason."""
    correlation, own, other = comparison.correlation, comparison.own_markers, comparison.other_markers
    if own is not None and other is not None and other - own > LIMITS.other_excess:
        return f"{_markers(own)}, and the markers of another label at {100 * max(other, 0.0):.0f}%"
    if own is not None and similarity is not None and similarity < LIMITS.least_similarity:
        separated = "" if correlation is None else f", and {OTHER_GENES} (r = {correlation:.2f})"
        return f"{_markers(own)}{separated}: {_beyond('similarity', similarity, 'least', LIMITS.least_similarity)}"
    if (cells := comparison.cells) and cells.unexplained > LIMITS.largest_unexplained:
        if cells.correlation < LIMITS.least_agreement:
            return "the labels do not explain the differences between cells: " + _beyond(
                "r =", cells.correlation, "least", LIMITS.least_agreement
            )
    if correlation is None:
        if similarity is None and loss > LIMITS.largest_shift:
            return (
                "too few cell types to compare, and cells are much less typical than held-out cells of the reference: "
                f"score loss {loss:.1f}, expected at most {LIMITS.largest_shift:g}"
            )
        return None
    if similarity is not None and comparison.labels < LIMITS.several_labels:
        return None
    far = loss > LIMITS.far_shift
    if mean_contrast is not None and correlation < LIMITS.near_correlation:
        low = far and correlation < LIMITS.far_correlation
        least = LIMITS.far_contrast if low else LIMITS.near_contrast
        if mean_contrast < least:
            return f"labels lack their expression profile: {_beyond('mean contrast', mean_contrast, 'least', least)}"
    if correlation < LIMITS.least_correlation and far:
        return f"{OTHER_GENES}: {_beyond('r =', correlation, 'least', LIMITS.least_correlation)}"
    return None


def _beyond(name: str, value: float, bound: Literal["least", "most"], limit: float) -> str:
    """Return a phrase on a value beyond its limit, with enough decimals to show the difference from the limit."""
    texts = (f"{value:.{decimals}f}" for decimals in range(2, 6))
    return f"{name} {next((text for text in texts if float(text) != limit), value)}, expected at {bound} {limit:g}"
