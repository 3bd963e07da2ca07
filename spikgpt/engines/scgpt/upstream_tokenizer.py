"""Tokenizer with the same random draws as the scgpt package, for an exact comparison with that package."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from spikgpt.embedding.tokens import Tokens


class UpstreamTokenizer:
    """Tokenizer with the random draws of ``scgpt.data_collator.DataCollator`` (version 0.2.4) in one process.

    ``numpy_seed`` and ``torch_seed`` are the seeds that the scgpt package sets before the first batch.
    """

    def __init__(self, numpy_seed: int, torch_seed: int) -> None:
        self._uniform = np.random.RandomState(numpy_seed)
        self._permutation = torch.Generator().manual_seed(torch_seed)

    def tokenise(
        self,
        values: sparse.csr_matrix,
        gene_ids: npt.NDArray[np.int64],
        *,
        cls_id: int,
        pad_value: int,
        n_bins: int = 51,
        max_length: int = 1200,
    ) -> Tokens:
        """Return the tokens of cells; see :func:`spikgpt.embedding.tokens.tokenise`. Any order of columns works."""
        genes, bins = [], []
        for cell in range(values.shape[0]):
            row = slice(values.indptr[cell], values.indptr[cell + 1])
            expressed, ids = values.data[row].astype(np.float32), gene_ids[values.indices[row]]
            if len(expressed):
                edges = np.quantile(expressed, np.linspace(0, 1, n_bins - 1))
                above, below = np.digitize(expressed, edges), np.digitize(expressed, edges, right=True)
                expressed = np.ceil(self._uniform.rand(len(expressed)) * (below - above) + above)
            if len(ids) > max_length - 1:
                kept = torch.randperm(len(ids), generator=self._permutation)[: max_length - 1].numpy()
                expressed, ids = expressed[kept], ids[kept]
            genes.append(np.concatenate([[cls_id], ids]))
            bins.append(np.concatenate([[pad_value], expressed]))
        offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in genes], dtype=np.int64)])
        return Tokens(offsets, np.concatenate(genes).astype(np.int32), np.concatenate(bins).astype(np.int16))
