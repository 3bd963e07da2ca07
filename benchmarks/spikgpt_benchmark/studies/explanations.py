"""Suites that test explanations: deletion curves, overlap with marker genes, and stability."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from spikgpt import SpikGPT
from spikgpt.explain.attribution import GeneAttributor
from spikgpt.explain.query import FittedQuery
from spikgpt.explain.scored import ScoredCells
from spikgpt.types import Floats, Strings
from spikgpt_benchmark.studies.attributions import (
    RANKINGS,
    LabelCells,
    attribution,
    ranked_areas,
    with_shuffled_weights,
)
from spikgpt_benchmark.studies.datasets import LABEL, load_pair, read_study, split_by, with_frequent_labels
from spikgpt_benchmark.studies.scoring import annotate_with, train_or_load
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite

# While the attribution was designed, its variants were compared on the first three of these tasks only.
TASKS = ("pbmc", "baron", "retina", "xin", "choroid")
# Tasks whose query is one donor of a study; the reference has the other donors.
QUERY_DONORS = {"retina": "donor3", "choroid": "donor3"}
# For the stability over donors: the study, the donors of two references, and the donor of the query.
DONORS = {"baron": ("baron", ("human1", "human3"), "human2"), "retina": ("retina", ("donor1", "donor2"), "donor3")}
# Largest number of cells of a label for a deletion curve, and for a mean attribution.
CURVE_CELLS, LABEL_CELLS = 10, 30
# Smallest number of correctly labelled cells of a tested label.
LEAST_CELLS = 5
# Largest number of genes in a list of markers, and number of top genes that are compared with the list.
MARKERS, TOP = 100, 20
# Files of published marker genes, by task.
PUBLISHED = {"pbmc": "pbmc.txt", "baron": "pancreas.txt", "xin": "pancreas.txt"}


def load_task(name: str, data: Path) -> tuple[AnnData, AnnData]:
    """Return reference and query of a task, with cells of the reference's types only."""
    if name in QUERY_DONORS:
        cells = read_study(data, name)
        in_query = (cells.obs["donor"].astype(str) == QUERY_DONORS[name]).to_numpy()
        reference, query = with_frequent_labels(cells[~in_query]), cells[in_query]
    else:
        reference, query = load_pair(name, data)
    return reference, query[query.obs[LABEL].isin(reference.obs[LABEL]).to_numpy()].copy()


class ExplainedQuery:
    """A query annotated by a reference, and the true labels of the sampled cells."""

    def __init__(self, model: SpikGPT, query: AnnData) -> None:
        fitted = annotate_with(model, query, {}).query
        assert isinstance(fitted, FittedQuery)
        assert fitted.model.scorer is not None
        assert fitted.model.scorer.profiles is not None
        self.query, self.names = fitted, fitted.reference.labels.names
        self.sample, self.attributor = ScoredCells.from_sample(fitted), GeneAttributor.from_query(fitted)
        self.means = fitted.model.scorer.profiles.means
        self.truth: Strings = query.obs[LABEL].astype(str).to_numpy()[self.sample.rows]
        self.of_network = self.attributor.best(self.attributor.front.scaled(self.sample.logs))

    def cells_of(self, name: str, most: int) -> LabelCells | None:
        """Return a sample of at most ``most`` correctly labelled cells of a label; None for fewer than 5 cells."""
        label = self.names.index(name)
        right = np.flatnonzero((self.truth == name) & (self.of_network == label))
        if len(right) < LEAST_CELLS:
            return None
        chosen = np.sort(np.random.default_rng(0).choice(right, min(most, len(right)), replace=False))
        logs = self.sample.logs[chosen].toarray().astype(np.float64)
        return LabelCells(self.attributor, label, logs, self.means)


