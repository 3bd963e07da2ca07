"""Columns that colour a map: small arrays, stable colours, and untrusted texts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.report import columns as columns_module
from spikgpt.report.columns import (
    MISSING,
    Categories,
    Numbers,
    categories,
    column_of,
    label_columns,
    numbers,
    obs_columns,
    score_columns,
    shortened,
    shortened_lines,
)
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from spikgpt.types import UNKNOWN


def texts(column: Categories) -> list[str]:
    return [column.values[code] for code in column.codes]


def test_labels_are_those_of_the_annotation(annotated: Annotation) -> None:
    label, best, *_ = label_columns(annotated)
    assert texts(label) == annotated.labels.tolist()
    assert texts(best) == annotated.best_labels.tolist()
    counts = [cells for name, cells in zip(label.values, label.counts, strict=True) if name != UNKNOWN]
    assert counts == sorted(counts, reverse=True)
    assert label.values[-1] == UNKNOWN
    assert label.colors[-1] == UNKNOWN_COLOR
    assert label.colors == tuple(annotated.colors(label.values))
    assert label.codes.dtype == np.uint8


def test_a_broad_label_that_differs_is_a_column(annotation: Annotation) -> None:
    assert [column.name for column in label_columns(annotation)] == ["Label", "Best label", "Broad label"]
    same = dataclasses.replace(annotation, broad=annotation.best, broad_names=annotation.label_names)
    assert [column.name for column in label_columns(same)] == ["Label", "Best label"]


def test_an_unknown_cell_has_no_confidence(annotation: Annotation) -> None:
    confidence, typicality = score_columns(annotation)
    assert (confidence.steps[annotation.rejected] == 255).all()
    stated = confidence.steps[~annotation.rejected] / 254
    np.testing.assert_allclose(stated, annotation.confidence[~annotation.rejected], atol=0.5 / 254 + 1e-6)
    assert (typicality.steps < 255).all()


def test_values_are_in_the_order_of_their_numbers_and_missing_ones_last() -> None:
    column = categories("cluster", pd.Series(["10", "9", None, "b", "9"]))
    assert column is not None
    assert column.values == ("9", "10", "b", MISSING)
    assert texts(column) == ["10", "9", MISSING, "b", "9"]
    assert column.counts == [2, 1, 1, 1]
    assert column.colors == (*palette(3), UNKNOWN_COLOR)


def test_words_for_unknown_are_grey_and_cell_types_keep_their_colours() -> None:
    known = {"alpha": "#000001", "beta": "#000002"}
    column = categories("type", pd.Series(["beta", "alpha", "unknown", "other"]), known)
    assert column is not None
    colors = dict(zip(column.values, column.colors, strict=True))
    assert (colors["alpha"], colors["beta"], colors["unknown"]) == ("#000001", "#000002", UNKNOWN_COLOR)
    assert colors["other"] not in (*known.values(), UNKNOWN_COLOR)


def test_numbers_keep_four_digits() -> None:
    values = np.array([0.5, np.nan, -3, 1e4, np.inf])
    column = numbers("depth", values)
    assert column is not None
    assert (column.least, column.largest) == (-3, 1e4)
    restored = column.least + column.steps[[0, 2, 3]] / 65534 * (column.largest - column.least)
    np.testing.assert_allclose(restored, [0.5, -3, 1e4], atol=0.1)
    assert column.steps[[1, 4]].tolist() == [65535, 65535]
    small = numbers("depth", np.arange(1000.0), small=True)
    assert small is not None
    assert small.steps.dtype == np.uint8
    assert numbers("nothing", np.full(3, np.nan)) is None
    constant = numbers("constant", np.ones(3))
    assert constant is not None
    assert constant.steps.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.Series([1.5, 2.0, None]), Numbers),
        (pd.Series(range(1000)), Numbers),
        (pd.Series([3, 4, 3]), Categories),
        (pd.Series([True, False]), Categories),
        (pd.Series([True, None], dtype="boolean"), Categories),
        (pd.Series([1, None, 3], dtype="Int64"), Categories),
        (pd.Series([f"cell {row}" for row in range(1000)]), type(None)),
        (pd.Series([1j, 2j]), type(None)),
        (pd.Series([["a"], ["b"]]), type(None)),
        (pd.Series(["a", 1, None, 2.5]), Categories),
        (pd.Series(pd.arrays.SparseArray([0.0, 1.5, 0.0])), Numbers),
        (pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])), Categories),
    ],
)
def test_columns_get_their_kind_by_their_values(values: pd.Series[Any], kind: type) -> None:
    assert isinstance(column_of("name", values), kind)


def test_columns_of_obs_without_those_of_the_annotation(
    annotated: Annotation, query: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = query.copy()
    adata.obs["spikgpt_label"] = "alpha"
    adata.obs["barcode"] = adata.obs_names
    columns, left_out = obs_columns(annotated, adata)
    names = [column.name for column in columns]
    assert "cell_type" in names
    assert "spikgpt_label" not in names
    assert left_out == ["barcode"]
    monkeypatch.setattr(columns_module, "MOST_COLUMNS", 1)
    columns, left_out = obs_columns(annotated, adata)
    assert len(columns) == 1
    assert len(left_out) == len(names)
    assert obs_columns(annotated, None) == ([], [])


def test_untrusted_texts_are_on_one_line_and_short() -> None:
    assert shortened("two\nlines\u202e") == "two\\nlines\\u202e"
    assert len(shortened("x" * 500)) == 200
    assert shortened_lines(["plain", "é"]) == "plain\né"
    assert shortened_lines(["two\nlines", "x" * 500]).split("\n") == ["two\\nlines", f"{'x' * 199}…"]
    assert shortened_lines([]) == ""


@pytest.mark.parametrize("values", [[None] * 3, [np.nan] * 3, ["", " ", None]])
def test_a_column_of_missing_values_is_left_out(values: list[object]) -> None:
    assert column_of("empty", pd.Series(values, dtype=object)) is None
    assert column_of("empty", pd.Series(pd.Categorical(values))) is None
