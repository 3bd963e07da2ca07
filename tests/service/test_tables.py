"""Tables of counts in JSON and Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from spikgpt.errors import DataError
from spikgpt.service import tables
from spikgpt.service.refusals import Refusal
from spikgpt.service.tables import read_json, read_parquet


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_json_becomes_cells(tmp_path: Path) -> None:
    content = {"genes": ["A", "B"], "counts": [[1, 0], [0, 2.5]], "cells": ["x", "y"], "obs": {"donor": ["1", None]}}
    adata = read_json(write_json(tmp_path / "a.json", content), 2)
    assert adata.X.toarray().tolist() == [[1, 0], [0, 2.5]]
    assert adata.X.dtype == np.float32
    assert (list(adata.obs_names), list(adata.var_names)) == (["x", "y"], ["A", "B"])
    assert adata.obs["donor"].tolist() == ["1", None]
    adata = read_json(write_json(tmp_path / "a.json", {"genes": ["A"], "counts": [[0.1]]}), 2)
    assert adata.X.toarray().tolist() == [[0.1]]
    assert list(adata.obs_names) == ["0"]


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"genes": ["A"], "counts": []},
        {"genes": ["A"], "counts": [[1, 2]]},
        {"genes": ["A"], "counts": [["1"]]},
        {"genes": ["A"], "counts": [[1]], "cells": ["x", "y"]},
        {"genes": ["A"], "counts": [[1]], "obs": {"donor": []}},
        {"genes": ["A"], "counts": [[1]], "more": 1},
    ],
)
def test_other_json_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_json(write_json(tmp_path / "a.json", content), 2)


def test_large_json_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / "a.json", {"genes": ["A"], "counts": [[1], [2], [3]]})
    with pytest.raises(Refusal, match="3 cells; expected at most 2"):
        read_json(path, 2)
    monkeypatch.setattr(tables, "LARGEST_JSON", 10)
    with pytest.raises(Refusal, match="expected at most 10"):
        read_json(path, 3)


def test_parquet_becomes_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DENSE_VALUES", 4)
    table = pd.DataFrame(
        {"A": [1, 0, 3], "B": [0.0, 2.0, 0.5], "donor": ["1", "2", "1"], "sorted": [True, False, True]}
    )
    table.index = pd.Index(["x", "y", "z"], name="barcode")
    table.astype({"donor": "category"}).to_parquet(tmp_path / "a.parquet")
    adata = read_parquet(tmp_path / "a.parquet", 3)
    assert adata.X.toarray().tolist() == [[1, 0], [0, 2], [3, 0.5]]
    assert (list(adata.obs_names), list(adata.var_names)) == (["x", "y", "z"], ["A", "B"])
    assert adata.obs["donor"].astype(str).tolist() == ["1", "2", "1"]
    # Without the metadata of pandas, the first column of text names the cells.
    plain = pa.table({"A": [1, 2], "cell": ["x", "y"], "donor": ["1", "2"]})
    parquet.write_table(plain, tmp_path / "b.parquet")
    adata = read_parquet(tmp_path / "b.parquet", 3)
    assert (list(adata.obs_names), list(adata.obs.columns)) == (["x", "y"], ["donor"])
    table.reset_index(drop=True)[["A"]].to_parquet(tmp_path / "c.parquet")
    assert list(read_parquet(tmp_path / "c.parquet", 3).obs_names) == ["0", "1", "2"]
    with pytest.raises(Refusal, match="3 cells; expected at most 2"):
        read_parquet(tmp_path / "a.parquet", 2)


@pytest.mark.parametrize(
    "table",
    [
        {"cell": ["x"]},
        {"A": [1], "list": [[1, 2]]},
        {"A": pa.array([], pa.int64())},
        {"A": pa.array([1], pa.timestamp("s"))},
    ],
)
def test_other_parquet_is_refused(table: Any, tmp_path: Path) -> None:
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError):
        read_parquet(tmp_path / "a.parquet", 2)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"A": list(range(1000))}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for damaged in (content[:100], content[:200] + content[300:], b"PAR1" + b"\xff" * 100 + b"PAR1"):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(DataError):
            read_parquet(tmp_path / "a.parquet", 2000)
