"""Compare scGPT embeddings with those of the original code: speed, peak memory, cosine, and speed of tokenising.

    python -m benchmarks.scgpt_speed [--cells 200] [--checkpoint DIR]

Upstream is the original code of scGPT. Without a checkpoint, the network has random weights and the size of the
published model (12 layers of width 512). The ways to embed run one after the other on the same real cells of
tests/data, each way in a separate process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from anndata import read_h5ad
from scipy import sparse

from spikgpt.cells.align import align
from spikgpt.cells.expression import find_expression
from spikgpt.embedding.tokens import tokenise
from spikgpt.embedding.vocabulary import CLS, END
from spikgpt.engines.scgpt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spikgpt.engines.scgpt.embedding import RunSettings, embed_cells
from spikgpt.engines.scgpt.encoder import ScGPTConfig, ScGPTEncoder
from spikgpt.engines.scgpt.upstream_tokenizer import UpstreamTokenizer
from spikgpt_benchmark.process import peak_megabytes
from spikgpt_benchmark.studies.speed import in_new_process
from spikgpt_benchmark.studies.suite import Record, print_table
from tests import upstream

CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human1.h5ad"
VOCABULARY = 60_697
SEEDS = (1, 2)
# Ways to embed, each with its number format, empty for upstream's code. "draws" stands for the random tokens of
# upstream's tokenizer, so that vectors can be compared.
WAYS = {
    "upstream": ("", ""),
    "spikgpt float32, upstream's draws": ("float32", "draws"),
    "spikgpt float32": ("float32", ""),
    "spikgpt bfloat16": ("bfloat16", ""),
}


def random_checkpoint(genes: list[str]) -> Checkpoint:
    """Return a checkpoint with random weights, and with the size and vocabulary length of the published model."""
    names = [*genes, *(f"unseen {number}" for number in range(VOCABULARY - 3 - len(genes))), "<pad>", CLS, END]
    vocabulary = {name: index for index, name in enumerate(names)}
    torch.manual_seed(0)
    network = ScGPTEncoder(ScGPTConfig(), len(vocabulary), vocabulary["<pad>"])
    return Checkpoint(network.config, vocabulary, network.state_dict())


def cells_of(checkpoint: Checkpoint, count: int) -> tuple[sparse.csr_matrix, npt.NDArray[np.int64]]:
    """Return the first ``count`` real cells, shape (n, G), and the vocabulary index of each gene, shape (G,)."""
    adata = read_h5ad(CELLS)[:count].copy()
    cells = align(find_expression(adata), checkpoint.genes, minimum_share=0)
    columns = np.flatnonzero(cells.genes_present)
    ids = np.array([checkpoint.vocabulary[token] for token in checkpoint.genes.symbols])
    return sparse.csr_matrix(cells.values[:, columns]), ids[columns]


def upstream_embeddings(
    checkpoint: Checkpoint, values: sparse.csr_matrix, ids: npt.NDArray[np.int64], device: str
) -> npt.NDArray[np.float32]:
    """Return the result of upstream's ``get_batch_cell_embeddings``, with its tokenizer package replaced by a stub."""
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


