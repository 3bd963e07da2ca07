"""Embed many cells: in shards that are kept, in batches of like length, the next tokens made while the network runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from spikgpt.embedding.tokens import Tokens, tokenise
from spikgpt.errors import ConfigError
from spikgpt.scgpt.checkpoint import Checkpoint
from spikgpt.scgpt.draws import UpstreamDraws
from spikgpt.scgpt.encoder import Encoder

# Cells to a shard, the unit that is kept and resumed from.
SHARD = 128
# Tokens to a batch on a CPU, where larger batches are no faster, and at most on a GPU.
CPU_TOKENS, GPU_TOKENS = 8192, 1 << 18
# Bytes of GPU memory that a token takes for each value of its vector, with room to spare.
BYTES_A_VALUE = 48
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# To be raised when the same input gives other vectors, so that kept shards are not taken for new ones.
VERSION = 1


def embed_cells(
    checkpoint: Checkpoint,
    values: sparse.csr_matrix,
    gene_ids: npt.NDArray[np.int64],
    *,
    max_length: int = 1200,
    batch_size: int | None = None,
    precision: str = "float32",
    device: str | None = None,
    draws: UpstreamDraws | None = None,
    cache: Path | None = None,
    on_cells: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the embedding of every cell, of unit length.

    Parameters
    ----------
    values
        Counts, or other values of which 0 means absent, shape (n, G).
    gene_ids
        Vocabulary index of each column, shape (G,), ascending unless ``draws`` is given.
    max_length
        Tokens of a cell at most.
    batch_size
        Cells at a time; by default as many as are fast and fit into memory. The vectors do not depend on it beyond
        rounding.
    precision
        ``float32``, or ``bfloat16`` or ``float16``, which pay on a GPU.
    device
        A torch device; by default a GPU when there is one.
    draws
        Upstream's random draws instead of ours.
    cache
        Folder in which finished shards are kept: an interrupted run goes on from there, and the same cells are not
        embedded twice.
    on_cells
        Called with the number of cells done since the last call.

    Returns
    -------
    Vectors, shape (n, dim), float32.

    Raises
    ------
    ConfigError
        When an option is out of range, or the cache cannot be written.
    """
    if precision not in PRECISIONS or max_length < 2 or (batch_size is not None and batch_size < 1):
        msg = (
            f"precision={precision!r}, max_length={max_length}, batch_size={batch_size}: expected one of "
            f"{', '.join(PRECISIONS)}, at least 2 tokens, and at least 1 cell."
        )
        raise ConfigError(msg)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kept = None
    if cache is not None and draws is None:
        kept = cache / _key(checkpoint, values, gene_ids, f"{VERSION}/{max_length}/{precision}")
    # Cells of like length side by side, so that a batch has little padding; the longest first, as memory fails there.
    order = np.argsort(-np.minimum(np.diff(values.indptr), max_length - 1), kind="stable")
    shards = [order[start : start + SHARD] for start in range(0, len(order), SHARD)]
    if draws is not None:
        shards = [np.arange(values.shape[0])]
    result = np.empty((values.shape[0], checkpoint.config.dim), dtype=np.float32)
    missing = []
    for index, cells in enumerate(shards):
        found = None if kept is None else _read(kept / f"{index:06}.safetensors", (len(cells), result.shape[1]))
        if found is None:
            missing.append((index, cells))
        else:
            result[cells] = found
            if on_cells:
                on_cells(len(cells))
    if not missing:
        return result
    encoder = checkpoint.encoder().to(target, PRECISIONS[precision])

    def prepared(cells: npt.NDArray[np.int64]) -> Tokens:
        make = tokenise if draws is None else draws.tokenise
        return make(
            values[cells],
            gene_ids,
            cls_id=checkpoint.cls_id,
            pad_value=checkpoint.config.pad_value,
            n_bins=checkpoint.config.n_bins,
            max_length=max_length,
        )

    with ThreadPoolExecutor(max_workers=1) as worker:
        tokens = worker.submit(prepared, missing[0][1])
        for turn, (index, cells) in enumerate(missing):
            current = tokens.result()
            if turn + 1 < len(missing):
                tokens = worker.submit(prepared, missing[turn + 1][1])
            vectors = _run(encoder, current, batch_size, on_cells)
            result[cells] = vectors
            if kept is not None:
                _write(kept / f"{index:06}.safetensors", vectors)
    return result


def _run(
    encoder: Encoder, tokens: Tokens, batch_size: int | None, on_cells: Callable[[int], None] | None
) -> npt.NDArray[np.float32]:
    """Return the vectors of the cells of one shard."""
    device = next(encoder.parameters()).device
    vectors = np.empty((len(tokens.lengths), encoder.config.dim), dtype=np.float32)
    start, limit = 0, batch_size or max(1, _tokens_at_once(encoder) // int(tokens.lengths.max()))
    while start < len(vectors):
        batch = np.arange(start, min(start + limit, len(vectors)))
        genes, bins = tokens.padded(batch, encoder.pad_id, encoder.config.pad_value)
        try:
            found = encoder.embed(torch.as_tensor(genes).to(device), torch.as_tensor(bins).to(device))
        except torch.OutOfMemoryError:
            if batch_size or limit == 1:
                raise
            limit = max(1, limit // 2)
            torch.cuda.empty_cache()
            continue
        vectors[batch] = found.cpu().numpy()
        start += len(batch)
        if on_cells:
            on_cells(len(batch))
    return vectors


def _tokens_at_once(encoder: Encoder) -> int:
    """Return how many tokens a batch may have: what is fast on a CPU, what fits on a GPU."""
    device = next(encoder.parameters()).device
    if device.type != "cuda":
        return CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(GPU_TOKENS, free // (BYTES_A_VALUE * encoder.config.dim)))


def cache_folder() -> Path:
    """Return the folder of kept embeddings: ``SPIKGPT_CACHE``, or one in the user's cache folder."""
    base = (
        os.environ.get("SPIKGPT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikgpt"
    )
    return Path(base) / "embeddings"


def _key(checkpoint: Checkpoint, values: sparse.csr_matrix, gene_ids: npt.NDArray[np.int64], settings: str) -> str:
    """Return a name for the embedding of these cells by this checkpoint."""
    digest = hashlib.sha256(f"{settings}/{checkpoint.sha256}".encode())
    for array, dtype in ((gene_ids, "<i8"), (values.indptr, "<i8"), (values.indices, "<i8"), (values.data, "<f4")):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """Return a kept shard, or None where there is none that can be used."""
    try:
        vectors = load_file(path).get("vectors")
    except (OSError, SafetensorError):
        return None
    return vectors if vectors is not None and vectors.shape == shape else None


def _write(path: Path, vectors: npt.NDArray[np.float32]) -> None:
    """Keep a shard, under a temporary name first."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": vectors}, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        msg = f"Embeddings cannot be kept in {path.parent} ({error}); name a folder with room in SPIKGPT_CACHE."
        raise ConfigError(msg) from error
