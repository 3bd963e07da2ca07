"""The garbage collector around imports."""

from __future__ import annotations

import gc

import pytest

from spikgpt.cli.imports import without_collection


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
