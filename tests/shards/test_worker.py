"""Tasks of a worker with a lost cache or a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT, annotate_shards
from spikgpt.errors import DataError, ShardError
from spikgpt.files import sha256_of
from spikgpt.options import AnnotateOptions, EngineOptions
from spikgpt.reference.format import with_manifest
from spikgpt.sampling import content_keys
from spikgpt.shards import worker as workers
from spikgpt.shards.files import ShardFile, identify
from spikgpt.shards.manifest import MANIFEST
from spikgpt.shards.worker import ShardJob, ShardWorker, fetch_cells, label_shard, read_shard, start_run, stop_run
from tests.conftest import aligned
from tests.shards.conftest import assert_same_labels
from tests.shards.test_cache import limit_file_size


@pytest.fixture
def job(shipped: SpikGPT, tmp_path: Path) -> Iterator[ShardJob]:
    """Start a run in this process whose worker opens the reference from its files."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "scratch").mkdir()
    reference = shipped.reference
    engine = EngineOptions(engine="onnx", threads=1)
    job = ShardJob("run", str(tmp_path / "labels"), with_manifest(reference.files), None, engine, AnnotateOptions())
    start_run(job, tmp_path / "scratch")
    yield job
    stop_run(job.run)
    assert not list((tmp_path / "scratch").iterdir())


def running() -> ShardWorker:
    return workers._RUNS["run"]


def test_a_shard_is_read_once_and_fetched_from_the_cache_or_again(
    job: ShardJob, shipped: SpikGPT, shards: list[Path], query: AnnData
) -> None:
    file, rows = identify(str(shards[0])), range(10, 35)
    facts = read_shard("run", file, range(10, 35))
    assert (facts.stop, facts.n_obs, facts.unit) == (35, 40, "counts values")
    expected = aligned(shipped.reference, query).part(slice(10, 35))
    np.testing.assert_array_equal(facts.keys, content_keys(expected.values))
    assert sum(facts.cells) == 25
    assert facts.columns == {"donor": "O", "study": "O", "platform": "O"}
    some = np.array([0, 3, 24])
    for lost in (False, True):
        if lost:
            running()._caches[file.path, 10].remove()
        cells, codes = fetch_cells("run", file, rows, some)
        assert (cells.values != expected.values[some]).nnz == 0
        donors = [facts.combinations[code][0] for code in codes]
        assert donors == query.obs["donor"].astype(str)[10:35].iloc[some].tolist()


def test_a_file_that_was_changed_since_the_start_is_refused(job: ShardJob, shards: list[Path]) -> None:
    file = identify(str(shards[0]))
    with pytest.raises(DataError, match=r"shard0.h5ad was changed or replaced"):
        read_shard("run", ShardFile(file.path, file.size + 1, file.version), range(10))


def test_a_damaged_file_is_named(job: ShardJob, tmp_path: Path) -> None:
    (tmp_path / "damaged.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    with pytest.raises(DataError, match=r"damaged.h5ad"):
        read_shard("run", identify(str(tmp_path / "damaged.h5ad")), range(10))


def test_a_worker_with_a_full_disk_reads_the_shard_again(
    job: ShardJob, shipped: SpikGPT, shards: list[Path], whole: Annotation, tmp_path: Path
) -> None:
    labelled = annotate_shards(shipped, shards, tmp_path / "finished")
    name, file = "part-00000.parquet", identify(str(shards[0]))
    with limit_file_size(5000):
        facts = read_shard("run", file, range(40))
    assert not running()._caches[file.path, 0].intact
    sha256 = sha256_of(labelled.folder / "query_model.safetensors")
    plan = 0, [0] * len(facts.combinations), "donor", sha256, name, None
    with pytest.raises(ShardError, match=r"shard0.h5ad: this worker cannot reach the folder"):
        label_shard("run", file, range(40), *plan)
    for copied in (MANIFEST, "query_model.safetensors"):
        (tmp_path / "labels" / copied).write_bytes((labelled.folder / copied).read_bytes())
    # If the disk is full for the labels too, no half-written part remains.
    with limit_file_size(3000), pytest.raises(DataError, match=r"shard0.h5ad: .*part-00000.parquet cannot be written"):
        label_shard("run", file, range(40), *plan)
    assert not list((tmp_path / "labels").glob("*.parquet"))
    part, finished = label_shard("run", file, range(40), *plan)
    assert not finished
    assert part.tally.cells == 40
    assert label_shard("run", file, range(40), *plan[:-1], part) == (part, True)
    (tmp_path / "labels" / "query_model.safetensors").write_bytes(b"other")
    (tmp_path / "labels" / name).unlink()
    running()._query_model = None
    with pytest.raises(ShardError, match=r"holds another query_model.safetensors"):
        label_shard("run", file, range(40), *plan)
    assert_same_labels(labelled, whole)
