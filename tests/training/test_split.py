"""Held-out cells are chosen by label and batch; data that cannot be split is refused before training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from anndata import AnnData
from sklearn.model_selection import train_test_split

from spikgpt.errors import LabelsError
from spikgpt.options import TrainOptions
from spikgpt.training.cells import LabelledCells, prepare
from spikgpt.training.leave_one_out import leave_one_type_out
from spikgpt.training.split import folds, hold_out, training_notes
from spikgpt.training.train import train

CELLS = np.arange(240)
LABELS = np.array(["a", "b", "c"])[CELLS % 3]
# Labels and batches that are refused before training, with the message.
REFUSED = {
    "each label in one batch": (
        LABELS,
        np.array(["x", "y", "z"])[CELLS % 3],
        r"one donor or batch alone \(a in x, b in",
    ),
    "one batch": (LABELS, np.repeat("x", 240), "All cells are of one donor or batch, 'x'"),
    "a batch for each cell": (LABELS, CELLS.astype(str), "'batch'.* holds 240 different values in 240 labelled cells"),
    "numbered cells": (LABELS, CELLS, "'batch'.* holds 240 different values in 240"),
    "cells without a batch": (
        LABELS,
        np.array([None, "x"])[np.minimum(CELLS // 5, 1)],
        r"5 cells have no value in obs\['batch'\]",
    ),
    "the labels again": (LABELS, LABELS, r"one donor or batch alone \(a in a, b in b, c in c\)"),
    "names that differ in spaces": (
        np.where(LABELS == "a", "B cell", np.where(LABELS == "b", "B  cell", "c")),
        None,
        "B  cell",
    ),
    "names that differ in underscores": (
        np.where(LABELS == "a", "B cell", np.where(LABELS == "b", "B_cell", "c")),
        None,
        "B_cell",
    ),
    "names that differ in case": (
        np.where(LABELS == "a", "beta", np.where(LABELS == "b", "Beta", "c")),
        None,
        "'Beta' and",
    ),
    "labels that are too small": (
        np.where(CELLS < 4, "a", np.where(CELLS < 7, "b", "")),
        None,
        "0 of 2 classes have 5",
    ),
}


def labelled_cells(labels: npt.NDArray[Any], batch: npt.NDArray[Any] | None = None) -> AnnData:
    codes = np.unique(labels.astype(str), return_inverse=True)[1]
    vectors = np.random.default_rng(0).standard_normal((len(labels), 12)) + 3 * np.eye(12)[codes]
    adata = AnnData(np.ones((len(labels), 1), dtype=np.float32), obsm={"X_own": vectors})
    adata.obs["type"] = labels
    if batch is not None:
        adata.obs["batch"] = batch
    return adata


@pytest.mark.parametrize("work", [train, leave_one_type_out])
@pytest.mark.parametrize("kind", REFUSED)
def test_labels_and_batches_that_cannot_be_held_out_are_refused_before_training(kind: str, work: Any) -> None:
    labels, batch, message = REFUSED[kind]
    options = TrainOptions(batch_key=None if batch is None else "batch")

    def worked(*_: Any) -> None:
        pytest.fail("the training began")

    called = {"on_epoch": worked} if work is train else {"on_type": worked}
    with pytest.raises(LabelsError, match=message):
        work(labelled_cells(labels, batch), "type", embedder="obsm:X_own", options=options, **called)


def test_the_label_column_is_refused_as_batch() -> None:
    with pytest.raises(LabelsError, match=r"obs\['type'\] is both the label key and the batch key"):
        prepare(labelled_cells(LABELS), "type", "obsm:X_own", TrainOptions(batch_key="type"))


def test_cells_that_are_left_out_need_no_batch() -> None:
    labels = np.where(CELLS < 30, "", LABELS)
    batch = np.array([None, "x", "y"])[np.where(CELLS < 30, 0, 1 + CELLS % 2)]
    prepared = prepare(labelled_cells(labels, batch), "type", "obsm:X_own", TrainOptions(batch_key="batch"))
    assert prepared.labelled.groups is not None
    assert set(prepared.labelled.groups) == {"x", "y"}


def test_types_that_cannot_be_left_out_are_named() -> None:
    adata = labelled_cells(LABELS, np.where(CELLS < 1, "x", "y"))
    with pytest.raises(LabelsError, match="None of 3 types .* leave the batch key out"):
        leave_one_type_out(adata, "type", embedder="obsm:X_own", options=TrainOptions(batch_key="batch"))
    with pytest.raises(LabelsError, match="no type 'd' with enough cells; it has a, b, c"):
        leave_one_type_out(adata, "type", types=["d"], embedder="obsm:X_own")


def test_a_stratified_split_has_every_label_on_both_sides() -> None:
    labels = np.array(["a"] * 90 + ["b"] * 8 + ["c"] * 2)
    train, held_rows = hold_out(labels, seed=1)
    assert sorted([*train, *held_rows]) == list(range(100))
    assert set(labels[train]) == set(labels[held_rows]) == {"a", "b", "c"}
    assert len(held_rows) == 30
    np.testing.assert_array_equal(hold_out(labels, seed=1)[1], held_rows)


def test_whole_groups_are_held_out() -> None:
    labels = np.array(["a", "b"] * 50)
    groups = np.repeat(["d1", "d2", "d3", "d4"], [20, 30, 30, 20])
    train, held_rows = hold_out(labels, groups)
    assert not set(groups[train]) & set(groups[held_rows])
    assert 0.2 <= len(held_rows) / 100 <= 0.4


def cells_of(counts: dict[str, dict[str, int]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return labels and groups, from the number of cells of each label in each group."""
    rows = [(label, group) for group, labels in counts.items() for label, n in labels.items() for _ in range(n)]
    labels, groups = np.array(rows).T
    return labels, groups


