"""The engine that runs the trained network in torch, in float64; exported graphs are compared with this engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.expression import Cells, find_expression
from spikgpt.cells.genes import match_genes
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.scgpt import ScGPTEmbedding
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.scgpt.embedding import RunSettings, cache_folder, embed_cells
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.engines.thread import TORCH_THREAD
from spikgpt.types import Bools, Floats, InputReport, NetworkOutput, OnCells, Scale

# Number of cells in a batch. Larger batches take more memory and are no faster.
BATCH = 1024


@dataclass(frozen=True)
class TorchEngine:
    """Run a trained classifier on the vectors of its embedding.

    Logits are divided by ``temperature``. For an embedding by scGPT, ``source`` is the checkpoint, and ``settings`` are
    the options for running its network.
    """

    embedding: Embedding
    classifier: SpikingClassifier
    temperature: float = 1.0
    source: ScGPTSource | None = None
    settings: RunSettings | None = None
    name: ClassVar[str] = "torch on cpu"
    chunk_threads: ClassVar[int] = 1

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return the network's output for cells, none of them empty; see :class:`spikgpt.embedding.base.Engine`."""
        vectors = self.vectors(cells, scale, on_cells)
        return NetworkOutput.from_arrays(vectors, *self.classify(vectors, batch_size or BATCH))

    def vectors(
        self, cells: AlignedCells, scale: Scale | None = None, on_cells: OnCells | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the vectors of cells, shape (n, dim)."""
        embedding = self.embedding
        if isinstance(embedding, PCAProjection):
            return embedding.vectors(cells, scale, on_cells)
        if self.source is not None:
            return scgpt_vectors(self.source, cells, settings=self.settings, on_cells=on_cells)
        return cells.vectors

    def classify(
        self, vectors: npt.NDArray[np.float64], batch_size: int = BATCH
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return label probabilities, shape (n, L), and energies, shape (n,), of embedded cells, shape (n, dim).

        An energy is the log of the summed exponentials of the logits. The batch size changes rounding errors, but in
        float64 too little to change a spike.
        """
        rows, energies = [np.empty((0, self.classifier.config.n_labels))], [np.empty(0)]
        for start in range(0, len(vectors), batch_size):
            batch = torch.as_tensor(vectors[start : start + batch_size], dtype=torch.float64)
            probabilities, energy = TORCH_THREAD.run(partial(self._classify_batch, batch))
            rows.append(probabilities.numpy())
            energies.append(energy.numpy())
        return np.concatenate(rows), np.concatenate(energies)

    @torch.inference_mode()
    def _classify_batch(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities, shape (b, L), and energies, shape (b,), of embedded cells, shape (b, dim)."""
        logits = self._folded(batch)  # (b, L)
        return (logits / self.temperature).softmax(dim=1), logits.logsumexp(dim=1)

    def weights(self) -> dict[str, Floats]:
        """Return the weights of the classifier by name."""
        return {name: tensor.numpy() for name, tensor in self.classifier.state_dict().items()}

    def folded_weights(self) -> dict[str, Floats]:
        """Return the weights by name, after the network has folded every BatchNorm into its linear layer."""
        return {name: tensor.numpy() for name, tensor in self._folded.state_dict().items()}

    @cached_property
    def _folded(self) -> SpikingClassifier:
        """Classifier for inference, in float64, with every BatchNorm folded into its linear layer."""
        return SpikingClassifier.from_weights(self.classifier.config, self.classifier.state_dict()).double().folded()


def scgpt_embedding(source: ScGPTSource) -> ScGPTEmbedding:
    """Return the embedding of an scGPT checkpoint."""
    return ScGPTEmbedding(source.vocabulary, source.checkpoint.config.dim, source.settings(), source.tensors())


def scgpt_vectors(
    source: ScGPTSource, cells: AlignedCells, *, settings: RunSettings | None = None, on_cells: OnCells | None = None
) -> npt.NDArray[np.float64]:
    """Return scGPT's vectors of cells, shape (n, dim)."""
    return embed_cells(
        source.checkpoint,
        cells.values,
        source.vocabulary.gene_ids,
        max_length=source.max_length,
        settings=settings or RunSettings(cache=cache_folder()),
        on_cells=on_cells,
    ).astype(np.float64)


def embed_query(
    source: ScGPTSource,
    cells: Cells,
    settings: RunSettings,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    on_cells: OnCells | None = None,
) -> tuple[npt.NDArray[np.float64], Bools, InputReport]:
    """Embed every cell of a query with scGPT.

    Returns vectors, shape (n, dim), a mask of the cells without genes of the vocabulary, shape (n,), and the report on
    the input. The vectors of the masked cells are meaningless.
    """
    query = scgpt_embedding(source).read(cells, layer=layer, gene_key=gene_key)
    aligned = joined(list(query.chunks))
    ids, values = source.vocabulary.gene_ids, aligned.values
    if settings.tokenizer is not None:
        # The scgpt package draws random numbers for one gene after another, in the order of the query.
        var = find_expression(cells, layer=layer, gene_key=gene_key).var
        columns = match_genes(var, source.vocabulary.genes, minimum_share=0, gene_key=gene_key).columns
        order = np.argsort(np.where(aligned.genes_present, columns, cells.n_vars), kind="stable")
        ids, values = ids[order], values[:, order].sorted_indices()
    vectors = embed_cells(
        source.checkpoint, values, ids, max_length=source.max_length, settings=settings, on_cells=on_cells
    )
    return vectors.astype(np.float64), aligned.empty, query.report
