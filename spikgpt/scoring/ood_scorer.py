"""In-distribution score and marker excess, which separate cells of known types from cells of missing types.

A classifier distributes probability over the labels that it knows. So a cell of a missing type can get one of these
labels with high confidence. The in-distribution (ID) score combines three measures. Each measure is computed for the
mean of a cell and its 14 nearest neighbours in the query, because the mean has less noise:

- *profile*: the correlation r of the mean log expression with the profile of the nearest label. The weight of a gene is
  the fourth power of its standard deviation between labels. The batch effect (median difference per gene over the
  labels of the query) is subtracted first.
- *distance*: the Mahalanobis distance d of the mean vector from the nearest label, with the covariance within labels.
- *energy*: E, the log of the summed exponentials of the logits, low if no label fits (Liu et al., Energy-based
  Out-of-distribution Detection, 2020).

    ID score = -log(1 - r) - log(d) + 0.2 E

The score is higher for cells that are more like the reference. An embedding from ``obsm`` has no profile; its score is
-log(d) + 0.2 E.

The *marker excess* is log(1 + m). For each gene, take the mean log expression minus the highest mean of a label, in
standard errors of the mean. m is the mean of the ten largest differences, where negative differences count as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.constants import CONSTANTS
from spikgpt.errors import DamagedReference
from spikgpt.kernels import compiled
from spikgpt.sampling import content_keys, sample_of
from spikgpt.scoring.smoothing import CHUNK, KNNSmoother
from spikgpt.types import Bools, Floats, Integers, NetworkOutput, Profiles, Rows

TENSORS = ("centroids", "whitening")
SCORE = CONSTANTS.score
# Bounds of correlation and distance that keep the logarithms of the ID score finite.
LARGEST_CORRELATION, SMALLEST_DISTANCE = 0.9999, 1e-6


class OODEvidence(NamedTuple):
    """ID score and marker excess of n cells, each of shape (n,); the marker excess is None without expression."""

    id_score: npt.NDArray[np.float64]
    marker_excess: npt.NDArray[np.float64] | None


class OODMeasures(NamedTuple):
    """Measures of n cells behind the ID score, and the marker excess, each of shape (n,).

    The docstring of this module defines the distance d, the energy E, the correlation r and the marker excess. The
    correlation and the marker excess are None without expression.
    """

    distance: npt.NDArray[np.float64]
    energy: npt.NDArray[np.float64]
    correlation: npt.NDArray[np.float64] | None = None
    marker_excess: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class LabelGeometry:
    """Position and spread of the labels of a reference in the space of its vectors.

    ``centroids``, shape (L, D), are the mean vectors of the labels. ``whitening`` is a matrix of shape (D, D): the
    covariance of ``vectors @ whitening`` within labels is the identity. Both arrays are float32. ``allowed`` are the
    indices of the labels that a cell may get; None for all labels. Cells are compared with the allowed labels only.
    """

    centroids: npt.NDArray[np.float32]
    whitening: npt.NDArray[np.float32]
    allowed: Integers | None = None

    def select(self, values: Floats) -> npt.NDArray[np.float64]:
        """Return the rows of the allowed labels, (allowed labels, ...), from values of all labels, (L, ...)."""
        return (values if self.allowed is None else values[self.allowed]).astype(np.float64)

    @classmethod
    def fit(cls, vectors: Floats, labels: npt.NDArray[np.integer[Any]]) -> Self:
        """Fit the geometry to the vectors of the reference, shape (n, D), and their label indices, shape (n,)."""
        centroids = np.stack([vectors[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])
        within = np.atleast_2d(np.cov((vectors - centroids[labels]).T))  # (D, D)
        ridge = SCORE.ridge * np.atleast_2d(np.cov(vectors.T)).trace() / vectors.shape[1]
        whitening = whitening_matrix(within + max(ridge, 1e-12) * np.eye(len(within)))
        return cls(centroids.astype(np.float32), whitening.astype(np.float32))

    @property
    def profiles(self) -> Profiles:
        """Centroids of the labels, and the standard deviation within labels in each dimension."""
        whitening = self.whitening.astype(np.float64)
        within = np.sqrt(np.diag(np.linalg.inv(whitening @ whitening.T)))
        return Profiles(self.centroids.astype(np.float64), np.asarray(within))

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors that ``model.safetensors`` stores."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats], labels: int, dim: int) -> Self:
        """Restore the geometry from tensors of ``model.safetensors``, for a number of labels and a length of vectors.

        Raises
        ------
        DamagedReference
            When a tensor is missing or of another shape.
        """
        expected = {"centroids": (labels, dim), "whitening": (dim, dim)}
        stored = {name: array.shape for name, array in tensors.items()}
        if stored != expected:
            msg = (
                f"The tensors familiarity.* of model.safetensors have the shapes {stored}; expected {expected}. "
                "Get the reference again."
            )
            raise DamagedReference(msg)
        return cls(tensors["centroids"], tensors["whitening"])

    def scorer(
        self,
        smoother: KNNSmoother,
        sample: NetworkOutput,
        logs: sparse.csr_matrix | None,
        profiles: Profiles | None,
        batches: Integers,
    ) -> OODScorer:
        """Return a scorer of the cells of a query, fitted to a sample of these cells.

        Parameters
        ----------
        smoother
            Smoother that holds the sample of k cells and the neighbours of these cells.
        sample
            Output of the network for the sample.
        logs
            Log expression of the sample, shape (k, G); None without expression.
        profiles
            Expression of the reference's labels in the same genes; None without expression.
        batches
            Index of the batch of each cell of the sample, shape (k,).
        """
        if profiles is None or logs is None:
            return OODScorer(self, sample, batches)
        scorer = OODScorer(self, sample, batches, logs, profiles)
        best = smoother.probabilities.argmax(axis=1)
        overall = scorer.batch_effect(best, smoother.neighbours, None)
        if overall is None:
            return scorer
        n_batches = int(batches.max(initial=0)) + 1
        several = range(n_batches) if n_batches > 1 else ()
        each = [scorer.batch_effect(best, smoother.neighbours, batch) for batch in several] or [None]
        # A batch with too few labels gets the effect of the whole query.
        effects = np.stack([overall if effect is None else effect for effect in each])
        return OODScorer(self, sample, batches, logs, profiles, effects)


def whitening_matrix(covariance: Floats) -> npt.NDArray[np.float64]:
    """Return the matrix W, shape (D, D), for which ``x @ W`` has unit covariance if x has the given covariance."""
    precision = np.linalg.inv(covariance)
    return np.asarray(np.linalg.cholesky((precision + precision.T) / 2))


def squared_distances(points: Floats, centres: Floats) -> npt.NDArray[np.float64]:
    """Return squared Euclidean distances, shape (n, L), of points, shape (n, D), from centres, shape (L, D).

    scipy.spatial is not used, because its import takes longer than the labelling of a small file.
    """
    return np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)


@dataclass(frozen=True)
class OODScorer:
    """Computes ID score and marker excess of the cells of one query.

    Attributes
    ----------
    geometry
        Position and spread of the labels of the reference.
    sample, batches, logs
        Network output, index of the batch, shape (k,), and log expression, shape (k, G), of the query's sample of k
        cells. The log expression is None without expression.
    profiles
        Expression of the reference's labels in the same genes; None without expression.
    effects
        Batch effect of each batch, shape (B, G); None without expression, or if too few labels have enough cells.
    """

    geometry: LabelGeometry
    sample: NetworkOutput
    batches: Integers
    logs: sparse.csr_matrix | None = None
    profiles: Profiles | None = None
    effects: Floats | None = None

    @cached_property
    def _tables(self) -> tuple[Floats, Floats, Floats]:
        """Weight of each gene, shape (G,), standardised profiles, shape (L, G), and highest label mean, shape (G,).

        The weights come from all labels, even if the reference is restricted to some labels. So the scores stay
        comparable with those of held-out cells.
        """
        assert self.profiles is not None
        means = self.profiles.means
        weights = means.std(axis=0) ** SCORE.gene_power
        weights /= max(weights.sum(), 1e-300)
        means = self.geometry.select(means)
        return weights, _standardised(means, weights), means.max(axis=0)

    def batch_effect(self, best: Integers, neighbours: Rows, batch: int | None) -> npt.NDArray[np.float64] | None:
        """Return the batch effect of a batch: its difference from the reference in log expression, shape (G,).

        The effect is the median over labels; None if too few labels have enough cells. If ``batch`` is None, the effect
        is that of the whole query.

        Parameters
        ----------
        best, neighbours
            Index of the most probable label of the sample's cells, shape (k,), and positions of their neighbours, shape
            (k, 14). Neighbours of other batches do not count.
        """
        assert self.logs is not None
        assert self.profiles is not None
        effects = []
        for label, profile in enumerate(self.profiles.means):
            cells = np.flatnonzero((best == label) if batch is None else (best == label) & (self.batches == batch))
            if len(cells) < SCORE.effect_cells:
                continue
            logs = sparse.csr_matrix(self.logs[cells])
            chosen = sample_of(content_keys(logs), SCORE.effect_sample)
            near = neighbours[cells[chosen]]
            counted = np.ones(near.shape, dtype=bool) if batch is None else self.batches[near] == batch
            effects.append(np.median(self.mean_logs(logs[chosen], near, counted), axis=0) - profile)
        return np.median(effects, axis=0) if len(effects) >= SCORE.effect_labels else None

    def mean_logs(self, logs: sparse.csr_matrix, neighbours: Rows, counted: Bools) -> npt.NDArray[np.float64]:
        """Return the mean log expression of each cell and its counted neighbours, shape (n, G).

        ``counted``, shape (n, 14), is True for the neighbours that count.
        """
        own = logs.astype(np.float64).toarray()
        if not neighbours.shape[1]:
            return np.asarray(own)
        rows = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])
        values = counted.ravel().astype(np.float64)
        shape = len(neighbours), len(self.sample.energies)
        selection = sparse.csr_matrix((values, (rows, neighbours.ravel())), shape)
        return np.asarray((own + (selection @ self.logs).toarray()) / (1 + counted.sum(axis=1, keepdims=True)))

    def _batch_shares(self, neighbours: Rows, batches: Integers, n_batches: int) -> npt.NDArray[np.float64]:
        """Return the share of each batch among each cell and its neighbours, shape (n, B)."""
        shares = np.zeros((len(neighbours), n_batches))
        if n_batches <= 1:
            return shares + 1
        for batch in np.concatenate([batches[:, None], self.batches[neighbours]], axis=1).T:
            shares[np.arange(len(neighbours)), batch] += 1 / (1 + neighbours.shape[1])
        return shares

    def score(
        self, output: NetworkOutput, logs: sparse.csr_matrix | None, neighbours: Rows, batches: Integers
    ) -> OODEvidence:
        """Return ID score and marker excess of n cells.

        Parameters
        ----------
        output, logs
            Network output of the cells, and their log expression, shape (n, G), None without expression.
        neighbours
            Positions of their neighbours in the sample, shape (n, 14).
        batches
            Index of the batch of each cell, shape (n,).
        """
        measures = self.measures(output, logs, neighbours, batches)
        distance = np.maximum(measures.distance, SMALLEST_DISTANCE)
        scores = SCORE.energy_weight * measures.energy - np.log(distance)
        if measures.correlation is None:
            return OODEvidence(scores, None if self.profiles is None else np.empty(len(neighbours)))
        closeness = np.log(1 - np.minimum(measures.correlation, LARGEST_CORRELATION))
        return OODEvidence(scores - closeness, measures.marker_excess)

    def measures(
        self, output: NetworkOutput, logs: sparse.csr_matrix | None, neighbours: Rows, batches: Integers
    ) -> OODMeasures:
        """Return distance, energy, correlation and marker excess of n cells; parameters as for :meth:`score`."""
        distances, mean_energies = np.empty(len(neighbours)), np.empty(len(neighbours))
        whitening = self.geometry.whitening.astype(np.float64)
        centroids = self.geometry.select(self.geometry.centroids) @ whitening  # (L, D)
        for start in range(0, len(neighbours), CHUNK):
            part = slice(start, start + CHUNK)
            near = neighbours[part]
            vectors = _mean(output.vectors[part], self.sample.vectors, near)  # (chunk, D)
            mean_energies[part] = _mean(output.energies[part], self.sample.energies, near)  # (chunk,)
            distances[part] = np.sqrt(squared_distances(vectors @ whitening, centroids).min(axis=1))  # (chunk,)
        if self.profiles is None or logs is None:
            return OODMeasures(distances, mean_energies)
        correlation, excess = self._correlation_and_excess(logs, neighbours, batches)
        return OODMeasures(distances, mean_energies, correlation, excess)

    def genes_above(self, logs: sparse.csr_matrix, neighbours: Rows, batches: Integers) -> npt.NDArray[np.float64]:
        """Return the excess of each gene over the highest label mean, averaged over n cells, shape (G,).

        The excess is in standard errors. Each cell is averaged with its neighbours, and the batch effect is subtracted.
        A negative excess counts as 0. Parameters are as for :meth:`score`.
        """
        assert self.logs is not None
        assert self.profiles is not None
        effects = np.empty((0, logs.shape[1])) if self.effects is None else self.effects
        shares = self._batch_shares(neighbours, batches, len(effects))
        total, highest = np.zeros(logs.shape[1]), self._tables[2]
        for start in range(0, len(neighbours), CHUNK):
            part = slice(start, start + CHUNK)
            near = neighbours[part]
            means = self.mean_logs(logs[part], near, np.ones(near.shape, dtype=bool))  # (chunk, G)
            means -= shares[part] @ effects
            total += (np.maximum(means - highest, 0) / self._noise(neighbours)).sum(axis=0)
        return total / max(len(neighbours), 1)

    def _noise(self, neighbours: Rows) -> npt.NDArray[np.float64]:
        """Return the standard error of the mean of a cell and its neighbours in each gene, shape (G,)."""
        assert self.profiles is not None
        return np.asarray(self.profiles.within / np.sqrt(1 + neighbours.shape[1]) + SCORE.noise_floor)

    def _correlation_and_excess(
        self, logs: sparse.csr_matrix, neighbours: Rows, batches: Integers
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return each cell's largest correlation with a label's profile, and its marker excess, each of shape (n,)."""
        assert self.logs is not None
        assert self.profiles is not None
        effects = np.empty((0, logs.shape[1])) if self.effects is None else self.effects
        shares = self._batch_shares(neighbours, batches, len(effects))
        weights, profiles, highest = self._tables
        noise = self._noise(neighbours)  # (G,)
        size = min(SCORE.excess_genes, logs.shape[1])
        correlation, excess = np.empty(len(neighbours)), np.empty(len(neighbours))
        if kernel := compiled("evidence", len(self.sample.energies)):
            cells, sample = ((rows.data, rows.indices, rows.indptr) for rows in (logs, self.logs))
            tables = weights, np.ascontiguousarray(profiles * np.sqrt(weights)), highest, noise
            results = correlation, excess
            kernel.correlation_and_excess(cells, sample, neighbours, shares, effects, *tables, size, *results)
            return results
        for start in range(0, len(neighbours), CHUNK):
            part = slice(start, start + CHUNK)
            near = neighbours[part]
            means = self.mean_logs(logs[part], near, np.ones(near.shape, dtype=bool))  # (chunk, G)
            means -= shares[part] @ effects
            above = np.maximum(means - highest, 0) / noise  # (chunk, G)
            excess[part] = np.log1p(np.partition(above, -size, axis=1)[:, -size:].mean(axis=1))
            correlation[part] = (_standardised(means, weights) @ profiles.T).max(axis=1)
        return correlation, excess


def _mean(own: Floats, sample: Floats, neighbours: Rows) -> npt.NDArray[np.float64]:
    """Return the mean of each cell's values and the values of its neighbours, shape (n, ...).

    ``own``, shape (n, ...), holds the values of the cells, and ``sample``, shape (k, ...), those of the sample.
    """
    total = own.astype(np.float64) + sample[neighbours].sum(axis=1, dtype=np.float64)
    return np.asarray(total / (1 + neighbours.shape[1]))


def _standardised(profiles: Floats, weights: Floats) -> npt.NDArray[np.float64]:
    """Return profiles, shape (n, G), centred and scaled to length 1; their dot products are weighted correlations."""
    centred = (profiles - (profiles @ weights)[:, None]) * np.sqrt(weights)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-12))
