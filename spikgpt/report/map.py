"""Positions of the cells of a query on a map.

The cells of the query's sample get their positions from a UMAP of the query's own principal components. Every other
cell is placed at the mean position of its nearest cells in the sample. So the time of UMAP does not grow with the
number of cells.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.errors import ConfigError, install_command, listed, with_noun
from spikgpt.explain.query import FittedQuery
from spikgpt.scoring.annotation import Annotation
from spikgpt.types import Floats, Integers

if TYPE_CHECKING:
    from anndata import AnnData

# Arrays of obsm that hold a map of the user, in the order of preference.
MAP_KEYS = ("X_umap", "X_tsne", "X_draw_graph_fa", "X_phate", "X_pacmap", "X_mde")
# Largest number of cells that UMAP places, to save time; other cells are placed between these cells.
MOST_FITTED = 10_000
# Settings of UMAP: number of epochs, minimum distance, and random seed.
ROUNDS, MINIMUM_DISTANCE, SEED = 200, 0.3, 0
# Number of bisections for the kernel width of a cell, and smallest width as a multiple of the cell's mean distance.
BISECTIONS, LEAST_WIDTH = 50, 1e-3
# Neighbours farther from the nearest neighbour than this share of the map's diagonal are not used to place a cell.
FAR = 0.05


class MapSource(NamedTuple):
    """Sample of k cells of a query that places all n cells on a map.

    The source holds less than the fitted query, which also has the expression of the sample. So an annotation by
    several references does not keep the expression once for each reference.

    Attributes
    ----------
    points
        Coordinates of the sampled cells, shape (k, D).
    neighbours
        Positions in the sample of the neighbours of each sampled cell, shape (k, count).
    origin
        Name of the coordinates in words, such as "principal components".
    nearest
        Positions in the sample of the cells nearest to each of the n cells, shape (n, 3), -1 for empty cells.
    """

    points: Floats
    neighbours: Integers
    origin: str
    nearest: npt.NDArray[np.int32]

    @classmethod
    def from_annotation(cls, annotation: Annotation) -> Self | None:
        """Return the sample of an annotation; None for several references, for shards, and for one cell."""
        query, nearest = annotation.query, annotation.nearest
        if not isinstance(query, FittedQuery) or nearest is None or len(query.rows) < 2:
            return None
        smoother = query.model.smoother
        # Without components of expression, the points are the vectors that the network reads.
        origin = "principal components" if query.model.pca is not None else "vectors that the network reads"
        return cls(smoother.points, smoother.neighbours, origin, nearest)


@dataclass(frozen=True)
class CellMap:
    """Positions of n cells.

    Attributes
    ----------
    points
        Position of each cell, shape (n, 2); NaN for cells without a position. None if there is no map.
    name
        Name of the map, such as "UMAP".
    text
        Sentence on the origin of the positions, or on the reason why there is no map.
    """

    points: npt.NDArray[np.float32] | None
    name: str
    text: str

    @property
    def placed(self) -> npt.NDArray[np.int64]:
        """Row numbers of the cells that have a position."""
        if self.points is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(np.isfinite(self.points).all(axis=1))


def cell_map(
    annotation: Annotation,
    adata: AnnData | None = None,
    map_key: str | None = None,
    source: MapSource | None = None,
) -> CellMap:
    """Return the map of a query: an array of ``obsm``, or a UMAP of the query's own principal components.

    Parameters
    ----------
    adata
        The annotated query, whose ``obsm`` may hold a map.
    map_key
        Name of an array in ``obsm``. None for the first array with a usual name, such as ``X_umap``. If there is no
        such array, a UMAP is computed.
    source
        Sample that places the cells; None for the sample of the annotation.

    Raises
    ------
    ConfigError
        When there is no array of this name, it has fewer than two columns, or no cell has finite coordinates.
    """
    if map_key is not None:
        return _map_of_obsm(adata, map_key)
    if (own_map := _usual_map(adata, MAP_KEYS)) is not None:
        return own_map
    if (source := source or MapSource.from_annotation(annotation)) is not None:
        return _map_of_sample(source)
    if (own_map := _usual_map(adata, ("X_pca",))) is not None:
        return own_map
    if len(annotation.label_names) > 2 and len(annotation.best) > 1:
        points = _two_components(annotation.probabilities)
        points[annotation.empty] = np.nan
        text = (
            "The map shows two principal components of the label probabilities. Several references labelled these "
            "cells, so there are no common components of expression. For another map, put X_umap into obsm."
        )
        return CellMap(points, "Principal components", text)
    text = "There is no map: these cells have no components. For a map, put X_umap into obsm, and pass the AnnData."
    return CellMap(None, "", text)


def check_map_key(adata: AnnData | None, key: str) -> None:
    """Raise ConfigError if ``obsm`` has no array of this name, or if the array is no map.

    Raises
    ------
    ConfigError
        When there is no array of this name, it has fewer than two columns, or no cell has finite coordinates.
    """
    _map_of_obsm(adata, key)


def _usual_map(adata: AnnData | None, keys: Sequence[str]) -> CellMap | None:
    """Return the first array in ``keys`` that can serve as a 2-D map of the cells; None if no array can."""
    if adata is None:
        return None
    for key in keys:
        if key in adata.obsm:
            with suppress(ConfigError):
                return _map_of_obsm(adata, key)
    return None


def _map_of_obsm(adata: AnnData | None, key: str) -> CellMap:
    """Return a map from the first two columns of an array of obsm."""
    if adata is None or key not in adata.obsm:
        keys = "no AnnData was passed" if adata is None else f"obsm has {listed(adata.obsm.keys())}"
        msg = f"There is no map obsm[{key!r}]; {keys}. Name an array of obsm, or leave out map_key (--map-key)."
        raise ConfigError(msg)
    try:
        values = adata.obsm[key]
        values = values.toarray() if hasattr(values, "toarray") else values
        points = np.asarray(values, dtype=np.float32)[:, :2]
    except (TypeError, ValueError, IndexError):
        points = np.empty((0, 0), dtype=np.float32)
    if points.ndim != 2 or points.shape[1] < 2:
        msg = f"obsm[{key!r}] is no map; expected an array of numbers with two columns. Name another array of obsm."
        raise ConfigError(msg)
    if len(points) and not np.isfinite(points).all(axis=1).any():
        msg = f"obsm[{key!r}] is no map: no cell has finite coordinates. Name another array of obsm."
        raise ConfigError(msg)
    return CellMap(points, key.removeprefix("X_"), f"The map is obsm[{key!r}] of the query.")


def _map_of_sample(source: MapSource) -> CellMap:
    """Return the map of a query from the positions of its sample."""
    sample, name, text = _sample_positions(source.points, source.neighbours, source.origin)
    points = interpolated_positions(sample, source.nearest)
    if (missing := int(np.isnan(points[:, 0]).sum())) and not source.neighbours.shape[1]:
        text += f" Cells outside the sample have no neighbours without smoothing, and are not on the map: {missing:,}."
    return CellMap(points, name, text)


def _sample_positions(points: Floats, neighbours: Integers, origin: str) -> tuple[npt.NDArray[np.float32], str, str]:
    """Return the positions of a sample, shape (k, 2), the name of the map, and a sentence on the map."""
    if not neighbours.shape[1]:
        text = "The map shows two principal components: the query has too few cells, or no neighbours, for a UMAP."
        return _two_components(points), "Principal components", text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the import of umap warns about its own dependencies
            from umap.umap_ import find_ab_params, simplicial_set_embedding
    except ImportError:
        text = f"The map shows two principal components of the query. For a UMAP: {install_command('umap-learn')}"
        return _two_components(points), "Principal components", text
    every = -(-len(points) // MOST_FITTED)
    chosen = np.argsort(points[:, 0], kind="stable")[every // 2 :: every]  # independent of the order of cells
    own, near = (points, neighbours) if every == 1 else _within(points, neighbours, chosen)
    spread = np.maximum(np.abs(own[:, :2]).max(axis=0), 1e-12)
    start = (10 * own[:, :2] / spread).astype(np.float32)
    a, b = find_ab_params(1.0, MINIMUM_DISTANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted, _ = simplicial_set_embedding(
            own.astype(np.float32),
            neighbour_graph(own, near).tocoo(),
            n_components=2,
            initial_alpha=1.0,
            a=a,
            b=b,
            gamma=1.0,
            negative_sample_rate=5,
            n_epochs=ROUNDS,
            init=start,
            random_state=np.random.RandomState(SEED),
            metric="euclidean",
            metric_kwds={},
            densmap=False,
            densmap_kwds={},
            output_dens=False,
        )
    positions = np.asarray(fitted, dtype=np.float32)
    text = f"The map is a UMAP of the query's own {origin}, computed for {with_noun(len(own), 'cell', form=',')}."
    if every > 1:
        whole = np.empty((len(points), 2), dtype=np.float32)
        order, not_fitted = np.full(len(points), -1), np.ones(len(points), dtype=bool)
        order[chosen], not_fitted[chosen] = np.arange(len(chosen)), False
        whole[chosen] = positions
        whole[not_fitted] = interpolated_positions(positions, _nearest(own, points[not_fitted], 3))
        positions = whole
    if len(points) > len(own):
        text += " All other cells are placed between their nearest cells."
    return positions, "UMAP", text


def neighbour_graph(points: Floats, neighbours: Integers) -> sparse.csr_matrix:
    """Return the fuzzy graph of UMAP, shape (k, k), from the neighbours of each cell, nearest first, shape (k, count).

    The weights equal those of umap.umap_.fuzzy_simplicial_set, which takes seconds to compile in each process.
    """
    distances = np.linalg.norm(points[:, None] - points[neighbours], axis=2)  # (k, count)
    apart = np.where(distances > 0, distances, np.inf).min(axis=1, keepdims=True)  # (k, 1)
    excess = np.maximum(distances - np.where(np.isinf(apart), 0, apart), 0)
    target = np.log2(neighbours.shape[1] + 1)
    low, high, width = np.zeros(len(points)), np.full(len(points), np.inf), np.ones(len(points))
    for _ in range(BISECTIONS):
        above = np.exp(-excess / width[:, None]).sum(axis=1) > target
        high, low = np.where(above, width, high), np.where(above, low, width)
        width = np.where(np.isinf(high), 2 * width, (low + high) / 2)
    width = np.maximum(width, LEAST_WIDTH * distances.mean(axis=1))
    weights = np.exp(-excess / np.maximum(width, 1e-300)[:, None])
    rows = np.repeat(np.arange(len(points)), neighbours.shape[1])
    graph = sparse.csr_matrix((weights.ravel(), (rows, neighbours.ravel())), (len(points), len(points)))
    return sparse.csr_matrix(graph + graph.T - graph.multiply(graph.T))


def _within(points: Floats, neighbours: Integers, chosen: Integers) -> tuple[Floats, Integers]:
    """Return the points of the chosen cells of a sample, and the neighbours of each among the chosen cells."""
    own = points[chosen]
    return own, _nearest(own, own, neighbours.shape[1] + 1)[:, 1:]


def _nearest(sample: Floats, points: Floats, count: int) -> Integers:
    """Return the positions in the sample of the nearest cells of each point, nearest first, shape (n, count)."""
    from scipy.spatial import KDTree

    return np.asarray(KDTree(sample).query(points, count)[1], dtype=np.int64)


def interpolated_positions(sample: npt.NDArray[np.float32], nearest: Integers) -> npt.NDArray[np.float32]:
    """Return positions on the map of n cells, shape (n, 2), from the positions of a sample, shape (k, 2).

    ``nearest``, shape (n, 3), has the positions in the sample of the nearest cells. A cell is placed at their mean. A
    nearest cell that is far from the first one on the map is left out, so that no cell is placed between two groups. A
    cell without nearest cells (-1) gets NaN.
    """
    points = np.empty((len(nearest), 2), dtype=np.float32)
    if not len(sample):
        points[:] = np.nan
        return points
    diagonal = float(np.linalg.norm(np.ptp(sample, axis=0)))
    near = sample[nearest]  # (n, 3, 2)
    distance = np.linalg.norm(near - near[:, :1], axis=2)
    kept = ((distance <= FAR * diagonal) & (nearest >= 0)).astype(np.float32)
    points[:] = (near * kept[:, :, None]).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)[:, None]
    points[nearest[:, 0] < 0] = np.nan
    return points


def _two_components(points: Any) -> npt.NDArray[np.float32]:
    """Return the first two principal components of coordinates, shape (n, 2), from an array of shape (n, D).

    Signs are fixed: the coefficient with the largest absolute value is positive in each component.
    """
    centred = np.asarray(points, dtype=np.float64) - np.mean(points, axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)
    two = directions[:, np.argsort(-values, kind="stable")[:2]]
    two = two * np.where(two[np.abs(two).argmax(axis=0), np.arange(two.shape[1])] < 0, -1, 1)
    result = np.zeros((len(centred), 2), dtype=np.float32)
    result[:, : two.shape[1]] = centred @ two
    return result
