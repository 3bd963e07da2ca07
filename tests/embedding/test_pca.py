"""The pca embedder against plain NumPy, and its scalings against queries that differ from the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.genes import GeneList
from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.training.embedders.pca import PCAEmbedder
from spikgpt.training.reference import Reference


def embedder_of(reference: Reference) -> PCAEmbedder:
    assert isinstance(reference.embedder, PCAEmbedder)
    return reference.embedder


def columns(adata: AnnData, embedder: PCAEmbedder) -> list[int]:
    """Where the embedder's genes are, by name alone; every one of them must be there."""
    positions = {name: index for index, name in enumerate(adata.var_names)}
    return [positions[symbol] for symbol in embedder.genes.symbols]


def labels_by(reference: Reference, adata: AnnData, scaling: str) -> npt.NDArray[np.str_]:
    vectors = reference.embedder.embed(adata, scaling=scaling, classify=reference.probabilities).vectors
    labels: npt.NDArray[np.str_] = np.array(reference.labels.names)[reference.probabilities(vectors).argmax(axis=1)]
    return labels


def test_vectors_equal_a_plain_numpy_computation(small: Reference, query: AnnData) -> None:
    embedder = embedder_of(small)
    counts = query.X.toarray().astype(np.float64)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, columns(query, embedder)]
    scaled = np.clip((logs - embedder.mean) / embedder.std, -5, 5)
    expected = scaled @ embedder.components.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = embedder.embed(query, scaling="reference")
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    assert found.report.genes_matched == found.report.genes_total == len(embedder.genes)
    assert (found.report.values, found.report.source, found.report.scaling) == ("counts", "X", "reference")


def test_the_fit_is_what_it_says(small: Reference, cells: AnnData) -> None:
    embedder = embedder_of(small)
    counts = cells.X.toarray().astype(np.float64)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, columns(cells, embedder)]
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    names, sizes = np.unique(labels, return_counts=True)
    shares = sizes / sizes.sum()
    np.testing.assert_allclose(embedder.mean, logs.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(embedder.label_means, [logs[labels == n].mean(axis=0) for n in names], atol=1e-5)
    np.testing.assert_allclose(embedder.label_shares, shares, atol=1e-6)
    variances = np.stack([logs[labels == n].var(axis=0) for n in names])
    assert np.all(embedder.std**2 >= shares @ variances - 1e-6)
    vectors = embedder.embed(cells, scaling="reference").vectors
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


def test_a_stored_embedder_is_the_same(small: Reference, query: AnnData) -> None:
    embedder = embedder_of(small)
    again = PCAEmbedder.from_tensors(embedder.settings(), embedder.tensors(), embedder.genes)
    expected = embedder.embed(query, scaling="reference").vectors
    np.testing.assert_array_equal(again.embed(query, scaling="reference").vectors, expected)


def test_damaged_tensors_are_refused(small: Reference) -> None:
    embedder = embedder_of(small)
    tensors = embedder.tensors()
    with pytest.raises(DamagedReference, match="expected"):
        PCAEmbedder.from_tensors(embedder.settings(), tensors | {"more": np.zeros(1)}, embedder.genes)
    with pytest.raises(DamagedReference, match="expected"):
        PCAEmbedder.from_tensors({"kind": "pca", "clip": "5"}, tensors, embedder.genes)
    fewer = GeneList(embedder.genes.symbols[1:], embedder.genes.ensembl_ids[1:])
    with pytest.raises(DamagedReference, match=r"embedder.mean is float32 .*; expected float32"):
        PCAEmbedder.from_tensors(embedder.settings(), tensors, fewer)


def test_a_missing_gene_counts_as_the_reference_mean(small: Reference, query: AnnData) -> None:
    embedder = embedder_of(small)
    gene = int(np.argmax(np.abs(embedder.components).sum(axis=1)))
    without = query[:, query.var_names != embedder.genes.symbols[gene]].copy()
    counts = without.X.toarray().astype(np.float64)
    kept = [i for i in range(len(embedder.genes)) if i != gene]
    positions = {name: index for index, name in enumerate(without.var_names)}
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    logs = logs[:, [positions[embedder.genes.symbols[i]] for i in kept]]
    scaled = np.clip((logs - embedder.mean[kept]) / embedder.std[kept], -5, 5)
    found = embedder.embed(without, scaling="reference")
    expected = scaled @ embedder.components[kept].astype(np.float64)
    np.testing.assert_allclose(found.vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    assert found.report.genes_matched == len(embedder.genes) - 1


def test_composition_scaling_undoes_another_technology(small: Reference, cells: AnnData) -> None:
    # Each gene is captured better or worse by a factor, and only three of the six types are there.
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    few = np.isin(truth, np.unique(truth)[:3])
    random = np.random.default_rng(0)
    shifted = cells[few].copy()
    factors = random.lognormal(0, 3, cells.n_vars)
    shifted.X = sparse.csr_matrix(random.poisson(shifted.X.toarray() * factors))
    accuracy = {s: (labels_by(small, shifted, s) == truth[few]).mean() for s in ("reference", "query", "composition")}
    assert accuracy["composition"] > 0.95
    assert accuracy["composition"] >= accuracy["reference"]
    assert accuracy["composition"] > accuracy["query"]


def test_auto_is_composition_for_many_cells_and_reference_for_few(small: Reference, query: AnnData) -> None:
    assert embedder_of(small).embed(query, classify=small.probabilities).report.scaling == "composition"
    assert embedder_of(small).embed(query[:50], classify=small.probabilities).report.scaling == "reference"


def test_a_query_that_cannot_be_scaled_with_confidence_says_so(small: Reference, query: AnnData) -> None:
    strange = query.copy()
    strange.var_names = np.random.default_rng(0).permutation(query.var_names)
    report = embedder_of(small).embed(strange, classify=small.probabilities).report
    assert any("depend on how it is scaled" in note for note in report.notes)


def test_an_unknown_scaling_is_refused(small: Reference, query: AnnData) -> None:
    with pytest.raises(ConfigError, match="no scaling 'own'; choose one of auto, reference, query, composition"):
        small.embedder.embed(query, scaling="own")
    with pytest.raises(ConfigError, match="needs a classifier"):
        small.embedder.embed(query, scaling="composition")
