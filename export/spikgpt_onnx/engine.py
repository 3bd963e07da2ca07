"""A reference's network in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import vectors_of
from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.scgpt import ScGPTEmbedding
from spikgpt.embedding.stored import stored_embedding
from spikgpt.embedding.vocabulary import Vocabulary
from spikgpt.errors import DamagedReference, needs
from spikgpt.options import EngineOptions
from spikgpt.reference.files import EMBEDDER, Reference
from spikgpt.reference.layout import ENCODER, GRAPHS
from spikgpt.types import NetworkOutput, OnCells, Scale
from spikgpt_onnx import contract
from spikgpt_onnx.known import open_graph
from spikgpt_onnx.session import Session, workers

# Cells to a batch on a CPU, whose values then stay in its cache, and on a GPU.
CPU_BATCH, GPU_BATCH = 512, 8192
# Tokens to a batch of scGPT's encoder.
CPU_TOKENS, GPU_TOKENS = 8192, 1 << 18

Arrays = dict[str, npt.NDArray[Any]]


class OnnxEngine:
    """Runs the graphs of a reference, as ``spikgpt export`` writes them, on what the options name."""

    def __init__(self, reference: Reference, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.session = open_graph(reference, GRAPHS[self.options.precision], self.options)
        self.encoder: Session | None = None
        self.embedding = self._embedding_of(reference)

    @property
    def name(self) -> str:
        """What runs the network, and where."""
        return f"onnx on {self.session.provider}"

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return what the network says of cells, none of them empty; see :class:`spikgpt.embedding.base.Engine`."""
        size = batch_size or (CPU_BATCH if self.session.provider == "cpu" else GPU_BATCH)
        if scale is None:
            vectors = self._encoded(cells) if self.encoder else vectors_of(cells)
            found = self._joined(lambda part: {contract.EMBEDDING: vectors[part]}, len(vectors), size, on_cells)
            return NetworkOutput.of(vectors, found[contract.PROBABILITIES], found[contract.ENERGY])
        projection = self.embedding
        assert isinstance(projection, PCAProjection)

        def inputs(part: slice) -> Arrays:
            some = cells.part(part)
            values, (mean, std), found = projection.impute(some, scale)
            return {
                contract.COUNTS: values.toarray() if isinstance(values, sparse.csr_matrix) else values,
                contract.TOTAL: some.totals,
                contract.FOUND: found,
                contract.GENE_MEAN: mean,
                contract.GENE_STD: std,
            }

        found = self._joined(inputs, len(cells.totals), size, on_cells)
        return NetworkOutput.of(found[contract.VECTOR], found[contract.PROBABILITIES], found[contract.ENERGY])

    def _joined(self, inputs: Callable[[slice], Arrays], cells: int, size: int, on_cells: OnCells | None) -> Arrays:
        """Run batches side by side and join what they give of each cell; no cells are one batch of none."""

        def one(part: slice) -> Arrays:
            found = self.session.run(inputs(part))
            if on_cells:
                on_cells(part.stop - part.start)
            return found

        starts = range(0, cells, size) or (0,)
        slices = [slice(start, min(start + size, cells)) for start in starts]
        # Made for each run: its threads would be missing in a process that is forked later.
        with ThreadPoolExecutor(workers(self.options) if self.session.provider == "cpu" else 1) as pool:
            parts = list(pool.map(one, slices))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _encoded(self, cells: AlignedCells) -> npt.NDArray[np.float64]:
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
        most = CPU_TOKENS if self.encoder.provider == "cpu" else GPU_TOKENS
        # Cells of like length side by side, so that a batch has little padding.
        order = np.argsort(-tokens.lengths, kind="stable")
        start = 0
        while start < len(order):
            batch = order[start : start + max(1, most // int(tokens.lengths[order[start]]))]
            ids, bins = tokens.padded(batch, vocabulary.pad_id, vocabulary.pad_value)
            inputs = {contract.TOKEN_IDS: ids, contract.VALUES: bins, contract.MASK: ids != vocabulary.pad_id}
            vectors[batch] = self.encoder.run(inputs)[contract.EMBEDDING]
            start += len(batch)
        return vectors

    def _embedding_of(self, reference: Reference) -> Embedding:
        """Return how the cells are read that the graph takes."""
        if reference.embedder.get("kind") != "scgpt":
            return stored_embedding(reference.embedder, reference.part(EMBEDDER), reference.genes, reference.more_genes)
        # One batch of tokens at a time, by all threads: it takes much memory.
        self.encoder = open_graph(reference, ENCODER, self.options, threads=workers(self.options))
        vocabulary = Vocabulary.from_json(self.encoder.metadata.get("vocabulary", ""))
        if vocabulary.sha256 != reference.embedder.get("sha256"):
            msg = f"{ENCODER} is another scGPT than the reference was trained on. Export the reference again."
            raise DamagedReference(msg)
        return ScGPTEmbedding(vocabulary, reference.config.input_dim, reference.embedder)
