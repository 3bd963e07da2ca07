"""The verdict of every reference on every query: the right tissue should be accepted, and another one refused.

    python benchmarks/tissues.py --data DIR [--reference NAME ...] [--json FILE] [--cache DIR]

DIR holds the files that travel.py and pooled.py name, and heart_kanemaru_san_human.h5ad, brain_dlpfc_tran_human.h5ad,
brain_fetal_braun_human.h5ad and immune_breast_til_spectra_human.h5ad. Queries are whole, single types of 150 cells, two
types of 100 cells each, and 50 cells. A tissue that shares types with the reference's is neither right nor wrong, and a
query with too few genes of the reference counts as refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData, read_h5ad
from pooled import parts_by, sampled, zheng
from rich.table import Table
from studies import kang, mouse_pancreas, options_and_cache, parser_of, pbmc_3k
from travel import DEFAULT, console, see, trained

from spikgpt.benchmark.suites import LABEL, enough
from spikgpt.errors import GenesError
from spikgpt.types import Rows

# Cells of a reference and of a whole query at most, and of its parts; the fewest that a type needs.
LARGEST_REFERENCE, LARGEST_QUERY, OF_ONE, OF_TWO, FEW, FEWEST_CELLS = 4000, 500, 150, 100, 50, 50
# Single types and pairs of types that are asked about, of each query.
TYPES, PAIRS = 3, 2
# Tissues that share types, the immune ones among them with those that hold immune cells, and types that many have.
IMMUNE, WITH_IMMUNE = ("blood", "tumour", "lavage"), ("retina", "choroid", "heart", "brain", "fetal brain")
RELATED = (
    *({one, other} for one in IMMUNE for other in (*IMMUNE, *WITH_IMMUNE)),
    {"retina", "choroid"},
    {"brain", "fetal brain"},
    {"heart", "choroid"},
    {"tumour", "cell lines"},
)
EVERYWHERE = re.compile("T/NK|T cell|endothel|fibrobl|macroph|myeloid|mono|B cell|^B$|NK|stellate|Schwann|mast", re.I)
SCOPES, KINDS = ("whole", "two types", "one type", "50 cells"), ("right", "wrong")
# Numbers that are printed of a query of the right tissue that is refused, and of another tissue that passes.
VALUES = ("right", "similarity", "correlation", "mean_contrast", "own_markers", "other_markers", "familiarity_loss")


def references_and_queries(data: Path) -> tuple[dict[str, tuple[str, AnnData]], dict[str, tuple[str, AnnData]]]:
    """Return references and queries by name, each with its tissue."""
    human = parts_by(read_h5ad(data / "pancreas_baron_human.h5ad"), "donor")
    mice = parts_by(mouse_pancreas(data), "donor")
    lines = parts_by(read_h5ad(data / "lung_cancer_celllines_scmixology.h5ad"), "study")
    patients = parts_by(read_h5ad(data / "lung_balf_liao_human.h5ad"), "donor")
    retina = parts_by(read_h5ad(data / "retina_voigt_human.h5ad"), "donor")
    choroid = parts_by(read_h5ad(data / "rpe_choroid_voigt_human.h5ad"), "donor")
    treated, blood, few = parts_by(kang(data), "condition"), pbmc_3k(data), zheng(data)
    both = {
        "3k": ("blood", blood),
        "Kang CTRL": ("blood", treated["CTRL"]),
        "sorted blood": ("blood", few),
        "lung tumour": ("tumour", read_h5ad(data / "lung_nsclc_zilionis300.h5ad")),
        "breast tumour": ("tumour", read_h5ad(data / "immune_breast_til_spectra_human.h5ad")),
        "heart": ("heart", read_h5ad(data / "heart_kanemaru_san_human.h5ad")),
        "brain": ("brain", read_h5ad(data / "brain_dlpfc_tran_human.h5ad")),
        "fetal brain": ("fetal brain", read_h5ad(data / "brain_fetal_braun_human.h5ad")),
        "human1": ("pancreas", human["human1"]),
    }
    references = both | {
        "mouse1": ("pancreas", mice["mouse1"]),
        "CEL-seq2 lines": ("cell lines", lines["scmix_sc_celseq2"]),
        "lavage S5": ("lavage", patients.pop("S5")),
        "retina donor1": ("retina", retina["donor1"]),
        "choroid donor2": ("choroid", choroid.pop("donor2")),
    }
    queries = both | {
        "human2": ("pancreas", human["human2"]),
        "human3": ("pancreas", human["human3"]),
        "mouse2": ("pancreas", mice["mouse2"]),
        "Kang STIM": ("blood", treated["STIM"]),
        "Drop-seq lines": ("cell lines", lines["scmix_sc_dropseq"]),
        "lavage": ("lavage", patients[min(patients)]),
        "retina donor3": ("retina", retina["donor3"]),
        "choroid": ("choroid", choroid[min(choroid)]),
    }
    return references, queries


def parts_of(query: AnnData) -> Iterator[tuple[str, str, Rows]]:
    """Give the query and parts of it: their scope, their types and their rows."""
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


def kind_of(one: str, other: str, types: str) -> str:
    """Say how a reference's tissue and a query's compare, for a query of such types."""
    if one == other:
        return "right"
    shared = any(EVERYWHERE.search(name) for name in types.split(" and "))
    return "related" if {one, other} in RELATED or shared else "wrong"


def measured(data: Path, cache: Path, names: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Ask each reference about each query."""
    references, queries = references_and_queries(data)
    for name, (tissue, cells) in references.items():
        if names and name not in names:
            continue
        model = trained(sampled(enough(cells.copy()), LARGEST_REFERENCE, 0), cache)
        for asked, (other, query) in queries.items():
            if asked == name:
                continue
            whole = sampled(query, LARGEST_QUERY, 1)
            for scope, types, rows in parts_of(whole):
                part = whole[np.sort(rows)].copy()
                row: dict[str, Any] = {"reference": name, "query": asked, "scope": scope, "types": types}
                row |= {"cells": part.n_obs, "kind": kind_of(tissue, other, types)}
                try:
                    seen = see(model, part)
                except GenesError:
                    yield row | {"refused": True, "unknown": 1.0, "right": 0.0}
                    continue
                row["unknown"] = float(seen.unknown[DEFAULT].mean())
                row["right"] = float((seen.best == part.obs[LABEL].astype(str).to_numpy()).mean())
                if seen.verdict:
                    row |= {"refused": not seen.verdict.usable, "evidence": seen.verdict.evidence}
                    row |= seen.verdict.values
                yield row


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print how many queries are refused, and which were accepted or refused by mistake."""
    table = Table("queries", "right", "refused", "another tissue", "passed", "Unknown", title="Right and wrong tissues")
    for scope in SCOPES:
        right, wrong = ([row for row in rows if (row["scope"], row["kind"]) == (scope, kind)] for kind in KINDS)
        refused = sum(bool(row.get("refused")) for row in right)
        passed = sum(not row.get("refused") for row in wrong)
        unknown = f"{np.mean([row['unknown'] for row in wrong]):.3f}" if wrong else "-"
        table.add_row(scope, str(len(right)), str(refused), str(len(wrong)), str(passed), unknown)
    console.print(table)
    for row in rows:
        if row["kind"] in KINDS and bool(row.get("refused")) == (row["kind"] == "right"):
            shown = ", ".join(f"{name} {row[name]:.2f}" for name in VALUES if name in row)
            console.print(
                f"{row['kind']}: {row['query']} {row['types']} ({row['scope']}) by {row['reference']}: {shown}"
            )


def main() -> None:
    """Ask the references, print the table, and write what is measured after each query."""
    parser = parser_of(__doc__)
    parser.add_argument("--reference", nargs="+", help="names of references; by default all")
    rows = list[dict[str, Any]]()
    with options_and_cache(parser) as (options, cache):
        for row in measured(options.data, cache, options.reference):
            rows.append(row)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
