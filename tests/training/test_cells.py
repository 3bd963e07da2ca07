"""Selection and reading of training cells."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

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


def test_cells_that_can_be_learned_from_are_chosen(cells: AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    labels[:3], labels[3:7] = "rare", "nan"
    adata = cells.copy()
    adata.obs["type"] = labels
    chosen = prepare(adata, "type", "pca", TrainOptions(batch_key="batch"))
    assert chosen.labelled.adata.obs_names.tolist() == cells.obs_names[7:].tolist()
    assert chosen.labels.tolist() == labels[7:].tolist()
    assert chosen.labelled.groups is not None
    assert chosen.labelled.groups.tolist() == cells.obs["batch"][7:].tolist()
    assert (chosen.labelled.dropped, chosen.labelled.unlabelled) == ({"rare": 3}, 4)
    assert sorted(chosen.labelled.ontology_ids) == sorted(set(labels[7:]))
    assert chosen.embedding is None
    places = [chosen.genes.symbols.index(name) for name in cells.var_names[:50]]
    np.testing.assert_array_equal(chosen.values.values[:, places].toarray(), cells.X[7:, :50].toarray())
    np.testing.assert_array_equal(chosen.values.totals, np.asarray(cells.X[7:].sum(axis=1)).ravel())


def test_an_embedding_that_the_user_brings_is_read_once(embedded: AnnData) -> None:
    chosen = prepare(embedded, "cell_type", "obsm:X_own", TrainOptions())
    assert chosen.embedding == ObsmEmbedding("X_own", 64)
    np.testing.assert_array_equal(chosen.values.values.toarray(), embedded.obsm["X_own"])
    some = chosen.select(chosen.genes, np.array([5, 3]))
    np.testing.assert_array_equal(some.values.toarray(), embedded.obsm["X_own"][[5, 3]])


def test_scgpt_embeds_every_cell_once(cells: AnnData, scgpt: ScGPTSource) -> None:
    adata = cells.copy()
    counts = adata.X.tolil()
    counts[4] = 0
    adata.X = counts.tocsr()
    done: list[int] = []
    chosen = prepare(adata, "cell_type", scgpt, TrainOptions(), done.append)
    assert sum(done) == cells.n_obs
    assert np.flatnonzero(chosen.values.empty).tolist() == [4]
    assert np.linalg.norm(chosen.values.values.toarray(), axis=1) == pytest.approx(1, abs=1e-6)
    assert chosen.embedding is not None
    assert chosen.embedding.settings() == scgpt.settings()


def test_labels_that_readers_mix_up_are_refused_before_the_work(cells: AnnData) -> None:
    adata = cells.copy()
    labels = adata.obs["cell_type"].astype(str).to_numpy().copy()
    labels[np.flatnonzero(labels == "beta")[:20]] = "Beta"
    adata.obs["cell_type"] = labels
    with pytest.raises(LabelsError, match="'Beta' and 'beta' differ"):
        prepare(adata, "cell_type", "pca", TrainOptions(name="small"))
