"""Kill one command and run it again; ``make fuzz`` kills 50 commands."""

from __future__ import annotations

import pytest

from tests.fuzz.kills import kill


@pytest.mark.slow
def test_output_of_a_killed_command_is_complete_or_absent_and_the_command_runs_again() -> None:
    outcomes, failures = kill(1, seed=1, commands=("pull",))
    assert not failures, "\n".join(failures)
    assert sum(outcomes.values()) == 1
