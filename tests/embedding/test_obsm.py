from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.errors import ConfigError, DamagedReference, DataError

VECTORS = np.random.default_rng(0).standard_normal((6, 4))


def with_embedding(vectors: Any = VECTORS, key: str = "X_scvi") -> AnnData:
    return AnnData(np.ones((6, 2), np.float32), obsm={key: vectors})


def read(adata: AnnData, dim: int = 4) -> AlignedCells:
    return joined(list(ObsmEmbedding("X_scvi", dim).read(adata).chunks))


def test_vectors_are_read_unchanged() -> None:
    fitted = ObsmEmbedding.fit(with_embedding(), "X_scvi")
    assert (fitted.kind, fitted.dim) == ("obsm:X_scvi", 4)
    cells = read(with_embedding())
    np.testing.assert_array_equal(cells.values.toarray(), VECTORS)
    assert cells.values.dtype == np.float64
    assert not cells.empty.any()
    report = fitted.read(with_embedding()).report
    assert (report.source, report.scaling, report.genes_total) == ("obsm['X_scvi']", "none", 0)
    as_any: Embedding = fitted
    assert as_any.logs(cells) is None
    assert as_any.profiles(cells) is None


@pytest.mark.parametrize(
    "stored",
    [sparse.csr_matrix(VECTORS), np.asfortranarray(VECTORS), pd.DataFrame(VECTORS, index=list("012345"))],
    ids=["sparse", "columns first", "data frame"],
)
def test_any_storage_gives_the_same_vectors(stored: Any) -> None:
    np.testing.assert_array_equal(read(with_embedding(stored)).values.toarray(), VECTORS)


def test_settings_survive_a_round_trip() -> None:
    embedding = ObsmEmbedding("X_scvi", 4)
    assert embedding.settings() == {"kind": "obsm", "key": "X_scvi", "dim": 4}
    assert embedding.tensors() == {}
    assert ObsmEmbedding.from_settings(embedding.settings()) == embedding


def test_a_missing_embedding_is_refused() -> None:
    cells = with_embedding(key="X_umap")
    cells.obsm["X_pca"] = VECTORS
    with pytest.raises(DataError, match=r"There is no obsm\['X_scvi'\]; this AnnData has: X_pca, X_umap\. Add"):
        ObsmEmbedding.fit(cells, "X_scvi")
    with pytest.raises(DataError, match="this AnnData has: none"):
        ObsmEmbedding.fit(AnnData(np.ones((6, 2), np.float32)), "X_scvi")


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match=r"obsm\['X_scvi'\] has 4 columns; the reference was trained on 7. Embed"):
        read(with_embedding(), 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    vectors = VECTORS.copy()
    vectors[2:4, 1] = bad
    with pytest.raises(DataError, match="holds NaN or infinite values, first in row 2"):
        read(with_embedding(vectors))


@pytest.mark.parametrize("options", [{"layer": "counts"}, {"scaling": "query"}])
def test_options_without_a_meaning_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="does not apply"):
        ObsmEmbedding("X_scvi", 4).read(with_embedding(), **options)


DAMAGED: list[dict[str, Any]] = [
    {"kind": "obsm"},
    {"kind": "obsm", "key": 3, "dim": 4},
    {"kind": "obsm", "key": "a", "dim": "4"},
]


@pytest.mark.parametrize("settings", DAMAGED)
def test_damaged_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(DamagedReference, match="expected a key and a dim"):
        ObsmEmbedding.from_settings(settings)


@pytest.mark.parametrize(
    "stored", [VECTORS.astype(str).astype(object), VECTORS[:, :, None]], ids=["text", "three axes"]
)
def test_values_other_than_a_matrix_of_numbers_are_refused(stored: Any) -> None:
    cells = with_embedding(stored)
    with pytest.raises(DataError, match="expected numbers, one row a cell"):
        read(cells)
