"""Run cases, count their outcomes by kind of damage, and print the counts as a table: shared by all fuzzers."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

OutcomeCounts = Counter[tuple[str, str]]


class Fuzz(Protocol):
    """Function that runs ``count`` cases and returns the number of each outcome by kind, and the failures."""

    def __call__(self, count: int, seed: int, *, progress: bool) -> tuple[OutcomeCounts, list[str]]:
        """Run the cases."""


def count_outcomes(
    count: int, good: Sequence[str], attempt: Callable[[int], tuple[str, str, str]], *, progress: bool
) -> tuple[OutcomeCounts, list[str]]:
    """Run ``count`` cases and count their outcomes.

    ``attempt`` returns the kind of a case, its result, and a description of the case. The result is one of the ``good``
    outcomes. For a failure, the result is another outcome, a colon and the reason.
    """
    outcomes, failures = OutcomeCounts(), list[str]()
    for number in range(count):
        kind, result, description = attempt(number)
        outcomes[kind, result.partition(":")[0]] += 1
        if result not in good:
            failures.append(f"case {number}, {description}: {result}")
        if progress:
            sys.stderr.write(f"\r{number + 1}/{count}, {len(failures)} failures")
    return outcomes, failures


def run(fuzz: Fuzz, good: Sequence[str], about: str | None, count: int) -> int:
    """Read the flags, run the fuzzer, and print a table of outcomes; return 1 if a case failed."""
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
