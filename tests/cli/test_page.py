"""``spikgpt app`` ends with an error of one line if it cannot start; tests/app tests the running page."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run, assert_refused


@pytest.mark.parametrize(("module", "package"), [("gradio", "gradio"), ("python_multipart", "python-multipart")])
def test_without_the_extra_it_is_named(module: str, package: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    ran = run("app")
    assert_refused(ran, "spikgpt app needs the extra 'app'")
    assert re.search(rf"Run: pip install '?{package}", ran.err)


def test_limits_are_checked(run: Run) -> None:
    assert_refused(run("app", "--timeout", 0), "--timeout is 0.0; expected a number of above 0")
    assert_refused(run("app", "--max-mb", 0), "--max-mb is 0; expected a whole number of at least 1")
    assert_refused(run("app", "--port", 70000), "--port is 70000")


def test_an_address_in_use_is_refused(run: Run) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(run("app", "--port", port), f"127.0.0.1 port {port} cannot be used")


def test_a_reference_that_cannot_be_loaded_is_refused(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    assert_refused(run("app", "--port", 0, "--model", tmp_path / "nothing"), "There is no folder")
