"""Selection and reading of training cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells.align import joined
from spikgpt.cells.matrices import MatrixOnDisk
from spikgpt.cells.reading import open_cells
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.errors import ConfigError, LabelsError
from spikgpt.options import TrainOptions
from spikgpt.training.cells import prepare
from spikgpt.training.train import train


@pytest.mark.parametrize("kind", ["umap", "obsm:", "obsm", "PCA"])
def test_an_unknown_embedder_is_refused(kind: str, cells: AnnData) -> None:
    with pytest.raises(ConfigError, match=f"There is no embedder '{kind}'; choose pca, scgpt, or obsm:KEY"):
        train(cells, "cell_type", embedder=kind)


def test_labelled_cells_of_frequent_types_are_chosen(cells: AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    labels[:3], labels[3:7] = "rare", "nan"
    adata = cells.copy()
    adata.obs["type"] = labels
    chosen = prepare(adata, "type", "pca", TrainOptions(batch_key="batch"))
    assert chosen.labelled.rows.tolist() == list(range(7, cells.n_obs))
    assert chosen.labels.tolist() == labels[7:].tolist()
    assert chosen.labelled.groups is not None
    assert chosen.labelled.groups.tolist() == cells.obs["batch"][7:].tolist()
    assert (chosen.labelled.dropped, chosen.labelled.unlabelled) == ({"rare": 3}, 4)
    assert sorted(chosen.labelled.ontology_ids) == sorted(set(labels[7:]))
    assert chosen.embedding is None
    columns = [chosen.genes.symbols.index(name) for name in cells.var_names[:50]]
    values = chosen.values.select(np.arange(cells.n_obs - 7))
    np.testing.assert_array_equal(values.values[:, columns].toarray(), cells.X[7:, :50].toarray())
    np.testing.assert_array_equal(values.totals, np.asarray(cells.X[7:].sum(axis=1)).ravel())
    some = chosen.values.select(np.array([5, 30]), np.array([2, 9]))
    np.testing.assert_array_equal(some.values.toarray(), values.values[[5, 30]][:, [2, 9]].toarray())


@pytest.mark.usefixtures("brief")
def test_a_file_is_never_read_whole(cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = cells.copy()
    adata.obs["type"] = adata.obs["cell_type"].astype(str).where(np.arange(adata.n_obs) > 2)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    expected = prepare(adata, "type", "pca", TrainOptions()).values.select(np.arange(357))
    sizes: list[int] = []

    def recorded(function: Callable[..., Any], size_of: Callable[[Any], int]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            sizes.append(size_of(result))
            return result

        return call

    # Limit parts and samples to 90 of the 360 cells, as the usual limits would for a file of 200,000 cells.
    for name, value in (("sampling.LARGEST_FIT", 90), ("sampling.CELLS_OF_RARE", 10)):
        monkeypatch.setattr(f"spikgpt.{name}", value)
    for name in ("training.cells.SAMPLED", "training.cells.LARGEST_FIT", "cells.align.CHUNK"):
        monkeypatch.setattr(f"spikgpt.{name}", 90)
    monkeypatch.setattr("spikgpt.cells.align.joined", recorded(joined, lambda read: int(read.values.nnz)))
    with open_cells(tmp_path / "cells.h5ad") as opened:
        for stored in (type(opened.X), MatrixOnDisk):
            monkeypatch.setattr(stored, "__getitem__", recorded(stored.__getitem__, lambda rows: int(rows.nnz)))
        read = prepare(opened, "type", "pca", TrainOptions()).values.select(np.arange(357))
        assert (read.values != expected.values).nnz == 0
        sizes.clear()
        train(opened, "type", options=TrainOptions())
    assert len(sizes) > 15
    assert max(sizes) < expected.values.nnz / 2


def test_an_embedding_in_obsm_is_read_unchanged(embedded: AnnData) -> None:
    chosen = prepare(embedded, "cell_type", "obsm:X_own", TrainOptions())
    assert chosen.embedding == ObsmEmbedding("X_own", 64)
    np.testing.assert_array_equal(chosen.values.select(np.arange(360)).values.toarray(), embedded.obsm["X_own"])
    some = chosen.values.select(np.array([5, 3]))
    np.testing.assert_array_equal(some.values.toarray(), embedded.obsm["X_own"][[5, 3]])


def test_scgpt_embeds_every_cell_once(cells: AnnData, scgpt: ScGPTSource) -> None:
    adata = cells.copy()
    counts = adata.X.tolil()
    counts[4] = 0
    adata.X = counts.tocsr()
    done: list[int] = []
    chosen = prepare(adata, "cell_type", scgpt, TrainOptions(), done.append)
    assert sum(done) == cells.n_obs
    read = chosen.values.select(np.arange(cells.n_obs))
    assert np.flatnonzero(read.empty).tolist() == [4]
    assert np.linalg.norm(read.values.toarray(), axis=1) == pytest.approx(1, abs=1e-6)
    assert chosen.embedding is not None
    assert chosen.embedding.settings() == scgpt.settings()


def test_labels_that_differ_only_in_case_are_refused_before_training(cells: AnnData) -> None:
    adata = cells.copy()
    labels = adata.obs["cell_type"].astype(str).to_numpy().copy()
    labels[np.flatnonzero(labels == "beta")[:20]] = "Beta"
    adata.obs["cell_type"] = labels
    with pytest.raises(LabelsError, match="'Beta' and 'beta' differ"):
        prepare(adata, "cell_type", "pca", TrainOptions(name="small"))
