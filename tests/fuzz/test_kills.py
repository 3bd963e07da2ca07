"""Some commands that are killed; ``make fuzz`` kills more of them."""

from __future__ import annotations

from tests.fuzz.kills import kill


def test_killed_commands_are_whole_or_not_there_and_run_again() -> None:
    outcomes, failures = kill(2, seed=1, commands=("pull", "push"))
    assert not failures, "\n".join(failures)
    assert sum(outcomes.values()) == 2
