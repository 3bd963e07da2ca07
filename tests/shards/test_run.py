"""Shards get the labels of one file; a run resumes, and refuses changed arguments."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT, annotate_shards
from spikgpt.cells.reading import read_cells
from spikgpt.errors import ConfigError, DataError, LabelsError, ShardError
from spikgpt.shards import run as runs
from spikgpt.shards import worker
from spikgpt.shards.manifest import MANIFEST, ShardManifest
from tests.shards.conftest import assert_same_labels, write_shards


@pytest.fixture(scope="session")
def finished(shipped: SpikGPT, shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label the shards in parts of at most 70 cells."""
    folder = tmp_path_factory.mktemp("finished")
    annotate_shards(shipped, shards, folder, shard_size=70)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Copy the folder of finished labels, and return the path of the copy."""
    return Path(shutil.copytree(finished, tmp_path / "labels"))


def test_the_labels_are_those_of_one_file(
    shipped: SpikGPT, shards: list[Path], whole: Annotation, folder: Path, query: AnnData
) -> None:
    labelled = annotate_shards(shipped, shards, folder, shard_size=70)
    assert_same_labels(labelled, whole)
    assert (labelled.n_cells, labelled.resumed) == (300, 6)
    tables = [pd.read_parquet(part) for part in labelled.parts]
    assert [len(table) for table in tables] == [40, 70, 70, 10, 70, 40]
    assert pd.concat(tables)["cell"].tolist() == query.obs_names.tolist()
    assert tables[1]["shard"].unique().tolist() == [str(shards[1])]


def test_the_order_and_the_size_of_shards_change_nothing(
    shipped: SpikGPT, shards: list[Path], whole: Annotation, tmp_path: Path
) -> None:
    assert_same_labels(annotate_shards(shipped, shards[::-1], tmp_path / "labels", shard_size=1000), whole)


def test_options_reach_all_shards(shipped: SpikGPT, shards: list[Path], query: AnnData, tmp_path: Path) -> None:
    options: dict[str, Any] = {"exclude": ["alpha"], "layer": "X"}
    expected = shipped.annotate(query.copy(), **options)
    for _ in range(2):  # the second call resumes
        assert_same_labels(annotate_shards(shipped, shards, tmp_path / "labels", **options), expected)
    with pytest.raises(ConfigError, match=r"exclude was \['alpha'\], is \['beta'\]"):
        annotate_shards(shipped, shards, tmp_path / "labels", exclude=["beta"], layer="X")


def test_finished_parts_are_kept_and_damaged_ones_made_again(
    shipped: SpikGPT, shards: list[Path], whole: Annotation, folder: Path
) -> None:
    (folder / "part-00000.parquet").unlink()
    damaged = bytearray((folder / "part-00002.parquet").read_bytes())
    damaged[200] ^= 1
    (folder / "part-00002.parquet").write_bytes(damaged)
    labelled = annotate_shards(shipped, shards, folder, shard_size=70)
    assert labelled.resumed == 4
    assert_same_labels(labelled, whole)


def test_a_driver_that_was_killed_before_it_listed_parts_loses_none(
    shipped: SpikGPT, shards: list[Path], whole: Annotation, folder: Path
) -> None:
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ShardManifest)
    manifest.parts.clear()
    manifest.save(folder)
    column = pq.read_metadata(folder / "part-00003.parquet").row_group(0).column(5)
    damaged = bytearray((folder / "part-00003.parquet").read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    (folder / "part-00003.parquet").write_bytes(damaged)
    labelled = annotate_shards(shipped, shards, folder, shard_size=70)
    assert labelled.resumed == 5
    assert_same_labels(labelled, whole)


def test_changed_arguments_are_refused_and_named(
    shipped: SpikGPT, shards: list[Path], finished: Path, tmp_path: Path
) -> None:
    def refused(match: str, files: list[Path] = shards, **options: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            annotate_shards(shipped, files, finished, **{"shard_size": 70} | options)

    refused("shard size was 70, is 80", shard_size=80)
    refused("threshold was None, is 0.5", threshold=0.5)
    refused("shard2.h5ad is missing", shards[:2])
    refused("shards are in another order", shards[::-1])
    refused("named twice", [*shards, shards[0]])
    refused("No shards", [])
    copy = Path(shutil.copy2(shards[0], tmp_path))
    refused(f"shard0.h5ad is missing; the shard {copy} is new", [copy, *shards[1:]])
    annotate_shards(shipped, shards, finished, shard_size=70, batch_size=10, progress=False)
    (tmp_path / "other" / "notes.txt").parent.mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="holds notes.txt"):
        annotate_shards(shipped, shards, tmp_path / "other")
    with pytest.raises(ConfigError, match="a file"):
        annotate_shards(shipped, shards, tmp_path / "other" / "notes.txt")


def test_shards_of_other_values_or_genes_are_refused_and_named(
    shipped: SpikGPT, query: AnnData, shards: list[Path], tmp_path: Path
) -> None:
    logs, fewer = query[:60].copy(), query[:60, :15_000].copy()
    counts = logs.X.toarray().astype(np.float64)
    logs.X = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    for name, adata, match in (
        ("logs", logs, "logs.h5ad holds log values .*holds counts values|counts values.*log values"),
        ("fewer", fewer, "fewer.h5ad has other genes than .*shard0"),
    ):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        with pytest.raises(DataError, match=match):
            annotate_shards(shipped, [shards[0], tmp_path / f"{name}.h5ad"], tmp_path / name)
        assert not list((tmp_path / name).glob("*.parquet"))


def test_a_lost_shard_is_named_and_the_rest_is_finished(
    shipped: SpikGPT, query: AnnData, whole: Annotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_shards(query, tmp_path, (40, 190))
    lost = tmp_path / "lost"

    def lose(run: runs._Run) -> None:
        fit(run)
        for running in worker._RUNS.values():
            running.close()  # close caches and files, as if the worker was replaced
        paths[1].rename(lost)

    fit = runs._Run.fit
    with monkeypatch.context() as patch:
        patch.setattr(runs._Run, "fit", lose)
        with pytest.raises(ShardError, match=r"1 of 3 shards could not be labelled.*shard1.h5ad does not exist"):
            annotate_shards(shipped, paths, tmp_path / "labels")
    with pytest.raises(DataError, match=r"shard1.h5ad does not exist"):
        annotate_shards(shipped, paths, tmp_path / "labels")
    assert len(list((tmp_path / "labels").glob("*.parquet"))) == 2
    lost.rename(paths[1])
    labelled = annotate_shards(shipped, paths, tmp_path / "labels")
    assert labelled.resumed == 2
    assert_same_labels(labelled, whole)


@pytest.mark.parametrize("batch_key", ["lane", "auto", None])
def test_batches_are_those_of_all_shards(
    shipped: SpikGPT, query: AnnData, tmp_path: Path, batch_key: str | None
) -> None:
    cells = query.copy()
    # The column of the first shard has whole numbers; the second has a missing value.
    cells.obs["lane"] = np.where(np.arange(cells.n_obs) % 2, 1.0, 2.0)
    cells.obs.loc[cells.obs_names[100], "lane"] = np.nan
    paths = write_shards(cells, tmp_path, (40,))
    first = read_cells(paths[0])
    first.obs["lane"] = first.obs["lane"].astype(int)
    first.write_h5ad(paths[0])
    expected = shipped.annotate(cells.copy(), batch_key=batch_key)
    labelled = annotate_shards(shipped, paths, tmp_path / "labels", shard_size=130, batch_key=batch_key)
    assert labelled.summary.batch_key == expected.batch_key
    assert_same_labels(labelled, expected)


def test_a_batch_column_that_a_shard_lacks_is_named(shipped: SpikGPT, query: AnnData, tmp_path: Path) -> None:
    paths = write_shards(query, tmp_path, (40,))
    second = read_cells(paths[1])
    del second.obs["donor"]
    second.write_h5ad(paths[1])
    with pytest.raises(LabelsError, match=r"shard1.h5ad: obs has no column 'donor'"):
        annotate_shards(shipped, paths, tmp_path / "labels", batch_key="donor")


def test_empty_cells_get_the_same_labels_in_shards(shipped: SpikGPT, query: AnnData, tmp_path: Path) -> None:
    cells = query[:130].copy()
    counts = cells.X.tolil()
    counts[[0, 100]] = 0
    cells.X = counts.tocsr()
    paths = write_shards(cells, tmp_path, (20,))
    assert_same_labels(annotate_shards(shipped, paths, tmp_path / "labels"), shipped.annotate(cells.copy()))
