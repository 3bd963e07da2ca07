from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from spikgpt.scoring.palette import UNKNOWN_COLOR
from spikgpt.types import UNKNOWN
from spikgpt_benchmark import figures
from spikgpt_benchmark.figures import (
    bars_picture,
    label_colors,
    labels_picture,
    time_picture,
    umap_coordinates,
)
from spikgpt_benchmark.table import ResultRow
from spikgpt_benchmark.task import BenchmarkTask


def row(name: str, accuracy: float, seconds: float, *, rejects: bool = True) -> ResultRow:
    means = {"accuracy": accuracy, "macro_f1": accuracy - 0.1, "open_set_accuracy": accuracy, "total_seconds": seconds}
    return ResultRow("islets", name, name.capitalize(), rejects, means=means, errors={"accuracy": 0.01})


def size(picture: bytes, path: Path) -> tuple[int, ...]:
    path.write_bytes(picture)
    return tuple(imread(path).shape[:2])


@pytest.mark.slow
def test_umap_coordinates_are_computed_once(task: BenchmarkTask, tmp_path: Path) -> None:
    coordinates = umap_coordinates(task, tmp_path)
    assert coordinates.shape == (task.query.n_obs, 2)
    # Beta cells are nearer to the median position of beta cells than other cells are.
    beta = task.truth == "beta"
    inside = np.linalg.norm(coordinates[beta] - np.median(coordinates[beta], axis=0), axis=1)
    outside = np.linalg.norm(coordinates[~beta] - np.median(coordinates[beta], axis=0), axis=1)
    assert np.median(inside) < np.median(outside) / 2
    kept = tmp_path / f"{task.digest}.npy"
    np.save(kept, coordinates + 1)
    np.testing.assert_array_equal(umap_coordinates(task, tmp_path), coordinates + 1)


def test_a_label_has_one_colour_and_unknown_is_grey(task: BenchmarkTask) -> None:
    colors = label_colors(task)
    assert set(colors) == {*task.truth, *task.reference.obs["label"], UNKNOWN}
    assert len(set(colors.values())) == len(colors)
    assert colors[UNKNOWN] == UNKNOWN_COLOR


def test_a_long_legend_makes_the_picture_wider(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = []
    for labels in (4, 30):
        names = np.array([f"type {number}" for number in range(labels)])
        truth = names[np.arange(300) % labels]
        colors = dict.fromkeys(names, "#123456")
        picture = labels_picture("islets", random.normal(size=(300, 2)), truth, truth, colors)
        sizes.append(size(picture, tmp_path / "labels.png"))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > sizes[0][1] + 100


def test_bars_have_room_for_every_method(tmp_path: Path) -> None:
    rows = [row(f"method {number}", 0.9 - number / 50, 1.0, rejects=number % 2 == 0) for number in range(12)]
    few, many = (size(bars_picture("islets", part), tmp_path / "bars.png") for part in (rows[:2], rows))
    assert many[0] > few[0] + 400
    gone = ResultRow("islets", "gone", "Gone", rejects=False, note="failed")
    assert bars_picture("islets", [*rows, gone]) == bars_picture("islets", rows)


def test_time_is_drawn_for_one_method_and_for_equal_methods(tmp_path: Path) -> None:
    for rows in ([row("one", 0.9, 3.0)], [row(name, 0.9, 3.0) for name in ("one", "two", "three")]):
        assert min(size(time_picture("islets", rows), tmp_path / "time.png")) >= 390


def test_heights_are_moved_apart() -> None:
    heights = figures._spaced(np.array([0.9, 0.9, 0.9, 0.02, 0.01]), 0.1)
    assert (np.diff(heights) <= -0.1 + 1e-9).all()
    assert heights.min() >= 0
    assert heights[0] == 0.9
