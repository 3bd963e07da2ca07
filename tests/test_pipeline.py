"""Labels do not depend on storage, gene names, order, batch size, chunks or engine."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from msgspec import structs
from scipy import sparse

from spikgpt import Annotation, SpikGPT, annotate_shards, sampling
from spikgpt.cells import align, cell_cache
from spikgpt.cells.align import AlignedCells
from spikgpt.cells.genes import ensembl_ids_of
from spikgpt.cells.naming.orthologues import orthologue_names
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.errors import ConfigError, DataError, GenesError, LabelsError
from spikgpt.options import EngineOptions
from spikgpt.reference.files import Reference
from spikgpt.scoring.compatibility import LIKE, OTHER
from spikgpt.types import NetworkOutput, Scale
from tests.conftest import QUERY_FILE, labelled, usual_engine


@pytest.fixture(scope="module")
def named(query: AnnData) -> AnnData:
    """Return the query with the genes that have a unique Ensembl id."""
    ids = np.array(ensembl_ids_of(query.var_names), dtype=object)
    times = Counter(ids)
    unique = [gene is not None and times[gene] == 1 for gene in ids]
    subset = query[:, unique].copy()
    subset.var["ensembl"] = ids[unique].astype(str)
    return subset


@pytest.fixture(scope="module")
def expected(small: Reference, named: AnnData) -> Annotation:
    return labelled(small, named)


@pytest.fixture(scope="module")
def all_cells() -> AnnData:
    """Return all 756 cells, of which ``query`` is a part."""
    return read_cells(QUERY_FILE)


@pytest.fixture(scope="module")
def annotation_of_all(shipped: SpikGPT, all_cells: AnnData) -> Annotation:
    return labelled(shipped.reference, all_cells)


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
    "change",
    [as_dense, as_float, by_ensembl_id, by_lower_case]
    + [pytest.param(change, marks=pytest.mark.slow) for change in (as_csc, by_versioned_id)],
    ids=lambda f: f.__name__,
)
def test_labels_do_not_depend_on_storage_and_gene_names(
    small: Reference, named: AnnData, expected: Annotation, change: Any
) -> None:
    other = named.copy()
    change(other)
    annotation = labelled(small, other)
    np.testing.assert_array_equal(annotation.labels, expected.labels)
    np.testing.assert_array_equal(annotation.probabilities, expected.probabilities)


def test_labels_do_not_depend_on_gene_order(small: Reference, named: AnnData, expected: Annotation) -> None:
    order = np.random.default_rng(0).permutation(named.n_vars)
    np.testing.assert_array_equal(labelled(small, named[:, order].copy()).probabilities, expected.probabilities)


def test_labels_do_not_depend_on_cell_order(small: Reference, named: AnnData, expected: Annotation) -> None:
    order = np.random.default_rng(0).permutation(named.n_obs)
    annotation = labelled(small, named[order].copy())
    np.testing.assert_array_equal(annotation.labels, expected.labels[order])
    np.testing.assert_allclose(annotation.probabilities, expected.probabilities[order], atol=1e-6)
    assert annotation.compatibility == expected.compatibility


def test_a_file_gets_the_labels_of_its_cells_in_memory(
    small: Reference, named: AnnData, expected: Annotation, tmp_path: Path
) -> None:
    named.write_h5ad(tmp_path / "query.h5ad", compression="gzip")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2", UserWarning)
        named.write_zarr(tmp_path / "query.zarr")
    for name in ("query.h5ad", "query.zarr"):
        with open_cells(tmp_path / name) as opened:
            annotation = labelled(small, opened)
        np.testing.assert_array_equal(annotation.probabilities, expected.probabilities)


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 100_000])
def test_labels_do_not_depend_on_the_batch_size(
    small: Reference, named: AnnData, expected: Annotation, batch_size: int
) -> None:
    annotation = labelled(small, named, batch_size=batch_size)
    np.testing.assert_array_equal(annotation.labels, expected.labels)
    np.testing.assert_array_equal(annotation.probabilities, expected.probabilities)


def test_log_values_get_the_labels_of_counts(small: Reference, named: AnnData, expected: Annotation) -> None:
    logs = named.copy()
    counts = named.X.toarray().astype(np.float64)
    logs.X = sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))
    annotation = labelled(small, logs)
    assert (annotation.input_report.values, expected.input_report.values) == ("log", "counts")
    assert (annotation.best_labels == expected.best_labels).mean() > 0.99


def test_real_cells_get_the_right_labels(shipped: SpikGPT, query: AnnData) -> None:
    truth = query.obs["cell_type"].astype(str).to_numpy()
    annotation = labelled(shipped.reference, query)
    assert (annotation.best_labels == truth).mean() > 0.93
    assert annotation.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(annotation.confidence, annotation.probabilities.max(axis=1))


# Share of removed cells, and largest shares of labels and of Unknown cells that may change.
@pytest.mark.parametrize(
    ("left_out", "labels", "unknown"),
    [
        (0.01, 0.01, 0.02),
        (0.5, 0.02, 0.04),
        pytest.param(0.0, 0.0, 0.0, marks=pytest.mark.slow),
        pytest.param(0.3, 0.01, 0.02, marks=pytest.mark.slow),
    ],
)
def test_few_labels_change_if_other_cells_are_removed(
    shipped: SpikGPT, all_cells: AnnData, annotation_of_all: Annotation, left_out: float, labels: float, unknown: float
) -> None:
    adata = all_cells
    order = np.random.default_rng(0).permutation(adata.n_obs)
    # With left_out 0.5, annotate each half; otherwise annotate only the cells that are kept.
    parts = np.array_split(order, 2) if left_out == 0.5 else [order[round(left_out * adata.n_obs) :]]
    for part in parts:
        annotation = labelled(shipped.reference, adata[part].copy())
        assert (annotation.best_labels != annotation_of_all.best_labels[part]).mean() <= labels
        assert ((annotation.labels == "Unknown") != (annotation_of_all.labels[part] == "Unknown")).mean() <= unknown


def test_cells_of_one_type_alone_keep_their_label(shipped: SpikGPT) -> None:
    """Check that composition scaling, which would change most of these labels, is not used."""
    adata = read_cells(QUERY_FILE)
    alpha = adata[adata.obs["cell_type"] == "alpha"].copy()
    annotation = labelled(shipped.reference, alpha)
    assert (annotation.labels == "alpha").mean() >= 0.97
    assert annotation.input_report.scaling == "shift"
    assert any("change with the scaling method" in note for note in annotation.notes())
    assert labelled(shipped.reference, alpha, scaling="composition").input_report.scaling == "composition"


def test_empty_cells_are_unknown_and_counted_in_a_note(small: Reference, query: AnnData) -> None:
    with_empty = query.copy()
    matrix = with_empty.X.tolil()
    matrix[[3, 7]] = 0
    with_empty.X = matrix.tocsr()
    annotation = labelled(small, with_empty)
    assert annotation.labels.size == query.n_obs
    assert (annotation.labels[[3, 7]] == "Unknown").all()
    assert (annotation.best_labels[[3, 7]] == "Unknown").all()
    assert (annotation.confidence[[3, 7]] == 0).all()
    assert int(annotation.empty.sum()) == 2
    assert "2 cells without counts are Unknown." in annotation.notes()
    assert (labelled(small, with_empty, threshold=0.0).labels[[3, 7]] == "Unknown").all()


def test_a_higher_threshold_gives_more_unknown_cells(small: Reference, query: AnnData) -> None:
    everything = labelled(small, query, threshold=0.0)
    assert everything.unknown_fraction == 0
    np.testing.assert_array_equal(everything.labels, everything.best_labels)
    nothing = labelled(small, query, threshold=1.0)
    assert nothing.unknown_fraction > 0.9
    np.testing.assert_array_equal(nothing.best_labels, everything.best_labels)
    assert any("is 'small' the right reference" in note for note in nothing.notes())


def test_a_higher_unknown_rate_gives_more_unknown_cells(small: Reference, query: AnnData) -> None:
    each = [
        [labelled(small, query, unknown_rate=rate, reference_cutoff=same) for rate in (0.0, 0.02, 0.2, 0.9)]
        for same in (False, True)
    ]
    for rule in each:
        shares = [annotation.unknown_fraction for annotation in rule]
        assert shares[0] == 0
        assert shares == sorted(shares)
    for by_default, alone in zip(*each, strict=True):
        assert not (by_default.rejected & ~alone.rejected).any()
        np.testing.assert_array_equal(by_default.best_labels, alone.best_labels)
    assert each[1][-1].unknown_fraction > 0.5 > each[0][-1].unknown_fraction > 0


def test_all_cells_of_another_tissue_are_unknown_by_default(small: Reference, few: AnnData, foreign: AnnData) -> None:
    for options in ({}, {"reference_cutoff": True}, {"unknown_rate": 0.2}, {"smoothing": False}):
        annotation = labelled(small, foreign, **options)
        assert annotation.compatibility is not None
        assert annotation.compatibility.kind == OTHER
        assert annotation.rejected.all()
        assert annotation.rule.rule == "the reference does not suit this query"
        assert annotation.notes()[0].startswith("The cells are of another tissue or species; do not use the labels: ")
        assert annotation.uns()["spikgpt"]["compatibility"] == OTHER
    for options in ({"unknown_rate": 0.0}, {"threshold": 0.0}):
        annotation = labelled(small, foreign, **options)
        assert annotation.compatibility is not None
        assert not annotation.compatibility.usable
        assert not annotation.rejected.any()
        assert "do not use the labels" in annotation.notes()[0]
    suited = labelled(small, few)
    assert suited.compatibility is not None
    assert suited.compatibility.kind == LIKE
    assert not any("do not use" in note for note in suited.notes())


def test_a_reference_without_id_scores_rejects_by_confidence(small: Reference, query: AnnData) -> None:
    method = "maximum probability"
    thresholds = structs.replace(small.thresholds, method=method, single=None, smoothed=None)
    old = dataclasses.replace(small, thresholds=thresholds, familiarity=None)
    annotation = labelled(old, query)
    assert annotation.typicality is None
    assert annotation.compatibility is None
    np.testing.assert_array_equal(annotation.rejected, annotation.confidence < small.thresholds.threshold)
    with pytest.raises(ConfigError, match="format 1"):
        labelled(old, query, unknown_rate=0.02)


@pytest.mark.parametrize("threshold", [-1.0, 1.5])
def test_a_bad_threshold_is_refused(small: Reference, query: AnnData, threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"threshold is .*; expected a number"):
        labelled(small, query, threshold=threshold)


def test_few_genes_give_a_note_and_very_few_an_error(small: Reference, query: AnnData) -> None:
    genes = set(small.genes.symbols)
    shared = [name for name in query.var_names if name in genes]
    unknown_genes = [name for name in query.var_names if name not in genes][:500]
    annotation = labelled(small, query[:, shared[:200] + unknown_genes].copy())
    assert any(note.startswith("Only 200 of the reference's") for note in annotation.notes())
    assert any("In simulation, up to" in note for note in annotation.notes())
    with pytest.raises(GenesError, match=r"Found 5 of .* at least 10 are needed"):
        labelled(small, query[:, shared[:5]].copy())


def test_scaled_data_are_refused(small: Reference, query: AnnData) -> None:
    scaled = query[:, :2000].copy()
    values = scaled.X.toarray().astype(np.float32)
    scaled.X = values - values.mean(axis=0)
    with pytest.raises(DataError, match="negative"):
        labelled(small, scaled)


def test_the_annotation_is_the_same_after_writing_and_reading(small: Reference, query: AnnData, tmp_path: Path) -> None:
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
    np.testing.assert_array_equal(again.obs["spikgpt_typicality"], annotation.typicality)
    np.testing.assert_array_equal(again.obs["spikgpt_ood_score"], annotation.ood_score)
    np.testing.assert_array_equal(again.obs["spikgpt_ood_score"] > 0, annotation.rejected)
    assert again.uns["spikgpt"]["batch_key"] == "donor"
    rule = "OOD score above 0 (unlike the cells of its label in its batch)"
    assert again.uns["spikgpt"]["rule"] == rule
    assert annotation.compatibility is not None
    assert again.uns["spikgpt"]["compatibility"] == annotation.compatibility.kind == LIKE
    assert again.uns["spikgpt"]["evidence"] == annotation.compatibility.evidence
    assert np.isnan(again.uns["spikgpt"]["unknown_rate"])


def test_the_table_has_one_row_per_cell(expected: Annotation, named: AnnData) -> None:
    table = expected.table()
    assert table.index.tolist() == named.obs_names.tolist()
    assert table.index.name == "cell"
    columns = ["label", "best_label", "label_broad", "ontology_term_id", "ontology_label"]
    columns += ["confidence", "typicality", "familiarity"]
    assert table.columns[:8].tolist() == [f"spikgpt_{column}" for column in columns]
    np.testing.assert_array_equal(
        table["probability of beta"], expected.probabilities[:, list(expected.label_names).index("beta")]
    )


def test_labels_from_a_sample_do_not_depend_on_order_and_engine(
    shipped: SpikGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling.sample_of, "__defaults__", (200,))
    monkeypatch.setattr(cell_cache, "IN_MEMORY", 1000)
    monkeypatch.setattr(align, "CHUNK", 100)
    adata = read_cells(QUERY_FILE)
    annotation = labelled(shipped.reference, adata)
    shuffled = np.random.default_rng(0).permutation(adata.n_obs)
    again = labelled(shipped.reference, adata[shuffled].copy())
    np.testing.assert_array_equal(again.labels, annotation.labels[shuffled])
    onnx = labelled(shipped.reference, adata, engine=open_engine(shipped.reference, EngineOptions(engine="onnx")))
    np.testing.assert_array_equal(onnx.labels, annotation.labels)


class CountingEngine:
    """The torch engine with a counter of the cells that the network has processed."""

    def __init__(self, reference: Reference) -> None:
        self.engine, self.cells = torch_engine(reference), 0
        self.name, self.embedding = self.engine.name, self.engine.embedding
        self.chunk_threads = self.engine.chunk_threads

    def run(self, cells: AlignedCells, scale: Scale | None, **options: Any) -> NetworkOutput:
        self.cells += len(cells.totals)
        return self.engine.run(cells, scale, **options)


@pytest.mark.parametrize("limit", [100, 20_000], ids=["a sample of 100", "all cells are the sample"])
def test_the_network_processes_each_cell_once_and_the_sample_at_most_four_times(
    small: Reference, query: AnnData, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling.sample_of, "__defaults__", (limit,))
    engine = CountingEngine(small)
    assert labelled(small, query, engine=engine).input_report.scaling == "composition"
    assert query.n_obs < engine.cells <= query.n_obs + 3 * min(limit, query.n_obs)
    once = CountingEngine(small)
    labelled(small, query, engine=once, scaling="reference")
    assert once.cells == query.n_obs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"smoothing": False},
        {"scaling": "query"},
        {"threshold": 0.95},
        {"unknown_rate": 0.02},
        {"reference_cutoff": True, "smoothing": False, "unknown_rate": 0.1},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"scaling": "reference"},
                {"unknown_rate": 0.3},
                {"unknown_rate": 0},
                {"reference_cutoff": True},
                {"batch_size": 7},
            )
        ),
    ],
    ids=str,
)
def test_both_engines_give_the_same_labels(shipped: SpikGPT, query: AnnData, options: dict[str, Any]) -> None:
    expected = labelled(shipped.reference, query, **options)
    onnx = open_engine(shipped.reference, EngineOptions(engine="onnx"))
    annotation = labelled(shipped.reference, query, engine=onnx, **options)
    np.testing.assert_array_equal(annotation.labels, expected.labels)
    np.testing.assert_array_equal(annotation.best_labels, expected.best_labels)
    np.testing.assert_allclose(annotation.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(annotation.broad_labels, expected.broad_labels)
    assert annotation.typicality is not None
    assert expected.typicality is not None
    np.testing.assert_allclose(annotation.typicality, expected.typicality, atol=1e-4)
    assert annotation.rule.rule == expected.rule.rule
    assert annotation.compatibility == expected.compatibility
    assert annotation.input_report == expected.input_report


def test_labels_of_fewer_than_100_cells_are_not_smoothed(small: Reference, query: AnnData) -> None:
    few, enough = labelled(small, query[:99].copy()), labelled(small, query[:100].copy())
    assert not few.smoothed
    assert enough.smoothed
    assert not few.uns()["spikgpt"]["neighbours"]
    np.testing.assert_allclose(
        labelled(small, query[:1].copy(), scaling="reference").probabilities,
        labelled(small, query[:3].copy()).probabilities[:1],
        atol=1e-6,
    )


@pytest.mark.parametrize("size", [1, 9, 99, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 30))])
def test_small_queries_have_labels_and_a_compatibility(shipped: SpikGPT, query: AnnData, size: int) -> None:
    annotation = labelled(shipped.reference, query[:size].copy())
    assert annotation.best.shape == (size,)
    assert annotation.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert annotation.compatibility is not None
    assert annotation.compatibility.kind == LIKE
    assert annotation.rejected.sum() <= max(1, size // 20)


def test_a_query_of_only_empty_cells_is_refused(small: Reference, query: AnnData) -> None:
    nothing = query[:5].copy()
    nothing.X = sparse.csr_matrix(nothing.shape, dtype=np.float32)
    with pytest.raises(DataError, match="holds only zeros"):
        labelled(small, nothing)


@pytest.mark.parametrize("option", [{}, {"unknown_rate": 0.0}, {"threshold": 0.0}, {"reference_cutoff": True}], ids=str)
def test_cells_with_non_finite_network_outputs_are_unknown(
    small: Reference, few: AnnData, option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = usual_engine(small)
    original_run, not_finite = type(engine).run, np.array([np.nan, np.inf, -np.inf])

    def run_with_nan(self: Any, cells: AlignedCells, *arguments: Any, **options: Any) -> NetworkOutput:
        output = original_run(self, cells, *arguments, **options)
        probabilities, energies = output.probabilities.copy(), output.energies.copy()
        probabilities[:3, 0], energies[3:6] = not_finite, not_finite
        return NetworkOutput.from_arrays(output.vectors, probabilities, energies)

    monkeypatch.setattr(type(engine), "run", run_with_nan)
    annotation = labelled(small, few, engine, **option)
    assert set(annotation.labels[:6]) == set(annotation.best_labels[:6]) == {"Unknown"}
    assert (annotation.confidence[:6] == 0).all()
    assert np.isfinite(annotation.probabilities).all()
    assert (annotation.labels[6:] != "Unknown").any()


@pytest.mark.parametrize("layer", ["X", "raw", "mine"])
def test_layer_and_gene_key_work_in_memory_and_in_files(
    small: Reference, named: AnnData, expected: Annotation, tmp_path: Path, layer: str
) -> None:
    adata = named.copy()
    adata.var_names = [f"gene {number}" for number in range(adata.n_vars)]
    adata.var["my ids"] = adata.var.pop("ensembl")
    if layer != "X":
        adata.raw = adata.copy() if layer == "raw" else None
        if layer == "mine":
            adata.layers["mine"] = adata.X.copy()
        adata.X = adata.X.astype(np.float32)
        adata.X.data[:] = 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2", UserWarning)
        adata.write_h5ad(tmp_path / "query.h5ad")
        adata.write_zarr(tmp_path / "query.zarr")
    options: dict[str, Any] = {"layer": layer, "gene_key": "my ids"}
    annotations = [labelled(small, adata, **options)]
    for name in ("query.h5ad", "query.zarr"):
        with open_cells(tmp_path / name) as opened:
            annotations.append(labelled(small, opened, **options))
    for annotation in annotations:
        np.testing.assert_array_equal(annotation.probabilities, expected.probabilities)
        np.testing.assert_array_equal(annotation.labels, expected.labels)
    model = SpikGPT(small)
    parts = annotate_shards(model, [tmp_path / "query.zarr"], tmp_path / "labels", shard_size=70, **options).parts
    tables = [pd.read_parquet(part) for part in parts]
    assert pd.concat(tables)["spikgpt_label"].astype(str).tolist() == expected.labels.tolist()


def test_clusters_get_the_label_of_the_majority(
    shipped: SpikGPT, all_cells: AnnData, annotation_of_all: Annotation
) -> None:
    adata = all_cells.copy()
    adata.obs["mine"] = np.where(all_cells.obs["cell_type"] == "beta", "one", "two")
    annotation = shipped.annotate(adata, cluster_key="mine")
    np.testing.assert_array_equal(annotation.labels, annotation_of_all.labels)
    assert set(adata.obs["spikgpt_cluster_label"][adata.obs["mine"] == "one"]) == {"beta"}
    assert len(adata.uns["spikgpt_cluster_label_colors"]) == adata.obs["spikgpt_cluster_label"].nunique()
    with pytest.raises(LabelsError, match="obs has no column 'leiden'"):
        shipped.annotate(adata, cluster_key="leiden")


def test_fine_clusters_do_not_depend_on_order_and_hardly_on_the_sample(
    shipped: SpikGPT, all_cells: AnnData, annotation_of_all: Annotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("igraph")
    adata = all_cells.copy()
    annotation = shipped.annotate(adata, majority_vote=True)
    np.testing.assert_array_equal(annotation.labels, annotation_of_all.labels)
    # The two annotations are by different engines.
    np.testing.assert_allclose(annotation.probabilities, annotation_of_all.probabilities, atol=1e-5)
    labels = annotation.cluster_labels
    assert labels is not None
    for cluster, cells in adata.obs.groupby("spikgpt_cluster", observed=True):
        assert cells["spikgpt_cluster_label"].nunique() == 1, cluster
    assert 10 < adata.obs["spikgpt_cluster"].nunique() < 100
    order = np.random.default_rng(0).permutation(adata.n_obs)
    again = shipped.annotate(all_cells[order].copy(), majority_vote=True).cluster_labels
    np.testing.assert_array_equal(again, labels[order])
    monkeypatch.setattr(sampling.sample_of, "__defaults__", (400,))
    sampled = labelled(shipped.reference, all_cells, majority_vote=True)
    assert sampled.cluster_labels is not None
    assert (sampled.cluster_labels == labels).mean() > 0.85


def test_a_majority_vote_needs_100_cells(shipped: SpikGPT, few: AnnData) -> None:
    with pytest.raises(DataError, match="majority_vote needs at least 100 cells with counts; the query has 50"):
        shipped.annotate(few[:50].copy(), majority_vote=True)


def test_mouse_genes_are_read_as_orthologues(
    shipped: SpikGPT, all_cells: AnnData, annotation_of_all: Annotation
) -> None:
    symbols, ids = orthologue_names(all_cells.var_names.tolist(), "human")
    for names in (symbols, ids):
        mouse = all_cells.copy()
        mouse.var_names = [name or f"Gm{number + 1000}" for number, name in enumerate(names)]
        annotation = shipped.annotate(mouse, species="mouse")
        assert (annotation.best_labels == annotation_of_all.best_labels).mean() > 0.98
        assert mouse.uns["spikgpt"]["orthologues_of"] == "mouse"
        assert any("as one-to-one orthologues of mouse genes." in sentence for sentence in annotation.sentences())


def test_nearest_cells_of_a_cell_are_in_the_sample(
    small: Reference, query: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling.sample_of, "__defaults__", (150,))
    annotation = labelled(small, query)
    assert annotation.nearest is not None
    assert annotation.query is not None
    sample = annotation.query.rows
    assert len(sample) < query.n_obs
    np.testing.assert_array_equal(annotation.nearest[sample], np.repeat(np.arange(len(sample))[:, None], 3, axis=1))
    outside_sample = np.setdiff1d(np.flatnonzero(~annotation.empty), sample)
    assert (annotation.nearest[outside_sample] >= 0).all()
    assert (annotation.nearest[annotation.empty] == -1).all()
