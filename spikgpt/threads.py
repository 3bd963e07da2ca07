"""Compute several results at a time in threads, and limit the threads of BLAS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Apply a function to items in a number of threads, and yield the results in the order of the items.

    At most ``threads`` + 1 items are in work or wait to be yielded. So memory does not grow with the number of items.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    # A new pool for each use: a process that is forked later would lack the pool's threads.
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context in which BLAS uses one thread.

    The threads of BLAS use processor time while they wait for each other. On a machine with other work, an
    eigendecomposition of 1000 genes then takes ten times the processor time of one thread.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits
