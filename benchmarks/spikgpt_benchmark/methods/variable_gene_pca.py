"""Principal components of variable genes, with the usual settings of scanpy, as several methods need them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from spikgpt.types import Floats, Rows

# Numbers of genes and components, and the largest absolute value after scaling.
N_GENES, N_COMPONENTS, CLIP = 2000, 50, 10.0


@dataclass(frozen=True)
class VariableGenePCA:
    """Projection of log-normalised cells on the principal components of G variable genes.

    ``genes``, ``mean`` and ``std`` have the shape (G,), and ``loadings`` the shape (G, D).
    """

    genes: Rows
    mean: Floats
    std: Floats
    loadings: Floats

    @classmethod
    def fit(cls, cells: AnnData, seed: int) -> VariableGenePCA:
        """Fit the projection to log-normalised cells with a sparse ``X``."""
        import scanpy

        chosen = scanpy.pp.highly_variable_genes(cells, n_top_genes=min(N_GENES, cells.n_vars), inplace=False)
        genes = np.flatnonzero(chosen["highly_variable"])
        values = cells.X[:, genes].toarray().astype(np.float64)
        mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
        std[std == 0] = 1
        scaled = AnnData(_scaled(values, mean, std).astype(np.float32))
        scanpy.pp.pca(scaled, n_comps=min(N_COMPONENTS, min(scaled.shape) - 1), random_state=seed)
        return cls(genes, mean, std, np.asarray(scaled.varm["PCs"], dtype=np.float64))

    def transform(self, cells: AnnData) -> Floats:
        """Return the component scores of log-normalised cells, shape (n, D)."""
        projected: Floats = _scaled(cells.X[:, self.genes].toarray(), self.mean, self.std) @ self.loadings
        return projected


def _scaled(values: Floats, mean: Floats, std: Floats) -> Floats:
    """Return values in standard deviations from the mean, clipped."""
    return np.clip((values - mean) / std, -CLIP, CLIP)
