"""Embed many cells: in shards that are kept, in batches of like length, the next tokens made while the network runs."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from spikgpt.embedding.tokens import Tokens, tokenise
from spikgpt.engines.scgpt.checkpoint import Checkpoint
from spikgpt.engines.scgpt.draws import UpstreamDraws
from spikgpt.engines.scgpt.encoder import Encoder
from spikgpt.engines.thread import TORCH_THREAD
from spikgpt.errors import ConfigError, SpikGPTWarning
from spikgpt.files import replacing, user_cache
from spikgpt.types import OnCells, Rows

# Cells to a shard, the unit that is kept and resumed from.
SHARD = 128
# Tokens to a batch on a CPU, where larger batches are no faster, and at most on a GPU.
CPU_TOKENS, GPU_TOKENS = 8192, 1 << 18
# Bytes of GPU memory that a token takes for each value of its vector, with room to spare.
BYTES_A_VALUE = 48
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# To be raised when the same input gives other vectors, so that kept shards are not taken for new ones.
VERSION = 1


@dataclass(frozen=True)
class Running:
    """How an scGPT network is run on many cells.

    ``batch_size`` cells go at a time, by default as many as are fast and fit into memory; the vectors do not depend on
    it beyond rounding. ``precision`` is ``float32``, or ``bfloat16`` or ``float16``, which pay on a GPU. ``device`` is
    a torch device, by default a GPU when there is one. In the folder ``cache`` finished shards are kept: an interrupted
    run goes on from there, and the same cells are not embedded twice. ``draws`` are upstream's random draws instead of
    ours; what comes of them is not kept.
    """

    batch_size: int | None = None
    precision: str = "float32"
    device: str | None = None
    cache: Path | None = None
    draws: UpstreamDraws | None = None

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
    running: Running | None = None,
    on_cells: OnCells | None = None,
) -> npt.NDArray[np.float32]:
    """Return the embedding of every cell, of unit length, shape (n, dim).

    ``values``, shape (n, G), are counts, or others of which 0 means absent; ``gene_ids``, shape (G,), the vocabulary
    index of each column, ascending unless upstream's draws are asked for; ``max_length`` limits the tokens of a cell.
    """
    if max_length < 2:
        msg = f"max_length is {max_length}; expected at least 2 tokens."
        raise ConfigError(msg)
    running, config = running or Running(), checkpoint.config
    result = np.empty((values.shape[0], config.dim), dtype=np.float32)
    missing = []
    for cells, path in _shards(checkpoint, values, gene_ids, max_length, running):
        found = _read(path, (len(cells), config.dim)) if path else None
        if found is None:
            missing.append((cells, path))
            continue
        result[cells] = found
        if on_cells:
            on_cells(len(cells))
    if not missing:
        return result
    encoder = checkpoint.encoder().to(device_named(running.device), PRECISIONS[running.precision])
    make = running.draws.tokenise if running.draws else tokenise
    special = {"cls_id": checkpoint.cls_id, "pad_value": config.pad_value, "n_bins": config.n_bins}

    def prepared(cells: Rows) -> Tokens:
        return make(values[cells], gene_ids, max_length=max_length, **special)

    kept = True
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(prepared, missing[0][0])
        for turn, (cells, path) in enumerate(missing):
            tokens = coming.result()
            if turn + 1 < len(missing):
                coming = worker.submit(prepared, missing[turn + 1][0])
            result[cells] = vectors = _run(encoder, tokens, running.batch_size, on_cells)
            kept = kept and (path is None or _written(path, vectors))
    return result


def device_named(name: str | None) -> torch.device:
    """Return a torch device that works here; by default a GPU when there is one."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        msg = f"The device {name!r} cannot be used ({str(error).splitlines()[0]}); name cpu, or cuda where it works."
        raise ConfigError(msg) from None


def _shards(
    checkpoint: Checkpoint, values: sparse.csr_matrix, gene_ids: Rows, max_length: int, running: Running
) -> Iterator[tuple[Rows, Path | None]]:
    """Give the cells of each shard, and the file that keeps it."""
    if running.draws is not None:  # one cell after the other, as upstream
        yield np.arange(values.shape[0]), None
        return
    folder = None
    if running.cache is not None:
        folder = running.cache / _key(checkpoint, values, gene_ids, f"{VERSION}/{max_length}/{running.precision}")
    # Cells of like length side by side, so that a batch has little padding; the longest first, as memory fails there.
    order = np.argsort(-np.minimum(np.diff(values.indptr), max_length - 1), kind="stable")
    for number, start in enumerate(range(0, len(order), SHARD)):
        yield order[start : start + SHARD], folder / f"{number:06}.safetensors" if folder else None


def _run(encoder: Encoder, tokens: Tokens, batch_size: int | None, on_cells: OnCells | None) -> npt.NDArray[np.float32]:
    """Return the vectors of the cells of one shard."""
    device = next(encoder.parameters()).device
    vectors = np.empty((len(tokens.lengths), encoder.config.dim), dtype=np.float32)
    start, limit = 0, batch_size or max(1, _tokens_at_once(encoder) // int(tokens.lengths.max()))
    while start < len(vectors):
        batch = np.arange(start, min(start + limit, len(vectors)))
        genes, bins = tokens.padded(batch, encoder.pad_id, encoder.config.pad_value)
        try:
            inputs = torch.as_tensor(genes).to(device), torch.as_tensor(bins).to(device)
            found = TORCH_THREAD.run(partial(encoder.embed, *inputs))
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


def cache_folder() -> Path | None:
    """Return the folder of kept embeddings, None where the user has no home."""
    try:
        return user_cache() / "embeddings"
    except RuntimeError:
        return None


def _key(checkpoint: Checkpoint, values: sparse.csr_matrix, gene_ids: Rows, settings: str) -> str:
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


def _written(path: Path, vectors: npt.NDArray[np.float32]) -> bool:
    """Keep a shard, or warn that there is no room for it."""
    try:
        with replacing(path) as temporary:
            save_file({"vectors": vectors}, temporary)
    except (OSError, SafetensorError) as error:
        told = f"Embeddings are not kept in {path.parent} ({error}), so the next run makes them again"
        warnings.warn(f"{told}; name a folder with room in SPIKGPT_CACHE.", SpikGPTWarning, stacklevel=4)
        return False
    return True