def curve_records(context: StudyContext) -> Iterator[Record]:
    """Yield the areas under the curves of each ranking, as means over cells, and the distance from the best ranking.

    Variants take most of the time, and are measured with the first seed alone.
    """
    for task in filter(context.selects, TASKS):
        reference, query = load_task(task, context.data)
        for seed in range(context.seeds):
            explained = ExplainedQuery(train_or_load(reference, context.cache, seed), query)
            areas: dict[tuple[str, str], list[tuple[Floats, Floats]]] = {}
            for name in explained.names:
                if (cells := explained.cells_of(name, CURVE_CELLS)) is not None:
                    for ranking, kind, deletion, insertion in ranked_areas(cells, variants=seed == 0):
                        areas.setdefault((ranking, kind), []).append((deletion, insertion))
            joined = {key: tuple(map(np.concatenate, zip(*parts, strict=True))) for key, parts in areas.items()}
            for (ranking, kind), (deletion, insertion) in joined.items():
                rivals = [joined[ranking, kind] for ranking in RANKINGS]
                best = min((values[0] for values in rivals), key=lambda values: float(values.mean()))
                record: Record = {"task": task, "seed": seed, "deleted to": kind, "ranking": ranking}
                record |= {"cells": len(deletion), "deletion": float(deletion.mean())}
                record |= {"insertion": float(insertion.mean()), "SE": standard_error(deletion)}
                yield record | {
                    "behind best": float((deletion - best).mean()),
                    "SE of it": standard_error(deletion - best),
                }


def standard_error(values: Floats) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def marker_records(context: StudyContext) -> Iterator[Record]:
    """Yield the AUROC of attributions for the marker genes of each label, and related figures."""
    for task in filter(context.selects, TASKS):
        reference, query = load_task(task, context.data)
        markers, published = wilcoxon_markers(query), published_markers(task)
        for seed in range(context.seeds):
            explained = ExplainedQuery(train_or_load(reference, context.cache, seed), query)
            for name in explained.names:
                if name not in markers or (cells := explained.cells_of(name, LABEL_CELLS)) is None:
                    continue
                record: Record = {"task": task, "seed": seed, "label": name, "cells": len(cells.logs)}
                yield record | marker_figures(cells, explained.query.genes, markers[name], published.get(name, []))


def marker_figures(cells: LabelCells, genes: tuple[str, ...], markers: list[str], published: list[str]) -> Record:
    """Return the agreement of attributions, and of other scores, with the marker genes of a label."""
    is_marker = np.isin(genes, [gene for gene in markers if gene in genes][:MARKERS])
    shuffled = LabelCells(with_shuffled_weights(cells.attributor), cells.label, cells.logs, cells.means)
    scores = {"attribution": attribution(cells).mean(axis=0), "shuffled": attribution(shuffled).mean(axis=0)}
    other_labels = cells.attributor.nearest_labels(cells.scaled, cells.label)
    low = cells.scaled.mean(axis=0) < cells.attributor.front.profiles[other_labels].mean(axis=0)
    # A gene that is absent from the cells can support a label, but is no marker of the label.
    scores |= {f"{name}, absent genes last": np.where(low, -np.abs(values), values) for name, values in scores.items()}
    scores["logFC of the reference"] = cells.means[cells.label] - cells.means[cells.other_labels].mean(axis=0)
    scores["expression"] = cells.logs.mean(axis=0)
    record: Record = {"markers": int(is_marker.sum())}
    record |= {f"AUROC {name}": float(roc_auc_score(is_marker, values)) for name, values in scores.items()}
    order = np.argsort(-scores["attribution, absent genes last"], kind="stable")
    record["top 20 that are markers"] = float(is_marker[order[:TOP]].mean())
    known = [gene for gene in published if gene in genes]
    record["published markers"] = len(known)
    ranks = {genes[gene]: rank for rank, gene in enumerate(order.tolist())}
    record["published in top 20"] = float(np.mean([ranks[gene] < TOP for gene in known])) if known else None
    return record


def wilcoxon_markers(query: AnnData) -> dict[str, list[str]]:
    """Return the genes with a higher expression in each true label, adjusted p < 0.05 in a Wilcoxon test.

    The genes of each label are sorted by fold change, the largest first.
    """
    import scanpy

    cells = query.copy()
    counts = cells.obs[LABEL].value_counts()
    cells = cells[cells.obs[LABEL].isin(counts.index[counts >= 2 * LEAST_CELLS]).to_numpy()].copy()
    cells.obs[LABEL] = cells.obs[LABEL].astype(str).astype("category")
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    scanpy.pp.log1p(cells)
    scanpy.tl.rank_genes_groups(cells, LABEL, method="wilcoxon")
    markers = {}
    for name in cells.obs[LABEL].cat.categories:
        table: Any = scanpy.get.rank_genes_groups_df(cells, name)
        table = table[(table["pvals_adj"] < 0.05) & (table["logfoldchanges"] > 0)]
        markers[str(name)] = table.sort_values("logfoldchanges", ascending=False)["names"].astype(str).tolist()
    return markers


