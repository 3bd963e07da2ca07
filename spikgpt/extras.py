"""Packages that only some of the work needs, and the extras that bring them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spikgpt.errors import ConfigError

EXTRAS = {
    **dict.fromkeys(("matplotlib", "onnx", "scanpy", "sklearn", "spikingjelly", "torch"), "train"),
    **{"numba": "scgpt", "onnxruntime": "cpu", "pyarrow": "parquet"},
}


@contextmanager
def needs(package: str = "") -> Iterator[None]:
    """Name the extra to install when an import in the block fails.

    Parameters
    ----------
    package
        What the block needs; by default the package that was not found, if an extra brings it.

    Raises
    ------
    ConfigError
        When it is not installed.
    """
    try:
        yield
    except ImportError as error:
        missing = package or str(error.name).partition(".")[0]
        if missing not in EXTRAS:
            raise
        msg = f"This needs {missing}, which cannot be imported ({error}): pip install 'spikgpt[{EXTRAS[missing]}]'"
        raise ConfigError(msg) from error