@pytest.mark.parametrize(
    ("counts", "held_out"),
    [
        # The rarest label has 12 held-out cells and 11 to learn from.
        ({"d1": {"a": 90, "r": 12}, "d2": {"a": 90, "r": 1}, "d3": {"a": 90, "r": 10}}, {"d1"}),
        # With d2 or d3 held out, the rarest label would have at most 2 held-out cells.
        ({"d1": {"a": 90, "r": 30}, "d2": {"a": 80, "r": 2}, "d3": {"a": 90, "r": 1}}, {"d1"}),
        ({"d1": {"a": 90, "r": 30}, "d2": {"a": 90, "r": 6}, "d3": {"a": 90, "r": 9}}, {"d1"}),
        # Label "own" occurs in d1 only and must be learned, so another donor is held out.
        ({"d1": {"a": 90, "own": 30}, "d2": {"a": 90, "r": 6}, "d3": {"a": 90, "r": 9}}, {"d2"}),
        # d1 has more than half of the cells, and d2 less than a tenth, so d3 is held out.
        ({"d1": {"a": 900, "r": 30}, "d2": {"a": 10, "r": 30}, "d3": {"a": 300, "r": 9}}, {"d3"}),
        # Any donor may be held out; the share of cells of d3 is nearest to 30%.
        ({"d1": {"a": 90, "r": 30}, "d2": {"a": 150, "r": 50}, "d3": {"a": 100, "r": 30}}, {"d3"}),
    ],
)
def test_the_rarest_label_decides_the_held_out_group(counts: dict[str, dict[str, int]], held_out: set[str]) -> None:
    labels, groups = cells_of(counts)
    train, held_rows = hold_out(labels, groups)
    assert set(groups[held_rows]) == held_out
    assert sorted([*train, *held_rows]) == list(range(len(labels)))
    # The order of cells does not matter.
    order = np.random.default_rng(0).permutation(len(labels))
    assert set(groups[order][hold_out(labels[order], groups[order])[1]]) == held_out


