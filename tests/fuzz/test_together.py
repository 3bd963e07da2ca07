"""Run six processes on one cache in two rounds; ``make fuzz`` runs 16 processes in 20 rounds."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.fuzz.together import rounds


@pytest.mark.slow
def test_concurrent_pulls_into_one_cache_give_the_right_files() -> None:
    assert rounds(2, seed=3, processes=6) == []
    assert multiprocessing.active_children() == []
