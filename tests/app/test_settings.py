"""Settings of ``spikgpt app``: limits, and addresses that are reachable from this machine only."""

from __future__ import annotations

import pytest

from spikgpt.app.settings import AppOptions
from spikgpt.errors import ConfigError
from spikgpt.options import cores, options_of


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example.org", False),
    ],
)
def test_only_loopback_addresses_are_local(host: str, is_local: bool) -> None:
    assert AppOptions(host=host).is_local is is_local


def test_the_defaults_suit_one_machine() -> None:
    settings = AppOptions()
    assert settings.is_local
    assert settings.workers == min(2, cores())
    assert settings.max_bytes == 2048 * 1024 * 1024
    assert AppOptions(concurrent=3, queue=4).most_runs == 7


@pytest.mark.parametrize("name", ["max_mb", "max_cells", "concurrent", "timeout"])
def test_limits_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; expected"):
        options_of(AppOptions, {name: 0})
