"""Limits of the service must lie in their allowed ranges."""

from __future__ import annotations

import pytest

from spikgpt.errors import ConfigError
from spikgpt.options import cores, options_of
from spikgpt.service.settings import MOST_WORKERS, ServeOptions


def test_the_default_is_a_private_address() -> None:
    settings = ServeOptions()
    assert settings.host == "127.0.0.1"
    assert settings.workers == min(MOST_WORKERS, cores())
    assert ServeOptions(concurrent=7).workers == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 65536), ("port", -1), ("max_bytes", 0), ("max_cells", 0), ("timeout", 0.0), ("concurrent", 0)],
)
def test_limits_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        options_of(ServeOptions, {name: value})
