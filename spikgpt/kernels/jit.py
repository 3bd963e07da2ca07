"""The decorator of functions that numba compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])
# Flags that let the compiler reorder sums, and so use vector instructions. NaN and infinite values are still allowed.
REORDERED = {"reassoc", "contract", "nsz", "arcp"}


def jit(*, reordered: bool = False, parallel: bool = False, cache: bool = True) -> Callable[[Function], Function]:
    """Return numba's decorator with type annotations; compiled functions release Python's global interpreter lock.

    Parameters
    ----------
    reordered
        Let the compiler reorder sums, for vector instructions.
    parallel
        Run the iterations of ``numba.prange`` in threads.
    cache
        Keep the compiled code on disk, if a folder for it can be written to.
    """

    def decorate(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "parallel": parallel, "fastmath": REORDERED if reordered else False}
        try:
            return cast("Function", numba.njit(**options, cache=cache)(function))
        except RuntimeError:
            # Neither the folder of the file nor the user's cache folder is writable.
            return cast("Function", numba.njit(**options)(function))

    return decorate
