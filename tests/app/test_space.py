"""The folder of the Hugging Face Space is complete, and its app.py starts the page."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from spikgpt import Annotation

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "hub_cards" / "space"


def test_the_card_has_the_pinned_gradio_and_the_packages_of_the_extras() -> None:
    _, header, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert card["sdk"] == "gradio"
    assert card["sdk_version"] == pinned["gradio"]
    assert (SPACE / card["app_file"]).is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert card["license"] == project["license"].lower()
    assert float(card["python_version"]) >= 3.11
    extras = project["optional-dependencies"]
    needed = {*project["dependencies"], *extras["cpu"], *extras["report"], *extras["app"]}
    listed = {line for line in (SPACE / "requirements.txt").read_text().splitlines() if not line.startswith("#")}
    assert listed == {package for package in needed if not package.startswith("gradio")}


@pytest.mark.slow
def test_the_space_starts_and_labels(chromium: Any, few_file: Path, expected: Annotation, tmp_path: Path) -> None:
    """Run app.py as Hugging Face does: without the rest of the repository, on the port that the environment sets."""
    pytest.importorskip("gradio")
    folder, temporary = tmp_path / "space", tmp_path / "temporary"
    shutil.copytree(SPACE, folder)
    shutil.copytree(ROOT / "spikgpt", folder / "spikgpt", ignore=shutil.ignore_patterns("__pycache__"))
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment) as process:
        try:
            address, end = f"http://127.0.0.1:{port}/", time.monotonic() + 120
            while True:
                try:
                    assert httpx.get(address).status_code == 200
                    break
                except httpx.TransportError:
                    assert time.monotonic() < end
                    assert process.poll() is None
                    time.sleep(0.2)
            page = chromium.new_page()
            page.goto(address)
            page.set_input_files(".sg-zone input", few_file)
            page.wait_for_selector('.sg-zone[data-state="ready"]')
            # On a public page, users cannot enter paths of files on the server or names of other references.
            assert not page.get_by_label("Or the path of a file").count()
            page.click("#annotate")
            page.wait_for_selector(".sg-labels", timeout=120_000)
            rows = [row.locator("td").all_inner_texts() for row in page.locator(".sg-labels tbody tr").all()]
            assert {label: int(cells) for label, cells, *_ in rows} == expected.counts()
            page.close()
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert not list(temporary.iterdir())
