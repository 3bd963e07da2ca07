"""A part of the damaged files; ``make fuzz`` tries all of them."""

from __future__ import annotations

import pytest

from tests.fuzz.cells import GOOD, fuzz


@pytest.mark.slow
def test_damaged_files_are_labelled_rightly_or_refused() -> None:
    outcomes, failures = fuzz(6, seed=1)
    assert not failures, "\n".join(failures)
    assert {outcome for _, outcome in outcomes} == set(GOOD)
