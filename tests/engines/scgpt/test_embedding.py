"""Embedding of many cells: the same vector for the same cell, and runs that resume from their shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from spikgpt.engines.scgpt import embedding
from spikgpt.engines.scgpt.checkpoint import Checkpoint
from spikgpt.engines.scgpt.embedding import RunSettings, cache_folder, device_named, embed_cells
from spikgpt.engines.scgpt.encoder import ScGPTEncoder
from spikgpt.engines.scgpt.upstream_tokenizer import UpstreamTokenizer
from spikgpt.errors import ConfigError, SpikGPTWarning
from tests import upstream


@pytest.fixture(scope="module")
def values(query: AnnData) -> sparse.csr_matrix:
    """Return the counts of 50 real cells, and of one cell without counts, for the genes of the checkpoint."""
    counts = query.X[:50, :12_000].tocsr().astype(np.float32)
    return sparse.csr_matrix(sparse.vstack([counts, sparse.csr_matrix((1, 12_000), dtype=np.float32)]))


IDS = np.arange(12_000)


@pytest.fixture(scope="module")
def vectors(checkpoint: Checkpoint, values: sparse.csr_matrix) -> npt.NDArray[np.float32]:
    return embed_cells(checkpoint, values, IDS, max_length=400)


def test_vectors_equal_those_of_single_cells(
    checkpoint: Checkpoint, values: sparse.csr_matrix, vectors: npt.NDArray[np.float32]
) -> None:
    for cell in (0, 17, 49, 50):
        assert vectors[cell] == pytest.approx(embed_cells(checkpoint, values[cell], IDS, max_length=400)[0], abs=1e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_vectors_do_not_depend_on_order_or_batch(
    checkpoint: Checkpoint,
    values: sparse.csr_matrix,
    vectors: npt.NDArray[np.float32],
    batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "SHARD", 20)
    order = np.random.default_rng(batch_size).permutation(values.shape[0])

    result = embed_cells(checkpoint, values[order], IDS, max_length=400, settings=RunSettings(batch_size=batch_size))

    assert result == pytest.approx(vectors[order], abs=1e-6)


def test_tokens_of_upstream_give_vectors_of_upstream(checkpoint: Checkpoint, values: sparse.csr_matrix) -> None:
    cells = values[:20]
    collate = upstream.collator(checkpoint.pad_id, checkpoint.config.pad_value, 400)
    with upstream.seeded(1, 2):
        batch = collate(upstream.examples(cells, IDS, checkpoint.cls_id, checkpoint.config.pad_value))
    expected = upstream.embed(upstream.model(checkpoint), batch["gene"], batch["expr"], checkpoint.pad_id)

    result = embed_cells(
        checkpoint, cells, IDS, max_length=400, settings=RunSettings(tokenizer=UpstreamTokenizer(1, 2))
    )

    assert result == pytest.approx(expected.numpy(), abs=1e-5)


class Interrupted(Exception):
    """Simulated Ctrl-C of the user."""


def test_an_interrupted_run_resumes(
    checkpoint: Checkpoint,
    values: sparse.csr_matrix,
    vectors: npt.NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "SHARD", 16)
    done = 0

    def stop_half_way(cells: int) -> None:
        nonlocal done
        done += cells
        if done > 30:
            raise Interrupted

    settings = RunSettings(batch_size=8, cache=tmp_path)
    with pytest.raises(Interrupted):
        embed_cells(checkpoint, values, IDS, max_length=400, settings=settings, on_cells=stop_half_way)
    embedded: list[int] = []
    original = ScGPTEncoder.embed

    def counted(encoder: ScGPTEncoder, genes: Tensor, bins: Tensor) -> Tensor:
        embedded.append(len(genes))
        return original(encoder, genes, bins)

    monkeypatch.setattr(ScGPTEncoder, "embed", counted)
    cells_done: list[int] = []

    result = embed_cells(checkpoint, values, IDS, max_length=400, settings=settings, on_cells=cells_done.append)

    assert result == pytest.approx(vectors, abs=1e-6)
    assert sum(embedded) == 51 - 16
    assert sum(cells_done) == 51
    embedded.clear()
    assert np.array_equal(
        embed_cells(checkpoint, values, IDS, max_length=400, settings=RunSettings(cache=tmp_path)), result
    )
    assert not embedded


def test_other_cells_and_settings_have_a_cache_of_their_own(
    checkpoint: Checkpoint, values: sparse.csr_matrix, tmp_path: Path
) -> None:
    for changed, length in ((values, 400), (values, 300), (values * 2, 400), (values[:50], 400)):
        embed_cells(checkpoint, changed, IDS, max_length=length, settings=RunSettings(cache=tmp_path))

    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_shard_is_computed_again(
    checkpoint: Checkpoint, values: sparse.csr_matrix, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    embed_cells(checkpoint, values, IDS, max_length=400, settings=RunSettings(cache=tmp_path))
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])

    assert embed_cells(checkpoint, values, IDS, max_length=400, settings=RunSettings(cache=tmp_path)) == pytest.approx(
        vectors, abs=1e-6
    )
    assert shard.stat().st_size > 100


def test_cells_are_embedded_without_a_writable_cache(
    checkpoint: Checkpoint, values: sparse.csr_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("spikgpt.engines.scgpt.embedding.SHARD", 2)
    with pytest.warns(SpikGPTWarning, match=r"Embeddings cannot be cached in .*file.*SPIKGPT_CACHE") as warned:
        vectors = embed_cells(checkpoint, values[:6], IDS, settings=RunSettings(cache=tmp_path / "file"))
    assert len(warned) == 1
    assert vectors == pytest.approx(embed_cells(checkpoint, values[:6], IDS), abs=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_close(
    checkpoint: Checkpoint, values: sparse.csr_matrix, vectors: npt.NDArray[np.float32], precision: str
) -> None:
    result = embed_cells(checkpoint, values[:8], IDS, max_length=400, settings=RunSettings(precision=precision))

    assert result.dtype == np.float32
    assert ((result * vectors[:8]).sum(axis=1) > 0.999).all()


def test_options_out_of_range_are_refused(checkpoint: Checkpoint, values: sparse.csr_matrix) -> None:
    for options in ({"precision": "int4"}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match="expected one of float32, bfloat16, float16, and at least 1 cell"):
            RunSettings(**options)
    with pytest.raises(ConfigError, match="max_length is 1; expected at least 2 tokens"):
        embed_cells(checkpoint, values, IDS, max_length=1)


def test_an_unavailable_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="The device 'gpu' cannot be used .*; name cpu, or cuda where it works"):
        device_named("gpu")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPIKGPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "embeddings"
    monkeypatch.delenv("SPIKGPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "spikgpt" / "embeddings"
