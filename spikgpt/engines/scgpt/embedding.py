"""Embed many cells in cached shards and batches of similar length, with tokens prepared while the network runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from spikgpt.engines.scgpt.checkpoint import Checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTEncoder
from spikgpt.engines.thread import TORCH_THREAD
from spikgpt.errors import ConfigError, warn
from spikgpt.files import replacing, user_cache
from spikgpt.types import OnCells, Rows

if TYPE_CHECKING:  # both import numba
    from spikgpt.embedding.tokens import Tokens
    from spikgpt.engines.scgpt.upstream_tokenizer import UpstreamTokenizer

# Cells per shard, the unit of the cache.
SHARD = 128
# Tokens per batch on a CPU, where larger batches are no faster, and largest number on a GPU.
CPU_TOKENS, GPU_TOKENS = 8192, 1 << 18
# Bytes of GPU memory per token and value of its vector, with a margin.
BYTES_A_VALUE = 48
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Increase when the same input gives other vectors, so that old shards are not used.
VERSION = 1


@dataclass(frozen=True)
class RunSettings:
    """Settings of the embedding of many cells.

    Attributes
    ----------
    batch_size
        Cells per batch; by default as many as are fast and fit into memory. The batch size changes vectors only by
        rounding.
    precision
        ``float32``; or ``bfloat16`` or ``float16``, which are faster on a GPU.
    device
        A torch device; by default a GPU when there is one.
    cache
        Folder of finished shards: an interrupted run resumes there, and no cell is embedded twice.
    tokenizer
        Upstream's tokenizer, in place of ours; its results are not cached.
    """

    batch_size: int | None = None
    precision: str = "float32"
    device: str | None = None
    cache: Path | None = None
    tokenizer: UpstreamTokenizer | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS or (self.batch_size is not None and self.batch_size < 1):
            msg = (
                f"precision={self.precision!r}, batch_size={self.batch_size}: expected one of {', '.join(PRECISIONS)}, "
                "and at least 1 cell."
            )
            raise ConfigError(msg)


def embed_cells(
    checkpoint: Checkpoint,
    values: sparse.csr_matrix,
    gene_ids: Rows,
    *,
    max_length: int = 1200,
    settings: RunSettings | None = None,
    on_cells: OnCells | None = None,
) -> npt.NDArray[np.float32]:
    """Return the embedding of every cell, of unit length, shape (n, dim).

    Parameters
    ----------
    values
        Counts, or other values of which 0 means absent, shape (n, G).
    gene_ids
        Vocabulary index of each column, shape (G,), ascending unless upstream's tokenizer is used.
    max_length
        Largest number of tokens of a cell.
    """
    if max_length < 2:
        msg = f"max_length is {max_length}; expected at least 2 tokens."
        raise ConfigError(msg)
    settings, config = settings or RunSettings(), checkpoint.config
    result = np.empty((values.shape[0], config.dim), dtype=np.float32)
    missing = []
    for cells, path in _shards(checkpoint, values, gene_ids, max_length, settings):
        cached = _read(path, (len(cells), config.dim)) if path else None
        if cached is None:
            missing.append((cells, path))
            continue
        result[cells] = cached
        if on_cells:
            on_cells(len(cells))
    if not missing:
        return result
    from spikgpt.embedding.tokens import tokenise

    encoder = checkpoint.encoder().to(device_named(settings.device), PRECISIONS[settings.precision])
    tokeniser = settings.tokenizer.tokenise if settings.tokenizer else tokenise
    special = {"cls_id": checkpoint.cls_id, "pad_value": config.pad_value, "n_bins": config.n_bins}

    def tokens_of(cells: Rows) -> Tokens:
        return tokeniser(values[cells], gene_ids, max_length=max_length, **special)

    caching = True
    with ThreadPoolExecutor(max_workers=1) as worker:
        pending = worker.submit(tokens_of, missing[0][0])
        for number, (cells, path) in enumerate(missing):
            tokens = pending.result()
            if number + 1 < len(missing):
                pending = worker.submit(tokens_of, missing[number + 1][0])
            result[cells] = vectors = _run(encoder, tokens, settings.batch_size, on_cells)
            caching = caching and (path is None or _write(path, vectors))
    return result


def device_named(name: str | None) -> torch.device:
    """Return a torch device that works here; by default a GPU when there is one."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        msg = f"The device {name!r} cannot be used ({str(error).splitlines()[0]}); name cpu, or cuda where it works."
        raise ConfigError(msg) from None


