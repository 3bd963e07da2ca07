"""A part of the forged recipes, studies and checkpoints; ``make fuzz`` tries all of them."""

from __future__ import annotations

import pytest

from tests.fuzz.strangers import GOOD, fuzz


@pytest.mark.slow
def test_what_strangers_made_is_read_or_refused() -> None:
    outcomes, failures = fuzz(9, seed=1)
    assert not failures, "\n".join(failures)
    assert {outcome for _, outcome in outcomes} == set(GOOD)
