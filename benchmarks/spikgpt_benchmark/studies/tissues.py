"""Check every reference against every query: the right tissue should be accepted, other tissues refused.

Each query is tested whole, as one type of 150 cells, as two types of 100 cells each, and as 50 cells. A tissue that
shares types with the tissue of the reference is neither right nor wrong. A query with too few genes of the reference
counts as refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from anndata import AnnData

from spikgpt.errors import GenesError
from spikgpt.types import Rows
from spikgpt_benchmark.studies.datasets import (
    LABEL,
    cell_line_plates,
    mouse_pancreas,
    read_study,
    split_by,
    subsample,
    with_frequent_labels,
)
from spikgpt_benchmark.studies.scoring import DEFAULT, score_query, train_or_load
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite

# Largest numbers of cells: of a reference, a whole query, one type, each of two types, and a small query.
LARGEST_REFERENCE, LARGEST_QUERY, OF_ONE, OF_TWO, FEW = 4000, 500, 150, 100, 50
# Smallest number of cells of a tested type; numbers of single types and of pairs of types from each query.
FEWEST_CELLS, TYPES, PAIRS = 50, 3, 2
# Tissues that share types: the immune tissues, and tissues that hold immune cells.
IMMUNE, WITH_IMMUNE = ("blood", "tumour", "lavage"), ("retina", "choroid", "heart", "brain", "fetal brain")
RELATED = (
    *({tissue, other} for tissue in IMMUNE for other in (*IMMUNE, *WITH_IMMUNE)),
    {"retina", "choroid"},
    {"brain", "fetal brain"},
    {"heart", "choroid"},
    {"tumour", "cell lines"},
)
# Names of cell types that many tissues have.
UBIQUITOUS = re.compile("T/NK|T cell|endothel|fibrobl|macroph|myeloid|mono|B cell|^B$|NK|stellate|Schwann|mast", re.I)
RIGHT, WRONG = "right tissue", "wrong tissue"
# Tissue and cells of each reference or query, by name.
Tissues = dict[str, tuple[str, AnnData]]


def references_and_queries(data: Path) -> tuple[Tissues, Tissues]:
    """Return references and queries by name, each with its tissue."""
    human, mice = split_by(read_study(data, "baron"), "donor"), split_by(mouse_pancreas(data), "donor")
    lines, kang = cell_line_plates(data), split_by(read_study(data, "kang"), "condition")
    lavage, retina, choroid = (split_by(read_study(data, name), "donor") for name in ("lavage", "retina", "choroid"))
    both = {
        "3k": ("blood", read_study(data, "3k")),
        "Kang CTRL": ("blood", kang["CTRL"]),
        "sorted blood": ("blood", read_study(data, "zheng")),
        "lung tumour": ("tumour", read_study(data, "lung tumour")),
        "breast tumour": ("tumour", read_study(data, "breast tumour")),
        **{name: (name, read_study(data, name)) for name in ("heart", "brain", "fetal brain")},
        "human1": ("pancreas", human["human1"]),
    }
    references = both | {
        "mouse1": ("pancreas", mice["mouse1"]),
        "CEL-seq2 lines": ("cell lines", lines["celseq2"]),
        "lavage S5": ("lavage", lavage.pop("S5")),
        "retina donor1": ("retina", retina["donor1"]),
        "choroid donor2": ("choroid", choroid.pop("donor2")),
    }
    queries = both | {
        **{name: ("pancreas", human[name]) for name in ("human2", "human3")},
        "mouse2": ("pancreas", mice["mouse2"]),
        "Kang STIM": ("blood", kang["STIM"]),
        "Drop-seq lines": ("cell lines", lines["dropseq"]),
        "lavage": ("lavage", lavage[min(lavage)]),
        "retina donor3": ("retina", retina["donor3"]),
        "choroid": ("choroid", choroid[min(choroid)]),
    }
    return references, queries


def query_parts(query: AnnData) -> Iterator[tuple[str, str, Rows]]:
    """Yield scope, cell types and rows of the whole query, of single types, of two types, and of 50 cells."""
    yield "whole", "", np.arange(query.n_obs)
    random, labels = np.random.default_rng(0), query.obs[LABEL].astype(str).to_numpy()
    names, counts = np.unique(labels, return_counts=True)
    types = names[counts >= FEWEST_CELLS]
    for name in types[:TYPES]:
        yield "one type", name, random.permutation(np.flatnonzero(labels == name))[:OF_ONE]
    for _ in range(min(PAIRS, len(types) * (len(types) - 1) // 2)):
        pair = random.choice(types, 2, replace=False)
        rows = [random.permutation(np.flatnonzero(labels == name))[:OF_TWO] for name in pair]
        yield "two types", " and ".join(pair), np.concatenate(rows)
    yield "50 cells", "", random.permutation(query.n_obs)[:FEW]


def kind_of_pair(tissue: str, other: str, types: str) -> str:
    """Return how a query's tissue fits a reference: right, related or wrong; ``types`` are the query's cell types."""
    if tissue == other:
        return RIGHT
    shared = any(UBIQUITOUS.search(name) for name in types.split(" and "))
    return "related" if {tissue, other} in RELATED or shared else WRONG


def tissue_records(context: StudyContext) -> Iterator[Record]:
    """Yield the compatibility of each reference with each other query: all its cells, one or two types, 50 cells."""
    references, queries = references_and_queries(context.data)
    for name, (tissue, cells) in references.items():
        if not context.selects(name):
            continue
        model = train_or_load(subsample(with_frequent_labels(cells.copy()), LARGEST_REFERENCE, 0), context.cache)
        for query_name, (other, query) in queries.items():
            if query_name == name:
                continue
            whole = subsample(query, LARGEST_QUERY, 1)
            for scope, types, rows in query_parts(whole):
                part = whole[np.sort(rows)].copy()
                record: Record = {"reference": name, "query": query_name, "scope": scope, "types": types}
                record |= {"kind": kind_of_pair(tissue, other, types), "cells": part.n_obs}
                try:
                    scores = score_query(model, part)
                except GenesError:
                    yield record | {"refused": True, "unknown": 1.0, "right": 0.0}
                    continue
                record |= {"refused": scores.refused, "unknown": float(scores.unknown[DEFAULT].mean())}
                record["right"] = float((scores.best == part.obs[LABEL].astype(str).to_numpy()).mean())
                yield record | (scores.compatibility.values if scores.compatibility else {})


def is_mistake(record: Record) -> bool:
    """Return True if a query of the right tissue is refused, or a query of another tissue accepted."""
    return record["refused"] == (record["kind"] == RIGHT) and record["kind"] in (RIGHT, WRONG)


SUITES = {
    "tissues": StudySuite(
        "queries of the right tissue that are refused, and of other tissues that are accepted",
        tissue_records,
        ("reference", "query", "scope", "types", "kind", "cells"),
        ("scope", "kind"),
        is_mistake,
    )
}
