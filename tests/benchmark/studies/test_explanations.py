"""Benchmark suites that measure explanations."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.errors import DataError
from spikgpt.reference.files import Reference
from spikgpt_benchmark.studies.explanations import (
    ExplainedQuery,
    agreement,
    label_attributions,
    load_task,
    marker_figures,
    published_markers,
    wilcoxon_markers,
)


def test_markers_of_the_true_labels_are_found(query: AnnData) -> None:
    markers = wilcoxon_markers(query)
    assert "GCG" in markers["alpha"][:50]
    assert "GCG" not in markers["beta"]


def test_published_markers_are_those_that_types_express() -> None:
    assert published_markers("baron")["alpha"] == ["GCG", "ARX", "IRX2"]
    assert published_markers("pbmc")["B"] == ["MS4A1", "CD79A", "CD19"]
    assert published_markers("retina") == {}


def test_attributions_separate_markers_and_shuffled_weights_do_not(small: Reference, query: AnnData) -> None:
    explained = ExplainedQuery(SpikGPT(small), query)
    cells = explained.cells_of("alpha", 10)
    assert cells is not None
    genes, markers = explained.query.genes, wilcoxon_markers(query)["alpha"]
    figures = marker_figures(cells, genes, markers, ["GCG", "no such gene"])
    assert 0 < figures["markers"] <= 100
    assert figures["AUROC attribution, absent genes last"] > 0.7
    assert 0.3 < figures["AUROC shuffled"] < 0.7
    assert figures["published markers"] == 1
    assert figures["published in top 20"] == 1


def test_agreement_is_full_with_itself_and_small_with_shuffled_weights(small: Reference, query: AnnData) -> None:
    attributions = label_attributions(SpikGPT(small), query)
    same, shuffled = agreement(attributions, attributions), agreement(attributions, attributions, shuffled=True)
    assert same["rank correlation"] == pytest.approx(1)
    assert same["top 20 shared"] == 1
    assert abs(shuffled["rank correlation"]) < 0.3
    assert shuffled["top 20 shared"] < 0.5
    assert isinstance(attributions["beta"][0], pd.Series)


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no retina_voigt_human\.h5ad, which this suite needs"):
        load_task("retina", tmp_path)
