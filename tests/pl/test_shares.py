"""Composition of samples, and agreement of labels with another column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from spikgpt import Annotation, pl
from spikgpt.errors import ConfigError
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from tests.pl.simulated import HOSTILE, annotated


def rows_of(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def bars(axes: Axes) -> dict[str, list[float]]:
    """Return the widths of the bars by colour, from the first row to the last."""
    widths: dict[str, list[float]] = {}
    for bar in axes.patches:
        assert isinstance(bar, Rectangle)
        widths.setdefault(to_hex(bar.get_facecolor()), []).append(bar.get_width())
    return widths


def test_bars_are_the_shares_of_labels_in_each_batch(islets: AnnData) -> None:
    axes = pl.composition(islets)  # by default, the samples are the batches of the annotation
    assert rows_of(axes) == ["d1 (200)", "d10 (200)", "d9 (200)"]
    expected = pd.crosstab(islets.obs["donor"], islets.obs["spikgpt_label"], normalize="index")
    widths = bars(axes)
    for name, color in zip(("alpha", "beta", "delta", "gamma", "Unknown"), (*palette(4), UNKNOWN_COLOR), strict=True):
        np.testing.assert_allclose(widths[color], expected[name].reindex(["d1", "d10", "d9"]))
    counts = bars(pl.composition(islets, "donor", counts=True))
    assert sum(sum(row) for row in counts.values()) == islets.n_obs


def test_without_batches_all_cells_are_one_bar(annotation: Annotation) -> None:
    axes = pl.composition(annotation, title="two labels")
    assert rows_of(axes) == ["all cells (12)"]
    assert bars(axes) == {palette(2)[0]: [0.25], palette(2)[1]: [0.25], UNKNOWN_COLOR: [0.5]}
    assert axes.get_title() == "two labels"
    assert rows_of(pl.composition(annotation, ["a"] * 5 + ["b"] * 7)) == ["a (5)", "b (7)"]


def test_batches_of_several_columns_are_joined(islets: AnnData) -> None:
    islets.uns["spikgpt"]["batch_key"] = "donor x leiden"
    islets.obs["leiden"] = pd.Categorical((np.arange(islets.n_obs) % 2).astype(str))
    assert rows_of(pl.composition(islets))[:3] == ["d1 x 0 (100)", "d1 x 1 (100)", "d10 x 0 (100)"]
    islets.uns["spikgpt"]["batch_key"] = "inferred"
    assert rows_of(pl.composition(islets)) == ["all cells (600)"]


def test_rows_of_a_heat_map_are_shares_of_a_label(islets: AnnData) -> None:
    axes = pl.agreement(islets, "leiden")
    (image,) = axes.get_images()
    shares = np.asarray(image.get_array()) / 100
    expected = pd.crosstab(islets.obs["spikgpt_label"], islets.obs["leiden"], normalize="index")
    columns = [text.get_text() for text in axes.get_xticklabels()]
    assert sorted(columns) == ["0", "1", "2"]
    rows = [row.split(" (")[0] for row in rows_of(axes)]
    assert rows == ["alpha", "beta", "delta", "gamma", "Unknown"]
    np.testing.assert_allclose(shares, expected.loc[rows, columns].to_numpy())
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == [f"{100 * share:.0f}" for share in shares.ravel() if share >= 0.005]
    assert axes.get_xlabel() == "leiden"
    # The colour bar is in percent, as the printed numbers are.
    assert image.get_clim() == (0, 100)
    assert image.colorbar is not None
    assert image.colorbar.ax.get_ylabel() == "% of the label's cells"


def test_columns_follow_the_labels_that_have_their_cells(islets: AnnData) -> None:
    labels = islets.obs["spikgpt_label"].astype(str)
    islets.obs["author"] = labels.map({"alpha": "z", "beta": "y", "delta": "x", "gamma": "w", "Unknown": "v"})
    axes = pl.agreement(islets, "author")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["z", "y", "x", "w", "v"]


def test_clusters_of_the_annotation_are_the_default(islets: AnnData) -> None:
    with pytest.raises(ConfigError, match=r"no clusters; name a column of obs, such as by='leiden'"):
        pl.agreement(islets)
    islets.obs["spikgpt_cluster"] = islets.obs["leiden"]
    assert pl.agreement(islets).get_xlabel() == "cluster"


@pytest.mark.parametrize("draw", [pl.composition, pl.agreement])
def test_hostile_names_do_no_harm(draw: Any, tmp_path: Path) -> None:
    adata = annotated(HOSTILE)
    adata.obs["sample"] = np.array(HOSTILE, dtype=object)[np.arange(adata.n_obs) % len(HOSTILE)]
    for kind in ("png", "svg", "pdf"):
        axes = draw(adata, "sample", title=HOSTILE[0], save=tmp_path / f"picture.{kind}")
    assert len(rows_of(axes)) >= len(HOSTILE)
    assert b"\x1b" not in (tmp_path / "picture.svg").read_bytes()
    assert b"<b>bold" not in (tmp_path / "picture.svg").read_bytes()


@pytest.mark.parametrize("draw", [pl.composition, pl.agreement])
def test_columns_of_too_many_values_are_refused(draw: Any, islets: AnnData) -> None:
    with pytest.raises(ConfigError, match="by has 600 different values; expected 1 to 300"):
        draw(islets, islets.obs_names.to_numpy())


def test_a_hundred_labels_have_a_picture_of_a_bounded_size() -> None:
    adata = annotated([f"cell type number {row}" for row in range(100)], 2000)
    for axes in (pl.composition(adata), pl.agreement(adata, "donor")):
        width, height = axes.figure.get_size_inches()  # type: ignore[union-attr]
        assert 3 < width < 31
        assert 3 < height < 31
