"""The server refuses an address in use, and announces its address only after a signal can stop the server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from spikgpt.errors import ConfigError
from spikgpt.service.http import bound


def test_a_free_port_is_taken_and_a_taken_one_refused() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert port > 0
        first.listen()
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} cannot be used: .* Choose another --port"):
            bound("127.0.0.1", port)


def test_a_name_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        bound("no.such.host.invalid", 0)


STOPPED_AT_ONCE = """
import os, signal
from spikgpt.{package}.server import serve
from spikgpt.{package}.settings import {options}
from spikgpt.service.messages import Model, Setup

setup = Setup(models=(Model("pbmc"),), keywords={keywords}, max_cells=1)
serve(setup, {options}(port=0, concurrent=1), lambda address, names: os.kill(os.getpid(), signal.SIGTERM))
print("stopped")
"""


@pytest.mark.parametrize(
    ("package", "options", "keywords"), [("service", "ServeOptions", {}), ("app", "AppOptions", {"is_open": True})]
)
def test_a_signal_that_follows_the_address_at_once_stops_the_server(
    package: str, options: str, keywords: dict[str, bool]
) -> None:
    if package == "app":
        pytest.importorskip("gradio")
    code = STOPPED_AT_ONCE.format(package=package, options=options, keywords=keywords)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
