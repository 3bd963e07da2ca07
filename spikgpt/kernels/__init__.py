"""Dense numerics of annotation, each in NumPy and in a form that numba compiles.

The NumPy form runs where numba is not installed, and for small queries, as the import of numba takes longer than their
annotation. Both forms return the same labels: the results differ by rounding only, or not at all.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# Cells from which the compiled forms save more than two seconds. The first use on a machine compiles for some seconds.
LEAST_CELLS = 10_000


def compiled(name: str, cells: int) -> ModuleType | None:
    """Return the module of this package with a compiled form, or None where the NumPy form is to be used.

    Parameters
    ----------
    cells
        Number of cells of the query, or of its sample. The choice depends on nothing else, so that the labels of a
        query do not depend on chunks.
    """
    if cells < LEAST_CELLS:
        return None
    try:
        return importlib.import_module(f"spikgpt.kernels.{name}")
    except ImportError:
        return None
