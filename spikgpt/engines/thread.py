"""Run torch networks in a separate thread, so that a process can fork after it has annotated.

OpenMP and MKL keep locks for each thread that has used them. A fork copies the locks but not the threads, so a forked
process that runs a network in the thread of its parent may wait for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


class TorchThread:
    """Run functions one after another in a separate thread; a forked process gets a new thread."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=lambda: self._busy.acquire(),
                after_in_parent=lambda: self._busy.release(),
                after_in_child=self._renew,
            )

    def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in the thread, with the caller's number of torch threads, and return its result."""
        threads = torch.get_num_threads()

        def call() -> Result:
            with self._busy:
                if torch.get_num_threads() != threads:
                    torch.set_num_threads(threads)
                return function()

        return self._executor.submit(call).result()

    def _renew(self) -> None:
        self._busy = threading.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spikgpt-torch")


TORCH_THREAD = TorchThread()