def upstream_vectors(
    checkpoint: Checkpoint, values: sparse.csr_matrix, ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return the vectors of upstream's network, shape (n, D), for the random tokens of the seeds ``SEEDS``."""
    model, pad_value = upstream.model(checkpoint), checkpoint.config.pad_value
    collate = upstream.collator(checkpoint.pad_id, pad_value, 1200)
    examples = upstream.examples(values, ids, checkpoint.cls_id, pad_value)
    with upstream.seeded(*SEEDS):
        batches = [collate(examples[start : start + 64]) for start in range(0, len(examples), 64)]
    return np.concatenate([upstream.embed(model, b["gene"], b["expr"], checkpoint.pad_id).numpy() for b in batches])


def embed_one_way(folder: Path, way: str, n_cells: int, device: str) -> tuple[npt.NDArray[np.float32], float, float]:
    """Return the vectors of the cells, and the seconds and peak memory in MB of this process."""
    checkpoint = load_checkpoint(folder)
    values, ids = cells_of(checkpoint, n_cells)
    precision, draws = WAYS[way]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Compilation and imports on the first call are not counted.
        if precision:
            embed_cells(checkpoint, values[:2], ids, settings=RunSettings(precision=precision, device=device))
        started = time.perf_counter()
        if precision:
            tokenizer = UpstreamTokenizer(*SEEDS) if draws else None
            vectors = embed_cells(
                checkpoint, values, ids, settings=RunSettings(precision=precision, device=device, tokenizer=tokenizer)
            )
        else:
            vectors = upstream_embeddings(checkpoint, values, ids, device)
        return vectors, time.perf_counter() - started, peak_megabytes()


def embedding_benchmark(options: argparse.Namespace) -> list[Record]:
    """Return a record of speed, memory and cosine for each way to embed the same cells."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or Path(temporary) / "checkpoint"
        if options.checkpoint is None:
            save_checkpoint(random_checkpoint(read_h5ad(CELLS, backed="r").var_names.tolist()), folder)
        ways = options.way or list(WAYS)
        results = {way: in_new_process(embed_one_way, folder, way, options.cells, options.device) for way in ways}
        checkpoint = load_checkpoint(folder)
        truth = upstream_vectors(checkpoint, *cells_of(checkpoint, min(options.cells, 64)))
    records = []
    for way, (vectors, seconds, megabytes) in results.items():
        record: Record = {"way": way, "cells/s": options.cells / seconds, "peak MB": megabytes}
        if "upstream" in results:
            record["times upstream"] = results["upstream"][1] / seconds
        if WAYS[way][1]:
            record["lowest cosine to upstream"] = float((vectors[: len(truth)] * truth).sum(axis=1).min())
        elif WAYS[way][0] == "bfloat16" and "spikgpt float32" in results:
            record["lowest cosine to float32"] = float((vectors * results["spikgpt float32"][0]).sum(axis=1).min())
        records.append(record)
    return records


def tokenising_benchmark(n_cells: int) -> Record:
    """Return the speed of tokenising in this library and in upstream's collator, on cells as sparse as real ones."""
    real = read_h5ad(CELLS).X.tocsr()
    random = np.random.default_rng(0)
    ids = np.arange(real.shape[1]) + 3
    # Real cells with shuffled gene columns: numbers of genes and distributions of counts are real.
    shard = sparse.csr_matrix(real[random.integers(0, real.shape[0], 2048)][:, random.permutation(real.shape[1])])
    shard.sort_indices()
    collate = upstream.collator(0, -2, 1200)
    examples = upstream.examples(shard[:1024], ids, 1, -2)
    started = time.perf_counter()
    for start in range(0, len(examples), 64):
        collate(examples[start : start + 64])
    theirs = len(examples) / (time.perf_counter() - started)
    tokenise(shard[:8], ids, cls_id=1, pad_value=-2)
    before, done, spent = peak_megabytes(), 0, 0.0
    while done < n_cells:
        started = time.perf_counter()
        tokens = tokenise(shard, ids, cls_id=1, pad_value=-2)
        for start in range(0, len(tokens.lengths), 64):
            tokens.padded(np.arange(start, min(start + 64, len(tokens.lengths))), 0, -2)
        spent += time.perf_counter() - started
        done += len(tokens.lengths)
    record: Record = {"cells": done, "genes per cell": shard.nnz / shard.shape[0], "cells/s": done / spent}
    record |= {"upstream, cells/s": theirs, "times upstream": done / spent / theirs}
    return record | {"growth of memory, MB": peak_megabytes() - before}


def main() -> None:
    """Run both benchmarks and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--tokenise", type=int, default=100_000)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--way", action="append", choices=list(WAYS))
    options = parser.parse_args()
    print_table([tokenising_benchmark(options.tokenise)], "Tokenising")
    about = f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {options.device}"
    print_table(embedding_benchmark(options), f"Embedding {options.cells} cells: {about}")


if __name__ == "__main__":
    main()
