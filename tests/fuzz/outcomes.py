"""What became of many tries, counted by kind, and shown as a table: what all fuzzers share."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

Counted = Counter[tuple[str, str]]


class Fuzz(Protocol):
    """Makes ``count`` tries that depend on a seed; returns how often each kind came to each outcome, and failures."""

    def __call__(self, count: int, seed: int, *, progress: bool) -> tuple[Counted, list[str]]:
        """Make the tries."""


def tally(
    count: int, good: Sequence[str], attempt: Callable[[int], tuple[str, str, str]], *, progress: bool
) -> tuple[Counted, list[str]]:
    """Make so many tries, of which ``attempt`` gives the kind, what was found, and the case in words.

    What was found is one of the ``good`` outcomes, or another one, a colon and what is wrong.
    """
    outcomes, failures = Counted(), list[str]()
    for number in range(count):
        kind, found, told = attempt(number)
        outcomes[kind, found.partition(":")[0]] += 1
        if found not in good:
            failures.append(f"case {number}, {told}: {found}")
        if progress:
            sys.stderr.write(f"\r{number + 1}/{count}, {len(failures)} failures")
    return outcomes, failures


def run(fuzz: Fuzz, good: Sequence[str], about: str | None, count: int) -> int:
    """Do what the command line asks for and print a table of outcomes; exit code 1 when something failed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes, failures = fuzz(options.count, options.seed, progress=True)
    columns = sorted({outcome for _, outcome in outcomes}, key=lambda outcome: (outcome not in good, outcome))
    sys.stdout.write(f"\n| damage | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}\n")
    for kind in sorted({kind for kind, _ in outcomes}):
        sys.stdout.write(f"| {kind} | {' | '.join(str(outcomes[kind, column]) for column in columns)} |\n")
    totals = (str(sum(n for (_, outcome), n in outcomes.items() if outcome == column)) for column in columns)
    sys.stdout.write(f"| all | {' | '.join(totals)} |\n")
    for failure in failures:
        sys.stdout.write(f"{failure}\n")
    return 1 if failures else 0
