"""Results have the order of the items, and few items are read ahead."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from spikgpt.threads import in_order, one_blas_thread


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_in_the_order_of_the_items(threads: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item**2

    assert list(in_order(slow_at_first, range(20), threads)) == [item**2 for item in range(20)]
    assert list(in_order(slow_at_first, [], threads)) == []


def test_two_items_are_computed_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=30)

    assert len(list(in_order(lambda _: together.wait(), range(4), 2))) == 4


def test_few_items_are_read_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(abs, items(), 3)
    next(results)

    assert len(taken) == 4
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 4


def test_an_error_of_one_item_is_raised() -> None:
    def fail_at_three(item: int) -> int:
        if item == 3:
            msg = "three"
            raise ValueError(msg)
        return item

    results = in_order(fail_at_three, range(1000), 2)

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_blas_has_one_thread_only_within_the_context() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_blas_thread():
        assert set(threads()) == {1}
    assert threads() == before


def test_blas_threads_are_unchanged_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with one_blas_thread() as context:
        assert context is None
