"""How like the reference's cells a cell is: what tells a type that the reference lacks from those that it has.

A classifier shares its probabilities out among the labels that it knows, so a cell of another type may well be given
one of them without doubt. Three pieces of evidence together fare better. Each is taken over a cell and its neighbours
in the query, 15 cells, which are of one type and whose noise averages out:

- *profile*: the correlation of their mean log expression with that of the nearest label. Genes count by the fourth
  power of their deviation between labels, so that those which tell labels apart weigh most. What sets the study apart
  is taken off first: the difference from the reference, per gene, that is the median over the labels of the query.
- *place*: the Mahalanobis distance of their mean vector from the nearest label's, by the deviations within labels.
- *energy*: the log of the summed exponentials of the logits, low where no label is supported (Liu et al., Energy-based
  Out-of-distribution Detection, 2020).

The score is ``-log(1 - correlation) - log(distance) + 0.2 energy``. An embedding that the user brings has no
profile, and there the score has the other two.

Beside it stands *novelty*: how far the ten genes that stand out most lie above every label, in deviations of the mean
of so many cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.errors import DamagedReference
from spikgpt.sampling import content_keys, sample_of
from spikgpt.scoring.smoothing import CHUNK, KNNSmoother
from spikgpt.types import Bools, Floats, Integers, NetworkOutput, Profiles, Rows

TENSORS = ("centroids", "whitening")
# Of the deviation between labels, and of the energy.
GENE_POWER, ENERGY_WEIGHT = 4, 0.2
# Bounds that keep the logarithms finite.
LARGEST_CORRELATION, SMALLEST_DISTANCE = 0.9999, 1e-6
# The study's effect is estimated from labels with so many cells, if there are so many labels, from so many of each.
STUDY_CELLS, STUDY_LABELS, LARGEST_SAMPLE = 5, 3, 500
# Genes whose expression above every label makes a cell novel, and what is added to their deviations.
NOVEL_GENES, NOVEL_FLOOR = 10, 0.05
# Added to the variances within labels, as a share of the mean variance.
RIDGE = 1e-4


class OODEvidence(NamedTuple):
    """Of n cells, each of shape (n,): familiarity, higher for more, and novelty, None without expression."""

    familiarity: npt.NDArray[np.float64]
    novelty: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class LabelGeometry:
    """Where the labels of a reference lie.

    ``centroids``, shape (L, D), are the mean vectors of its labels; ``whitening``, shape (D, D), maps differences to
    where all deviate alike within labels. Both float32.
    """

    centroids: npt.NDArray[np.float32]
    whitening: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, vectors: Floats, labels: npt.NDArray[np.integer[Any]]) -> Self:
        """Learn from the reference's own vectors, shape (n, D), and label indices, shape (n,)."""
        centroids = np.stack([vectors[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])
        within = np.atleast_2d(np.cov((vectors - centroids[labels]).T))  # (D, D)
        ridge = RIDGE * np.atleast_2d(np.cov(vectors.T)).trace() / vectors.shape[1]
        whitening = whitening_of(within + max(ridge, 1e-12) * np.eye(len(within)))
        return cls(centroids.astype(np.float32), whitening.astype(np.float32))

    @property
    def profiles(self) -> Profiles:
        """Where the labels lie in vector space, and the deviation within labels in each dimension."""
        return Profiles(self.centroids.astype(np.float64), within_of(self.whitening))

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats], labels: int, dim: int) -> Self:
        """Rebuild a stored one for a number of labels and a length of vectors.

        Raises
        ------
        DamagedReference
            When a tensor is missing or of another shape.
        """
        expected = {"centroids": (labels, dim), "whitening": (dim, dim)}
        found = {name: array.shape for name, array in tensors.items()}
        if found != expected:
            msg = f"The familiarity tensors of model.safetensors are {found}; expected {expected}."
            raise DamagedReference(msg)
        return cls(**tensors)

    def scorer(
        self,
        among: KNNSmoother,
        sample: NetworkOutput,
        logs: sparse.csr_matrix | None,
        profiles: Profiles | None,
        batches: Integers,
    ) -> OODScorer:
        """Return what scores the cells of a query, after a look at a sample of them.

        Parameters
        ----------
        among
            The sample's cells, among which neighbours are sought.
        sample
            What the network says of the same cells.
        logs
            Their log expression of the genes that the query has, shape (k, G), if there is expression.
        profiles
            What the labels express of these genes.
        batches
            Index of the batch of each cell, shape (k,).
        """
        if profiles is None or logs is None:
            return OODScorer(self, sample, batches)
        alone = OODScorer(self, sample, batches, logs, profiles)
        best = among.probabilities.argmax(axis=1)
        everywhere = alone.batch_effect(best, among.near, None)
        if everywhere is None:
            return alone
        n_batches = int(batches.max(initial=0)) + 1
        each = [alone.batch_effect(best, among.near, batch) for batch in range(n_batches)] if n_batches > 1 else [None]
        # A batch with too few labels has the effect of the whole query.
        effects = np.stack([everywhere if effect is None else effect for effect in each])
        return OODScorer(self, sample, batches, logs, profiles, effects)


