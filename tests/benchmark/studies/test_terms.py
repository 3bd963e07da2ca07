"""Shares of cells with a right, an exact, a broader, a wrong or no Cell Ontology term."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from spikgpt_benchmark.studies.datasets import LABEL
from spikgpt_benchmark.studies.terms import BLOOD_TERMS, depth_of, term_figures, terms_of, with_terms

CD4, CD8, T, B = BLOOD_TERMS["CD4 T"], BLOOD_TERMS["CD8 T"], "CL:0000084", BLOOD_TERMS["B"]


def test_a_term_is_right_if_it_is_the_true_term_or_above_it() -> None:
    given = np.array([CD4, T, CD8, B, "unknown"])
    figures = term_figures(given, np.array([CD4] * 5), 1)
    shares = {
        name: figures[name] for name in ("right", "exact", "above", "wrong", "Unknown", "Unknown by the OOD rule")
    }
    assert shares == pytest.approx(
        {"right": 0.4, "exact": 0.2, "above": 0.2, "wrong": 0.4, "Unknown": 0.2, "Unknown by the OOD rule": 0.2}
    )
    assert figures["right of those with a term"] == pytest.approx(0.5)
    assert figures["levels above the true term"] == (depth_of(CD4) - depth_of(T)) / 2 > 0
    nothing = term_figures(given[4:], np.array([CD4]), 0)
    assert nothing["right of those with a term"] is None


def test_the_terms_of_a_study_are_those_in_its_column(few: AnnData) -> None:
    terms = terms_of(few)
    assert terms["beta"] == "CL:0000169"
    kept = with_terms(few, {"beta": terms["beta"]})
    assert set(kept.obs[LABEL]) == {"beta"}
    assert set(kept.obs["cell_ontology_id"]) == {"CL:0000169"}
