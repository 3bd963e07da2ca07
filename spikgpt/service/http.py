"""HTTP server on a socket that is bound before the work starts, so that a wrong address is refused at once."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from spikgpt.errors import ConfigError

BACKLOG = 128
# Seconds that a stopping server waits for answers that are being sent.
LAST_SECONDS = 2


class HTTPServer(uvicorn.Server):
    """A server that announces its address only after it accepts connections and handles signals.

    Parameters
    ----------
    app
        ASGI application.
    listener
        Socket from :func:`bound`.
    on_start
        Called with the address, such as ``http://127.0.0.1:8000``.
    """

    def __init__(self, app: Any, listener: socket.socket, on_start: Callable[[str], None], **options: Any) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            backlog=BACKLOG,
            server_header=False,
            timeout_graceful_shutdown=LAST_SECONDS,
            **options,
        )
        super().__init__(config)
        self._listener, self._on_start = listener, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, then announce the address."""
        await super().startup(sockets)
        # uvicorn replaces the signal handlers before startup, so a signal after the announcement stops the server.
        host, port = self._listener.getsockname()[:2]
        self._on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def run_until_stopped(self) -> None:
        """Answer requests until a signal stops the server."""
        await self.serve(sockets=[self._listener])


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, and not yet listening."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        msg = f"{host} port {port} cannot be used: {error.strerror or error}. Choose another --port or --host."
        raise ConfigError(msg) from None
    return listener
