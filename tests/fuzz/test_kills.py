"""A command that is killed; ``make fuzz`` kills more of them."""

from __future__ import annotations

import pytest

from tests.fuzz.kills import kill


@pytest.mark.slow
def test_a_killed_command_is_whole_or_not_there_and_runs_again() -> None:
    outcomes, failures = kill(1, seed=1, commands=("pull",))
    assert not failures, "\n".join(failures)
    assert sum(outcomes.values()) == 1
