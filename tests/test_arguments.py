"""Checks of the arguments of public functions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt.arguments import check_cells, check_folder, check_label_key, described
from spikgpt.errors import ConfigError, DataError


def an_object_of(kind: str, **attributes: object) -> object:
    """Return an object whose class has the name of a class of a package that is not installed."""
    return type(kind, (SimpleNamespace,), {})(**attributes)


def test_an_anndata_is_accepted() -> None:
    check_cells(AnnData(np.ones((2, 3))), "annotate")


def test_a_path_is_accepted_if_the_function_takes_paths() -> None:
    for path in ("cells.h5ad", Path("cells.h5ad")):
        check_cells(path, "annotate", paths=True)
        with pytest.raises(DataError, match="Read the file first"):
            check_cells(path, "evaluate")


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("cells.h5ad", r"anndata.read_h5ad\('cells.h5ad'\)"),
        (None, "Most functions of scanpy change the AnnData and return None"),
        (an_object_of("MuData", mod={"rna": 1, "adt": 2}), r"such as mdata\['rna'\]; it holds rna, adt"),
        (an_object_of("SpatialData"), r"sdata.tables\['table'\]"),
        (AnnData(np.ones((2, 3)), raw={"X": np.ones((2, 3)), "var": {}}).raw, r"adata.raw.to_adata\(\)"),
        (pd.DataFrame({"INS": [1]}), r"anndata.AnnData\(df\)"),
        (np.ones((2, 3)), "The value has no gene names"),
        ([1, 2], "Pass one AnnData, or join several"),
        (1.5, "Read your cells first"),
    ],
    ids=["path", "None", "MuData", "SpatialData", "Raw", "DataFrame", "array", "list", "number"],
)
def test_another_value_is_refused_with_its_remedy(value: object, remedy: str) -> None:
    with pytest.raises(DataError, match=remedy) as refusal:
        check_cells(value, "annotate")
    assert str(refusal.value).startswith(f"annotate got {described(value)}; expected an AnnData. ")


def test_the_message_names_paths_if_the_function_takes_paths() -> None:
    with pytest.raises(DataError, match="expected an AnnData or the path of a file"):
        check_cells(None, "annotate", paths=True)


def test_a_folder_must_be_a_path(tmp_path: object) -> None:
    check_folder("my_reference")
    check_folder(tmp_path)
    with pytest.raises(ConfigError, match="folder is None; expected the path of a folder to write"):
        check_folder(None)


def test_a_label_key_must_be_the_name_of_a_column() -> None:
    check_label_key("cell_type")
    with pytest.raises(ConfigError, match="label_key is a Series of shape .1,.; .* such as label_key='louvain'"):
        check_label_key(pd.Series(["beta"], name="louvain"))


def test_a_value_is_described_by_its_type_and_size() -> None:
    values = (None, "x" * 200, {1, 2}, [1], np.ones((3, 2)), object())
    assert [described(value) for value in values] == [
        "None",
        repr("x" * 200)[:100],
        "a set of 2 items",
        "a list of 1 item",
        "a ndarray of shape (3, 2)",
        "an object",
    ]
