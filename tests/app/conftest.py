"""Fixtures that start ``spikgpt app`` in a separate process, and browsers that open its page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT
from tests.cli.conftest import PROGRAM
from tests.service.conftest import has_ended


class App:
    """A ``spikgpt app`` process; ``temporary`` is its folder for temporary files."""

    def __init__(self, process: subprocess.Popen[str], temporary: Path) -> None:
        self.process, self.temporary = process, temporary
        self.log: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listening.wait(180), self.log
        # ``url`` is the address with the access key; ``address`` is the address without the key.
        self.url = next(match[1] for line in self.log if (match := re.match(r"Open (\S+) in a browser;", line)))
        self.address = self.url.partition("?")[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        with suppress(ValueError):  # the test may close the pipe
            for line in self.process.stderr:
                self.log.append(line)
                if line.startswith("Open "):
                    self._listening.set()
        self._listening.set()

    def files(self) -> list[Path]:
        """Return all files in the temporary folder: uploads and results of all sessions."""
        # A folder can be removed during the walk, which Path.rglob does not allow.
        return [Path(folder, name) for folder, _, names in os.walk(self.temporary) for name in names]

    def children(self) -> list[psutil.Process]:
        """Return the child processes: the workers, and the process that removes the temporary folder."""
        return list(psutil.Process(self.process.pid).children())

    def wait_until(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        """Wait until a condition is true; fail after a time limit."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.log, self.files())
            time.sleep(0.05)

    def stop(self) -> int:
        """Stop the process with SIGTERM, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join()
        return code


@contextmanager
def running(temporary: Path, *arguments: object) -> Iterator[App]:
    """Run ``spikgpt app``, by default with the reference pancreas; assert at the end that no files remain."""
    models = () if "--model" in arguments else ("--model", "pancreas")
    command = [*PROGRAM, "app", "--port", "0", *models, *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            app = App(process, temporary)
            children = app.children()
            yield app
            if process.poll() is None:
                assert app.stop() == 0, app.log
            app.wait_until(lambda: all(map(has_ended, children)))
            app.wait_until(lambda: not list(temporary.iterdir()))
            assert not any("Traceback" in line for line in app.log), app.log
        finally:
            process.kill()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Run ``spikgpt app`` with two references, and limits of 3 MB and 500 cells for an upload."""
    pytest.importorskip("gradio")
    models = ("--model", "pancreas", "--model", "pbmc")
    with running(
        tmp_path_factory.mktemp("app"), *models, "--concurrent", 1, "--max-mb", 3, "--max-cells", 500
    ) as shown:
        yield shown


class User:
    """A user of the page in a separate browser context; page errors and requests are recorded."""

    def __init__(self, browser: Any, app: App, **settings: Any) -> None:
        self.app = app
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(180_000)  # ten browsers share two cores
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(app.url)
        self.page.wait_for_selector(".sg-zone")

    def upload(self, path: Path) -> None:
        """Choose a file, and wait until the server has received the file."""
        self.page.set_input_files(".sg-zone input", path)
        self.page.wait_for_selector('.sg-zone[data-state="ready"]')

    def begin(self, reference: str = "pancreas (13 cell types)") -> None:
        """Choose a reference, and click Annotate."""
        self.page.get_by_label("Reference").click()
        self.page.get_by_role("option", name=reference).click()
        self.page.click("#annotate")

    def counts(self) -> dict[str, int]:
        """Wait for the labels, and return the number of cells of each label."""
        self.page.wait_for_selector(".sg-labels")
        rows = [row.locator("td").all_inner_texts() for row in self.page.locator(".sg-labels tbody tr").all()]
        return {label: int(cells.replace(",", "")) for label, cells, *_ in rows}

    def error(self) -> str:
        """Wait for an error message, and return its text."""
        self.page.wait_for_selector(".sg-error")
        return str(self.page.inner_text(".sg-error"))

    def download(self, ending: str, folder: Path) -> Path:
        """Download the result with the given file extension, and return the path of the saved file."""
        with self.page.expect_download() as started:
            self.page.click(f'.sg-download[download$="{ending}"]')
        path = folder / str(started.value.suggested_filename)
        started.value.save_as(path)
        return path

    def leave(self) -> None:
        """Close the browser context; assert that there were no page errors and no requests to other servers."""
        self.context.close()
        assert not self.errors, self.errors
        # Addresses that start with data: or blob: send nothing over the network.
        requested = {url for url in self.requests if not url.startswith(("data:", "blob:"))}
        assert {url for url in requested if not url.startswith(self.app.address)} == set()


@pytest.fixture
def user(chromium: Any, app: App) -> Iterator[User]:
    """Yield a user of the page; assert at the end that there were no page errors and no requests to other servers."""
    visitor = User(chromium, app)
    yield visitor
    visitor.leave()


def with_map(cells: AnnData) -> AnnData:
    """Return the cells with random map coordinates, because the UMAP code takes ten seconds to compile."""
    adata = cells.copy()
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2)).astype(np.float32)
    return adata


@pytest.fixture(scope="session")
def few_file(few: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an .h5ad file of 120 cells in three clusters."""
    adata = with_map(few)
    adata.obs["leiden"] = pd.Categorical([str(row % 3) for row in range(adata.n_obs)])
    path = tmp_path_factory.mktemp("cells") / "few.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def expected(shipped: SpikGPT, few: AnnData) -> Annotation:
    """Return the annotation of the cells in ``few_file`` by the Python library."""
    return shipped.annotate(few.copy(), progress=False)


@pytest.fixture(scope="session")
def damaged_file(few_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the first 5000 bytes of ``few_file`` to another file, and return its path."""
    path = tmp_path_factory.mktemp("cells") / "damaged.h5ad"
    path.write_bytes(few_file.read_bytes()[:5000])
    return path