def published_markers(task: str) -> dict[str, list[str]]:
    """Return the published marker genes by cell type; empty if the benchmark has no marker file for the task."""
    if task not in PUBLISHED:
        return {}
    markers: dict[str, list[str]] = {}
    name = ""
    for line in (Path(__file__).parents[2] / "markers" / PUBLISHED[task]).read_text().splitlines():
        if line.startswith(">"):
            name = line[1:].strip()
        elif line.startswith("expressed:"):
            markers[name] = [gene.strip() for gene in line.partition(":")[2].split(",")]
    return markers


def stability_records(context: StudyContext) -> Iterator[Record]:
    """Yield the agreement of attributions of references that differ in their seed, donors or weights."""
    for task in filter(context.selects, TASKS):
        reference, query = load_task(task, context.data)
        by_seed = [
            label_attributions(train_or_load(reference, context.cache, seed), query) for seed in range(context.seeds)
        ]
        for first, second in itertools.combinations(by_seed, 2):
            yield {"task": task, "differs in": "seed", **agreement(first, second)}
        yield {"task": task, "differs in": "weights, shuffled", **agreement(by_seed[0], by_seed[0], shuffled=True)}
        if task in DONORS:
            study, donors, of_query = DONORS[task]
            parts = split_by(read_study(context.data, study), "donor")
            pair = [with_frequent_labels(parts[donor]) for donor in donors]
            first, second = (label_attributions(train_or_load(cells, context.cache), parts[of_query]) for cells in pair)
            yield {"task": task, "differs in": "donor", **agreement(first, second)}


# For each label: mean attributions by gene, of the trained network and of a network with shuffled weights.
ByLabel = dict[str, tuple[pd.Series, pd.Series]]


def label_attributions(model: SpikGPT, query: AnnData) -> ByLabel:
    """Return the mean attributions of each label in a query."""
    explained, attributions = ExplainedQuery(model, query), {}
    for name in explained.names:
        if (cells := explained.cells_of(name, LABEL_CELLS)) is not None:
            shuffled = LabelCells(with_shuffled_weights(cells.attributor), cells.label, cells.logs, cells.means)
            means = (attribution(part).mean(axis=0) for part in (cells, shuffled))
            own, of_shuffled = (pd.Series(values, index=explained.query.genes) for values in means)
            attributions[name] = own, of_shuffled
    return attributions


def agreement(first_run: ByLabel, second_run: ByLabel, *, shuffled: bool = False) -> Record:
    """Return the mean rank correlation of attributions, and the mean overlap of the top 20 genes, over labels."""
    correlations, overlaps, genes = [], [], 0
    for name in first_run.keys() & second_run.keys():
        first, second = first_run[name][0], second_run[name][1 if shuffled else 0]
        shared = first.index.intersection(second.index)
        genes = len(shared)
        correlations.append(float(spearmanr(first[shared], second[shared])[0]))
        tops = (set(values[shared].nlargest(TOP).index) for values in (first, second))
        overlaps.append(len(set.intersection(*tops)) / TOP)
    figures = {"labels": len(correlations), "shared genes": genes, "rank correlation": float(np.mean(correlations))}
    return {**figures, "top 20 shared": float(np.mean(overlaps))}


SUITES = {
    "explain": StudySuite(
        "deletion and insertion curves of rankings of genes",
        curve_records,
        ("task", "seed", "deleted to", "ranking"),
        ("deleted to", "task", "ranking"),
    ),
    "explain-markers": StudySuite(
        "attributions beside marker genes", marker_records, ("task", "seed", "label"), ("task",)
    ),
    "explain-stability": StudySuite(
        "attributions of references that differ", stability_records, ("task", "differs in"), ("differs in", "task")
    ),
}
