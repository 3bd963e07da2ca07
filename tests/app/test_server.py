"""The server leaves no files when it stops or is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from anndata import AnnData

from spikgpt.app.folders import PREFIX
from spikgpt.app.reaper import __file__ as reaper_file
from tests.app.conftest import App, User, running
from tests.cells.conftest import endless
from tests.service.conftest import has_ended

pytest.importorskip("gradio")


def reaper_of(app: App) -> psutil.Process:
    """Return the child process that removes the temporary folder of the server."""
    return next(child for child in app.children() if reaper_file in child.cmdline())


def test_the_extra_app_is_enough() -> None:
    """Import the server without the packages of other extras."""
    unneeded = ("psutil", "prometheus_client", "pyarrow", "torch", "matplotlib", "umap")
    code = f"import sys; sys.modules.update(dict.fromkeys({unneeded})); import spikgpt.app.server"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["server", "server and helper", "terminated"])
def test_a_killed_server_leaves_no_files(way: str, chromium: Any, few: AnnData, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging.h5ad"
    few.write_h5ad(hanging)
    endless(hanging)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with running(temporary, "--concurrent", 1) as app:
        user, children = User(chromium, app), app.children()
        user.upload(hanging)
        user.begin()
        user.page.wait_for_selector(".sg-status progress")
        app.wait_until(lambda: "hanging.h5ad" in [path.name for path in app.files()])
        assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
        if way == "server and helper":
            reaper_of(app).kill()
        app.process.send_signal(signal.SIGTERM if way == "terminated" else signal.SIGKILL)
        assert app.process.wait(30) == (0 if way == "terminated" else -signal.SIGKILL)
        app.wait_until(lambda: all(map(has_ended, children)))
        user.context.close()
        if way == "server and helper":
            assert list(temporary.glob(f"{PREFIX}*"))
            # The next server removes the files that the killed server left.
            with running(temporary, "--concurrent", 1):
                assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
        app.wait_until(lambda: not list(temporary.iterdir()))