def within_of(whitening: Floats) -> npt.NDArray[np.float64]:
    """Return the deviation within labels in each dimension, shape (D,), from :func:`whitening_of`, shape (D, D)."""
    whitening = whitening.astype(np.float64)
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(whitening @ whitening.T))))


def whitening_of(covariance: Floats) -> npt.NDArray[np.float64]:
    """Return what maps differences to where all deviate alike, given how they vary together; both of shape (D, D)."""
    precision = np.linalg.inv(covariance)
    return np.asarray(np.linalg.cholesky((precision + precision.T) / 2))


def squared_distances(points: Floats, centres: Floats) -> npt.NDArray[np.float64]:
    """Return the squared Euclidean distance of each point, shape (n, D), from each centre, (L, D): shape (n, L).

    To import scipy.spatial takes longer than to label small files.
    """
    return np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)


@dataclass(frozen=True)
class OODScorer:
    """Scores the cells of one query.

    ``sample`` and ``logs`` are those of the cells that neighbours are among, and ``batches`` their batches, shape (k,);
    ``profiles`` what the labels express; ``effects`` the difference of each batch from the reference, shape (B, G),
    where that is known.
    """

    familiarity: LabelGeometry
    sample: NetworkOutput
    batches: Integers
    logs: sparse.csr_matrix | None = None
    profiles: Profiles | None = None
    effects: Floats | None = None

    @cached_property
    def _weights(self) -> npt.NDArray[np.float64]:
        """How much each gene counts, shape (G,), summing to 1."""
        assert self.profiles is not None
        weights = self.profiles.means.std(axis=0) ** GENE_POWER
        return np.asarray(weights / max(weights.sum(), 1e-300))

    def batch_effect(self, best: Integers, near: Rows, batch: int | None) -> npt.NDArray[np.float64] | None:
        """Return the difference of a batch, or of the whole query, from the reference, shape (G,).

        The effect is the median over labels; None where too few labels have enough cells.

        Parameters
        ----------
        best, near
            Index of the most probable label of the sample's cells, shape (k,), and positions of their neighbours, shape
            (k, neighbours). Neighbours of other batches do not count.
        """
        assert self.logs is not None
        assert self.profiles is not None
        effects = []
        for label, profile in enumerate(self.profiles.means):
            cells = np.flatnonzero((best == label) if batch is None else (best == label) & (self.batches == batch))
            if len(cells) < STUDY_CELLS:
                continue
            part = sparse.csr_matrix(self.logs[cells])
            chosen = sample_of(content_keys(part), LARGEST_SAMPLE)
            around = near[cells[chosen]]
            counted = np.ones(around.shape, dtype=bool) if batch is None else self.batches[around] == batch
            effects.append(np.median(self._mean_logs(part[chosen], around, counted), axis=0) - profile)
        return np.median(effects, axis=0) if len(effects) >= STUDY_LABELS else None

    def _mean_logs(self, logs: sparse.csr_matrix, near: Rows, counted: Bools) -> npt.NDArray[np.float64]:
        """Return the mean log expression of each cell and those of its neighbours that are counted, shape (n, G)."""
        own = logs.astype(np.float64).toarray()
        if not near.shape[1]:
            return np.asarray(own)
        rows = np.repeat(np.arange(len(near)), near.shape[1])
        values = counted.ravel().astype(np.float64)
        picked = sparse.csr_matrix((values, (rows, near.ravel())), (len(near), len(self.sample.energies)))
        return np.asarray((own + (picked @ self.logs).toarray()) / (1 + counted.sum(axis=1, keepdims=True)))

    def _effects_of(self, near: Rows, batches: Integers) -> npt.NDArray[np.float64]:
        """Return the mean batch effect of each cell and its neighbours, shape (n, G)."""
        assert self.effects is not None
        shares = np.zeros((len(near), len(self.effects)))
        for batch in np.concatenate([batches[:, None], self.batches[near]], axis=1).T:
            shares[np.arange(len(near)), batch] += 1 / (1 + near.shape[1])
        return np.asarray(shares @ self.effects)

    def score(
        self, output: NetworkOutput, logs: sparse.csr_matrix | None, near: Rows, batches: Integers
    ) -> OODEvidence:
        """Return how familiar cells are, and how novel.

        Parameters
        ----------
        output, logs
            What the network says of the cells, and their log expression, shape (n, G).
        near
            Positions of their neighbours in the sample, shape (n, neighbours).
        batches
            Index of the batch of each cell, shape (n,).
        """
        scores = np.empty(len(near))
        novelty = None if self.profiles is None else np.empty(len(near))
        whitening = self.familiarity.whitening.astype(np.float64)
        places = self.familiarity.centroids.astype(np.float64) @ whitening  # (L, D)
        profiles = None if self.profiles is None else _unit(self.profiles.means, self._weights)  # (L, G)
        for start in range(0, len(near), CHUNK):
            part = slice(start, start + CHUNK)
            around = near[part]
            vectors = _mean(output.vectors[part], self.sample.vectors, around)  # (chunk, D)
            energies = _mean(output.energies[part], self.sample.energies, around)  # (chunk,)
            distance = np.sqrt(squared_distances(vectors @ whitening, places).min(axis=1))  # (chunk,)
            score = ENERGY_WEIGHT * energies - np.log(np.maximum(distance, SMALLEST_DISTANCE))
            if profiles is not None and novelty is not None and logs is not None:
                means = self._mean_logs(logs[part], around, np.ones(around.shape, dtype=bool))  # (chunk, G)
                means = means if self.effects is None else means - self._effects_of(around, batches[part])
                novelty[part] = self._novelty(means, 1 + near.shape[1])
                profile = _unit(means, self._weights)
                correlation = (profile @ profiles.T).max(axis=1)  # (chunk,)
                score -= np.log(1 - np.minimum(correlation, LARGEST_CORRELATION))
            scores[part] = score
        return OODEvidence(scores, novelty)

    def _novelty(self, means: Floats, cells: int) -> npt.NDArray[np.float64]:
        """Return how novel the mean log expression of so many cells is, (n, G) to (n,)."""
        assert self.profiles is not None
        noise = self.profiles.within / np.sqrt(cells) + NOVEL_FLOOR  # (G,)
        above = np.maximum(means - self.profiles.means.max(axis=0), 0) / noise  # (n, G)
        size = min(NOVEL_GENES, above.shape[1])
        return np.asarray(np.log1p(np.partition(above, -size, axis=1)[:, -size:].mean(axis=1)))


def _mean(own: Floats, sample: Floats, near: Rows) -> npt.NDArray[np.float64]:
    """Return the mean of each cell's values and its neighbours', (n, ...) and (k, ...) to (n, ...)."""
    summed = own.astype(np.float64) + sample.astype(np.float64)[near].sum(axis=1)
    return np.asarray(summed / (1 + near.shape[1]))


def _unit(profiles: Floats, weights: Floats) -> npt.NDArray[np.float64]:
    """Return profiles, (n, G), of which products are their weighted correlations."""
    centred = (profiles - (profiles @ weights)[:, None]) * np.sqrt(weights)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-12))
