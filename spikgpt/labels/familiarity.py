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
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial.distance import cdist

from spikgpt.errors import DamagedReference
from spikgpt.labels.neighbours import CHUNK, Neighbourhood
from spikgpt.sampling import content_keys, sample_of

TENSORS = ("centroids", "whitening")
# Of the deviation between labels, and of the energy.
GENE_POWER, ENERGY_WEIGHT = 4, 0.2
# Bounds that keep the logarithms finite.
LARGEST_CORRELATION, SMALLEST_DISTANCE = 0.9999, 1e-6
# The study's effect is estimated from labels with so many cells, if there are so many labels, from so many of each.
MINIMUM_CELLS, MINIMUM_LABELS, LARGEST_SAMPLE = 5, 3, 500
# Added to the variances within labels, as a share of the mean variance.
RIDGE = 1e-4

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Traits:
    """What is known of n cells beside their probabilities.

    ``vectors``, shape (n, D), ``energies``, shape (n,), and ``logs``, log expression of the genes that the query has,
    shape (n, G), unless the embedding was brought by the user.
    """

    vectors: Floats
    energies: Floats
    logs: sparse.csr_matrix | None = None

    def part(self, cells: npt.NDArray[np.int64]) -> Traits:
        """Return those of some of the cells."""
        logs = None if self.logs is None else sparse.csr_matrix(self.logs[cells])
        return Traits(self.vectors[cells], self.energies[cells], logs)


@dataclass(frozen=True)
class Familiarity:
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
        precision = np.linalg.inv(within + max(ridge, 1e-12) * np.eye(len(within)))
        whitening = np.linalg.cholesky((precision + precision.T) / 2)
        return cls(centroids.astype(np.float32), whitening.astype(np.float32))

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

    def judge(self, among: Neighbourhood, sample: Traits, profiles: Floats | None, *, together: bool = True) -> Judge:
        """Return what scores the cells of a query, after a look at a sample of them.

        Parameters
        ----------
        among
            The sample's cells, among which neighbours are sought.
        sample
            Traits of the same cells.
        profiles
            Mean log expression of each label for the genes that the query has, shape (L, G), if there are logs.
        together
            Judge cells with their neighbours, else each alone.
        """
        judge = Judge(self, sample, None, np.empty(0))
        if profiles is None or sample.logs is None:
            return judge
        profiles = profiles.astype(np.float64)
        weights = profiles.std(axis=0) ** GENE_POWER  # (G,)
        weights = weights / max(weights.sum(), 1e-300)
        best = among.probabilities.argmax(axis=1)
        effects = []
        for label in range(len(profiles)):
            cells = np.flatnonzero(best == label)
            if len(cells) < MINIMUM_CELLS:
                continue
            part = sparse.csr_matrix(sample.logs[cells])
            cells = cells[sample_of(content_keys(part), LARGEST_SAMPLE)]
            near = np.empty((len(cells), 0), dtype=np.int64)
            if together:
                near = among.nearest(among.points[cells], among.cells[cells])
            effects.append(np.median(judge.profile(sample.part(cells), near), axis=0) - profiles[label])
        study = np.median(effects, axis=0) if len(effects) >= MINIMUM_LABELS else np.zeros(profiles.shape[1])
        return Judge(self, sample, _unit(profiles, weights), weights, study)


@dataclass(frozen=True)
class Judge:
    """Scores the cells of one query.

    ``profiles`` are the labels' weighted profiles of unit length, shape (L, G), and ``study`` what sets the query
    apart, shape (G,); ``sample`` are the traits of the cells that neighbours are among.
    """

    familiarity: Familiarity
    sample: Traits
    profiles: npt.NDArray[np.float64] | None
    weights: npt.NDArray[np.float64]
    study: npt.NDArray[np.float64] | float = 0.0

    def profile(self, cells: Traits, near: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the mean log expression of each cell and its neighbours, shape (n, G)."""
        own = cells.logs.astype(np.float64).toarray()  # type: ignore[union-attr]
        if not near.shape[1]:
            return np.asarray(own)
        rows = np.repeat(np.arange(len(near)), near.shape[1])
        picked = sparse.csr_matrix((np.ones(near.size), (rows, near.ravel())), (len(near), len(self.sample.energies)))
        return np.asarray((own + (picked @ self.sample.logs).toarray()) / (1 + near.shape[1]))

    def score(self, cells: Traits, near: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return how familiar cells are, shape (n,), higher for more; ``near`` are their neighbours in the sample."""
        scores = np.empty(len(near))
        whitening = self.familiarity.whitening.astype(np.float64)
        places = self.familiarity.centroids.astype(np.float64) @ whitening  # (L, D)
        for start in range(0, len(near), CHUNK):
            part = slice(start, start + CHUNK)
            some, around = cells.part(np.arange(len(near))[part]), near[part]
            vectors = _mean(some.vectors, self.sample.vectors, around)  # (chunk, D)
            energies = _mean(some.energies, self.sample.energies, around)  # (chunk,)
            distance = cdist(vectors @ whitening, places).min(axis=1)  # (chunk,)
            score = ENERGY_WEIGHT * energies - np.log(np.maximum(distance, SMALLEST_DISTANCE))
            if self.profiles is not None:
                profile = _unit(self.profile(some, around) - self.study, self.weights)  # (chunk, G)
                correlation = (profile @ self.profiles.T).max(axis=1)  # (chunk,)
                score -= np.log(1 - np.minimum(correlation, LARGEST_CORRELATION))
            scores[part] = score
        return scores


def _mean(own: Floats, sample: Floats, near: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the mean of each cell's values and its neighbours', (n, ...) and (k, ...) to (n, ...)."""
    summed = own.astype(np.float64) + sample.astype(np.float64)[near].sum(axis=1)
    return np.asarray(summed / (1 + near.shape[1]))


def _unit(profiles: Floats, weights: Floats) -> npt.NDArray[np.float64]:
    """Return profiles, (n, G), of which products are their weighted correlations."""
    centred = (profiles - (profiles @ weights)[:, None]) * np.sqrt(weights)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-12))
