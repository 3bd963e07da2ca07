"""Fine clusters of a query for the majority vote, made as in CellTypist (Domínguez Conde et al., 2022).

A graph links each cell with its nearest neighbours in the query. The Leiden algorithm divides the graph into many small
clusters, so that a cluster rarely has two cell types.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

from spikgpt.errors import needs
from spikgpt.types import Floats, Rows

# Resolution of the Leiden algorithm, as in CellTypist, for queries with fewer cells than the key.
RESOLUTIONS = {5_000: 5, 20_000: 10, 40_000: 15, 100_000: 20, 200_000: 25}
LARGEST_RESOLUTION = 30


def over_cluster(neighbours: Rows, points: Floats, n_cells: int) -> npt.NDArray[np.int32]:
    """Return the index of the cluster of each cell of a sample, shape (k,); cluster 0 is the largest.

    Parameters
    ----------
    neighbours
        Positions of the neighbours of each cell in the sample, shape (k, neighbours).
    points
        Coordinates of the cells, shape (k, D). Cells are sorted by the first coordinate, so the order of rows does not
        matter.
    n_cells
        Number of cells of the whole query, which sets the resolution.

    Raises
    ------
    ConfigError
        When igraph is not installed.
    """
    with needs("igraph"):
        import igraph
    order = np.argsort(points[:, 0], kind="stable")
    rank = np.argsort(order)
    ends = np.stack([np.repeat(rank, neighbours.shape[1]), rank[neighbours.ravel()]])
    edges = np.unique(np.sort(ends, axis=0).T, axis=0)
    graph = igraph.Graph(len(points), edges.tolist())
    # igraph has one random number generator for the whole process, so Python's generator is set again afterwards.
    igraph.set_random_number_generator(random.Random(0))
    try:
        leiden = graph.community_leiden("modularity", resolution=resolution(n_cells), n_iterations=2)
    finally:
        igraph.set_random_number_generator(random)
    codes = np.array(leiden.membership)[rank]
    by_size = np.argsort(-np.bincount(codes), kind="stable")
    return np.asarray(np.argsort(by_size)[codes], dtype=np.int32)


def resolution(n_cells: int) -> int:
    """Return the resolution of the Leiden algorithm for a query of ``n_cells`` cells."""
    return next((value for limit, value in RESOLUTIONS.items() if n_cells < limit), LARGEST_RESOLUTION)


def most_frequent(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the most frequent code of each row, shape (n,), from codes, shape (n, k); the first code of a tie."""
    counts = (codes[:, :, None] == codes[:, None, :]).sum(axis=2)  # (n, k)
    return np.asarray(codes[np.arange(len(codes)), counts.argmax(axis=1)])
