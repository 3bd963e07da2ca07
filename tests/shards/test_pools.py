"""The in-process pool runs tasks in order, and accepts further tasks while tasks run."""

from __future__ import annotations

from typing import Any

import pytest

from spikgpt.errors import DataError
from spikgpt.shards.pools import InProcess, Result


def double(run: str, number: int) -> Any:
    if number == 2:
        msg = "two"
        raise DataError(msg)
    if number > 5:
        raise KeyError(number)
    return run, 2 * number


def test_an_error_of_the_user_becomes_a_result() -> None:
    pool, results = InProcess("run"), list[Result]()
    for number in (1, 2):
        pool.submit(number, double, number)
    for result in pool.results():
        results.append(result)
        if result.key == 2:
            pool.submit(3, double, 3, worker="one")
    assert [(result.key, result.value) for result in results] == [(1, ("run", 2)), (2, None), (3, ("run", 6))]
    assert [type(result.error) for result in results] == [type(None), DataError, type(None)]
    pool.submit(6, double, 6)
    with pytest.raises(KeyError):
        list(pool.results())
