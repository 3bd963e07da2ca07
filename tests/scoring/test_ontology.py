"""Uncertain cells get the Cell Ontology term that their labels share, if the term is specific enough."""

from __future__ import annotations

import gzip
import hashlib
import time
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.ontology import NO_TERM, BroadLabels, current_id, name_of, ontology, term_of
from spikgpt.types import UNKNOWN

BLOOD = {
    "CD4 T": "CL:0000624",
    "CD8 T": "CL:0000625",
    "NK": "CL:0000623",
    "B": "CL:0000236",
    "CD14 Mono": "CL:0001054",
    "CD16 Mono": "CL:0002396",
    "DC": "CL:0000451",
    "Mk": "CL:0000233",
}
PANCREAS = {
    "acinar": "CL:0002064",
    "alpha": "CL:0000171",
    "beta": "CL:0000169",
    "ductal": "CL:0002079",
    "activated_stellate": "CL:0002410",
    "quiescent_stellate": "CL:0002410",
    "mast": "CL:0000097",
}


def broad_labels(labels: dict[str, str | None]) -> BroadLabels:
    return BroadLabels.from_labels(LabelMap(tuple(labels), tuple(labels.values())))


def broad(labels: dict[str, str | None], certainty: float = 0.95, **probabilities: float) -> str:
    row = np.array([[probabilities.get(name.replace(" ", "_"), 0.0) for name in labels]])
    among = broad_labels(labels)
    return str(among.names[among.assign(row, certainty)[0]])


@pytest.mark.parametrize(
    ("labels", "probabilities", "expected"),
    [
        (BLOOD, {"CD4_T": 0.96, "Mk": 0.04}, "CD4 T"),
        (BLOOD, {"CD4_T": 0.5, "CD8_T": 0.5}, "mature alpha-beta T cell"),
        (BLOOD, {"CD4_T": 0.5, "CD8_T": 0.46, "Mk": 0.04}, "mature alpha-beta T cell"),
        (BLOOD, {"CD8_T": 0.6, "NK": 0.4}, "lymphocyte"),
        (BLOOD, {"CD14_Mono": 0.7, "CD16_Mono": 0.3}, "CD14-positive monocyte"),
        (BLOOD, {"CD14_Mono": 0.6, "DC": 0.4}, "mononuclear phagocyte"),
        (BLOOD, {"B": 0.5, "CD4_T": 0.5}, "lymphocyte"),
        (BLOOD, {"B": 0.5, "Mk": 0.5}, UNKNOWN),
        (PANCREAS, {"alpha": 0.6, "beta": 0.4}, "pancreatic endocrine cell"),
        (PANCREAS, {"acinar": 0.6, "ductal": 0.4}, "epithelial cell of exocrine pancreas"),
        (PANCREAS, {"acinar": 0.6, "beta": 0.4}, "epithelial cell of pancreas"),
        (PANCREAS, {"activated_stellate": 0.6, "quiescent_stellate": 0.4}, "pancreatic stellate cell"),
        (PANCREAS, {"beta": 0.6, "mast": 0.4}, UNKNOWN),
    ],
)
def test_uncertain_cells_get_the_shared_term(
    labels: dict[str, str | None], probabilities: dict[str, float], expected: str
) -> None:
    assert broad(dict(labels), **probabilities) == expected


def test_labels_without_ids_stay_as_they_are() -> None:
    assert broad({"x": None, "y": None}, x=0.6, y=0.4) == "x"
    # Only "CD4 T" has an id, so it shares no term with "y"; cells of "y" keep that name.
    assert broad({"CD4 T": BLOOD["CD4 T"], "y": None}, CD4_T=0.4, y=0.6) == "y"
    assert broad({"CD4 T": BLOOD["CD4 T"], "y": None}, CD4_T=0.6, y=0.4) == UNKNOWN
    assert broad({"CD4 T": "CL:9999999", "y": None}, CD4_T=0.6, y=0.4) == "CD4 T"


def test_a_label_covers_the_labels_of_its_subtypes() -> None:
    assert broad({"T": "CL:0000084", "CD4 T": BLOOD["CD4 T"]}, T=0.5, CD4_T=0.5) == "T cell"


def test_the_term_of_a_cell_does_not_depend_on_other_cells() -> None:
    random = np.random.default_rng(0)
    rows = random.dirichlet(np.full(len(BLOOD), 0.2), 300)
    rows[0] = 0  # a cell without counts
    among = broad_labels(dict(BLOOD))
    codes = among.assign(rows, 0.95)
    assert codes.tolist() == [among.assign(row[None], 0.95)[0] for row in rows]
    assert among.names[codes[0]] == UNKNOWN
    assert len(set(codes.tolist())) > 8
    assert among.assign(rows[:0], 0.95).shape == (0,)


