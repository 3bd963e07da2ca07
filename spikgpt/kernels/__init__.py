"""Time-consuming computations of the annotation, each in a NumPy form and in a form that numba compiles.

The NumPy form runs if numba is not installed. It also runs for small queries, because the import of numba takes longer
than the annotation of a small query. Both forms return the same labels: the results differ by rounding only, or not at
all.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# Number of cells from which the compiled forms save more than two seconds. The first use on a machine takes some
# seconds more, for the compilation.
LEAST_CELLS = 10_000


def compiled(name: str, cells: int) -> ModuleType | None:
    """Return the module ``name`` of compiled functions, or None if the NumPy form is to be used.

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
