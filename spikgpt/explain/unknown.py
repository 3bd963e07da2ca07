"""Reasons for Unknown: measures in which the cells differ from cells that kept the label, and unexpected genes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spikgpt.constants import CONSTANTS
from spikgpt.errors import with_noun
from spikgpt.explain.query import FittedQuery
from spikgpt.explain.scored import ScoredCells
from spikgpt.types import Floats, Integers, Rows

# Smallest number of cells that kept the label for a comparison with these cells alone. With fewer cells, all cells that
# kept a label are compared.
CELLS_TO_COMPARE = 10
# A value is unusual if at most this share of the compared cells is less like the reference.
UNUSUAL = 0.05
# Largest number of named genes, and their smallest excess over every label, in standard errors.
GENES, LEAST_EXCESS = 10, 1.0
LEAST_CELLS = CONSTANTS.label_match.least_cells
# Measures, their meaning, and True where a high value speaks for Unknown.
MEASURES = {
    "profile correlation": ("correlation of the expression with the profile of the nearest label", False),
    "distance": ("Mahalanobis distance from the nearest label", True),
    "energy": ("energy of the network, low where no label fits", False),
    "marker excess": ("expression of the genes that exceed every label most", True),
    "label match": ("agreement of all cells of the label in the batch with the reference", False),
    "OOD score": ("out-of-distribution score; above 0 a cell is Unknown", True),
    "confidence": ("calibrated probability of the label", False),
}


@dataclass(frozen=True)
class Measure:
    """A measure of Unknown cells, compared with cells of the query that kept their label.

    The label match is a measure of a label, so it is compared with other labels of the query.

    Attributes
    ----------
    value, typical
        Median over the Unknown cells, and median over the compared cells or labels. ``typical`` is None if there are
        no cells to compare.
    unusual
        True if the value is less like the reference than in 95% of the compared cells. For the label match: True if the
        value is lower than that of every compared label. Without compared cells: True for an OOD score above 0.
    compared_with
        Description of the compared cells or labels; empty if there are none.
    """

    name: str
    meaning: str
    value: float
    typical: float | None
    unusual: bool
    compared_with: str = ""


@dataclass(frozen=True)
class GeneAbove:
    """A gene that Unknown cells express more than every label of the reference.

    Attributes
    ----------
    mean
        Mean log expression in the Unknown cells.
    highest_label, highest_mean
        Label with the highest mean log expression in the reference, and this mean.
    excess
        Mean expression minus that of this label, after the batch effect is subtracted, in standard errors.
    """

    gene: str
    mean: float
    highest_label: str
    highest_mean: float
    excess: float


@dataclass(frozen=True)
class WhyUnknown:
    """Reasons why cells are Unknown.

    Attributes
    ----------
    nearest
        Label that the cells would have without the rule for Unknown.
    cells
        Number of Unknown cells.
    rule
        Rule for Unknown that rejected the cells.
    compared_with
        Description of the cells with which the measures are compared; empty if no cell kept its label.
    measures
        Measures, in the order of :data:`MEASURES`.
    genes
        Genes that the cells express more than every label of the reference, the largest excess first.
    """

    nearest: str
    cells: int
    rule: str
    compared_with: str
    measures: tuple[Measure, ...]
    genes: tuple[GeneAbove, ...]

    def sentences(self) -> list[str]:
        """Return the reasons in words."""
        subject = "This cell is" if self.cells == 1 else f"These {self.cells} cells are"
        sentences = [f"{subject} nearest to {self.nearest} and Unknown. Rule: {self.rule}."]
        unusual = [measure for measure in self.measures if measure.unusual]
        for measure in unusual:
            usual = "" if measure.typical is None else f"; {measure.typical:.2f} is usual in {measure.compared_with}"
            sentences.append(f"The {measure.name} ({measure.meaning}) is {measure.value:.2f}{usual}.")
        if not self.compared_with:
            sentences.append("No cell of the query kept a label, so there are no cells to compare these cells with.")
        elif not unusual:
            sentences.append(
                "No single measure is unusual: the sum of all of them, or the comparison with the other cells of the "
                "batch, decided."
            )
        if self.genes:
            named = ", ".join(
                f"{gene.gene} ({gene.mean:.1f}; at most {gene.highest_mean:.1f}, in {gene.highest_label})"
                for gene in self.genes
            )
            sentences.append(f"Genes above every label of the reference, as mean log expression: {named}.")
        return sentences


@dataclass(frozen=True)
class UnknownExplainer:
    """Explains Unknown cells of a query by a comparison with the cells of its sample that kept their label."""

    query: FittedQuery
    sample: ScoredCells

    @cached_property
    def sample_values(self) -> dict[str, Floats]:
        """Value of each measure in the cells of the sample, each of shape (k,)."""
        return _values(self.query, self.sample)

    def explain(self, cells: ScoredCells) -> WhyUnknown:
        """Return the reasons why cells are Unknown; their most frequent best label counts as the nearest label."""
        model, names, sample = self.query.model, self.query.reference.labels.names, self.sample
        assert model.rule is not None
        nearest = int(np.bincount(cells.best).argmax())
        kept = np.flatnonzero(~sample.unknown & (sample.best == nearest))
        compared_with = f"the {with_noun(len(kept), f'{names[nearest]} cell')} that kept the label"
        if len(kept) < CELLS_TO_COMPARE:
            kept = np.flatnonzero(~sample.unknown)
            compared_with = f"the {with_noun(len(kept), 'cell')} that kept a label" if len(kept) else ""
        own, sampled = _values(self.query, cells), self.sample_values
        measures = [_compared(name, own[name], sampled[name][kept], compared_with) for name in MEASURES if name in own]
        if (match := _label_match(self.query, cells, nearest)) is not None:
            measures.insert([measure.name for measure in measures].index("marker excess") + 1, match)
        refused = model.compatibility is not None and not model.compatibility.usable
        evidence = f" ({model.compatibility.evidence.rstrip('.')})" if model.compatibility and refused else ""
        return WhyUnknown(
            nearest=names[nearest],
            cells=len(cells),
            rule=f"{model.rule.rule}{evidence}",
            compared_with=compared_with,
            measures=tuple(measures),
            genes=_genes_above(self.query, cells),
        )


def _values(query: FittedQuery, cells: ScoredCells) -> dict[str, Floats]:
    """Return the value of each measure in cells, each of shape (n,)."""
    model = query.model
    assert model.scorer is not None
    assert model.rule is not None
    measures = model.scorer.measures(cells.output, cells.logs, cells.neighbours, cells.scores.batches)
    assert measures.correlation is not None
    assert measures.marker_excess is not None
    values: dict[str, Floats] = {
        "profile correlation": measures.correlation,
        "distance": measures.distance,
        "energy": measures.energy,
        "marker excess": measures.marker_excess,
    }
    if (ood := model.rule.ood_scores(cells.scores)) is not None:
        values["OOD score"] = ood
    if model.rule.threshold is not None or model.rule.least_confidence is not None:
        values["confidence"] = cells.scores.probabilities.max(axis=1)
    return values


def _compared(name: str, own: Floats, compared: Floats, compared_with: str) -> Measure:
    """Compare a measure of Unknown cells, shape (n,), with the same measure of other cells, shape (m,)."""
    meaning, high = MEASURES[name]
    value = float(np.median(own))
    if not len(compared):
        return Measure(name, meaning, value, None, name == "OOD score" and value > 0)
    bound = float(np.quantile(compared, 1 - UNUSUAL if high else UNUSUAL))
    unusual = value > bound if high else value < bound
    return Measure(name, meaning, value, float(np.median(compared)), unusual, compared_with)


def _label_match(query: FittedQuery, cells: ScoredCells, label: int) -> Measure | None:
    """Compare the match of a label with that of other labels, in the batch of most of the cells.

    None if the label, or every other label, has fewer than 10 cells in the batch.
    """
    match = query.model.match
    if match is None:
        return None
    batch = int(np.bincount(cells.scores.batches).argmax())
    enough = match.cells[batch] >= LEAST_CELLS
    other_labels: Integers = np.flatnonzero(enough & (np.arange(len(enough)) != label))
    if not enough[label] or not len(other_labels):
        return None
    value, scores = float(match.score[batch, label]), match.score[batch, other_labels]
    name = "label match"
    count = "other label" if len(other_labels) == 1 else f"{len(other_labels)} other labels"
    compared_with = f"the {count} of {'the query' if len(match.cells) == 1 else 'the same batch'}"
    unusual = bool(value < scores.min())
    return Measure(name, MEASURES[name][0], value, float(np.median(scores)), unusual, compared_with)


def _genes_above(query: FittedQuery, cells: ScoredCells) -> tuple[GeneAbove, ...]:
    """Return the genes that the cells express more than every label of the reference, the largest excess first."""
    scorer = query.model.scorer
    assert scorer is not None
    assert scorer.profiles is not None
    excess = scorer.genes_above(cells.logs, cells.neighbours, cells.scores.batches)
    means = np.asarray(cells.logs.astype(np.float64).mean(axis=0)).ravel()
    allowed = np.arange(len(scorer.profiles.means)) if scorer.geometry.allowed is None else scorer.geometry.allowed
    profiles = scorer.profiles.means[allowed]
    # Some genes are left out below, so more genes than needed are considered.
    order: Rows = np.argsort(-excess, kind="stable")[: 3 * GENES]
    names = query.reference.labels.names
    genes_above = tuple(
        GeneAbove(
            gene=query.genes[gene],
            mean=float(means[gene]),
            highest_label=names[int(allowed[profiles[:, gene].argmax()])],
            highest_mean=float(profiles[:, gene].max()),
            excess=float(excess[gene]),
        )
        for gene in order
        if excess[gene] >= LEAST_EXCESS and means[gene] > profiles[:, gene].max()
    )
    return genes_above[:GENES]
