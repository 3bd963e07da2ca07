"""Labels and batches are read from a column of obs, and an unsuitable column is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt.cells.obs import batches_of, check_trainable, counted, labels_of
from spikgpt.errors import LabelsError


def annotated(**columns: Any) -> AnnData:
    length = len(next(iter(columns.values())))
    obs = pd.DataFrame(columns, index=[f"cell {row}" for row in range(length)])
    return AnnData(np.ones((length, 1), dtype=np.float32), obs=obs)


def test_labels_are_read(few: AnnData) -> None:
    labels, labelled = labels_of(few, "cell_type")
    assert labels.tolist() == few.obs["cell_type"].tolist()
    assert labels.dtype.kind == "U"
    assert labelled.all()


def test_missing_labels_are_masked() -> None:
    cells = annotated(cell_type=["alpha ", None, "", "nan", "NA", "Unknown", "beta", np.nan])
    labels, labelled = labels_of(cells, "cell_type")
    assert labels.tolist() == ["alpha", "", "", "", "", "", "beta", ""]
    assert labelled.tolist() == [True, False, False, False, False, False, True, False]


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical(["1", None, "2"]),
        pd.array([1, None, 2], dtype="Int64"),
        np.array([1.0, np.nan, 2.0]),
        pd.array(["1", None, "2"], dtype="string"),
    ],
)
def test_labels_of_any_type_are_read(column: Any) -> None:
    labels, labelled = labels_of(annotated(cluster=column), "cluster")
    assert labels.tolist() == ["1", "", "2"]
    assert labelled.tolist() == [True, False, True]


def test_boolean_labels_are_read() -> None:
    assert labels_of(annotated(doublet=[True, False]), "doublet")[0].tolist() == ["True", "False"]


def test_a_missing_label_column_is_refused() -> None:
    cells = annotated(cell_type=["alpha"], donor=["1"])
    with pytest.raises(
        LabelsError, match=r"^obs has no column 'celltype'; it has cell_type, donor\. Did you mean 'cell_type'\?$"
    ):
        labels_of(cells, "celltype")
    with pytest.raises(LabelsError, match=r"^obs has no column 'zzz'; it has cell_type, donor\. Name one of these\.$"):
        labels_of(cells, "zzz")


@pytest.mark.parametrize("column", [np.linspace(0, 1, 200), np.arange(200)])
def test_measurements_are_refused_as_labels(column: npt.NDArray[Any]) -> None:
    cells = annotated(n_counts=column, cell_type=["alpha"] * 200)
    expected = (
        r"^obs\['n_counts'\] holds 200 different numbers in 200 cells: a measurement, not labels\. "
        r"Choose a column of cell types; obs has n_counts, cell_type\.$"
    )
    with pytest.raises(LabelsError, match=expected):
        labels_of(cells, "n_counts")


def test_a_column_without_labels_is_refused() -> None:
    cells = annotated(cell_type=["unknown", "", "nan"])
    with pytest.raises(LabelsError, match=r"^obs\['cell_type'\] holds no label in any of 3 cells; choose another"):
        labels_of(cells, "cell_type")


def test_small_classes_are_left_out() -> None:
    labels = np.array(["alpha"] * 5 + ["beta"] * 6 + ["delta"] * 4)
    assert check_trainable(labels) == {"delta": 4}
    assert check_trainable(labels, minimum_cells=4) == {}


def test_too_few_classes_are_refused() -> None:
    labels = np.array(["alpha"] * 50 + ["beta"] * 4)
    expected = (
        r"^1 of 2 classes have 5 cells or more; at least 2 are needed\. Largest: alpha \(50\), beta \(4\)\. "
        r"Add cells, or join or choose other labels\.$"
    )
    with pytest.raises(LabelsError, match=expected):
        check_trainable(labels)
    with pytest.raises(LabelsError, match=r"^0 of 0 classes have 5 cells or more.*Largest: none"):
        check_trainable(labels[:0])


def test_label_counts_are_sorted_by_size_and_name() -> None:
    counts = counted(np.array(["delta", "beta", "alpha", "delta", "beta", "delta"]))
    assert list(counts.items()) == [("delta", 3), ("beta", 2), ("alpha", 1)]
    assert list(counted(np.array(["b", "a", "a", "b"]))) == ["a", "b"]
    assert counted(np.array([], dtype=np.str_)) == {}


@pytest.mark.parametrize("label", ["T\ncell", "T\r\n  cell", "T\u00a0cell", " T\tcell\n"])
def test_a_label_is_one_line(label: str) -> None:
    labels, _ = labels_of(
        AnnData(np.ones((2, 1)), obs=pd.DataFrame({"kind": [label, "a\x07b"]}, index=["1", "2"])), "kind"
    )
    assert labels.tolist() == ["T cell", "a\\x07b"]


def cells_with(**columns: Any) -> AnnData:
    """Return 1000 cells with labels, a numeric column and the given obs columns."""
    random = np.random.default_rng(0)
    return annotated(cell_type=random.choice(["alpha", "beta"], 1000), n_genes=random.random(1000), **columns)


def test_without_a_column_that_names_batches_all_cells_are_one_batch() -> None:
    for cells, key in ((cells_with(), "auto"), (cells_with(donor=["one"] * 1000), "auto"), (cells_with(), None)):
        batches = batches_of(cells, key)
        assert (batches.key, batches.n_batches) == (None, 1)
        assert batches.codes.shape == (1000,)


@pytest.mark.parametrize("name", ["batch", "Batch", "sample_id", "orig.ident", "donor_id", "Condition"])
def test_a_column_that_names_batches_is_recognised(name: str) -> None:
    batches = batches_of(cells_with(**{name: np.repeat(["a", "b"], 500)}), "auto")
    assert (batches.key, batches.n_batches) == (name, 2)
    assert batches.codes.tolist() == [0] * 500 + [1] * 500


def test_columns_are_combined_while_batches_stay_large() -> None:
    donors, conditions = np.repeat(["d1", "d2"], 500), np.tile(["control", "treated"], 500)
    batches = batches_of(cells_with(donor=donors, condition=conditions), "auto")
    assert (batches.key, batches.n_batches) == ("donor x condition", 4)
    # Wells of 12 or 13 cells are too small for batches. The column patient repeats donor, so the key does not name it.
    wells = [f"well {row % 80}" for row in range(1000)]
    batches = batches_of(cells_with(batch=wells, donor=donors, patient=donors), "auto")
    assert (batches.key, batches.n_batches) == ("donor", 2)


def test_small_batches_are_joined() -> None:
    names = ["large"] * 900 + ["small"] * 40 + ["smaller"] * 30 + [None] * 30
    batches = batches_of(cells_with(donor=pd.Categorical(names)), "donor")
    assert batches.n_batches == 2
    assert len(set(batches.codes[:900].tolist())) == len(set(batches.codes[900:].tolist())) == 1


def test_a_column_of_batches_can_be_named() -> None:
    cells = cells_with(plate=np.repeat([1, 2, 3, 4], 250), donor=np.repeat(["a", "b"], 500))
    assert batches_of(cells, "plate").n_batches == 4
    with pytest.raises(LabelsError, match=r"obs has no column 'plates'; .* Did you mean 'plate'\?"):
        batches_of(cells, "plates")


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_batches_of_a_lazy_table_are_read(query: AnnData, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    query.write_zarr(tmp_path / "query.zarr")
    lazy = anndata.experimental.read_lazy(tmp_path / "query.zarr")
    for key in ("auto", "donor"):
        expected, batches = batches_of(query, key), batches_of(lazy, key)
        assert batches.key == expected.key == "donor"
        np.testing.assert_array_equal(batches.codes, expected.codes)
