"""A few processes on one cache; ``make fuzz`` runs more of them, more often."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.fuzz.together import rounds


@pytest.mark.slow
def test_processes_that_pull_into_one_cache_all_end_right() -> None:
    assert rounds(2, seed=3, processes=6) == []
    assert multiprocessing.active_children() == []
