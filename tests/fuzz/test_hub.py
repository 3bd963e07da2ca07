"""Run fifteen cases with altered answers of a Hub; ``make fuzz`` runs 600 cases."""

from __future__ import annotations

import pytest

from tests.fuzz.hub import GOOD, fuzz


@pytest.mark.slow
def test_altered_answers_of_a_hub_are_refused_or_harmless() -> None:
    outcomes, failures = fuzz(15, seed=3)
    assert not failures, "\n".join(failures)
    assert {outcome for _, outcome in outcomes} == set(GOOD)
