"""Imputed expression of missing genes equals dense formulas, and improves the labels of a gene panel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData
from scipy.stats import multivariate_normal

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.genes import GeneList
from spikgpt.embedding.imputation import GENES, FittedImputer, GeneImputer, GeneStatistics
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.errors import GenesError
from spikgpt.options import EngineOptions
from spikgpt.reference.files import Reference, read_reference
from spikgpt.types import UNKNOWN
from tests.conftest import labelled


def projection_of(reference: Reference) -> PCAProjection:
    embedding = torch_engine(reference).embedding
    assert isinstance(embedding, PCAProjection)
    return embedding


def read(projection: PCAProjection, adata: AnnData) -> AlignedCells:
    return joined(list(projection.read(adata, layer=None, scaling="auto").chunks))


def panel(projection: PCAProjection, adata: AnnData, own: int, additional: int) -> AnnData:
    """Return the cells with ``own`` genes of the network, and ``additional`` genes that only the imputation uses."""
    assert projection.imputer is not None
    names = [*projection.genes.symbols[::7][:own], *projection.imputer.genes.symbols[:additional]]
    return adata[:, names].copy()


def test_expected_scores_equal_those_of_the_mixture() -> None:
    random = np.random.default_rng(0)
    labels, genes, dim = 3, 12, 2
    table = GeneStatistics(
        mean=random.random(genes),
        std=random.uniform(0.5, 1, genes),
        loadings=random.normal(0, 0.3, (genes, dim)),
        label_means=random.random((labels, genes)),
        label_stds=random.uniform(0.8, 1.2, (labels, genes)),
    )
    known, shares = random.random(genes) < 0.7, np.array([0.5, 0.3, 0.2])
    root = random.normal(0, 1, (dim, dim))
    scatter, centroids = (root @ root.T).astype(np.float32), random.normal(0, 2, (labels, dim)).astype(np.float32)
    none = np.empty(0, dtype=np.float16)
    more = GeneImputer(GeneList((), ()), none, none, none, none, none, centroids, scatter)
    scaled = random.normal(0, 1, (5, int(known.sum())))
    scores = FittedImputer.fit(table, known, shares, more).scores(scaled)

    within = scatter.astype(np.float64)
    within += 1e-6 * np.trace(within) / dim * np.eye(dim)
    loadings = table.loadings[known]
    spread = shares @ (table.label_stds[:, known] / table.std[known]) ** 2
    noise = np.maximum(spread - np.diag(loadings @ within @ loadings.T), 0.05)
    covariance = loadings @ within @ loadings.T + np.diag(noise)
    gain = within @ loadings.T @ np.linalg.inv(covariance)
    for cell, expression in enumerate(scaled):
        logs, expected = [], []
        for label in range(labels):
            mean = (table.label_means[label, known] - table.mean[known]) / table.std[known]
            logs.append(
                GENES.evidence_weight * multivariate_normal.logpdf(expression, mean, covariance)
                + 0.5 * np.log(shares[label])
            )
            expected.append(centroids[label] + gain @ (expression - mean))
        weights = np.exp(np.array(logs) - max(logs))
        np.testing.assert_allclose(scores[cell], weights / weights.sum() @ np.array(expected), rtol=1e-6, atol=1e-8)


def test_a_query_with_all_genes_is_unchanged(small: Reference, few: AnnData) -> None:
    projection = projection_of(small)
    cells = read(projection, few)
    values, _, is_known = projection.impute(cells, projection.reference_scale(cells))
    assert not len(cells.other_genes)
    assert is_known.all()
    assert (values != cells.values).nnz == 0


def test_another_gene_is_read_for_each_missing_gene(small: Reference, few: AnnData) -> None:
    projection = projection_of(small)
    assert projection.imputer is not None
    lacking = set(projection.genes.symbols[:30])
    cells = read(projection, few[:, [name not in lacking for name in few.var_names]].copy())
    assert (~cells.genes_present).sum() == len(cells.other_genes) == 30
    column_of = {name: column for column, name in enumerate(few.var_names)}
    columns = [column_of[projection.imputer.genes.symbols[gene]] for gene in cells.other_genes]
    np.testing.assert_array_equal(cells.values[:, -30:].toarray(), few.X[:, columns].toarray())


def test_additional_genes_improve_the_labels_of_a_panel(small: Reference, query: AnnData) -> None:
    projection = projection_of(small)
    cells_of_panel = panel(projection, query, 110, 90)
    known = query.obs["cell_type"].isin(small.labels.names).to_numpy()
    truth = query.obs["cell_type"].astype(str).to_numpy()[known]
    right = {}
    for name, more in (("all", projection.imputer), ("none", None)):
        engine = replace(torch_engine(small), embedding=replace(projection, imputer=more))
        right[name] = (labelled(small, cells_of_panel, engine).best_labels[known] == truth).mean()
    assert right["all"] > 0.9
    assert right["all"] > right["none"]


def test_engines_agree_on_a_panel(graph_folder: str, query: AnnData) -> None:
    reference = read_reference(graph_folder)
    cells_of_panel = panel(projection_of(reference), query, 60, 140)
    torch, onnx = (
        labelled(reference, cells_of_panel, open_engine(reference, EngineOptions(engine=name)))
        for name in ("torch", "onnx")
    )
    np.testing.assert_array_equal(torch.labels, onnx.labels)
    np.testing.assert_allclose(torch.probabilities, onnx.probabilities, atol=1e-3)
    assert any("In simulation" in note for note in torch.notes())


def test_on_a_small_panel_uncertain_cells_are_unknown_rather_than_wrong(small: Reference, query: AnnData) -> None:
    cells_of_panel = panel(projection_of(small), query, 4, 30)
    truth = query.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, small.labels.names)
    all_cells, default = labelled(small, cells_of_panel, unknown_rate=0.0), labelled(small, cells_of_panel)
    assert default.input_report.few_genes
    assert (all_cells.labels != truth)[known].mean() > 0.1
    mislabelled = (default.labels != truth) & (default.labels != UNKNOWN)
    assert mislabelled[known].mean() < 0.1
    assert (default.labels == truth).any()
    assert any(note.startswith("The query has few of the reference's genes") for note in default.notes())


def test_chunks_do_not_matter_on_a_panel(small: Reference, query: AnnData) -> None:
    cells_of_panel = panel(projection_of(small), query, 60, 140)
    whole, part = labelled(small, cells_of_panel), labelled(small, cells_of_panel, batch_size=7)
    np.testing.assert_array_equal(whole.labels, part.labels)


def test_too_few_genes_are_refused_with_the_most_useful_missing_genes(small: Reference, query: AnnData) -> None:
    projection = projection_of(small)
    assert projection.imputer is not None
    cells_of_panel = query[:, [*projection.genes.symbols[:0], *projection.imputer.genes.symbols[-12:]]].copy()
    with pytest.raises(GenesError, match=r"\d+% of cells.*expected at least 50%.*missing genes: \w+"):
        labelled(small, cells_of_panel)
