"""A thread of its own for torch inference, so that a process can fork after it has annotated.

OpenMP and MKL keep threads and locks for each thread that has used them. A fork copies the locks and not the threads.
A forked process that runs a network in the thread of its parent may therefore wait for ever. Networks run in a thread
of their own instead. A fork waits for the batch that runs there, and the forked process starts a thread of its own.
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
    """Runs functions one after the other in a thread of its own, a new one in each process."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=lambda: self._busy.acquire(),
                after_in_parent=lambda: self._busy.release(),
                after_in_child=self._renew,
            )

    def run(self, function: Callable[[], Result]) -> Result:
        """Return what a function returns, run with as many torch threads as the caller has set."""
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
