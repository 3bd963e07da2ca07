"""A part of the valid files; ``make fuzz`` tries all of them."""

from __future__ import annotations

import pytest

from tests.fuzz.valid import fuzz


@pytest.mark.slow
def test_valid_files_get_their_labels_and_lose_nothing() -> None:
    outcomes, failures = fuzz(4, seed=1)
    assert not failures, "\n".join(failures)
    assert sum(outcomes.values()) == 4
