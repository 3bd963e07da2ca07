"""Scored cells: expression, neighbours and scores of cells of a query, for explanations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy import sparse

from spikgpt.cells.align import AlignedCells
from spikgpt.explain.query import FittedQuery
from spikgpt.scoring.rejection import CellScores
from spikgpt.types import Bools, Integers, NetworkOutput, Rows


@dataclass(frozen=True)
class ScoredCells:
    """Scores of n cells of a query whose reference reads genes.

    Attributes
    ----------
    rows
        Row numbers of the cells in the query, shape (n,).
    logs
        Log expression in the U shared genes, shape (n, U).
    output
        Output of the network, before smoothing.
    neighbours
        Positions of the nearest cells in the sample, shape (n, 14); (n, 0) without smoothing.
    scores
        Scores of the cells, among them the calibrated probabilities.
    best, unknown
        Index of the most probable label, and True for Unknown cells, each of shape (n,).
    """

    rows: Rows
    logs: sparse.csr_matrix
    output: NetworkOutput
    neighbours: Rows
    scores: CellScores
    best: Integers
    unknown: Bools

    @classmethod
    def from_sample(cls, query: FittedQuery) -> Self:
        """Return the cells of the query's sample."""
        model = query.model
        assert model.scorer is not None
        assert query.logs is not None
        return cls._scored(query, query.rows, query.logs, model.scorer.sample, model.smoother.neighbours, model.scores)

    @classmethod
    def from_cells(cls, query: FittedQuery, cells: AlignedCells, rows: Rows, batches: Integers) -> Self:
        """Score n cells of the query that are not empty.

        ``rows`` are the row numbers of the cells in the query, and ``batches`` the indices of their batches, each of
        shape (n,).
        """
        model, embedding = query.model, query.engine.embedding
        output, logs = query.engine.run(cells, model.scale), embedding.logs(cells)
        assert logs is not None
        points = output.vectors if model.pca is None else model.pca.transform(logs)
        neighbours = (
            model.smoother.nearest(points, rows) if model.smoothed else np.empty((len(rows), 0), dtype=np.int64)
        )
        scores = model.score(query.engine, cells, rows, batches=batches)
        return cls._scored(query, rows, logs, output, neighbours, scores)

    @classmethod
    def _scored(
        cls,
        query: FittedQuery,
        rows: Rows,
        logs: sparse.csr_matrix,
        output: NetworkOutput,
        neighbours: Rows,
        scores: CellScores,
    ) -> Self:
        """Return the cells with calibrated probabilities, labels, and the decision which cells are Unknown."""
        assert query.model.rule is not None  # every annotation has a rule
        probabilities = query.model.calibrated(query.reference.thresholds, scores.probabilities)
        scores = replace(scores, probabilities=probabilities)
        unknown = query.model.rule.is_unknown(scores)
        return cls(rows, logs, output, neighbours, scores, np.asarray(probabilities.argmax(axis=1)), unknown)

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.rows)

    def part(self, cells: Rows) -> Self:
        """Return some of the cells, by their positions."""
        return replace(
            self,
            rows=self.rows[cells],
            logs=sparse.csr_matrix(self.logs[cells]),
            output=self.output.part(cells),
            neighbours=self.neighbours[cells],
            scores=self.scores.part(cells),
            best=self.best[cells],
            unknown=self.unknown[cells],
        )
