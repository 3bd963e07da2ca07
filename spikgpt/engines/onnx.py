"""The engine that runs the graphs of a reference in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.scgpt import ScGPTEmbedding
from spikgpt.embedding.stored import stored_embedding
from spikgpt.embedding.vocabulary import Vocabulary
from spikgpt.engines import contract
from spikgpt.engines.batches import run_batches, worker_count
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.verified_graphs import open_graph
from spikgpt.errors import DamagedReference, needs
from spikgpt.options import EngineOptions
from spikgpt.reference.files import EMBEDDER, Reference
from spikgpt.reference.format import ENCODER, GRAPHS
from spikgpt.types import NetworkOutput, OnCells, Scale

# Number of cells in a batch. On a CPU, the values of a batch of this size stay in the cache.
CPU_BATCH, GPU_BATCH = 512, 8192
# Number of tokens in a batch of scGPT's encoder.
CPU_TOKENS, GPU_TOKENS = 8192, 1 << 18


class OnnxEngine:
    """Run the graphs of a reference, written by ``spikgpt export``, on the device that the options name."""

    def __init__(self, reference: Reference, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.session = open_graph(reference, GRAPHS[self.options.precision], self.options)
        self.encoder: Session | None = None
        self.embedding = self._open_embedding(reference)

    @property
    def name(self) -> str:
        """Name of the engine and its device."""
        return f"onnx on {self.session.provider}"

    @property
    def chunk_threads(self) -> int:
        """Number of chunks of cells to label at the same time: 1 on a GPU and for scGPT, which takes much memory."""
        return worker_count(self.options) if self.session.provider == "cpu" and self.encoder is None else 1

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return the network's output for cells, none of them empty; see :class:`spikgpt.embedding.base.Engine`."""
        projection = self.embedding if isinstance(self.embedding, PCAProjection) else None
        embedded = None if projection else self._encode(cells) if self.encoder else cells.vectors

        def run_batch(part: slice) -> NetworkOutput:
            inputs: dict[str, npt.NDArray[Any]]
            if embedded is None:
                assert projection is not None
                assert scale is not None
                batch = cells.part(part)
                values, (mean, std), present = projection.impute(batch, scale)
                inputs = {
                    contract.COUNTS: values.toarray() if isinstance(values, sparse.csr_matrix) else values,
                    contract.TOTAL: batch.totals,
                    contract.FOUND: present,
                    contract.GENE_MEAN: mean,
                    contract.GENE_STD: std,
                }
            else:
                inputs = {contract.EMBEDDING: embedded[part]}
            outputs = self.session.run(inputs)
            vectors = outputs[contract.VECTOR] if embedded is None else embedded[part]
            return NetworkOutput.from_arrays(vectors, outputs[contract.PROBABILITIES], outputs[contract.ENERGY])

        on_cpu = self.session.provider == "cpu"
        size, threads = batch_size or (CPU_BATCH if on_cpu else GPU_BATCH), worker_count(self.options) if on_cpu else 1
        return run_batches(run_batch, len(cells.totals), size, threads=threads, on_cells=on_cells)

    def _encode(self, cells: AlignedCells) -> npt.NDArray[np.float64]:
        """Return scGPT's vectors of cells, shape (n, dim)."""
        assert self.encoder is not None
        assert isinstance(self.embedding, ScGPTEmbedding)
        with needs("numba"):
            from spikgpt.embedding.tokens import tokenise
        vocabulary = self.embedding.vocabulary
        tokens = tokenise(
            cells.values,
            vocabulary.gene_ids,
            cls_id=vocabulary.cls_id,
            pad_value=vocabulary.pad_value,
            n_bins=vocabulary.n_bins,
            max_length=vocabulary.length,
        )
        vectors = np.empty((len(tokens.lengths), self.embedding.dim))
        batch_tokens = CPU_TOKENS if self.encoder.provider == "cpu" else GPU_TOKENS
        # Cells of similar length share a batch, so that a batch has little padding.
        order = np.argsort(-tokens.lengths, kind="stable")
        start = 0
        while start < len(order):
            batch = order[start : start + max(1, batch_tokens // int(tokens.lengths[order[start]]))]
            ids, bins = tokens.padded(batch, vocabulary.pad_id, vocabulary.pad_value)
            inputs = {contract.TOKEN_IDS: ids, contract.VALUES: bins, contract.MASK: ids != vocabulary.pad_id}
            vectors[batch] = self.encoder.run(inputs)[contract.EMBEDDING]
            start += len(batch)
        return vectors

    def _open_embedding(self, reference: Reference) -> Embedding:
        """Return the embedding that prepares the input of the graph; for scGPT, also open the graph of the encoder."""
        if reference.embedder.get("kind") != "scgpt":
            return stored_embedding(reference.embedder, reference.part(EMBEDDER), reference.genes, reference.more_genes)
        # The encoder takes much memory, so all threads work on one batch of tokens at a time.
        self.encoder = open_graph(reference, ENCODER, self.options, threads=worker_count(self.options))
        vocabulary = Vocabulary.from_json(self.encoder.metadata.get("vocabulary", ""))
        if vocabulary.sha256 != reference.embedder.get("sha256"):
            msg = f"{ENCODER} is another scGPT than the reference was trained on. Export the reference again."
            raise DamagedReference(msg)
        return ScGPTEmbedding(vocabulary, reference.config.input_dim, reference.embedder)
