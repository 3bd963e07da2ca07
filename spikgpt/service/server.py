"""Run the service until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from spikgpt.service.app import Service
from spikgpt.service.http import HTTPServer, bound
from spikgpt.service.messages import Setup
from spikgpt.service.pool import WorkerPool
from spikgpt.service.settings import ServeOptions


def serve(setup: Setup, settings: ServeOptions, on_start: Callable[[str, list[str]], None]) -> None:
    """Load references and answer requests until SIGTERM or Ctrl-C.

    Parameters
    ----------
    on_start
        Called with the address and the names of the references.

    Raises
    ------
    ConfigError
        When the address cannot be used.
    SpikGPTError
        When a reference cannot be loaded.
    """
    logging.basicConfig(format="%(asctime)s %(message)s")
    with bound(settings.host, settings.port) as listener:
        asyncio.run(_serve(setup, settings, listener, on_start))


async def _serve(
    setup: Setup, settings: ServeOptions, listener: socket.socket, on_start: Callable[[str, list[str]], None]
) -> None:
    """Answer requests on a socket."""
    pool = WorkerPool(setup, settings.workers)
    with tempfile.TemporaryDirectory(prefix="spikgpt-serve-", ignore_cleanup_errors=True) as folder:
        try:
            await pool.start()
            service = Service(pool, settings, Path(folder))
            names = [reference.name for reference in pool.references]
            server = _DrainingServer(service, settings.grace, listener, lambda address: on_start(address, names))
            await server.run_until_stopped()
        finally:
            await pool.close()


class _DrainingServer(HTTPServer):
    """A server that finishes its requests after the first signal, and stops at once after the second."""

    def __init__(
        self, service: Service, grace: float, listener: socket.socket, on_start: Callable[[str], None]
    ) -> None:
        super().__init__(service.app(), listener, on_start, lifespan="off")
        self._service, self._grace = service, grace
        self._loop = asyncio.get_running_loop()
        self._stopping: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop after a first signal, and stop at once after a second."""
        self._loop.call_soon_threadsafe(self._begin_stop)

    def _begin_stop(self) -> None:
        if self._stopping is not None:
            self.should_exit = self.force_exit = True
            return
        self._stopping = self._loop.create_task(self._stop())

    async def _stop(self) -> None:
        # The socket stays open, so that new requests get the answer that the service is stopping.
        await self._service.drained(self._grace)
        self.should_exit = True
