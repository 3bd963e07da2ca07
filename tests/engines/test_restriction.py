"""A reference can be restricted to some labels; cells of excluded types become Unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from hypothesis import given
from hypothesis import strategies as st

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.engines.restriction import excluded_labels, find_labels, restrict
from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions
from spikgpt.types import UNKNOWN
from tests.conftest import QUERY_FILE, aligned

NAMES = ("alpha", "B cell", "CD4-positive, alpha-beta T cell", "CD4-positive", "T cell, naive, CD8")
ISLETS = ["alpha", "beta", "delta", "gamma"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["alpha"], ["alpha"]),
        (["alpha,B cell"], ["alpha", "B cell"]),
        (["alpha, B cell ", "CD4-positive"], ["alpha", "B cell", "CD4-positive"]),
        (["CD4-positive, alpha-beta T cell"], ["CD4-positive, alpha-beta T cell"]),
        (["CD4-positive, alpha-beta T cell,alpha"], ["CD4-positive, alpha-beta T cell", "alpha"]),
        (["CD4-positive,alpha"], ["CD4-positive", "alpha"]),
        ([], []),
    ],
)
def test_texts_are_divided_into_labels(texts: list[str], expected: list[str]) -> None:
    assert find_labels(texts, NAMES, "labels") == expected


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
def test_joined_labels_are_divided_again(labels: list[str]) -> None:
    names = find_labels([",".join(labels)], NAMES, "labels")
    # Only one division is possible, because " alpha-beta T cell" alone is not in ``NAMES``.
    assert names == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alfa", r"^labels names 'alfa', which is not a label of the reference\. Did you mean 'alpha'\?$"),
        ("ALPHA", "Did you mean 'alpha'"),
        ("alpha,b-cell", "names 'b-cell'.* Did you mean 'B cell'"),
        ("xyz", "is not a label of the reference. Expected one of alpha, B cell, "),
        ("", "names ''"),
    ],
)
def test_other_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_labels([text], NAMES, "labels")


def test_too_few_labels_are_refused(shipped: SpikGPT, few: AnnData) -> None:
    every = list(shipped.reference.labels.names)
    for labels, exclude in ((["beta"], None), (None, every), (["beta", "alpha"], ["alpha"])):
        with pytest.raises(ConfigError, match="expected at least 2"):
            shipped.annotate(few.copy(), labels=labels, exclude=exclude)


def test_naming_all_labels_restricts_nothing(shipped: SpikGPT) -> None:
    every = list(shipped.reference.labels.names)
    for options in (AnnotateOptions(), AnnotateOptions(labels=every), AnnotateOptions(exclude=[])):
        assert restrict(shipped.reference, shipped.engine, options) == (shipped.reference, shipped.engine)


@pytest.mark.parametrize("labels", [["beta", "alpha"], ["ductal", "acinar", "delta"]])
def test_probabilities_and_energies_are_those_of_fewer_logits(
    shipped: SpikGPT, few: AnnData, labels: Sequence[str]
) -> None:
    reference, engine = restrict(shipped.reference, shipped.engine, AnnotateOptions(labels=list(labels)))
    cells = aligned(shipped.reference, few)
    scale = engine.embedding.fit_scale(cells, "reference", engine.run).scale
    whole, part = shipped.engine.run(cells, scale), engine.run(cells, scale)
    rows = [shipped.reference.labels.names.index(name) for name in labels]
    temperature = shipped.reference.thresholds.temperature
    # Logits are temperature * log(probability), up to a constant per cell; the energy gives the constant.
    logits = temperature * np.log(whole.probabilities.astype(np.float64))
    logits += (whole.energies - np.log(np.exp(logits).sum(axis=1)))[:, None]
    np.testing.assert_allclose(part.energies, np.log(np.exp(logits[:, rows]).sum(axis=1)), rtol=1e-4, atol=1e-4)
    expected = np.exp(logits[:, rows] / temperature)
    np.testing.assert_allclose(part.probabilities[:, rows], expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    assert (np.delete(part.probabilities, rows, axis=1) == 0).all()
    np.testing.assert_array_equal(part.vectors, whole.vectors)
    excluded = [name for name in reference.labels.names if name not in labels]
    assert excluded_labels(reference, engine) == tuple(excluded)


def test_a_restriction_gives_allowed_labels(shipped: SpikGPT, query: AnnData, tmp_path: Path) -> None:
    allowed = {"alpha", "beta", "ductal", "endothelial"}
    adata, whole = query.copy(), shipped.annotate(query.copy())
    annotation = shipped.annotate(adata, labels=["alpha,beta", "ductal", "endothelial"])
    assert set(annotation.labels) <= {*allowed, UNKNOWN}
    excluded = [name for name in whole.label_names if name not in allowed]
    rows = [whole.label_names.index(name) for name in excluded]
    assert (annotation.probabilities[:, rows] == 0).all()
    np.testing.assert_allclose(annotation.probabilities.sum(axis=1), 1, atol=1e-5)
    assert whole.excluded_labels == ()
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    assert read_h5ad(tmp_path / "labelled.h5ad").uns["spikgpt"]["excluded_labels"].tolist() == excluded


def test_cells_of_an_excluded_type_become_unknown(shipped: SpikGPT) -> None:
    cells = read_cells(QUERY_FILE)
    evaluation = shipped.evaluate(cells, "cell_type", exclude=["alpha"])
    assert evaluation.unseen_labels["alpha"] == (cells.obs["cell_type"] == "alpha").sum()
    assert evaluation.unseen_unknown_fraction is not None
    assert evaluation.unseen_unknown_fraction > 0.5
    assert evaluation.known_unknown_fraction < 0.15
    assert evaluation.auroc_unknown is not None
    assert evaluation.auroc_unknown > 0.9
