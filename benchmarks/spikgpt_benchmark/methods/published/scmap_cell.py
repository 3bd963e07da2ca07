"""scmap-cell: the label of the nearest cells if they agree; a product quantiser speeds up the search.

Written from Kiselev, Yiu and Hemberg, Nature Methods 2018, doi:10.1038/nmeth.4644. The chosen genes are cut into
chunks. In each chunk, k-means clusters the reference's cells, and a cell of the query is compared with the centres
instead of the cells. Here a chunk has consecutive genes in the reference's order, and the k-means is that of
scikit-learn. If the nearest cells disagree, the published method gives no label. Here the cell is unassigned, and the
best label is the label of its nearest cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.types import Bools, Strings
from spikgpt_benchmark.methods.preprocess import labels_of
from spikgpt_benchmark.methods.published.scmap import log_counts, select_genes, unit
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

VERSIONS = ("scikit-learn",)
# Genes of a chunk; nearest cells that are searched; nearest cells that must agree; similarity that must be exceeded.
CHUNK_GENES, NEAREST, AGREEING, LEAST_SIMILARITY = 10, 10, 3, 0.5
# Query cells that are compared at a time.
BATCH = 512


@dataclass(frozen=True)
class ProductQuantiser:
    """Reference cells in compressed form: the nearest k-means centre of each cell in each of M chunks of genes.

    ``centres`` has an array of shape (k, genes of the chunk) for each chunk. ``codes``, shape (M, n), has the indices
    of the nearest centres.
    """

    centres: list[npt.NDArray[np.float64]]
    codes: npt.NDArray[np.int64]

    @classmethod
    def fit(cls, cells: npt.NDArray[np.float64], seed: int = 0) -> ProductQuantiser:
        """Cluster cells of unit length, shape (n, G), in each chunk, into floor(sqrt(n)) groups."""
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        centres, codes = [], []
        for chunk in chunks(cells):
            # There are no more groups than distinct cells in the chunk.
            size = min(int(np.sqrt(len(cells))), len(np.unique(chunk, axis=0)))
            with threadpool_limits(1):  # threads that wait for each other on small chunks take ten times as long
                clusters = KMeans(size, n_init=1, random_state=seed).fit(chunk)
            centres.append(clusters.cluster_centers_)
            codes.append(clusters.labels_)
        return cls(centres, np.stack(codes).astype(np.int64))

    def similarities(self, cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return estimated cosines, shape (m, n), of cells of unit length, shape (m, G), and the reference cells."""
        total = np.zeros((len(cells), self.codes.shape[1]))
        for chunk, centres, codes in zip(chunks(cells), self.centres, self.codes, strict=True):
            total += (chunk @ centres.T)[:, codes]
        return total


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Fit the product quantiser on a reference."""
    logs = log_counts(reference)
    genes = select_genes(logs)
    known = unit(logs[:, genes].toarray())
    used = np.isfinite(known).all(axis=1)
    labels = labels_of(reference, settings.label_key)[used]
    quantiser = ProductQuantiser.fit(known[used], settings.seed)

    def predict(query: AnnData) -> MethodResult:
        cells = unit(log_counts(query, settings)[:, genes].toarray())
        starts = range(0, len(cells), BATCH)
        parts = [vote(quantiser.similarities(cells[start : start + BATCH]), labels) for start in starts]
        best, assigned, nearest = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return MethodResult(labels=best, assigned=assigned, confidence=nearest)

    return predict


def chunks(cells: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Cut cells, shape (n, G), into G / 10 chunks of genes, at least one."""
    return np.array_split(cells, max(1, cells.shape[1] // CHUNK_GENES), axis=1)


def vote(similarities: npt.NDArray[np.float64], labels: Strings) -> tuple[Strings, Bools, npt.NDArray[np.float64]]:
    """Return labels, assigned cells and highest similarities, each of shape (m,), from similarities, shape (m, n).

    A cell that expresses none of the genes has similarities of NaN, and is unassigned.
    """
    known = np.nan_to_num(similarities, nan=-1.0)
    order = np.argsort(-known, axis=1, kind="stable")[:, :NEAREST]
    near = labels[order]
    highest = np.take_along_axis(known, order[:, :1], axis=1)[:, 0]
    agree = (near[:, :AGREEING] == near[:, :1]).all(axis=1)
    return near[:, 0], agree & (highest > LEAST_SIMILARITY), highest
