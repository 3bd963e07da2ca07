"""Fixtures that run the command line in this process, and a check of the form of its errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from anndata import AnnData

from spikgpt.cli.main import main
from spikgpt.cli.output import console

SCGPT = Path(__file__).parents[1] / "data" / "scgpt_baron"
PROGRAM = [sys.executable, "-c", "from spikgpt.cli.main import main; main()"]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]
# Width of the terminal in characters.
WIDTH = 160


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line in this process."""

    def command(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["spikgpt", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(WIDTH))
        monkeypatch.setattr(console, "width", WIDTH)
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            main()
        return Ran(int(error.value.code or 0), *capsys.readouterr())

    return command


@pytest.fixture(scope="session")
def query_file(few: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "query.h5ad"
    few.write_h5ad(path)
    return path


def written(adata: AnnData, path: Path) -> Path:
    adata.write_h5ad(path)
    return path


def assert_refused(ran: Ran, message: str) -> None:
    lines = ran.err.splitlines()
    assert ran.code == 2
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("Error: ")
    assert message in lines[0]
    assert "Traceback" not in ran.err + ran.out
