"""scGPT embeddings against upstream's own code, on real cells: cells a second, cosine, peak memory; and tokenising.

    python -m benchmarks.scgpt [--cells 200] [--checkpoint DIR]

Without a checkpoint, the network has the full size (12 layers of 512) and random weights. Each way runs in a process of
its own, one after the other, on the same cells of tests/data.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from anndata import read_h5ad
from rich.console import Console
from rich.table import Table
from scipy import sparse

from spikgpt.cells.align import align
from spikgpt.cells.expression import find_expression
from spikgpt.embedding.tokens import tokenise
from spikgpt.embedding.vocabulary import CLS, END
from spikgpt.engines.scgpt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spikgpt.engines.scgpt.draws import UpstreamDraws
from spikgpt.engines.scgpt.embedding import Running, embed_cells
from spikgpt.engines.scgpt.encoder import Encoder, ScGPTConfig
from tests import upstream

CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human1.h5ad"
VOCABULARY = 60_697
SEEDS = (1, 2)
# Ways to embed: device, precision; upstream's draws serve the comparison of vectors.
WAYS = {
    "upstream": ("", ""),
    "spikgpt float32, upstream's draws": ("float32", "draws"),
    "spikgpt float32": ("float32", ""),
    "spikgpt bfloat16": ("bfloat16", ""),
}


def random_checkpoint(genes: list[str]) -> Checkpoint:
    """Return the published model's size with random weights, on a vocabulary of its length."""
    names = [*genes, *(f"unseen {number}" for number in range(VOCABULARY - 3 - len(genes))), "<pad>", CLS, END]
    vocabulary = {name: index for index, name in enumerate(names)}
    torch.manual_seed(0)
    network = Encoder(ScGPTConfig(), len(vocabulary), vocabulary["<pad>"])
    return Checkpoint(network.config, vocabulary, network.state_dict())


def cells_of(checkpoint: Checkpoint, count: int) -> tuple[sparse.csr_matrix, npt.NDArray[np.int64]]:
    """Return real cells, and the vocabulary index of each column."""
    adata = read_h5ad(CELLS)[:count].copy()
    cells = align(find_expression(adata), checkpoint.genes, minimum_share=0)
    found = np.flatnonzero(cells.found)
    ids = np.array([checkpoint.vocabulary[token] for token in checkpoint.genes.symbols])
    return sparse.csr_matrix(cells.values[:, found]), ids[found]


def upstream_embeddings(
    checkpoint: Checkpoint, values: sparse.csr_matrix, ids: npt.NDArray[np.int64], device: str
) -> npt.NDArray[np.float32]:
    """Return what upstream's ``get_batch_cell_embeddings`` gives, its tokenizer package replaced by an empty one."""
    model = upstream.model(checkpoint).to(device)
    for name, attributes in (("scgpt.tokenizer", {"GeneVocab": object}), ("scgpt.utils", {"load_pretrained": None})):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(attributes)
    sys.modules["scgpt.model"].__dict__["TransformerModel"] = type(model)
    function = upstream.module("scgpt.tasks.cell_emb").get_batch_cell_embeddings
    adata = types.SimpleNamespace(X=values, var={}, obs={})
    configs = checkpoint.config.to_args()
    result: npt.NDArray[np.float32] = function(
        adata, "cls", model, checkpoint.vocabulary, 1200, 64, configs, ids, use_batch_labels=False
    )
    return result


