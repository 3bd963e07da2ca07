"""A reference's network in torch, in float64: the model that was trained, and what graphs are held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.expression import Cells, find_expression
from spikgpt.cells.genes import match_genes
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import vectors_of
from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.scgpt import ScGPTEmbedding
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.scgpt.embedding import Running, cache_folder, embed_cells
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.engines.thread import TORCH_THREAD
from spikgpt.types import Bools, Floats, InputReport, NetworkOutput, OnCells, Scale

# Cells classified at a time: more take more memory and are no faster.
BATCH = 1024


@dataclass(frozen=True)
class TorchEngine:
    """Runs a classifier on what its embedding makes of cells.

    Logits are divided by ``temperature``. ``source`` is the checkpoint of an embedding by scGPT, ``running`` how to run
    that.
    """

    embedding: Embedding
    classifier: SpikingClassifier
    temperature: float = 1.0
    source: ScGPTSource | None = None
    running: Running | None = None

    @property
    def name(self) -> str:
        """What runs the network, and where."""
        return "torch on cpu"

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return what the network says of cells, none of them empty; see :class:`spikgpt.embedding.base.Engine`."""
        vectors = self.vectors(cells, scale, on_cells)
        return NetworkOutput.of(vectors, *self.classified(vectors, batch_size or BATCH))

    def vectors(
        self, cells: AlignedCells, scale: Scale | None = None, on_cells: OnCells | None = None
    ) -> npt.NDArray[np.float64]:
        """Return what the classifier reads of cells, shape (n, dim)."""
        embedding = self.embedding
        if isinstance(embedding, PCAProjection):
            return embedding.vectors(cells, scale, on_cells)
        if self.source is not None:
            return scgpt_vectors(self.source, cells, running=self.running, on_cells=on_cells)
        return vectors_of(cells)

    def classified(
        self, vectors: npt.NDArray[np.float64], batch_size: int = BATCH
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return label probabilities, shape (n, L), and energies, shape (n,), of embedded cells, shape (n, dim).

        Energies are the logs of the summed exponentials of the logits. In float64, rounding does not depend on the
        batch size in any digit that could move a spike.
        """
        rows, energies = [np.empty((0, self.classifier.config.n_labels))], [np.empty(0)]
        for start in range(0, len(vectors), batch_size):
            batch = torch.as_tensor(vectors[start : start + batch_size], dtype=torch.float64)
            probabilities, energy = TORCH_THREAD.run(partial(self._classified, batch))
            rows.append(probabilities.numpy())
            energies.append(energy.numpy())
        return np.concatenate(rows), np.concatenate(energies)

    @torch.inference_mode()
    def _classified(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities, shape (b, L), and energies, shape (b,), of embedded cells, shape (b, dim)."""
        logits = self._folded(batch)  # (b, L)
        return (logits / self.temperature).softmax(dim=1), logits.logsumexp(dim=1)

    def weights(self) -> dict[str, Floats]:
        """Return the weights of the classifier by name."""
        return {name: tensor.numpy() for name, tensor in self.classifier.state_dict().items()}

    def folded_weights(self) -> dict[str, Floats]:
        """Return the same with every BatchNorm folded, by the trained network's own code."""
        return {name: tensor.numpy() for name, tensor in self._folded.state_dict().items()}

    @cached_property
    def _folded(self) -> SpikingClassifier:
        """The classifier for inference: float64, collapsed, every BatchNorm folded."""
        return SpikingClassifier.from_weights(self.classifier.config, self.classifier.state_dict()).double().folded()


def scgpt_embedding(source: ScGPTSource) -> ScGPTEmbedding:
    """Return how cells are read for an scGPT checkpoint."""
    return ScGPTEmbedding(source.vocabulary, source.checkpoint.config.dim, source.settings(), source.tensors())


def scgpt_vectors(
    source: ScGPTSource, cells: AlignedCells, *, running: Running | None = None, on_cells: OnCells | None = None
) -> npt.NDArray[np.float64]:
    """Return scGPT's vectors of cells, shape (n, dim)."""
    return embed_cells(
        source.checkpoint,
        cells.values,
        source.vocabulary.gene_ids,
        max_length=source.max_length,
        running=running or Running(cache=cache_folder()),
        on_cells=on_cells,
    ).astype(np.float64)


def embed_query(
    source: ScGPTSource, cells: Cells, running: Running, *, layer: str | None = None, on_cells: OnCells | None = None
) -> tuple[npt.NDArray[np.float64], Bools, InputReport]:
    """Embed every cell of a query with scGPT.

    Returns vectors, shape (n, dim); which cells have no genes of the vocabulary, so that theirs mean nothing, shape
    (n,); and how the cells were read.
    """
    query = scgpt_embedding(source).read(cells, layer=layer)
    aligned = joined(list(query.chunks))
    ids, values = source.vocabulary.gene_ids, aligned.values
    if running.draws is not None:
        # Upstream draws for one gene after the other, in the query's order.
        places = match_genes(find_expression(cells, layer=layer).var, source.vocabulary.genes, minimum_share=0).columns
        order = np.argsort(np.where(aligned.found, places, cells.n_vars), kind="stable")
        ids, values = ids[order], values[:, order].sorted_indices()
    vectors = embed_cells(
        source.checkpoint, values, ids, max_length=source.max_length, running=running, on_cells=on_cells
    )
    return vectors.astype(np.float64), aligned.empty, query.report
