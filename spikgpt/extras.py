"""What is installed on request: one line says which extra brings what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spikgpt.errors import ConfigError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failed import into an error that names the extra of this package that brings it.

    Raises
    ------
    ConfigError
        When a package that is imported inside is not installed.
    """
    try:
        yield
    except ImportError as error:
        msg = f"{error.name or error} is not installed, and this needs it. Run: pip install 'spikgpt[{extra}]'"
        raise ConfigError(msg) from error
