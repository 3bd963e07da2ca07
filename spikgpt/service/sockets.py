"""Socket of a server, bound before the work starts, so that a wrong address is refused at once."""

from __future__ import annotations

import socket

from spikgpt.errors import ConfigError

BACKLOG = 128
# Seconds for answers that are being sent when a server stops.
LAST_SECONDS = 2


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
