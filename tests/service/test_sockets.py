"""A server's socket is bound before the work starts."""

from __future__ import annotations

import pytest

from spikgpt.errors import ConfigError
from spikgpt.service.sockets import bound


def test_a_free_port_is_taken_and_a_taken_one_refused() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert port > 0
        first.listen()
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} cannot be used: .* Choose another --port"):
            bound("127.0.0.1", port)


def test_a_name_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        bound("no.such.host.invalid", 0)
