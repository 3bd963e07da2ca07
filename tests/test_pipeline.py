"""Labels depend on the cells alone: not on storage, names, order or batch size."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import Annotation, SpikGPT
from spikgpt.cells.genes import ensembl_ids_of
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import ConfigError, DataError, GenesError
from spikgpt.labels.thresholds import Thresholds
from spikgpt.pipeline import annotate
from spikgpt.training.reference import Reference


@pytest.fixture(scope="module")
def named(query: AnnData) -> AnnData:
    """Keep the genes of the query that have an Ensembl id of their own."""
    ids = np.array(ensembl_ids_of(query.var_names), dtype=object)
    times = Counter(ids)
    unique = [gene is not None and times[gene] == 1 for gene in ids]
    subset = query[:, unique].copy()
    subset.var["ensembl"] = ids[unique].astype(str)
    return subset


@pytest.fixture(scope="module")
def expected(small: Reference, named: AnnData) -> Annotation:
    return annotate(small, named)


def as_dense(adata: AnnData) -> None:
    adata.X = adata.X.toarray()


def as_csc(adata: AnnData) -> None:
    adata.X = sparse.csc_matrix(adata.X)


def as_float(adata: AnnData) -> None:
    adata.X = adata.X.astype(np.float32)


def by_ensembl_id(adata: AnnData) -> None:
    adata.var_names = adata.var["ensembl"].to_numpy()


def by_versioned_id(adata: AnnData) -> None:
    adata.var_names = [f"{gene}.{index % 20 + 1}" for index, gene in enumerate(adata.var["ensembl"])]


def by_lower_case(adata: AnnData) -> None:
    adata.var_names = adata.var_names.str.lower()


@pytest.mark.parametrize(
    "change", [as_dense, as_csc, as_float, by_ensembl_id, by_versioned_id, by_lower_case], ids=lambda f: f.__name__
)
def test_storage_and_names_change_nothing(small: Reference, named: AnnData, expected: Annotation, change: Any) -> None:
    other = named.copy()
    change(other)
    found = annotate(small, other)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_gene_order_changes_nothing(small: Reference, named: AnnData, expected: Annotation) -> None:
    order = np.random.default_rng(0).permutation(named.n_vars)
    np.testing.assert_array_equal(annotate(small, named[:, order].copy()).probabilities, expected.probabilities)


def test_cell_order_changes_nothing(small: Reference, named: AnnData, expected: Annotation) -> None:
    order = np.random.default_rng(0).permutation(named.n_obs)
    found = annotate(small, named[order].copy())
    np.testing.assert_array_equal(found.labels, expected.labels[order])
    np.testing.assert_allclose(found.probabilities, expected.probabilities[order], atol=1e-6)


def test_a_file_on_disk_changes_nothing(small: Reference, named: AnnData, expected: Annotation, tmp_path: Path) -> None:
    named.write_h5ad(tmp_path / "query.h5ad", compression="gzip")
    found = annotate(small, read_cells(tmp_path / "query.h5ad"))
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    with open_cells(tmp_path / "query.h5ad") as cells:
        found = annotate(small, cells)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


@pytest.mark.parametrize("batch_size", [1, 7, 100_000])
def test_the_batch_size_changes_nothing(
    small: Reference, named: AnnData, expected: Annotation, batch_size: int
) -> None:
    found = annotate(small, named, batch_size=batch_size)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_log_values_get_the_labels_of_counts(small: Reference, named: AnnData, expected: Annotation) -> None:
    logs = named.copy()
    counts = named.X.toarray().astype(np.float64)
    logs.X = sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))
    found = annotate(small, logs)
    assert (found.report.values, expected.report.values) == ("log", "counts")
    assert (found.best_labels == expected.best_labels).mean() > 0.99


def test_real_cells_get_the_right_labels(shipped: SpikGPT, query: AnnData) -> None:
    truth = query.obs["cell_type"].astype(str).to_numpy()
    annotation = annotate(shipped.reference, query)
    assert (annotation.best_labels == truth).mean() > 0.93
    assert annotation.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(annotation.confidence, annotation.probabilities.max(axis=1))


def test_empty_cells_are_kept_unknown_and_counted(small: Reference, query: AnnData) -> None:
    with_empty = query.copy()
    matrix = with_empty.X.tolil()
    matrix[[3, 7]] = 0
    with_empty.X = matrix.tocsr()
    annotation = annotate(small, with_empty)
    assert annotation.labels.size == query.n_obs
    assert (annotation.labels[[3, 7]] == "Unknown").all()
    assert (annotation.best_labels[[3, 7]] == "Unknown").all()
    assert (annotation.confidence[[3, 7]] == 0).all()
    assert int(annotation.empty.sum()) == 2
    assert "2 cells have no counts and are Unknown." in annotation.notes()
    assert (annotate(small, with_empty, threshold=0.0).labels[[3, 7]] == "Unknown").all()


def test_the_threshold_decides(small: Reference, query: AnnData) -> None:
    everything = annotate(small, query, threshold=0.0)
    assert everything.unknown_rate == 0
    np.testing.assert_array_equal(everything.labels, everything.best_labels)
    nothing = annotate(small, query, threshold=1.0)
    assert nothing.unknown_rate > 0.9
    np.testing.assert_array_equal(nothing.best_labels, everything.best_labels)
    assert any("is 'small' the right reference" in note for note in nothing.notes())


def test_the_unknown_rate_decides(small: Reference, query: AnnData) -> None:
    shares = [annotate(small, query, unknown_rate=rate).unknown_rate for rate in (0.0, 0.02, 0.2, 0.9)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] > 0.5
    lenient = annotate(small, query, recalibrate=True)
    assert lenient.unknown_rate <= annotate(small, query).unknown_rate
    assert lenient.decision.recalibrated


def test_a_reference_without_familiarity_goes_by_the_probability(small: Reference, query: AnnData) -> None:
    numbers = {name: getattr(small.thresholds, name) for name in ("threshold", "unknown_rate", "calibration_cells")}
    old = dataclasses.replace(small, thresholds=Thresholds(**numbers), familiarity=None)
    annotation = annotate(old, query)
    assert annotation.familiarity is None
    np.testing.assert_array_equal(annotation.rejected, annotation.confidence < small.thresholds.threshold)
    with pytest.raises(ConfigError, match="before familiarity was measured"):
        annotate(old, query, unknown_rate=0.02)


@pytest.mark.parametrize("threshold", [-1.0, 1.5])
def test_a_bad_threshold_is_refused(small: Reference, query: AnnData, threshold: float) -> None:
    with pytest.raises(ConfigError, match="expected a probability"):
        annotate(small, query, threshold=threshold)


def test_few_genes_are_reported_then_refused(small: Reference, query: AnnData) -> None:
    genes = set(small.embedder.genes.symbols if small.embedder.genes else ())
    shared = [name for name in query.var_names if name in genes]
    others = [name for name in query.var_names if name not in genes][:500]
    some = annotate(small, query[:, shared[:200] + others].copy())
    assert any(note.startswith("Only 200 of the reference's") for note in some.notes())
    with pytest.raises(GenesError, match="20 of"):
        annotate(small, query[:, shared[:20] + others].copy())


def test_scaled_data_are_refused(small: Reference, query: AnnData) -> None:
    scaled = query[:, :2000].copy()
    values = scaled.X.toarray().astype(np.float32)
    scaled.X = values - values.mean(axis=0)
    with pytest.raises(DataError, match="negative"):
        annotate(small, scaled)


def test_the_annotation_is_written_and_survives_a_file(small: Reference, query: AnnData, tmp_path: Path) -> None:
    adata = query.copy()
    annotation = SpikGPT(small).annotate(adata)
    adata.write_h5ad(tmp_path / "out.h5ad")
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(again.obs["spikgpt_label"].astype(str), annotation.labels)
    np.testing.assert_array_equal(again.obs["spikgpt_best_label"].astype(str), annotation.best_labels)
    np.testing.assert_array_equal(again.obs["spikgpt_confidence"], annotation.confidence)
    np.testing.assert_array_equal(again.obsm["spikgpt_probabilities"], annotation.probabilities)
    assert again.uns["spikgpt"]["labels"].tolist() == list(small.labels.names)
    assert again.uns["spikgpt"]["reference"] == "small"
    assert again.uns["spikgpt"]["scaling"] == "composition"
    np.testing.assert_array_equal(again.obs["spikgpt_familiarity"], annotation.familiarity)
    assert again.uns["spikgpt"]["rule"] == "less familiar than 95% of held-out known cells"
    assert again.uns["spikgpt"]["unknown_rate"] == 0.05


def test_the_table_has_a_row_a_cell(expected: Annotation, named: AnnData) -> None:
    table = expected.table()
    assert table.index.tolist() == named.obs_names.tolist()
    assert table.index.name == "cell"
    columns = ["label", "best_label", "label_broad", "confidence", "familiarity"]
    assert table.columns[:5].tolist() == [f"spikgpt_{column}" for column in columns]
    np.testing.assert_array_equal(
        table["probability of beta"], expected.probabilities[:, list(expected.label_names).index("beta")]
    )