def _shards(
    checkpoint: Checkpoint, values: sparse.csr_matrix, gene_ids: Rows, max_length: int, settings: RunSettings
) -> Iterator[tuple[Rows, Path | None]]:
    """Yield the cells of each shard, and its file in the cache."""
    if settings.tokenizer is not None:  # in the order of the cells, as upstream
        yield np.arange(values.shape[0]), None
        return
    folder = None
    if settings.cache is not None:
        folder = settings.cache / _key(checkpoint, values, gene_ids, f"{VERSION}/{max_length}/{settings.precision}")
    # Cells of similar length make batches with little padding. The longest come first, as they may exceed the memory.
    order = np.argsort(-np.minimum(np.diff(values.indptr), max_length - 1), kind="stable")
    for number, start in enumerate(range(0, len(order), SHARD)):
        yield order[start : start + SHARD], folder / f"{number:06}.safetensors" if folder else None


def _run(
    encoder: ScGPTEncoder, tokens: Tokens, batch_size: int | None, on_cells: OnCells | None
) -> npt.NDArray[np.float32]:
    device = next(encoder.parameters()).device
    vectors = np.empty((len(tokens.lengths), encoder.config.dim), dtype=np.float32)
    start, limit = 0, batch_size or max(1, _tokens_at_once(encoder) // int(tokens.lengths.max()))
    while start < len(vectors):
        batch = np.arange(start, min(start + limit, len(vectors)))
        genes, bins = tokens.padded(batch, encoder.pad_id, encoder.config.pad_value)
        try:
            inputs = torch.as_tensor(genes).to(device), torch.as_tensor(bins).to(device)
            embedded = TORCH_THREAD.run(partial(encoder.embed, *inputs))
        except torch.OutOfMemoryError:
            if batch_size or limit == 1:
                raise
            limit = max(1, limit // 2)
            torch.cuda.empty_cache()
            continue
        vectors[batch] = embedded.cpu().numpy()
        start += len(batch)
        if on_cells:
            on_cells(len(batch))
    return vectors


def _tokens_at_once(encoder: ScGPTEncoder) -> int:
    """Return the number of tokens of a batch: the fastest on a CPU, the largest that fits on a GPU."""
    device = next(encoder.parameters()).device
    if device.type != "cuda":
        return CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(GPU_TOKENS, free // (BYTES_A_VALUE * encoder.config.dim)))


def cache_folder() -> Path | None:
    """Return the folder of cached embeddings; None for a user without a home folder."""
    try:
        return user_cache() / "embeddings"
    except RuntimeError:
        return None


def _key(checkpoint: Checkpoint, values: sparse.csr_matrix, gene_ids: Rows, settings: str) -> str:
    digest = hashlib.sha256(f"{settings}/{checkpoint.sha256}".encode())
    for array, dtype in ((gene_ids, "<i8"), (values.indptr, "<i8"), (values.indices, "<i8"), (values.data, "<f4")):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """Return a cached shard; None if it is missing or damaged."""
    try:
        vectors = load_file(path).get("vectors")
    except (OSError, SafetensorError):
        return None
    return vectors if vectors is not None and vectors.shape == shape else None


def _write(path: Path, vectors: npt.NDArray[np.float32]) -> bool:
    """Write a shard to the cache; return False after a warning if that fails."""
    try:
        with replacing(path) as temporary:
            save_file({"vectors": vectors}, temporary)
    except (OSError, SafetensorError) as error:
        msg = (
            f"Embeddings cannot be cached in {path.parent} ({error}); the next run computes them again. Set "
            "SPIKGPT_CACHE to a folder with free space."
        )
        warn(msg)
        return False
    return True
