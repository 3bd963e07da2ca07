"""Genes behind labels: supporting, conflicting and missing genes."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.explain.labels import LabelGenes, explain_labels
from spikgpt.explain.query import FittedQuery
from spikgpt.explain.scored import ScoredCells
from spikgpt.reference.files import Reference
from tests.conftest import labelled


@pytest.fixture(scope="module")
def explained(fitted: FittedQuery) -> dict[str, LabelGenes]:
    return {genes.label: genes for genes in explain_labels(fitted)}


@pytest.mark.parametrize(("label", "gene"), [("beta", "INS"), ("alpha", "GCG"), ("delta", "SST")])
def test_hormones_support_the_cells_that_make_them(explained: dict[str, LabelGenes], label: str, gene: str) -> None:
    supporting = explained[label].of_role("supporting")
    hormone = next(evidence for evidence in supporting[:5] if evidence.gene == gene)
    assert not hormone.absent
    assert hormone.attribution is not None
    assert hormone.attribution > 0
    assert hormone.mean is not None
    assert hormone.mean > hormone.runner_up_mean + 2
    assert hormone.expressed is not None
    assert hormone.expressed > 0.9


def test_an_absent_hormone_supports_another_label(explained: dict[str, LabelGenes]) -> None:
    assert any(gene.gene == "GCG" and gene.absent for gene in explained["beta"].of_role("supporting"))


def test_figures_are_those_of_the_cells_of_the_label(fitted: FittedQuery, explained: dict[str, LabelGenes]) -> None:
    sample = ScoredCells.from_sample(fitted)
    beta = fitted.reference.labels.names.index("beta")
    cells = np.flatnonzero((sample.best == beta) & ~sample.unknown)
    assert explained["beta"].cells == len(cells)
    insulin = next(gene for gene in explained["beta"].genes if gene.gene == "INS")
    assert fitted.logs is not None
    values = fitted.logs[cells].toarray()[:, fitted.genes.index("INS")]
    assert insulin.mean == pytest.approx(values.mean(), rel=1e-5)
    assert insulin.expressed == pytest.approx((values > 0).mean())


def test_genes_that_cells_do_not_express_are_missing(small: Reference, query: AnnData) -> None:
    silent = query.copy()
    silent.X = silent.X @ sparse.diags((silent.var_names != "GCG").astype(np.float32)).tocsr()
    fitted = labelled(small, silent, labels=["alpha", "beta", "ductal"]).query
    assert isinstance(fitted, FittedQuery)
    (alpha,) = explain_labels(fitted, ["alpha"])
    gene = alpha.of_role("missing")[0]
    assert (gene.gene, gene.mean, gene.expressed) == ("GCG", 0.0, 0.0)
    assert gene.label_mean > 4


def test_genes_that_the_query_lacks_are_missing(small: Reference, query: AnnData) -> None:
    fitted = labelled(small, query[:, query.var_names != "GCG"].copy()).query
    assert isinstance(fitted, FittedQuery)
    (alpha,) = explain_labels(fitted, ["alpha"])
    gene = alpha.of_role("missing")[0]
    assert (gene.gene, gene.attribution, gene.mean, gene.expressed) == ("GCG", None, None, None)
    assert gene.label_mean > 4


def test_the_order_of_cells_does_not_matter(small: Reference, query: AnnData, explained: dict[str, LabelGenes]) -> None:
    turned = labelled(small, query[::-1].copy()).query
    assert isinstance(turned, FittedQuery)
    for genes in explain_labels(turned):
        np.testing.assert_allclose(genes.attributions, explained[genes.label].attributions, atol=1e-3)


def test_attributions_add_up(explained: dict[str, LabelGenes]) -> None:
    for genes in explained.values():
        assert genes.agreement > 0.5
        assert genes.attributions.sum() == pytest.approx(genes.log_odds - genes.baseline, rel=0.1)


def test_labels_and_numbers_are_chosen(fitted: FittedQuery) -> None:
    (beta,) = explain_labels(fitted, ["beta"], cells_per_label=4, top=3)
    assert beta.label == "beta"
    assert beta.explained <= 4 < beta.cells
    assert len(beta.of_role("supporting")) == 3
    supporting = [gene.attribution or 0 for gene in beta.of_role("supporting")]
    assert supporting == sorted(supporting, reverse=True)
    assert explain_labels(fitted, ["Unknown"]) == ()
