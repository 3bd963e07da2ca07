"""The garbage collector is off during imports."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from spikgpt.imports import without_collection


def test_the_collector_is_off_in_the_block_alone() -> None:
    enabled = []

    def fail() -> None:
        enabled.append(gc.isenabled())
        float("stop")

    with pytest.raises(ValueError, match="could not convert"), without_collection():
        fail()
    assert enabled == [False]
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_public_names_are_imported_without_the_collector() -> None:
    code = (
        "import gc, sys, spikgpt\n"
        "states = []\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        states.append((name, gc.isenabled()))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "spikgpt.SpikGPT\n"
        "assert dict(states)['anndata'] is False and gc.isenabled()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