def collated(checkpoint: Checkpoint, values: sparse.csr_matrix, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return upstream's vectors for the draws of ``SEEDS``, in its batches of 64, in this process."""
    model, pad_value = upstream.model(checkpoint), checkpoint.config.pad_value
    collate = upstream.collator(checkpoint.pad_id, pad_value, 1200)
    examples = upstream.examples(values, ids, checkpoint.cls_id, pad_value)
    with upstream.seeded(*SEEDS):
        batches = [collate(examples[start : start + 64]) for start in range(0, len(examples), 64)]
    return np.concatenate([upstream.embed(model, b["gene"], b["expr"], checkpoint.pad_id).numpy() for b in batches])


def one_way(folder: Path, way: str, cells: int, out: Path, device: str) -> None:
    """Embed in this process and write vectors, seconds and peak memory."""
    checkpoint = load_checkpoint(folder)
    values, ids = cells_of(checkpoint, cells)
    precision, draws = WAYS[way]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What is compiled or loaded on the first call is not counted.
        if precision:
            embed_cells(checkpoint, values[:2], ids, running=Running(precision=precision, device=device))
        started = time.perf_counter()
        if not precision:
            vectors = upstream_embeddings(checkpoint, values, ids, device)
        else:
            rule = UpstreamDraws(*SEEDS) if draws else None
            running = Running(precision=precision, device=device, draws=rule)
            vectors = embed_cells(checkpoint, values, ids, running=running)
        seconds = time.perf_counter() - started
    np.save(out.with_suffix(".npy"), vectors)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out.write_text(json.dumps({"seconds": seconds, "megabytes": memory}))


def embedding_benchmark(console: Console, options: argparse.Namespace) -> None:
    """Run every way on the same cells, and print them side by side."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or Path(temporary) / "checkpoint"
        if options.checkpoint is None:
            save_checkpoint(random_checkpoint(read_h5ad(CELLS, backed="r").var_names.tolist()), folder)
        results: dict[str, dict[str, Any]] = {}
        vectors = {}
        for way in options.way or WAYS:
            out = Path(temporary) / f"{len(results)}.json"
            arguments = ["--run", way, "--out", str(out), "--cells", str(options.cells), "--device", options.device]
            command = [sys.executable, "-m", "benchmarks.scgpt", *arguments, "--checkpoint", str(folder)]
            subprocess.run(command, check=True, capture_output=True)
            results[way], vectors[way] = json.loads(out.read_text()), np.load(out.with_suffix(".npy"))
            console.print(f"{way}: {options.cells / results[way]['seconds']:.2f} cells/s")
        checkpoint = load_checkpoint(folder)
        values, ids = cells_of(checkpoint, min(options.cells, 64))
        truth = collated(checkpoint, values, ids)
    table = Table(
        "way", "cells/s", "times upstream", "peak memory, MB", "lowest cosine", title=f"{options.cells} cells"
    )
    base = results.get("upstream", {"seconds": float("nan")})["seconds"]
    for way, result in results.items():
        precision, draws = WAYS[way]
        if draws:
            cosine = f"{(vectors[way][: len(truth)] * truth).sum(axis=1).min():.6f} to upstream"
        elif precision == "bfloat16" and "spikgpt float32" in vectors:
            cosine = f"{(vectors[way] * vectors['spikgpt float32']).sum(axis=1).min():.6f} to float32"
        else:
            cosine = "-"
        ratio = base / result["seconds"]
        speed = f"{options.cells / result['seconds']:.2f}"
        table.add_row(way, speed, f"{ratio:.2f}", f"{result['megabytes']:.0f}", cosine)
    console.print(table)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {options.device}.")


def tokenising_benchmark(console: Console, cells: int) -> None:
    """Tokenise synthetic cells of a real cell's sparsity, in shards, and a share of them by upstream's collator."""
    real = read_h5ad(CELLS).X.tocsr()
    random = np.random.default_rng(0)
    ids = np.arange(real.shape[1]) + 3
    # A cell's counts, in places of another: real numbers of genes and real count distributions.
    shard = sparse.csr_matrix(real[random.integers(0, real.shape[0], 2048)][:, random.permutation(real.shape[1])])
    shard.sort_indices()
    collate = upstream.collator(0, -2, 1200)
    examples = upstream.examples(shard[:1024], ids, 1, -2)
    started = time.perf_counter()
    for start in range(0, len(examples), 64):
        collate(examples[start : start + 64])
    theirs = len(examples) / (time.perf_counter() - started)
    tokenise(shard[:8], ids, cls_id=1, pad_value=-2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done, spent = 0, 0.0
    while done < cells:
        started = time.perf_counter()
        tokens = tokenise(shard, ids, cls_id=1, pad_value=-2)
        for start in range(0, len(tokens.lengths), 64):
            tokens.padded(np.arange(start, min(start + 64, len(tokens.lengths))), 0, -2)
        spent += time.perf_counter() - started
        done += len(tokens.lengths)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    growth = (after - before) / 1024
    console.print(
        f"Tokenising {done} cells of {shard.nnz / shard.shape[0]:.0f} genes: {done / spent:,.0f} cells/s, upstream's "
        f"collator {theirs:,.0f}: {done / spent / theirs:.1f} times. Peak memory grew by {growth:.0f} MB."
    )


def main() -> None:
    """Run both benchmarks, or one way of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--tokenise", type=int, default=100_000)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--way", action="append", choices=list(WAYS))
    parser.add_argument("--run", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        one_way(options.checkpoint, options.run, options.cells, options.out, options.device)
        return
    console = Console()
    tokenising_benchmark(console, options.tokenise)
    embedding_benchmark(console, options)


if __name__ == "__main__":
    main()
