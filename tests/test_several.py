"""Several references label one query: each cell by the reference that fits the cell."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import Annotation, SpikGPT, annotate
from spikgpt.engines.opening import open_engine
from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions, EngineOptions
from spikgpt.pipeline import annotate as annotate_by_one
from spikgpt.reference.files import Reference, read_reference
from spikgpt.several import NamedModel, annotate_by_several
from tests.conftest import DATA

OPTIONS = AnnotateOptions(progress=False)


def model_of(reference: Reference, name: str = "") -> NamedModel:
    return NamedModel(name or reference.name, reference, open_engine(reference, EngineOptions(engine="numpy")))


@pytest.fixture(scope="module")
def models(small: Reference, other_tissue: Reference) -> list[NamedModel]:
    return [model_of(small), model_of(other_tissue)]


@pytest.fixture(scope="module")
def pool(few: AnnData, foreign: AnnData) -> AnnData:
    """Join cells of two tissues, one after the other in turn."""
    both = anndata.concat([few, foreign[:, few.var_names]], index_unique="-", keys=["one", "other"], label="tissue")
    return both[np.arange(both.n_obs).reshape(2, -1).T.ravel()].copy()


@pytest.fixture(scope="module")
def labelled_pool(models: list[NamedModel], pool: AnnData) -> Annotation:
    return annotate_by_several(models, pool, OPTIONS)


def test_each_cell_is_labelled_by_the_reference_of_its_tissue(labelled_pool: Annotation, pool: AnnData) -> None:
    own = pool.obs["tissue"].map({"one": "small", "other": "other tissue"}).astype(str)
    named = np.asarray(labelled_pool.columns["reference"]).astype(str)
    assert (named == own).mean() > 0.9
    truth = np.where(own == "small", "", "other ") + pool.obs["cell_type"].astype(str).to_numpy().astype(object)
    known = np.isin(truth.astype(str), labelled_pool.label_names)
    assert (labelled_pool.best_labels == truth)[known].mean() > 0.8
    assert labelled_pool.compatibility is not None
    assert labelled_pool.compatibility.usable


def test_one_reference_alone_labels_fewer_cells_right(
    models: list[NamedModel], labelled_pool: Annotation, pool: AnnData
) -> None:
    prefix = np.where(pool.obs["tissue"] == "one", "", "other ").astype(object)
    truth = (prefix + pool.obs["cell_type"].astype(str).to_numpy()).astype(str)
    right = (labelled_pool.labels == truth).sum()
    for model in models:
        alone = annotate_by_one(model.reference, model.engine, pool, OPTIONS)
        assert (alone.labels == truth).sum() < right


def test_the_order_of_cells_and_of_references_changes_no_label(
    models: list[NamedModel], labelled_pool: Annotation, pool: AnnData
) -> None:
    order = np.random.default_rng(1).permutation(pool.n_obs)
    again = annotate_by_several(models[::-1], pool[order].copy(), OPTIONS)
    np.testing.assert_array_equal(again.labels, labelled_pool.labels[order])
    expected = np.asarray(labelled_pool.columns["reference"])[order]
    np.testing.assert_array_equal(np.asarray(again.columns["reference"]), expected)


def test_a_reference_of_another_tissue_takes_no_cells(models: list[NamedModel], few: AnnData) -> None:
    expected = annotate_by_one(models[0].reference, models[0].engine, few, OPTIONS)
    found = annotate_by_several(models, few, OPTIONS)
    assert (found.best_labels == expected.best_labels).mean() > 0.9


def test_the_labels_are_written_with_their_references(
    models: list[NamedModel], pool: AnnData, labelled_pool: Annotation, tmp_path: Path
) -> None:
    adata = pool.copy()
    annotation = annotate(adata, [SpikGPT(model.reference, model.engine) for model in models])
    assert annotation.label_names == labelled_pool.label_names
    np.testing.assert_array_equal(annotation.labels, labelled_pool.labels)
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    read = anndata.read_h5ad(tmp_path / "labelled.h5ad")
    assert set(read.obs["spikgpt_reference"]) == {"small", "other tissue"}
    assert read.uns["spikgpt"]["references"].tolist() == ["small", "other tissue"]
    assert read.obsm["spikgpt_probabilities"].shape == (pool.n_obs, len(annotation.label_names))
    table = annotation.table()
    assert table.shape[1] == 10 + len(annotation.label_names)
    assert len(annotation.label_ids) == len(annotation.label_names)
    assert len(annotation.broad_ids) == len(annotation.broad_names)
    sums = read.obsm["spikgpt_probabilities"].sum(axis=1)
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert "small + other tissue" in repr(annotation)
    assert annotation.notes() is not None


def test_empty_cells_are_unknown(models: list[NamedModel], pool: AnnData) -> None:
    adata = pool[:40].copy()
    adata.X = sparse.diags((np.arange(40) != 3).astype(np.float32)) @ adata.X
    found = annotate_by_several(models, adata, OPTIONS)
    assert found.empty.tolist() == [row == 3 for row in range(40)]
    assert found.labels[3] == "Unknown"


def test_a_reference_cannot_be_named_twice_and_needs_ood_scores(models: list[NamedModel], few: AnnData) -> None:
    with pytest.raises(ConfigError, match="The references are small, small; expected at least one, each once"):
        annotate_by_several([models[0], models[0]], few, OPTIONS)
    old = model_of(read_reference(DATA / "format_1" / "counts"), "old")
    with pytest.raises(ConfigError, match="The reference old has format 1"):
        annotate_by_several([models[0], old], few, OPTIONS)
