"""Embed many cells with scGPT, in shards that are cached.

A batch holds cells with similar numbers of tokens. While the network runs, the tokens of the next shard are prepared.
"""

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

# Number of cells in a shard. Each shard is one file of the cache.
SHARD = 128
# Number of tokens per batch on a CPU, where larger batches are no faster, and largest number of tokens on a GPU.
CPU_TOKENS, GPU_TOKENS = 8192, 1 << 18
# Bytes of GPU memory for each value of the vector of a token, with a margin.
BYTES_A_VALUE = 48
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Increase this number when new code gives other vectors for the same input, so that old shards are not used.
VERSION = 1


@dataclass(frozen=True)
class RunSettings:
    """Settings of the embedding of many cells.

    Attributes
    ----------
    batch_size
        Number of cells per batch. None for the fastest number on a CPU, and the largest that fits into memory on a GPU.
        The batch size changes vectors only by rounding.
    precision
        ``float32``; or ``bfloat16`` or ``float16``, which are faster on a GPU.
    device
        Name of a torch device; None for a GPU if there is one, else the CPU.
    cache
        Folder of finished shards, so that an interrupted run resumes and no cell is embedded twice. None for no cache.
    tokenizer
        Tokenizer of the scgpt package; its results are not cached. None for the tokenizer of this package.
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
    """Return the embedding of every cell, shape (n, dim); each vector has length 1.

    Parameters
    ----------
    values
        Counts, or other values where 0 means that a gene is not expressed, shape (n, G).
    gene_ids
        Vocabulary index of each column, shape (G,), ascending unless the tokenizer of the scgpt package is used.
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
    """Return a torch device after a check that it works; with None, a GPU if there is one, else the CPU."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        msg = f"The device {name!r} cannot be used ({str(error).splitlines()[0]}); name cpu, or cuda where it works."
        raise ConfigError(msg) from None


def _shards(
    checkpoint: Checkpoint, values: sparse.csr_matrix, gene_ids: Rows, max_length: int, settings: RunSettings
) -> Iterator[tuple[Rows, Path | None]]:
    """Yield the row numbers of the cells of each shard, and the shard's file in the cache; None without a cache."""
    if settings.tokenizer is not None:  # one shard in the order of the cells, as in the scgpt package
        yield np.arange(values.shape[0]), None
        return
    folder = None
    if settings.cache is not None:
        folder = settings.cache / _key(checkpoint, values, gene_ids, f"{VERSION}/{max_length}/{settings.precision}")
    # Batches of cells with similar numbers of tokens have little padding. Cells with the most tokens come first, as
    # their batches may exceed the memory.
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
