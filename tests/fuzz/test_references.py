"""A part of the forged references; ``make fuzz`` tries all of them."""

from __future__ import annotations

import pytest

from tests.fuzz.references import GOOD, fuzz


@pytest.mark.slow
def test_forged_references_are_refused_or_known_to_be_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKGPT_CACHE", "")  # set to a folder of its own, and put back after
    outcomes, failures = fuzz(15, seed=1)
    assert not failures, "\n".join(failures)
    assert {outcome for _, outcome in outcomes} >= set(GOOD[:2])