@pytest.mark.parametrize(
    ("certainty", "expected"),
    [
        (0.0, "CD4 T"),
        (0.5, "CD4 T"),
        (0.8, "mature alpha-beta T cell"),
        (0.9, "lymphocyte"),
        (0.95, "lymphocyte"),
        (0.99, "mononuclear leukocyte"),
        (0.9999, UNKNOWN),
    ],
)
def test_the_term_is_broader_at_a_higher_certainty(certainty: float, expected: str) -> None:
    probabilities = {"CD4_T": 0.55, "CD8_T": 0.3, "NK": 0.11, "CD14_Mono": 0.035, "Mk": 0.005}
    assert broad(dict(BLOOD), certainty, **probabilities) == expected


probabilities_of_cells = st.lists(st.floats(0.001, 1), min_size=len(BLOOD), max_size=len(BLOOD))


@given(probabilities_of_cells, st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_term_is_the_most_specific_certain_term(weights: list[float], first: float, second: float) -> None:
    row = np.array([weights]) / np.sum(weights)
    among, table = broad_labels(dict(BLOOD)), ontology()
    low, high = sorted((first, second))
    terms = [among.term_ids[among.assign(row, certainty)[0]] for certainty in (low, high)]
    best = list(BLOOD.values())[int(row.argmax())]
    for certainty, term in zip((low, high), terms, strict=True):
        # The probability of a term is the sum over the labels at or below the term.
        share = {
            above: sum(p for p, id in zip(row[0], BLOOD.values(), strict=True) if above in table.above(id))
            for above in table.above(best)
        }
        if term != NO_TERM:
            assert term in table.above(best)
            assert share[term] > certainty - 1e-9
        # No informative term between the label and the chosen term reaches the certainty.
        below = [a for a in share if term == NO_TERM or (term in table.above(a) and a != term)]
        informative = [a for a in below if table.below.get(a, 0) <= 600]
        assert all(share[a] < certainty + 1e-9 for a in informative)
    if NO_TERM not in terms:
        assert table.below.get(terms[0], 0) <= table.below.get(terms[1], 0)
    assert terms[0] != NO_TERM or terms[1] == NO_TERM


def test_ids_that_cellxgene_refuses_become_unknown() -> None:
    assert [term_of(id) for id in ("CL:0000169", None, "", "CL:9999999", "CL:0000255", "CL:0000548")] == [
        "CL:0000169",
        *["unknown"] * 5,
    ]
    assert (name_of("CL:0000169"), name_of(NO_TERM)) == ("type B pancreatic cell", "unknown")


def test_obsolete_ids_are_replaced() -> None:
    content = (files("spikgpt") / "resources" / "cell_ontology_replaced.tsv.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "39a4d77e3dc6bced5691e35bc36e2b141d103b1e6e20dd7a97058a027e3d1741"
    replaced = dict(line.split("\t") for line in gzip.decompress(content).decode().splitlines())
    assert len(replaced) == 127
    # Each old id is unknown to the table, and each new id is in the table.
    for old, new in replaced.items():
        assert f"CL:{old}" not in ontology().names
        assert f"CL:{new}" in ontology().names
    assert current_id("CL:0000054") == "CL:0000062"
    assert (term_of("CL:0000054"), term_of("CL:0000139")) == ("CL:0000062", "CL:0000059")
    assert (current_id("CL:0000169"), current_id("CL:9999999"), current_id(None)) == ("CL:0000169", "CL:9999999", None)
    labels = broad_labels({"old": "CL:0000054", "new": "CL:0000062", "other": "CL:0000169"})
    assert labels.term_ids[:3] == ("CL:0000062", "CL:0000062", "CL:0000169")
    assert labels.are_terms.all()
    np.testing.assert_array_equal(labels.under[0], labels.under[1])


def test_a_label_named_like_a_term_keeps_its_own_id() -> None:
    labels = {"CD4 T": BLOOD["CD4 T"], "CD8 T": BLOOD["CD8 T"], "mature alpha-beta T cell": None}
    among = broad_labels(labels)
    codes = among.assign(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]), 0.95)
    assert [among.names[code] for code in codes] == ["mature alpha-beta T cell"] * 2
    assert [among.term_ids[code] for code in codes] == ["CL:0000791", "unknown"]


def test_the_table_equals_the_published_table() -> None:
    content = (files("spikgpt") / "resources" / "cell_ontology.tsv.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    table = ontology()
    assert len(table.names) == 3324
    assert table.names["CL:0000169"] == "type B pancreatic cell"
    assert table.above("CL:0000624") >= {"CL:0000084", "CL:0000542", "CL:0000000"}
    assert table.below["CL:0000738"] == 572


SHA256 = "6ddf9b8b667a4df2e20b532bda8cbc9f45514650ddbd26d70052b7c0ad09dda9"


def test_many_labels_take_little_time() -> None:
    terms = list(ontology().names)
    names = tuple(f"label {index}" for index in range(10_000))
    labels = LabelMap(names, tuple(terms[index % len(terms)] for index in range(len(names))))
    start = time.process_time()
    result = BroadLabels.from_labels(labels)
    assert time.process_time() - start < 2
    assert result.under.shape == (len(names), len(result.codes))
    assert result.under[:, -1].all()
