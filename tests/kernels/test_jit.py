"""Compiled functions compute the same as in Python, and are cached on disk if a folder is writable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from spikgpt.kernels import LEAST_CELLS, compiled
from spikgpt.kernels.jit import jit


def total(values: np.ndarray) -> float:
    result = 0.0
    for value in values:
        result += value
    return result


def test_a_compiled_function_returns_the_same_as_in_python() -> None:
    values = np.random.default_rng(0).normal(size=1000)

    assert jit(cache=False)(total)(values) == total(values)
    assert np.isclose(jit(reordered=True, cache=False)(total)(values), total(values), rtol=1e-12)


def test_small_queries_and_absent_numba_use_numpy() -> None:
    assert compiled("nearest", LEAST_CELLS - 1) is None
    assert compiled("nearest", LEAST_CELLS) is not None
    code = """if True:
        import sys
        sys.modules["numba"] = None
        from spikgpt import kernels
        assert kernels.compiled("nearest", kernels.LEAST_CELLS) is None
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_functions_are_compiled_without_a_writable_cache(tmp_path: Path) -> None:
    code = """if True:
        from numba.core import caching
        caching.CacheImpl._locator_classes = []  # as if no folder were writable
        import numpy as np
        from spikgpt.kernels.nearest import ClusteredPoints
        points = np.arange(20.0)[:, None]
        nearest = ClusteredPoints.fit(points).nearest(points[:1], np.array([0]), 2)
        assert nearest.tolist() == [[1, 2]], nearest
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