def test_many_groups_are_held_out_together() -> None:
    groups = np.array([f"d{cell % 60}" for cell in CELLS])
    train, held_rows = hold_out(np.array(["a", "b"])[CELLS // 60 % 2], groups)
    assert 0.2 <= len(held_rows) / 240 <= 0.4
    assert not set(groups[train]) & set(groups[held_rows])
    # Each label but one is in a single group.
    labels = np.where(CELLS < 200, np.array([f"t{cell % 20}" for cell in CELLS]), "shared")
    train, held_rows = hold_out(labels, np.array([f"d{cell % 20}" for cell in CELLS]))
    assert set(labels[held_rows]) & set(labels[train]) == {"shared"}


@pytest.mark.parametrize(("n_groups", "splits"), [(2, 2), (3, 3), (5, 5), (6, 5), (40, 5)])
def test_folds_hold_out_each_group_once(n_groups: int, splits: int) -> None:
    groups = np.array([f"d{cell % n_groups}" for cell in CELLS])
    pairs = list(folds(np.array(["a", "b"])[CELLS // n_groups % 2], groups))
    assert len(pairs) == splits
    assert sorted(np.concatenate([held_rows for _, held_rows in pairs])) == list(CELLS)
    for learned, held_rows in pairs:
        assert not set(groups[learned]) & set(groups[held_rows])
        assert len(learned) + len(held_rows) == 240


def test_a_fold_without_a_label_on_both_sides_is_left_out() -> None:
    labels, groups = cells_of({"d1": {"a": 9, "b": 9}, "d2": {"a": 9, "b": 9}, "d3": {"c": 9}})
    assert [set(groups[held_rows]) for _, held_rows in folds(labels, groups)] == [{"d1"}, {"d2"}]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes", [(1, 99), (50, 30, 20), (40, 20, 20, 10, 10)])
def test_training_cells_have_two_labels_and_held_out_cells_one_of_them(sizes: tuple[int, ...], seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(str)
    # Each group has its own label. The first and the last group also share a label.
    labels = np.char.add("own ", groups)
    labels[[0, *range(95, 100)]] = "shared"
    train, held_rows = hold_out(labels, groups, seed=seed)
    learned = set(labels[train])
    assert len(learned) > 1
    assert learned & set(labels[held_rows])


def test_one_group_cannot_be_held_out() -> None:
    with pytest.raises(LabelsError, match="All cells are of one donor or batch, 'd1'"):
        hold_out(np.array(["a", "b"] * 5), np.array(["d1"] * 10))


def test_a_label_with_one_cell_cannot_be_split() -> None:
    with pytest.raises(LabelsError, match="c: a single labelled cell"):
        hold_out(np.array(["a"] * 5 + ["b"] * 5 + ["c"]))


def test_notes_name_labels_left_out_or_not_measured() -> None:
    def notes(
        labels: npt.NDArray[Any], train: Any, held_rows: Any, *, refit: bool = True, **left_out: Any
    ) -> list[str]:
        cells = LabelledCells(CELLS, labels, None, {}, left_out.get("dropped", {}), left_out.get("unlabelled", 0))
        return training_notes(cells, train, held_rows, refit=refit)

    half = CELLS[:120], CELLS[120:]
    assert notes(LABELS, *half) == []
    many = {f"rare {n}": 4 for n in range(9)}
    dropped, unlabelled = notes(LABELS, *half, dropped=many, unlabelled=7)
    assert "rare 7 (4) and 1 more" in dropped
    assert "7 cells" in unlabelled
    for refit, end in ((True, "not measured"), (False, "will lack")):
        (only,) = notes(np.where(CELLS > 230, "d", LABELS), *half, refit=refit)
        assert "d are held out" in only
        assert end in only
    (few,) = notes(LABELS, CELLS[:222], CELLS[222:])
    assert "18 cells" in few
    assert "at least 19" in few
    assert notes(LABELS, CELLS[:221], CELLS[221:]) == []
    (missing,) = notes(LABELS, CELLS, CELLS[CELLS % 3 > 0])
    assert "No cell of a " in missing


@pytest.mark.parametrize("seed", range(8))
def test_a_split_without_groups_equals_that_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.concatenate(
        [np.array(["a", "b", "c", "d"])[random.integers(4, size=40 + 7 * seed)], [*"aabbccdde", "e"]]
    )
    size = max(round(0.3 * len(labels)), 5)
    expected = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
    for rows, other in zip(hold_out(labels, seed=seed), expected, strict=True):
        np.testing.assert_array_equal(rows, np.sort(other))
