"""Settings and result of a method, passed as files between the benchmark and the process of the method.

This module imports NumPy and anndata only, as some methods run in their own virtual environments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from anndata import AnnData

from spikgpt.types import Bools, Floats, Strings

SETTINGS, ARRAYS, FIGURES = "settings.json", "result.npz", "result.json"


@dataclass(frozen=True)
class MethodSettings:
    """Settings of one run of a method.

    Attributes
    ----------
    label_key
        Column of the reference's ``obs`` with the labels; the query has none.
    batch_key
        Column of ``obs`` with the batch, in reference and query; None if all cells are of one batch.
    query_values, query_log_base
        Values in ``X`` of the query: counts, or logarithms of 1 + normalised counts, and their base. The reference
        holds counts.
    options
        Options of this method.
    """

    seed: int
    label_key: str
    batch_key: str | None = None
    threads: int = 1
    options: dict[str, str] = field(default_factory=dict)
    query_values: Literal["counts", "log"] = "counts"
    query_log_base: float = math.e

    def write(self, folder: Path) -> None:
        """Write the settings to a folder."""
        (folder / SETTINGS).write_text(json.dumps(asdict(self), indent=1, sort_keys=True))

    @classmethod
    def read(cls, folder: Path) -> MethodSettings:
        """Read the settings from a folder."""
        return cls(**json.loads((folder / SETTINGS).read_text()))


@dataclass(frozen=True)
class MethodResult:
    """Labels of the n cells of a query.

    Attributes
    ----------
    labels
        The best label of each cell, shape (n,); never Unknown.
    assigned
        True for cells that keep their label at the method's own cut-off, shape (n,); None if the method cannot reject.
    confidence
        Confidence that each cell is of a known type, shape (n,), in any unit; None if the method gives none.
    probabilities, classes
        Probability of each label, shape (n, L), and the labels, shape (L,); None if the method gives none.
    train_seconds, predict_seconds
        Seconds without imports and reading of files; 0 if the worker measures the time.
    versions
        Versions of the packages of the method.
    """

    labels: Strings
    assigned: Bools | None = None
    confidence: Floats | None = None
    probabilities: Floats | None = None
    classes: Strings | None = None
    train_seconds: float = 0.0
    predict_seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the result to a folder; the file of figures comes last and marks the result as complete."""
        arrays = {name: getattr(self, name) for name in ("assigned", "confidence", "probabilities")}
        stored = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
        for name in ("labels", "classes"):
            if (values := getattr(self, name)) is not None:
                stored[name] = np.asarray(values).astype(np.str_)
        figures = {
            "train_seconds": float(self.train_seconds),
            "predict_seconds": float(self.predict_seconds),
            "versions": {name: str(version) for name, version in self.versions.items()},
        }
        np.savez_compressed(folder / ARRAYS, allow_pickle=False, **stored)
        temporary = folder / f".{FIGURES}"
        temporary.write_text(json.dumps(figures, indent=1, sort_keys=True))
        temporary.replace(folder / FIGURES)

    @classmethod
    def read(cls, folder: Path) -> MethodResult:
        """Read the result from a folder."""
        return cls.from_files(folder / ARRAYS, json.loads((folder / FIGURES).read_text()))

    @classmethod
    def from_files(cls, arrays: Path, figures: Mapping[str, Any]) -> MethodResult:
        """Return a result from the arrays in a file and from its other figures."""
        with np.load(arrays, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in stored.files}, **figures)

    def fault(self, n_cells: int) -> str | None:
        """Return the reason why the result does not fit a number of cells, or None if the result fits."""
        for name in ("labels", "assigned", "confidence"):
            array = getattr(self, name)
            if array is not None and np.shape(array) != (n_cells,):
                return f"{name} has the shape {np.shape(array)}, not ({n_cells},)"
        for name in ("confidence", "probabilities"):
            array = getattr(self, name)
            if array is not None and not np.isfinite(array).all():
                return f"{name} is not finite everywhere"
        if self.probabilities is not None and (
            self.classes is None or self.probabilities.shape != (n_cells, len(self.classes))
        ):
            return "probabilities and classes differ in shape"
        return None


# Function of a fitted method that labels a query.
Predict = Callable[[AnnData], MethodResult]
