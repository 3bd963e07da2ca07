"""Read nine altered recipes, studies and checkpoints; ``make fuzz`` reads 900."""

from __future__ import annotations

import pytest

from tests.fuzz.untrusted_files import GOOD, fuzz


@pytest.mark.slow
def test_altered_recipes_studies_and_checkpoints_are_read_or_refused() -> None:
    outcomes, failures = fuzz(9, seed=1)
    assert not failures, "\n".join(failures)
    assert {outcome for _, outcome in outcomes} == set(GOOD)
