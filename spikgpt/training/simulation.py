"""Simulate cells: real cells as if from another sample, or cells from the statistics of a reference alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.pca import CHUNK, PCAProjection
from spikgpt.embedding.stored import stored_embedding
from spikgpt.errors import ConfigError
from spikgpt.reference.files import EMBEDDER, Reference
from spikgpt.types import Floats

# Range of the depth in another sample, as a share of the cell's own depth, and largest share of ambient RNA.
OTHER_DEPTH, LARGEST_AMBIENT = (0.3, 1.0), 0.6


def simulated_vectors(projection: PCAProjection, cells: AlignedCells, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return the vectors of cells as if they came from another sample, shape (n, dim).

    Samples differ in depth and in ambient RNA. A cell keeps a share of its counts, drawn uniformly from the range
    ``OTHER_DEPTH``. A share of these counts, drawn from Beta(1, 4), is ambient RNA with the mean profile of the cells.
    The final counts are drawn from a Poisson distribution.

    Parameters
    ----------
    cells
        Raw counts of the genes of the projection.
    """
    random = np.random.default_rng(seed)
    totals = np.maximum(cells.totals, 1.0)
    depths = totals * random.uniform(*OTHER_DEPTH, len(totals))  # (n,)
    ambient = np.minimum(random.beta(1, 4, len(totals)), LARGEST_AMBIENT)  # (n,)
    profile = np.asarray(cells.values.sum(axis=0, dtype=np.float64)).ravel() / totals.sum()  # (G,)
    vectors = np.empty((len(totals), projection.dim))
    for start in range(0, len(vectors), CHUNK):
        part = slice(start, start + CHUNK)
        share = ambient[part, None]
        own = cells.values[part].toarray() / totals[part, None]
        counts = random.poisson(depths[part, None] * ((1 - share) * own + share * profile))  # (chunk, G)
        vectors[part] = projection.project(counts.astype(np.float64), depths[part])
    return vectors


def simulated_cells(reference: Reference, cells_per_label: int = 60, *, seed: int = 0) -> AnnData:
    """Return counts of simulated cells, with the same number for each label of a reference in ``obs["cell_type"]``.

    The log expression of each gene is drawn independently of other genes. The drawn value is 0 or a positive value,
    which is chosen so that the mean and the standard deviation are those of the label. The counts are drawn from a
    Poisson distribution, with half of the normalised total. In real cells genes are correlated, so real cells are
    harder to label.

    Raises
    ------
    ConfigError
        When the reference reads an embedding instead of genes.
    """
    embedding = stored_embedding(reference.embedder, reference.part(EMBEDDER), reference.genes, reference.more_genes)
    if not isinstance(embedding, PCAProjection):
        msg = (
            f"The reference {reference.name} reads an embedding; expected a reference that reads genes, because cells "
            "are simulated from the expression of genes."
        )
        raise ConfigError(msg)
    symbols = embedding.genes.symbols
    parts: list[tuple[Floats, Floats]] = [(embedding.label_means, embedding.label_stds)]
    if embedding.imputer is not None:
        symbols += embedding.imputer.genes.symbols
        parts.append((embedding.imputer.label_means, embedding.imputer.label_stds))
    truth, random = np.repeat(np.arange(len(reference.labels.names)), cells_per_label), np.random.default_rng(seed)
    means, stds = (np.hstack(tables).astype(np.float64)[truth] for tables in zip(*parts, strict=True))  # (n, U)
    high = np.divide(means**2 + stds**2, means, out=np.zeros_like(means), where=means > 0)
    share = np.divide(means, high, out=np.zeros_like(means), where=high > 0)
    logs = np.where(random.random(means.shape) < share, high, 0)
    counts = random.poisson(np.expm1(logs) / 2).astype(np.float32)
    obs = pd.DataFrame({"cell_type": np.array(reference.labels.names)[truth]}).rename(index=str)
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=pd.Index(symbols)))
