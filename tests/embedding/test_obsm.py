from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.obsm import PrecomputedEmbedder
from spikgpt.errors import ConfigError, DamagedReference, DataError
from spikgpt.training.embedders import fit_embedder, load_embedder

VECTORS = np.random.default_rng(0).standard_normal((6, 4))
LABELS = np.array(["a", "b"] * 3)
NO_GENES = GeneList((), ())


def with_embedding(vectors: Any = VECTORS, key: str = "X_scvi") -> AnnData:
    return AnnData(np.ones((6, 2), np.float32), obsm={key: vectors})


def test_vectors_are_taken_as_they_are() -> None:
    fitted = fit_embedder("obsm:X_scvi", with_embedding(), LABELS)
    assert (fitted.kind, fitted.dim, fitted.genes) == ("obsm:X_scvi", 4, None)
    embedding = fitted.embed(with_embedding())
    np.testing.assert_array_equal(embedding.vectors, VECTORS)
    assert embedding.vectors.dtype == np.float64
    assert not embedding.empty.any()
    assert embedding.report.source == "obsm['X_scvi']"
    assert (embedding.report.scaling, embedding.report.genes_total) == ("none", 0)


@pytest.mark.parametrize(
    "stored",
    [sparse.csr_matrix(VECTORS), np.asfortranarray(VECTORS), pd.DataFrame(VECTORS, index=list("012345"))],
    ids=["sparse", "columns first", "data frame"],
)
def test_any_storage_gives_the_same_vectors(stored: Any) -> None:
    np.testing.assert_array_equal(PrecomputedEmbedder("X_scvi", 4).embed(with_embedding(stored)).vectors, VECTORS)


def test_there_is_nothing_to_augment() -> None:
    assert PrecomputedEmbedder("X_scvi", 4).augment(with_embedding()) == []


def test_settings_bring_it_back() -> None:
    embedder = PrecomputedEmbedder("X_scvi", 4)
    assert embedder.settings() == {"kind": "obsm", "key": "X_scvi", "dim": 4}
    assert embedder.tensors() == {}
    assert load_embedder(embedder.settings(), {}, NO_GENES) == embedder


def test_a_missing_embedding_is_refused() -> None:
    cells = with_embedding(key="X_umap")
    cells.obsm["X_pca"] = VECTORS
    with pytest.raises(DataError, match=r"There is no obsm\['X_scvi'\]; this AnnData has: X_pca, X_umap\. Add"):
        PrecomputedEmbedder.fit(cells, "X_scvi")
    with pytest.raises(DataError, match="this AnnData has: none"):
        PrecomputedEmbedder.fit(AnnData(np.ones((6, 2), np.float32)), "X_scvi")


def test_another_length_is_refused() -> None:
    with pytest.raises(DataError, match=r"obsm\['X_scvi'\] has 4 columns; the reference was trained on 7. Embed"):
        PrecomputedEmbedder("X_scvi", 7).embed(with_embedding())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    vectors = VECTORS.copy()
    vectors[2:4, 1] = bad
    with pytest.raises(DataError, match="holds NaN or infinite values in 2 cells"):
        PrecomputedEmbedder("X_scvi", 4).embed(with_embedding(vectors))


@pytest.mark.parametrize("options", [{"layer": "counts"}, {"scaling": "query"}])
def test_options_without_a_meaning_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="have no meaning; leave them out"):
        PrecomputedEmbedder("X_scvi", 4).embed(with_embedding(), **options)  # type: ignore[arg-type]


DAMAGED: list[dict[str, Any]] = [
    {"kind": "obsm"},
    {"kind": "obsm", "key": 3, "dim": 4},
    {"kind": "obsm", "key": "a", "dim": "4"},
]


@pytest.mark.parametrize("settings", DAMAGED)
def test_damaged_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(DamagedReference, match="expected a key and a dim"):
        load_embedder(settings, {}, NO_GENES)


@pytest.mark.parametrize("kind", ["umap", "obsm:", "obsm", "PCA"])
def test_an_unknown_embedder_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"There is no embedder '{kind}'; choose pca, scgpt, or obsm:KEY"):
        fit_embedder(kind, with_embedding(), LABELS)


def test_an_unknown_stored_embedder_is_refused() -> None:
    with pytest.raises(DamagedReference, match="config.json names the embedder 'umap'; this version"):
        load_embedder({"kind": "umap"}, {}, NO_GENES)
