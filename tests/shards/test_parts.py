"""Parts hold the table of an annotation; only complete parts of the same run are kept."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spikgpt import Annotation
from spikgpt.errors import DataError
from spikgpt.shards.parts import finished_part, part_name, write_part

RUN = {"run": "run", "query_model": "model"}


def test_a_part_holds_the_table(annotation: Annotation, tmp_path: Path) -> None:
    path = tmp_path / part_name(3)
    part = write_part(path, annotation, "a.h5ad", **RUN)
    table = pd.read_parquet(path)
    assert path.name == "part-00003.parquet"
    assert list(table)[:3] == ["cell", "shard", "spikgpt_label"]
    assert set(table["shard"]) == {"a.h5ad"}
    expected = annotation.table()
    for name in expected:
        assert table[name].astype(str).tolist() == expected[name].astype(str).tolist()
    types = {str(field.type) for field in pq.read_schema(path)}
    assert types == {"string", "float"}
    assert part.tally.cells == 12
    assert part.tally.labels == annotation.counts()


def test_a_complete_part_of_the_same_run_is_kept(annotation: Annotation, tmp_path: Path) -> None:
    path = tmp_path / part_name(0)
    assert finished_part(path, None, **RUN) is None
    part = write_part(path, annotation, "a.h5ad", **RUN)
    for expected in (None, part):
        assert finished_part(path, expected, **RUN) == part
        assert finished_part(path, expected, run="other", query_model="model") is None
        assert finished_part(path, expected, run="run", query_model="other") is None
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[: len(content) // 2], b"PAR1" + bytes(500)):
        path.write_bytes(damaged)
        for expected in (None, part):
            assert finished_part(path, expected, **RUN) is None
    pq.write_table(pa.table({"cell": ["a"]}), path)
    assert finished_part(path, None, **RUN) is None


def test_a_part_that_cannot_be_written_is_named(annotation: Annotation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"part-00000.parquet cannot be written"):
        write_part(tmp_path / "file" / part_name(0), annotation, "a.h5ad", **RUN)
