"""Shards of real cells, and their expected labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT
from spikgpt.shards.run import ShardedAnnotation


def write_shards(adata: AnnData, folder: Path, cuts: Iterable[int]) -> list[Path]:
    """Write consecutive cells to files; the second file has its genes in another order."""
    paths = []
    for number, rows in enumerate(np.split(np.arange(adata.n_obs), list(cuts))):
        part = adata[rows]
        if number == 1:
            part = part[:, np.random.default_rng(0).permutation(adata.n_vars)]
        paths.append(folder / f"shard{number}.h5ad")
        part.copy().write_h5ad(paths[-1])
    return paths


def assert_same_labels(labelled: ShardedAnnotation, expected: Annotation) -> None:
    """Assert that the parts have the labels, counts and notes of the annotation of one file with all cells."""
    table = pd.concat([pd.read_parquet(part) for part in labelled.parts]).set_index("cell")
    other = expected.table()
    assert sorted(table.index) == sorted(other.index)
    table = table.loc[other.index]
    assert [name for name in table if name != "shard"] == list(other)
    for name, column in other.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(table[name], column, atol=1e-6)
        else:
            assert (table[name].astype(str) == column.astype(str)).all()
    assert labelled.counts() == expected.counts()
    assert labelled.notes() == expected.notes()
    assert labelled.sentences() == expected.sentences()


@pytest.fixture(scope="session")
def shards(query: AnnData, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write the query to three files of 40, 150 and 110 cells, which tests must not change."""
    return write_shards(query, tmp_path_factory.mktemp("shards"), (40, 190))


@pytest.fixture(scope="session")
def whole(shipped: SpikGPT, query: AnnData) -> Annotation:
    """Annotate the query as one file."""
    with pytest.MonkeyPatch.context():
        return shipped.annotate(query.copy())
