"""Deprecated name of ``tests.hub_server``, the local Hub server for tests, which only a clone of the repository has."""

from __future__ import annotations

import importlib
import runpy
from typing import Any

from spikgpt.errors import ConfigError, warn


def __getattr__(name: str) -> Any:
    """Return a member of ``tests.hub_server``, and warn that this module is deprecated.

    Raises
    ------
    ConfigError
        When the package does not run from a clone of the repository.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        server = importlib.import_module("tests.hub_server")
    except ImportError:
        msg = (
            "The Hub server is not part of the package. Run it in a clone of the repository: python -m tests.hub_server"
        )
        raise ConfigError(msg) from None
    warn("spikgpt.testing.hub is now called tests.hub_server.", category=DeprecationWarning)
    return getattr(server, name)


if __name__ == "__main__":
    runpy.run_module("tests.hub_server", run_name="__main__")
