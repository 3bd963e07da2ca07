"""What a query's cells look like, seen with their neighbours: label probabilities and familiarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.embedding.result import Embedding
from spikgpt.labels.familiarity import Familiarity, Judge, Traits
from spikgpt.labels.neighbours import MINIMUM_CELLS, Neighbourhood

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Readings:
    """Of n cells: ``probabilities``, shape (n, L), and familiarity ``scores``, shape (n,), if the reference has them.

    ``together`` says whether the cells were seen with their neighbours.
    """

    probabilities: Floats
    scores: npt.NDArray[np.float64] | None
    together: bool


@dataclass(frozen=True)
class Reader:
    """Reads the cells of one query, after a look at a sample of them."""

    among: Neighbourhood
    judge: Judge | None
    together: bool

    @classmethod
    def of(
        cls,
        among: Neighbourhood,
        familiarity: Familiarity | None,
        sample: Traits | None,
        profiles: Floats | None,
        *,
        together: bool,
    ) -> Reader:
        """Return the reader of a query.

        Parameters
        ----------
        among
            A sample of the query's cells, among which neighbours are sought.
        familiarity, sample, profiles
            Where the reference's labels lie, and traits of the sample; without, nothing is said of familiarity. See
            :meth:`Familiarity.judge`.
        together
            Whether to see each cell with its neighbours; with fewer than 100 cells there are too few to ask.
        """
        together = together and len(among.cells) >= MINIMUM_CELLS
        judge = None
        if familiarity is not None and sample is not None:
            judge = familiarity.judge(among, sample, profiles, together=together)
        return cls(among, judge, together)

    def read(
        self, probabilities: Floats, points: Floats, cells: npt.NDArray[np.int64], traits: Traits | None
    ) -> Readings:
        """Return what cells look like.

        Parameters
        ----------
        probabilities
            What the classifier says of each cell alone, shape (n, L).
        points
            Where the cells lie among themselves, shape (n, D).
        cells
            Their indices in the query, shape (n,).
        traits
            What familiarity is told by, if it is.
        """
        near = np.empty((len(points), 0), dtype=np.int64)
        if self.together:
            near = self.among.nearest(points, cells)
        scores = self.judge.score(traits, near) if self.judge is not None and traits is not None else None
        return Readings(self.among.smooth(probabilities, near), scores, self.together)


def read_embedding(
    embedding: Embedding,
    probabilities: Floats,
    energies: Floats | None,
    familiarity: Familiarity | None,
    neighbours: bool,
) -> Readings:
    """Read all cells of an embedding that are not empty, n of them.

    Parameters
    ----------
    probabilities, energies
        What the classifier says of these cells alone, shapes (n, L) and (n,).
    neighbours
        Whether to see each cell with its neighbours.
    """
    shown = embedding.shown
    traits = sample = None
    if familiarity is not None and energies is not None:
        traits = Traits(embedding.vectors[~embedding.empty], energies, embedding.logs)
        sample = traits.part(shown)
    among = Neighbourhood(shown, embedding.points[shown], probabilities[shown])
    reader = Reader.of(among, familiarity, sample, embedding.profiles, together=neighbours)
    return reader.read(probabilities, embedding.points, np.arange(len(probabilities)), traits)
