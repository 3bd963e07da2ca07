"""``spikgpt serve`` ends with an error of one line if it cannot start; tests/service tests the running service."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from spikgpt import SpikGPT
from tests.cli.conftest import Run, assert_refused
from tests.service.conftest import write_islets


@pytest.fixture
def islets(shipped: SpikGPT, tmp_path: Path) -> Path:
    return write_islets(shipped, tmp_path / "islets")


@pytest.mark.parametrize(("module", "package"), [("starlette", "starlette"), ("python_multipart", "python-multipart")])
def test_without_the_extra_it_is_named(module: str, package: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    ran = run("serve")
    assert_refused(ran, "spikgpt serve needs the extra 'serve'")
    assert re.search(rf"Run: pip install '?{package}", ran.err)


def test_a_reference_that_cannot_be_loaded_is_refused(run: Run, islets: Path, tmp_path: Path) -> None:
    assert_refused(run("serve", "--port", 0, "--model", tmp_path / "nothing"), "There is no folder")
    (islets / "labels.json").write_text("[]")
    assert_refused(run("serve", "--port", 0, "--model", islets), "labels.json differs from what manifest.json lists")


def test_two_references_of_one_name_are_refused(run: Run, islets: Path, tmp_path: Path) -> None:
    islets.rename(tmp_path / "other")
    (tmp_path / "same").symlink_to(tmp_path / "other")
    models = ("--model", tmp_path / "other", "--model", tmp_path / "same")
    assert_refused(run("serve", "--port", 0, *models), "Two references have the name 'islets'")


def test_limits_are_checked(run: Run) -> None:
    assert_refused(run("serve", "--timeout", 0), "--timeout is 0.0; expected a number of above 0")
    assert_refused(run("serve", "--max-cells", 0), "--max-cells is 0; expected a whole number of at least 1")
