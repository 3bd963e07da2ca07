"""Principal components of variable genes, with scanpy's usual settings, which several methods start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from spikgpt.types import Floats, Rows

# Genes, components, and the largest scaled value either way.
N_GENES, N_COMPONENTS, CLIP = 2000, 50, 10.0


@dataclass(frozen=True)
class Components:
    """What projects log-normalised cells: chosen genes, (G,), their means and deviations, (G,), loadings, (G, D)."""

    genes: Rows
    mean: Floats
    std: Floats
    loadings: Floats

    @classmethod
    def fit(cls, cells: AnnData, seed: int) -> Components:
        """Fit log-normalised cells, sparse in ``X``."""
        import scanpy

        chosen = scanpy.pp.highly_variable_genes(cells, n_top_genes=min(N_GENES, cells.n_vars), inplace=False)
        genes = np.flatnonzero(chosen["highly_variable"])
        values = cells.X[:, genes].toarray().astype(np.float64)
        mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
        std[std == 0] = 1
        scaled = AnnData(_scaled(values, mean, std).astype(np.float32))
        scanpy.pp.pca(scaled, n_comps=min(N_COMPONENTS, min(scaled.shape) - 1), random_state=seed)
        return cls(genes, mean, std, np.asarray(scaled.varm["PCs"], dtype=np.float64))

    def place(self, cells: AnnData) -> Floats:
        """Return log-normalised cells in the components, shape (n, D)."""
        placed: Floats = _scaled(cells.X[:, self.genes].toarray(), self.mean, self.std) @ self.loadings
        return placed


def _scaled(values: Floats, mean: Floats, std: Floats) -> Floats:
    """Return values in deviations from the mean, clipped."""
    return np.clip((values - mean) / std, -CLIP, CLIP)
