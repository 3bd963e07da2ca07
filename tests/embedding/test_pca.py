"""The projection equals plain NumPy, and its scalings suit queries that differ from the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.embedding.base import Scaled
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.opening import torch_engine
from spikgpt.reference.files import EMBEDDER, Reference
from tests.conftest import aligned


def projection_of(reference: Reference) -> PCAProjection:
    return PCAProjection.from_tensors(reference.embedder, reference.part(EMBEDDER), reference.genes)


def read(projection: PCAProjection, adata: AnnData) -> AlignedCells:
    return joined(list(projection.read(adata).chunks))


def vectors_of(projection: PCAProjection, adata: AnnData) -> npt.NDArray[np.float64]:
    """Return the PCA vectors of cells, shape (cells, dim), with genes scaled as in the reference."""
    cells = read(projection, adata)
    return projection.project(cells.values, cells.totals, projection.reference_scale(cells))


def columns(adata: AnnData, projection: PCAProjection) -> list[int]:
    """Return the column in ``adata`` of each gene of the projection; all genes must be present."""
    positions = {name: index for index, name in enumerate(adata.var_names)}
    return [positions[symbol] for symbol in projection.genes.symbols]


def scaled_by(reference: Reference, adata: AnnData, scaling: str) -> Scaled:
    return projection_of(reference).fit_scale(aligned(reference, adata), scaling, torch_engine(reference).run)


def labels_by(reference: Reference, adata: AnnData, scaling: str) -> npt.NDArray[np.str_]:
    output = torch_engine(reference).run(aligned(reference, adata), scaled_by(reference, adata, scaling).scale)
    labels: npt.NDArray[np.str_] = np.array(reference.labels.names)[output.probabilities.argmax(axis=1)]
    return labels


def test_vectors_equal_a_plain_numpy_computation(small: Reference, query: AnnData) -> None:
    embedder = projection_of(small)
    counts = query.X.toarray().astype(np.float64)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, columns(query, embedder)]
    scaled = np.clip((logs - embedder.mean) / embedder.std, -5, 5)
    expected = scaled @ embedder.components.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors_of(embedder, query), expected, atol=1e-5)
    report = embedder.read(query).report
    assert report.genes_matched == report.genes_total == len(embedder.genes)
    assert (report.values, report.source) == ("counts", "X")


def test_a_stored_embedder_is_the_same(small: Reference, query: AnnData) -> None:
    embedder = projection_of(small)
    again = PCAProjection.from_tensors(embedder.settings(), embedder.tensors(), embedder.genes)
    np.testing.assert_array_equal(vectors_of(again, query), vectors_of(embedder, query))


def test_a_missing_gene_counts_as_the_reference_mean(small: Reference, query: AnnData) -> None:
    embedder = projection_of(small)
    gene = int(np.argmax(np.abs(embedder.components).sum(axis=1)))
    without = query[:, query.var_names != embedder.genes.symbols[gene]].copy()
    counts = without.X.toarray().astype(np.float64)
    kept = [i for i in range(len(embedder.genes)) if i != gene]
    positions = {name: index for index, name in enumerate(without.var_names)}
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    logs = logs[:, [positions[embedder.genes.symbols[i]] for i in kept]]
    scaled = np.clip((logs - embedder.mean[kept]) / embedder.std[kept], -5, 5)
    expected = scaled @ embedder.components[kept].astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors_of(embedder, without), expected, atol=1e-5)
    assert embedder.read(without).report.genes_matched == len(embedder.genes) - 1


def test_composition_scaling_undoes_another_technology(small: Reference, cells: AnnData) -> None:
    # The counts of each gene are multiplied by a random factor, and only three of the six types are present.
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


def test_shift_scaling_equals_a_plain_numpy_computation(small: Reference, query: AnnData) -> None:
    projection, scaled = projection_of(small), scaled_by(small, query, "shift")
    logs = np.log1p(query.X.toarray() / query.X.sum(axis=1).A * 1e4)[:, columns(query, projection)]
    unmoved = labels_by(small, query, "reference")
    names = small.labels.names
    counts = np.array([(unmoved == name).sum() for name in names])
    shares, means, stds = counts / counts.sum(), projection.label_means, projection.label_stds
    expected = shares @ means
    deviation = np.sqrt(shares @ (stds.astype(np.float64) ** 2 + (means - expected) ** 2))
    ratio = np.clip((logs.std(axis=0) + 0.3) / (deviation + 0.3), 0.3, 3)
    voting = [index for index, count in enumerate(counts) if count >= 10]
    differences = [
        logs[unmoved == names[index]].mean(axis=0) - (means[index] - projection.mean) * ratio for index in voting
    ]
    assert len(voting) > 2
    assert scaled.scale is not None
    np.testing.assert_allclose(scaled.scale[0], np.median(differences, axis=0), atol=1e-4)
    np.testing.assert_allclose(scaled.scale[1], projection.std * ratio, rtol=1e-4)


def test_auto_keeps_the_type_of_sorted_cells(small: Reference, cells: AnnData) -> None:
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    right = dict[str, list[float]]()
    for name in ("alpha", "beta", "ductal"):
        alone = AnnData(sparse.vstack([cells.X[truth == name]] * 2, format="csr"), var=cells.var.copy())
        for scaling in ("auto", "composition"):
            right.setdefault(scaling, []).append((labels_by(small, alone, scaling) == name).mean())
    assert min(right["auto"]) > 0.95
    assert min(right["composition"]) < 0.8


def test_labels_that_change_with_the_scaling_are_noted(small: Reference, cells: AnnData) -> None:
    beta = cells.X[(cells.obs["cell_type"] == "beta").to_numpy()]
    alone = AnnData(sparse.vstack([beta] * 2, format="csr"), var=cells.var.copy())
    scaled = scaled_by(small, alone, "auto")
    assert scaled.name == "shift"
    assert "Pass scaling='composition' (--scaling composition) for the other." in scaled.notes[0]


def test_auto_uses_the_scaling_of_the_reference_for_few_cells(small: Reference, query: AnnData) -> None:
    assert scaled_by(small, query, "auto").name in ("composition", "shift")
    assert scaled_by(small, query[:50].copy(), "auto").name == "reference"


def test_notes_of_the_values_and_of_the_genes_are_joined(small: Reference, query: AnnData) -> None:
    cells = query.copy()
    cells.X = cells.X.log1p() / np.float32(np.log(2))
    cells.var_names = [name.capitalize() for name in query.var_names]
    base, *_, mouse = projection_of(small).read(cells).report.notes
    assert base == "The values were taken for logarithms to base 2."
    assert mouse.startswith("The query looks like mouse")


def test_the_network_output_in_the_chosen_scale_is_kept(small: Reference, query: AnnData) -> None:
    scaled = scaled_by(small, query, "composition")
    again = torch_engine(small).run(aligned(small, query), scaled.scale)
    assert scaled.output is not None
    np.testing.assert_array_equal(scaled.output.probabilities, again.probabilities)


def test_an_uncertain_scaling_is_noted(small: Reference, query: AnnData) -> None:
    strange = query.copy()
    strange.var_names = np.random.default_rng(0).permutation(query.var_names)
    assert "of the labels change with the scaling method" in scaled_by(small, strange, "composition").notes[0]
    assert scaled_by(small, query, "auto").notes == ()


def test_profiles_hold_the_mean_expression_of_the_genes_in_the_query(small: Reference, cells: AnnData) -> None:
    embedder = projection_of(small)
    in_query = np.random.default_rng(0).random(len(embedder.genes)) < 0.5
    counts = cells.X.toarray().astype(np.float64)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, columns(cells, embedder)][:, in_query]
    best = np.array([small.labels.names.index(name) for name in cells.obs["cell_type"]])
    means = np.stack([logs[best == label].mean(axis=0) for label in range(len(small.labels.names))])

    profiles = embedder.profiles(replace(read(embedder, cells), genes_present=in_query))

    np.testing.assert_allclose(profiles.means, means, atol=1e-4)
    np.testing.assert_allclose(profiles.within, np.sqrt(((logs - means[best]) ** 2).mean(axis=0)), atol=1e-3)
