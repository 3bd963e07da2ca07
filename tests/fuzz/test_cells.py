"""Annotate six damaged files; ``make fuzz`` annotates 500."""

from __future__ import annotations

import pytest

from tests.fuzz.cells import GOOD, fuzz


@pytest.mark.slow
def test_damaged_files_get_the_right_labels_or_are_refused() -> None:
    outcomes, failures = fuzz(6, seed=1)
    assert not failures, "\n".join(failures)
    assert {outcome for _, outcome in outcomes} == set(GOOD)
