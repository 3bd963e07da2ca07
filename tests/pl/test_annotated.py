"""Columns and colours of annotated cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT
from spikgpt.errors import ConfigError, DataError
from spikgpt.pl.annotated import MISSING, AnnotatedCells
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from tests.pl.simulated import annotated


def test_an_annotation_and_its_anndata_have_the_same_columns_and_colours(shipped: SpikGPT, few: AnnData) -> None:
    adata = few.copy()
    annotation = shipped.annotate(adata)
    from_adata, from_annotation = AnnotatedCells.read(adata, "spikgpt"), AnnotatedCells.read(annotation, "ignored")
    assert (from_adata.key, from_annotation.key) == ("spikgpt", "spikgpt")
    for name in ("label", "best_label", "label_broad", "spikgpt_confidence"):
        np.testing.assert_array_equal(from_adata.column(name, "color"), from_annotation.column(name, "color"))
    for name in ("label", "label_broad"):
        names = from_adata.ordered(from_adata.texts(name, "color"))
        assert sorted(names) == sorted(from_annotation.ordered(from_annotation.texts(name, "color")))
        assert from_adata.colors(names) == from_annotation.colors(names)
    expected = dict(zip(annotation.label_names, annotation.colors(annotation.label_names), strict=True))
    assert from_adata.colors(annotation.label_names) == expected


def test_colours_do_not_depend_on_the_labels_that_occur(islets: AnnData) -> None:
    whole, part = (AnnotatedCells.read(adata, "spikgpt") for adata in (islets, islets[:2].copy()))
    assert part.colors(["beta"])["beta"] == whole.colors(["alpha", "beta"])["beta"] == palette(4)[1]
    assert whole.colors(["Unknown"]) == {"Unknown": UNKNOWN_COLOR}
    # Names that are no labels get colours of their own.
    colors = whole.colors(["alpha", "new", "newer", "Unknown", MISSING])
    assert len(set(colors.values())) == 5
    assert colors["alpha"] == palette(1)[0]


def test_labels_come_in_the_order_of_the_reference_and_unknown_last() -> None:
    adata = annotated(["zeta", "alpha", "10", "9"])
    cells = AnnotatedCells.read(adata, "spikgpt")
    assert cells.ordered(cells.texts("label", "color")) == ["zeta", "alpha", "10", "9", "Unknown"]
    names = cells.ordered(pd.Categorical(["c10", "10", "11", "2", MISSING, "Unknown", "zeta"]))
    assert names == ["zeta", "10", "2", "11", "c10", "Unknown", MISSING]


def test_an_object_that_lost_its_uns_is_drawn_by_the_labels_that_occur(islets: AnnData) -> None:
    islets.uns.clear()
    cells = AnnotatedCells.read(islets, "spikgpt")
    assert cells.colors(["alpha", "beta", "Unknown"]) == {
        "alpha": palette(2)[0],
        "beta": palette(2)[1],
        "Unknown": UNKNOWN_COLOR,
    }


def test_numeric_and_unused_categories_are_accepted(islets: AnnData) -> None:
    islets.obs["group"] = pd.Categorical.from_codes(np.arange(islets.n_obs) % 3 - 1, pd.Index([10, 9, 8]))
    texts = AnnotatedCells.read(islets, "spikgpt").texts("group", "by")
    assert sorted(texts.categories) == ["10", "9", MISSING]
    assert texts[:3].tolist() == [MISSING, "10", "9"]


def test_values_that_are_missing_have_a_name(islets: AnnData) -> None:
    islets.obs["note"] = [None if row % 2 else "seen" for row in range(islets.n_obs)]
    texts = AnnotatedCells.read(islets, "spikgpt").texts("note", "by")
    assert sorted(texts.categories) == [MISSING, "seen"]
    assert (texts == MISSING).sum() == islets.n_obs // 2


def test_wrong_objects_and_columns_are_refused(islets: AnnData, annotation: Annotation) -> None:
    with pytest.raises(ConfigError, match="This is a str; expected an annotated AnnData"):
        AnnotatedCells.read("cells.h5ad", "spikgpt")
    with pytest.raises(ConfigError, match=r"no labels in 'mine_label'.*key='NAME'"):
        AnnotatedCells.read(islets, "mine")
    cells = AnnotatedCells.read(islets, "spikgpt")
    with pytest.raises(ConfigError, match="by is 'nothing', but obs has no such column; it has spikgpt_label"):
        cells.column("nothing", "by")
    with pytest.raises(ConfigError, match=r"color has the shape \(3,\); expected one value for each of 600 cells"):
        cells.column([1, 2, 3], "color")
    with pytest.raises(ConfigError, match="obsm has no 'X_tsne'; it has X_umap"):
        cells.coordinates("X_tsne")
    with pytest.raises(ConfigError, match="An Annotation has no map"):
        AnnotatedCells.read(annotation, "spikgpt").coordinates("X_umap")
    with pytest.raises(ConfigError, match=r"shape \(600, 1\); expected \(600, 2\)"):
        cells.coordinates(np.zeros((600, 1)))
    with pytest.raises(DataError, match="600 cells have NaN or infinite coordinates; remove such cells"):
        cells.coordinates(np.full((600, 2), np.nan))
    points, name = AnnotatedCells.read(annotation, "spikgpt").coordinates(np.zeros((12, 3)))
    assert points.shape == (12, 2)
    assert name == "map"
