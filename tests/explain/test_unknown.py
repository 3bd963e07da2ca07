"""Explanations why cells are Unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.explain.query import FittedQuery
from spikgpt.explain.scored import ScoredCells
from spikgpt.explain.unknown import LEAST_CELLS, UnknownExplainer, WhyUnknown
from spikgpt.reference.files import Reference
from tests.conftest import labelled


@pytest.fixture(scope="module")
def without_alpha(small: Reference, query: AnnData) -> WhyUnknown:
    """Return the reasons why alpha cells are Unknown for a reference without alpha."""
    fitted = labelled(small, query, exclude=["alpha"]).query
    assert isinstance(fitted, FittedQuery)
    sample = ScoredCells.from_sample(fitted)
    alpha = (query.obs["cell_type"].astype(str) == "alpha").to_numpy()[sample.rows]
    cells = np.flatnonzero(alpha & sample.unknown)
    assert len(cells) > 20
    return UnknownExplainer(fitted, sample).explain(sample.part(cells))


def test_markers_of_the_excluded_type_stand_above_every_label(without_alpha: WhyUnknown) -> None:
    strongest = without_alpha.genes[0]
    assert strongest.gene == "GCG"
    assert strongest.mean > 4 > strongest.highest_mean
    assert strongest.highest_label != "alpha"
    excess = [gene.excess for gene in without_alpha.genes]
    assert excess == sorted(excess, reverse=True)
    assert all(gene.mean > gene.highest_mean for gene in without_alpha.genes)


def test_measures_are_compared_with_cells_that_kept_their_label(without_alpha: WhyUnknown) -> None:
    measures = {measure.name: measure for measure in without_alpha.measures}
    correlation, score = measures["profile correlation"], measures["OOD score"]
    assert correlation.unusual
    assert correlation.typical is not None
    assert correlation.value < correlation.typical
    assert score.value > 0
    assert score.unusual
    text = " ".join(without_alpha.sentences())
    assert f"nearest to {without_alpha.nearest} and Unknown" in text
    assert "The profile correlation (" in text
    assert "GCG" in text


def test_a_query_without_known_cells_has_nothing_to_compare(small: Reference, query: AnnData) -> None:
    fitted = labelled(small, query).query
    assert isinstance(fitted, FittedQuery)
    sample = ScoredCells.from_sample(fitted)
    every = replace(sample, unknown=np.ones(len(sample), dtype=bool))
    reasons = UnknownExplainer(fitted, every).explain(every)
    assert reasons.compared_with == ""
    assert {measure.typical for measure in reasons.measures if measure.name != "label match"} == {None}
    text = " ".join(reasons.sentences())
    assert "no cells to compare these cells with" in text
    assert "usual in ." not in text


def test_the_label_match_is_compared_with_other_labels(small: Reference, query: AnnData) -> None:
    fitted = labelled(small, query, exclude=["alpha"], batch_key=None).query
    assert isinstance(fitted, FittedQuery)
    assert fitted.model.match is not None
    sample = ScoredCells.from_sample(fitted)
    cells = sample.part(np.flatnonzero(sample.unknown))
    fitted.model.match.contrast[0, int(np.bincount(cells.best).argmax())] = -9
    for shown in (sample, replace(sample, unknown=np.ones(len(sample), dtype=bool))):
        reasons = UnknownExplainer(fitted, shown).explain(cells)
        match = next(measure for measure in reasons.measures if measure.name == "label match")
        n_labels = int((fitted.model.match.cells[0] >= LEAST_CELLS).sum()) - 1
        assert match.compared_with == f"the {n_labels} other labels of the query"
        usual = f"{match.typical:.2f} is usual in the {n_labels} other labels of the query."
        assert usual in " ".join(reasons.sentences())
    score = next(measure for measure in reasons.measures if measure.name == "OOD score")
    assert score.compared_with == ""


def test_a_threshold_on_the_confidence_is_a_measure(small: Reference, query: AnnData) -> None:
    fitted = labelled(small, query, threshold=0.99).query
    assert isinstance(fitted, FittedQuery)
    sample = ScoredCells.from_sample(fitted)
    reasons = UnknownExplainer(fitted, sample).explain(sample.part(np.flatnonzero(sample.unknown)))
    confidence = next(measure for measure in reasons.measures if measure.name == "confidence")
    assert confidence.value < 0.99
    assert confidence.unusual
    assert "confidence below 0.99" in reasons.rule


def test_a_refused_query_is_unknown_for_the_evidence_of_the_refusal(shipped: SpikGPT, foreign: AnnData) -> None:
    annotation = labelled(shipped.reference, foreign)
    assert annotation.compatibility is not None
    assert not annotation.compatibility.usable
    assert isinstance(annotation.query, FittedQuery)
    sample = ScoredCells.from_sample(annotation.query)
    rule = UnknownExplainer(annotation.query, sample).explain(sample).rule
    assert rule.startswith("the reference does not suit this query (")
    assert annotation.compatibility.evidence in rule
