"""Dot plot of the genes behind each label: expression in the query, and attributions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from spikgpt.errors import ConfigError
from spikgpt.explain.labels import GeneEvidence, LabelGenes, explain_labels
from spikgpt.explain.query import FittedQuery, fitted_queries
from spikgpt.explain.scored import ScoredCells
from spikgpt.scoring.annotation import Annotation

# Largest number of genes (columns) in the plot, and of genes that are chosen for one label.
MOST_COLUMNS, MOST_OF_LABEL = 50, 5
# Largest number of genes of each role in the table of a label.
LISTED = 6
# No dot is drawn if less than this share of the cells expresses the gene.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Dot:
    """Expression of a gene in the cells of a label.

    Attributes
    ----------
    share
        Share of the cells that express the gene, which sets the size of the dot.
    level
        Mean log expression divided by the highest mean of the gene in any label, which sets the shade of the dot.
    mean, attribution
        Mean log expression, and mean attribution to the label in log-odds.
    behind
        True if the gene is one of the label's own genes.
    """

    share: float
    level: float
    mean: float
    attribution: float
    behind: bool


@dataclass(frozen=True)
class DotRow:
    """Row of a dot plot: a label, its number of cells in the sample, and a dot for each gene of the plot.

    A dot is None if less than 1% of the cells express the gene.
    """

    label: str
    cells: int
    runner_up: str
    dots: tuple[Dot | None, ...]
    genes: tuple[GeneEvidence, ...]


@dataclass(frozen=True)
class DotPlot:
    """Dot plot of labels in rows and genes in columns.

    ``owners`` has the position of the label that each gene was chosen for. ``reference`` is the name of the reference
    that gave the labels; an empty text if there is only one.
    """

    genes: tuple[str, ...]
    owners: tuple[int, ...]
    rows: tuple[DotRow, ...]
    reference: str = ""


def dot_plots(annotation: Annotation) -> tuple[DotPlot, ...]:
    """Return a dot plot of the labels of each reference; a reference that reads no genes has no plot."""
    plots = ((name, dot_plot(query)) for name, query in fitted_queries(annotation).items())
    several = bool(annotation.queries)
    return tuple(replace(plot, reference=name if several else "") for name, plot in plots if plot is not None)


def dot_plot(query: FittedQuery) -> DotPlot | None:
    """Return the dot plot of a fitted query; None if the reference reads no genes, or if all cells are Unknown."""
    if query.logs is None:
        return None
    try:
        labels = explain_labels(query, top=20)
    except ConfigError:
        return None
    if not labels:
        return None
    chosen = _chosen(labels)
    columns = [query.genes.index(gene) for gene, _ in chosen]
    scored = ScoredCells.from_sample(query)
    best, unknown = scored.best, scored.unknown
    names = query.reference.labels.names
    logs = sparse.csc_matrix(query.logs)[:, columns].tocsr()
    cells = [np.flatnonzero((best == names.index(label.label)) & ~unknown) for label in labels]
    means = np.stack([np.asarray(logs[rows].mean(axis=0)).ravel() for rows in cells])  # (labels, genes)
    shares = np.stack([logs[rows].getnnz(axis=0) / len(rows) for rows in cells])
    levels = means / np.maximum(means.max(axis=0), 1e-12)
    attributions = np.stack([label.attributions[columns] for label in labels])
    rows = []
    for at, label in enumerate(labels):
        own = {gene for gene, owner in chosen if owner == at} | {gene.gene for gene in _present(label)[:MOST_OF_LABEL]}
        figures = zip(chosen, shares[at], levels[at], means[at], attributions[at], strict=True)
        dots = tuple(
            Dot(float(share), float(level), float(mean), float(attribution), gene in own)
            if share >= LEAST_SHARE
            else None
            for (gene, _), share, level, mean, attribution in figures
        )
        rows.append(DotRow(label.label, label.cells, label.runner_up, dots, _listed(label)))
    return DotPlot(tuple(gene for gene, _ in chosen), tuple(owner for _, owner in chosen), tuple(rows))


def _present(label: LabelGenes) -> list[GeneEvidence]:
    """Return the genes that support a label by their expression, the strongest first."""
    return [gene for gene in label.of_role("supporting") if not gene.absent]


def _chosen(labels: tuple[LabelGenes, ...]) -> list[tuple[str, int]]:
    """Return the genes of the plot: the strongest genes of each label, each with the position of the label."""
    each = max(1, min(MOST_OF_LABEL, MOST_COLUMNS // len(labels)))
    chosen, used = list[tuple[str, int]](), set[str]()
    for at, label in enumerate(labels):
        new = [gene.gene for gene in _present(label) if gene.gene not in used][:each]
        used.update(new)
        chosen += [(gene, at) for gene in new]
    return chosen


def _listed(label: LabelGenes) -> tuple[GeneEvidence, ...]:
    """Return the strongest genes of each role."""
    roles = [_present(label), label.of_role("conflicting"), label.of_role("missing")]
    return tuple(gene for genes in roles for gene in genes[:LISTED])
