"""Measure accuracy and specificity of the Cell Ontology terms that cells get at each certainty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.ontology import NO_TERM, BroadLabels, ontology
from spikgpt.training.names import ONTOLOGY_COLUMNS, ontology_ids
from spikgpt.types import Strings
from spikgpt_benchmark.studies.datasets import (
    LABEL,
    UNSEEN,
    load_pair,
    mouse_pancreas,
    read_study,
    with_frequent_labels,
)
from spikgpt_benchmark.studies.scoring import annotate_with, train_or_load
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite

# With a certainty of 0 each cell has the term of its label.
CERTAINTIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
# Cell Ontology ids of blood cell types, for studies that state no ids.
BLOOD_TERMS = {
    "CD4 T": "CL:0000624",
    "CD8 T": "CL:0000625",
    "B": "CL:0000236",
    "NK": "CL:0000623",
    "CD14 Mono": "CL:0001054",
    "CD16 Mono": "CL:0002396",
    "DC": "CL:0000451",
    "Mk": "CL:0000233",
}


def query_tasks(data: Path) -> Iterator[tuple[str, AnnData, AnnData]]:
    """Yield the name, the reference and the query of the three pairs of studies."""
    for name in UNSEEN:
        reference, query = load_pair(name, data)
        terms = terms_of(reference if name == "pbmc" else read_study(data, "baron"))
        yield name, with_terms(reference, terms), with_terms(query, terms)


def held_out_tasks(data: Path) -> Iterator[tuple[str, AnnData, AnnData]]:
    """Yield name, reference and query: a donor held out of the other donors, or half of the cells of one donor."""
    for name in ("3k", "zheng", "heart", "fetal brain"):
        study = read_study(data, name)
        study, half = with_terms(study, terms_of(study)), np.random.default_rng(1).random(study.n_obs) < 0.5
        yield f"{name}, halves", study[half].copy(), study[~half].copy()
    human = read_study(data, "baron")
    studies = {"pancreas": human[human.obs["donor"].isin(["human1", "human3"])].copy()}
    studies |= {"mouse pancreas": mouse_pancreas(data)}
    studies |= {name: read_study(data, name) for name in ("choroid", "retina")}
    for name, study in studies.items():
        study = with_terms(study, terms_of(study))
        for donor in sorted(study.obs["donor"].unique()):
            held_out = (study.obs["donor"] == donor).to_numpy()
            yield f"{name}, {donor}", study[~held_out].copy(), study[held_out].copy()


def terms_of(cells: AnnData) -> dict[str, str]:
    """Return the Cell Ontology id of each cell type, as the study states it, or from the table of blood types."""
    return BLOOD_TERMS | ontology_ids(cells, np.asarray(cells.obs[LABEL].astype(str)))


def with_terms(cells: AnnData, terms: dict[str, str]) -> AnnData:
    """Return the cells of the types that have a term, with the terms in a column that the training reads."""
    cells = cells[cells.obs[LABEL].isin(terms).to_numpy()].copy()
    cells.obs[ONTOLOGY_COLUMNS[0]] = cells.obs[LABEL].astype(str).map(terms)
    return cells


@cache
def depth_of(term: str) -> int:
    """Return the length of the longest path from a term up to the root, "cell"."""
    return max((1 + depth_of(parent) for parent in ontology().parents[term]), default=0)


def term_figures(terms: Strings, truth: Strings, rejected: int) -> Record:
    """Return the shares of cells whose term is exact, right, wrong or Unknown, from terms and true terms, shape (n,).

    A term is exact if it is the true term, and right if it is the true term or lies above it in the Cell Ontology.

    Parameters
    ----------
    rejected
        Number of cells that the rule for Unknown rejects. Other Unknown cells have no informative term.
    """
    given, exact = terms != NO_TERM, terms == truth
    above = {pair: pair[0] in ontology().above(pair[1]) for pair in set(zip(terms, truth, strict=True))}
    right = np.array([above[pair] for pair in zip(terms, truth, strict=True)], dtype=bool)
    levels = [depth_of(true_term) - depth_of(term) for term, true_term in zip(terms[right], truth[right], strict=True)]
    return {
        "right of those with a term": float(right[given].mean()) if given.any() else None,
        "right": float(right.mean()),
        "exact": float(exact.mean()),
        "above": float((right & ~exact).mean()),
        "wrong": float((given & ~right).mean()),
        "Unknown": float(1 - given.mean()),
        "Unknown by the OOD rule": rejected / len(terms),
        "depth": float(np.mean([depth_of(term) for term in terms[given]])) if given.any() else None,
        "levels above the true term": float(np.mean(levels)) if levels else None,
    }


def records_of(name: str, model: SpikGPT, terms_by_label: dict[str, str], query: AnnData) -> Iterator[Record]:
    """Yield the figures of a query at each certainty."""
    annotation = annotate_with(model, query, {})
    truth = np.asarray(query.obs[ONTOLOGY_COLUMNS[0]].astype(str))
    # Another suite may have stored the reference without ids.
    names = model.reference.labels.names
    broad = BroadLabels.from_labels(LabelMap(names, tuple(terms_by_label[label] for label in names)))
    for certainty in CERTAINTIES:
        terms = np.array(broad.term_ids)[broad.assign(annotation.probabilities, certainty)]
        terms[annotation.rejected] = NO_TERM
        record: Record = {"task": name, "certainty": certainty, "cells": query.n_obs}
        yield record | term_figures(terms, truth, int(annotation.rejected.sum()))


def _suite(title: str, tasks: Callable[[Path], Iterator[tuple[str, AnnData, AnnData]]]) -> StudySuite:
    """Return a suite that measures the terms of the cells in each task."""

    def records(context: StudyContext) -> Iterator[Record]:
        for name, reference, query in tasks(context.data):
            if context.selects(name):
                model = train_or_load(with_frequent_labels(reference), context.cache)
                yield from records_of(name, model, terms_of(reference), query)

    return StudySuite(title, records, ("task", "certainty", "cells"), ("certainty",))


SUITES = {
    "terms": _suite("Cell Ontology terms by certainty", query_tasks),
    "terms-held-out": _suite("Cell Ontology terms of held-out cells", held_out_tasks),
}
