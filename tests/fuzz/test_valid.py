"""Annotate four valid files; ``make fuzz`` annotates 200."""

from __future__ import annotations

import pytest

from tests.fuzz.valid import fuzz


@pytest.mark.slow
def test_valid_files_get_the_right_labels_and_keep_all_elements() -> None:
    outcomes, failures = fuzz(4, seed=1)
    assert not failures, "\n".join(failures)
    assert sum(outcomes.values()) == 4
