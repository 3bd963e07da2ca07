"""A part of the forged answers; ``make fuzz`` tries all of them."""

from __future__ import annotations

import pytest

from tests.fuzz.hub import GOOD, fuzz


@pytest.mark.slow
def test_forged_answers_of_a_hub_are_refused_or_do_no_harm() -> None:
    outcomes, failures = fuzz(15, seed=3)
    assert not failures, "\n".join(failures)
    assert {outcome for _, outcome in outcomes} == set(GOOD)
