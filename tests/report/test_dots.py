"""Dot plot of the genes behind the labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.report import dots as dots_module
from spikgpt.report.dots import dot_plots


def test_hormones_are_the_genes_of_their_cells(annotated: Annotation, query: AnnData) -> None:
    (plot,) = dot_plots(annotated)
    assert plot.reference == ""
    rows = {row.label: row for row in plot.rows}
    for label, gene in (("alpha", "GCG"), ("beta", "INS"), ("delta", "SST")):
        at = plot.genes.index(gene)
        assert plot.rows[plot.owners[at]].label == label
        dot = rows[label].dots[at]
        assert dot is not None
        assert dot.behind
        assert dot.level == pytest.approx(1)
        assert dot.attribution > 0
        expressing = np.asarray((query[annotated.labels == label, gene].X > 0).todense()).mean()
        assert dot.share == pytest.approx(expressing, abs=0.02)
    assert len(set(plot.genes)) == len(plot.genes)
    assert list(plot.owners) == sorted(plot.owners)
    assert {gene.role for row in plot.rows for gene in row.genes} == {"supporting", "conflicting", "missing"}


def test_many_labels_have_fewer_genes_each(annotated: Annotation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dots_module, "MOST_COLUMNS", 5)
    (plot,) = dot_plots(annotated)
    assert len(plot.genes) <= len(plot.rows)


def test_without_expression_there_is_no_plot(annotated: Annotation) -> None:
    assert dot_plots(replace(annotated, query=None)) == ()
