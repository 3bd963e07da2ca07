"""Tables hold a row a cell, in the formats that are offered."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from spikgpt import Annotation
from spikgpt.cells.output import check_table, write_table
from spikgpt.errors import ConfigError

N_CELLS = 12


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_csv_by_content(annotation: Annotation, tmp_path: Path) -> None:
    write_table(annotation.tables(), tmp_path / "labels.csv")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == (
        "cell,spikgpt_label,spikgpt_best_label,spikgpt_label_broad,spikgpt_confidence,spikgpt_familiarity,"
        "probability of alpha,probability of beta"
    )
    assert lines[1] == "cell 0,Unknown,alpha,Unknown,0.1,0.05,0.1,0.9"
    assert lines[-1] == "cell 11,beta,beta,islet cell,0.95,0.475,0.95,0.050000012"
    assert len(lines) == 1 + N_CELLS


def test_parquet_holds_the_table(annotation: Annotation, tmp_path: Path) -> None:
    write_table(annotation.tables(), tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "labels.parquet"), annotation.table())


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
sys.modules["fastparquet"] = None
import pickle
from pathlib import Path
from spikgpt.errors import ConfigError
from spikgpt.cells.output import write_table
try:
    write_table(pickle.loads(Path("annotation").read_bytes()).tables(), Path("labels.parquet"))
except ConfigError as error:
    sys.exit(str(error))
"""


def test_parquet_without_pyarrow_says_what_to_install(annotation: Annotation, tmp_path: Path) -> None:
    # pandas keeps what it imported, so this takes a process of its own.
    (tmp_path / "annotation").write_bytes(pickle.dumps(annotation))
    run = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW], cwd=tmp_path, capture_output=True, text=True)
    assert run.stderr == ("Writing parquet needs pyarrow: pip install 'spikgpt[parquet]'. Or write a .csv file.\n")
    assert run.returncode == 1
    assert leftovers(tmp_path) == ["annotation"]


@pytest.mark.parametrize("name", ["labels.xlsx", "labels", "labels.CSV", ".csv"])
def test_a_table_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"a table is written as .csv or .parquet\."):
        check_table(Path(name))


@pytest.mark.parametrize("name", ["labels.csv", "a.b.parquet"])
def test_tables_are_known_by_their_names(name: str) -> None:
    check_table(Path(name))
