"""Genes behind the labels of a query: supporting, conflicting and missing genes, with their expression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.embedding.pca import PCAProjection
from spikgpt.explain.attribution import BASELINES, GeneAttributor
from spikgpt.explain.query import FittedQuery
from spikgpt.explain.scored import ScoredCells
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Bools, Floats

Role = Literal["supporting", "conflicting", "missing"]

# Largest number of genes of each role, and of cells of each label whose attributions are averaged.
TOP, CELLS_PER_LABEL = 20, 20
# Share of all absolute attributions below which a gene neither supports nor conflicts.
LEAST_SHARE = 0.002
# Marker genes of a label in the reference: smallest excess of the mean log expression over the mean of the other
# labels (a factor of 2), and largest number of marker genes.
MARKER_RATIO, MARKERS = np.log(2.0), 30
# A marker gene is missing in cells if their mean log expression is below this share of the label's mean.
MISSING_SHARE = 0.25


@dataclass(frozen=True)
class GeneEvidence:
    """A gene behind a label. All means are of log expression, ln(1 + counts per 10,000).

    Attributes
    ----------
    attribution
        Mean contribution of the gene to the log-odds of the label; None if the query lacks the gene.
    mean, expressed
        Mean in the query's cells of the label, and share of these cells that express the gene. None if the query lacks
        the gene.
    label_mean, runner_up_mean
        Means in the reference's cells of the label and of the runner-up.
    role
        "supporting" or "conflicting" by the sign of the attribution. "missing": a marker gene of the label in the
        reference that these cells do not express, or that the query lacks.
    absent
        True if the cells express the gene less than the nearest other labels. An absent gene can support a label: beta
        cells lack GCG, which alpha cells express.
    """

    gene: str
    attribution: float | None
    mean: float | None
    expressed: float | None
    label_mean: float
    runner_up_mean: float
    role: Role
    absent: bool = False

    @property
    def measured(self) -> bool:
        """True if the query has the gene."""
        return self.mean is not None


@dataclass(frozen=True)
class LabelGenes:
    """Genes behind a label in a group of cells.

    Attributes
    ----------
    label, runner_up
        The label, and the other label with the highest mean logit in these cells.
    cells
        Number of cells of the group, from the query's sample.
    explained
        Number of these cells whose attributions were averaged.
    genes
        Supporting genes, then conflicting ones, then missing ones, the strongest of each role first.
    attributions
        Mean attribution of each gene of :attr:`FittedQuery.genes`, shape (U,).
    log_odds, baseline
        Mean log-odds of the label in the explained cells, and in the profiles of the nearest other labels. The
        attributions add up to the difference.
    agreement
        Share of the explained cells to which the network alone gives the label, without smoothing.
    """

    label: str
    cells: int
    explained: int
    runner_up: str
    genes: tuple[GeneEvidence, ...]
    log_odds: float
    baseline: float
    agreement: float
    attributions: npt.NDArray[np.float64] = field(repr=False, compare=False)

    def of_role(self, role: Role) -> tuple[GeneEvidence, ...]:
        """Return the genes of a role, the strongest first."""
        return tuple(gene for gene in self.genes if gene.role == role)


@dataclass(frozen=True)
class LabelExplainer:
    """Explains the labels of groups of cells of a query's sample."""

    query: FittedQuery
    attributor: GeneAttributor

    @classmethod
    def from_query(cls, query: FittedQuery) -> LabelExplainer:
        """Build the explainer of a query.

        Raises
        ------
        ConfigError
            When the reference reads no genes.
        """
        return cls(query, GeneAttributor.from_query(query))

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the reference."""
        return self.query.reference.labels.names

    @cached_property
    def profiles(self) -> npt.NDArray[np.float64]:
        """Mean log expression of the labels of the reference, shape (L, U)."""
        scorer = self.query.model.scorer
        assert scorer is not None
        assert scorer.profiles is not None
        return scorer.profiles.means

    def explain(
        self, label: int, logs: sparse.csr_matrix, *, cells_per_label: int = CELLS_PER_LABEL, top: int = TOP
    ) -> LabelGenes:
        """Return the genes behind a label in cells.

        Parameters
        ----------
        logs
            Log expression of at least one cell, shape (n, U).
        cells_per_label
            Largest number of cells whose attributions are averaged. The choice does not depend on the order of cells.
        top
            Largest number of genes of each role.
        """
        logs = sparse.csr_matrix(logs)
        chosen = sample_of(content_keys(logs), cells_per_label)
        scaled = self.attributor.front.scaled(logs[chosen])
        other_labels = self.attributor.nearest_labels(scaled, label)
        runner_up = int(other_labels[0])
        absent = scaled.mean(axis=0) < self.attributor.front.profiles[other_labels[:BASELINES]].mean(axis=0)
        attribution = self.attributor.attribute(scaled, label)
        attributions = attribution.values.mean(axis=0)
        return LabelGenes(
            label=self.names[label],
            cells=logs.shape[0],
            explained=len(chosen),
            runner_up=self.names[runner_up],
            genes=tuple(self._evidence(label, runner_up, logs, attributions, absent, top)),
            log_odds=float(attribution.log_odds.mean()),
            baseline=attribution.baseline,
            agreement=float((self.attributor.best(scaled) == label).mean()),
            attributions=attributions,
        )

    def _evidence(
        self, label: int, runner_up: int, logs: sparse.csr_matrix, attributions: Floats, absent: Bools, top: int
    ) -> Iterator[GeneEvidence]:
        """Yield the genes of each role: supporting, conflicting, then missing genes.

        ``logs`` has shape (n, U), and ``attributions`` and ``absent`` have shape (U,).
        """
        means = np.asarray(logs.astype(np.float64).mean(axis=0)).ravel()
        expressed = np.diff(sparse.csc_matrix(logs).indptr) / logs.shape[0]
        genes, profiles, lost = self.query.genes, self.profiles, self._lost

        def measured(row: int, role: Role) -> GeneEvidence:
            return GeneEvidence(
                gene=genes[row],
                attribution=float(attributions[row]),
                mean=float(means[row]),
                expressed=float(expressed[row]),
                label_mean=float(profiles[label, row]),
                runner_up_mean=float(profiles[runner_up, row]),
                role=role,
                absent=bool(absent[row]),
            )

        missing = [
            (gene, row)
            for gene, row in self._markers(label)
            if row is None or means[row] < MISSING_SHARE * profiles[label, row]
        ][:top]
        shares = attributions / max(float(np.abs(attributions).sum()), 1e-300)
        shares[[row for _, row in missing if row is not None]] = 0
        order = np.argsort(-shares, kind="stable")
        supporting, conflicting = order[shares[order] >= LEAST_SHARE], order[shares[order] <= -LEAST_SHARE]
        yield from (measured(row, "supporting") for row in supporting[:top])
        yield from (measured(row, "conflicting") for row in conflicting[::-1][:top])
        for gene, row in missing:
            if row is not None:
                yield measured(row, "missing")
            else:
                of_label, of_runner_up = float(lost[gene][label]), float(lost[gene][runner_up])
                yield GeneEvidence(gene, None, None, None, of_label, of_runner_up, "missing", absent=True)

    @cached_property
    def _lost(self) -> dict[str, Floats]:
        """Each gene of the reference that the query lacks, with its mean log expression in each label, shape (L,)."""
        embedding = self.query.engine.embedding
        assert isinstance(embedding, PCAProjection)
        lost = np.flatnonzero(~self.query.template.genes_present[: len(embedding.genes)])
        return {embedding.genes.symbols[gene]: embedding.label_means[:, gene].astype(np.float64) for gene in lost}

    @cached_property
    def _profiles(self) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        """Shared genes and genes that the query lacks, and their mean log expression in the allowed labels.

        The means have the shape (allowed labels, genes).
        """
        allowed = self.attributor.allowed
        columns = [self.profiles[allowed], *(means[allowed][:, None] for means in self._lost.values())]
        return (*self.query.genes, *self._lost), np.concatenate(columns, axis=1)

    def _markers(self, label: int) -> list[tuple[str, int | None]]:
        """Return the marker genes of a label in the reference, the best first, each with its column in the query.

        The column is None for a gene that the query lacks.
        """
        names, means = self._profiles
        own = self.attributor.allowed == label
        ratio = means[own][0] - means[~own].mean(axis=0)  # (genes,)
        order = np.argsort(-ratio, kind="stable")[:MARKERS]
        size = len(self.query.genes)
        return [(names[gene], int(gene) if gene < size else None) for gene in order if ratio[gene] >= MARKER_RATIO]


def explain_labels(
    query: FittedQuery,
    labels: Sequence[str] | None = None,
    *,
    cells_per_label: int = CELLS_PER_LABEL,
    top: int = TOP,
) -> tuple[LabelGenes, ...]:
    """Return the genes behind the labels that cells of a query's sample got, the most frequent label first.

    Parameters
    ----------
    labels
        Labels to explain; None for all. A label that no cell got is left out.
    cells_per_label
        Largest number of cells of a label whose attributions are averaged.
    top
        Largest number of genes of each role.

    Raises
    ------
    ConfigError
        When the reference reads no genes, such as a reference on scGPT or on an embedding in obsm.
    """
    explainer = LabelExplainer.from_query(query)
    sample = ScoredCells.from_sample(query)
    best, unknown = sample.best, sample.unknown
    counts = np.bincount(best[~unknown], minlength=len(explainer.names))
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    chosen = [index for index in order if labels is None or explainer.names[index] in labels]
    return tuple(
        explainer.explain(
            index, sample.logs[np.flatnonzero((best == index) & ~unknown)], cells_per_label=cells_per_label, top=top
        )
        for index in chosen
    )
