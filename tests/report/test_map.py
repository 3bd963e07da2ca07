"""Positions of cells: UMAP of the query's components, maps of the user, and interpolation between neighbours."""

from __future__ import annotations

import dataclasses
import sys
import warnings

import numpy as np
import pytest
from anndata import AnnData
from scipy.spatial import KDTree

from spikgpt import Annotation, SpikGPT
from spikgpt.errors import ConfigError
from spikgpt.report import map as map_module
from spikgpt.report.map import MapSource, cell_map, check_map_key, interpolated_positions, neighbour_graph
from tests.conftest import labelled


def test_cell_types_are_separate_on_the_map(annotated: Annotation) -> None:
    umap = cell_map(annotated)
    assert umap.name == "UMAP"
    assert "UMAP of the query's own principal components, computed for 300 cells" in umap.text
    assert umap.points is not None
    assert len(umap.placed) == 300
    # Most of the cells nearest to a cell have the same label as the cell.
    nearest = KDTree(umap.points).query(umap.points, 6)[1][:, 1:]
    assert (annotated.best[nearest] == annotated.best[:, None]).mean() > 0.85


def test_the_same_query_has_the_same_positions(annotated: Annotation) -> None:
    first, second = cell_map(annotated), cell_map(annotated)
    np.testing.assert_array_equal(first.points, second.points)


def test_cells_outside_the_umap_sample_lie_between_their_neighbours(
    annotated: Annotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_module, "MOST_FITTED", 100)
    umap = cell_map(annotated)
    assert "computed for 100 cells. All other cells are placed between their nearest cells." in umap.text
    assert umap.points is not None
    assert len(umap.placed) == 300
    nearest = KDTree(umap.points).query(umap.points, 6)[1][:, 1:]
    assert (annotated.best[nearest] == annotated.best[:, None]).mean() > 0.8


@pytest.mark.slow
def test_the_graph_equals_that_of_umap_learn() -> None:
    pytest.importorskip("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import fuzzy_simplicial_set

        points = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float64)
        points[7] = points[8]  # two cells at the same position
        distances, nearest = KDTree(points).query(points, 15)
        nearest[7:9, :2] = [[7, 8], [8, 7]]
        random = np.random.RandomState(0)
        rounded = distances.astype(np.float32)
        graph, *_ = fuzzy_simplicial_set(points, 15, random, "euclidean", knn_indices=nearest, knn_dists=rounded)
    np.testing.assert_allclose(neighbour_graph(points, nearest[:, 1:]).toarray(), graph.toarray(), atol=1e-3)


def test_without_umap_the_map_has_two_components(annotated: Annotation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setitem(sys.modules, "umap.umap_", None)
    components = cell_map(annotated)
    assert components.name == "Principal components"
    assert "For a UMAP: pip install" in components.text
    assert "umap-learn" in components.text
    assert len(components.placed) == 300


def test_a_cell_is_placed_between_its_nearest_cells_alone() -> None:
    sample = np.array([[0, 0], [1, 0], [0, 2], [100, 100]], dtype=np.float32)
    nearest = np.array([[0, 1, 2], [0, 1, 3], [3, 3, 3], [-1, -1, -1]], dtype=np.int32)
    points = interpolated_positions(sample, nearest)
    expected = np.array([[1 / 3, 2 / 3], [0.5, 0], [100, 100]])
    np.testing.assert_allclose(points[:3], expected, rtol=1e-6)
    assert np.isnan(points[3]).all()
    assert np.isnan(interpolated_positions(np.empty((0, 2), dtype=np.float32), nearest)).all()


def test_a_map_of_the_user_comes_first(annotated: Annotation, query: AnnData) -> None:
    adata = query.copy()
    own = np.random.default_rng(0).normal(size=(adata.n_obs, 3))
    own[4, 1] = np.nan
    adata.obsm["X_umap"], adata.obsm["other"] = own, 2 * own
    user_map = cell_map(annotated, adata)
    assert (user_map.name, user_map.text) == ("umap", "The map is obsm['X_umap'] of the query.")
    assert user_map.points is not None
    np.testing.assert_allclose(user_map.points[0], own[0, :2], rtol=1e-6)
    assert 4 not in user_map.placed
    assert len(user_map.placed) == 299
    assert cell_map(annotated, adata, "other").name == "other"


def test_missing_and_invalid_maps_are_refused(annotated: Annotation, query: AnnData) -> None:
    adata = query.copy()
    adata.obsm["thin"] = np.ones((adata.n_obs, 1))
    with pytest.raises(ConfigError, match=r"There is no map obsm\['X_tsn'\]; obsm has thin\. Name an array"):
        cell_map(annotated, adata, "X_tsn")
    with pytest.raises(ConfigError, match="no AnnData was passed"):
        cell_map(annotated, None, "X_tsne")
    with pytest.raises(ConfigError, match=r"obsm\['thin'\] is no map; expected an array of numbers with two columns"):
        cell_map(annotated, adata, "thin")
    adata.obsm["X_nan"] = np.full((adata.n_obs, 2), np.nan)
    with pytest.raises(ConfigError, match=r"obsm\['X_nan'\] is no map: no cell has finite coordinates"):
        check_map_key(adata, "X_nan")


def test_an_invalid_default_map_does_not_stop_the_report(annotated: Annotation, query: AnnData) -> None:
    adata = query.copy()
    adata.obsm["X_umap"], adata.obsm["X_tsne"] = np.ones((adata.n_obs, 1)), np.full((adata.n_obs, 2), np.nan)
    assert cell_map(annotated, adata).name == "UMAP"
    with pytest.raises(ConfigError, match="is no map; expected an array of numbers with two columns"):
        check_map_key(adata, "X_umap")


def test_the_sample_of_a_map_keeps_no_expression(annotated: Annotation) -> None:
    source = MapSource.from_annotation(annotated)
    assert source is not None
    assert [type(value) for value in source] == [np.ndarray, np.ndarray, str, np.ndarray]
    several = dataclasses.replace(annotated, query=None, nearest=None)
    np.testing.assert_array_equal(cell_map(several, source=source).points, cell_map(annotated).points)


def test_few_cells_have_a_map_of_components(shipped: SpikGPT, query: AnnData) -> None:
    few = labelled(shipped.reference, query[:40].copy(), shipped.engine)
    few_map = cell_map(few)
    assert few_map.name == "Principal components"
    assert "too few cells" in few_map.text
    assert len(few_map.placed) == 40
    single = labelled(shipped.reference, query[:1].copy(), shipped.engine)
    assert "no map" in cell_map(single).text


def test_several_references_have_a_map_of_probabilities(annotated: Annotation, query: AnnData) -> None:
    several = dataclasses.replace(annotated, query=None, nearest=None)
    several_map = cell_map(several)
    assert "label probabilities" in several_map.text
    assert len(several_map.placed) == 300
    adata = query.copy()
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 5)) * np.arange(5)
    assert cell_map(several, adata).name == "pca"
    two = dataclasses.replace(several, label_names=several.label_names[:2])
    assert cell_map(two).points is None
    assert len(cell_map(two).placed) == 0
