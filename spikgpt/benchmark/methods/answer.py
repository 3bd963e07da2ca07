"""What a method is asked and what it answers, as it goes from one process to another.

Here nothing but NumPy is imported: methods run in virtual environments of their own too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spikgpt.types import Bools, Floats, Strings

SETTINGS, ARRAYS, FIGURES = "settings.json", "answer.npz", "answer.json"
# Of the answer, what is optional.
OPTIONAL = ("assigned", "confidence", "probabilities", "classes")


@dataclass(frozen=True)
class Settings:
    """How a method is to run.

    Attributes
    ----------
    label_key
        Column of the reference's ``obs`` with the labels; the query has none.
    batch_key
        Column of both with the batch; None where the cells are of one.
    query_values, query_log_base
        What ``X`` of the query holds: counts, or logarithms of 1 + normalised counts, and to which base. That of the
        reference holds counts.
    options
        What the method alone reads.
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
    def read(cls, folder: Path) -> Settings:
        """Read what :meth:`write` wrote."""
        return cls(**json.loads((folder / SETTINGS).read_text()))


@dataclass(frozen=True)
class Answer:
    """What a method says of the n cells of a query.

    Attributes
    ----------
    labels
        The best label of each cell, (n,); never Unknown.
    assigned
        Whether each cell keeps its label, (n,), at the method's own cut-off; None where it cannot reject.
    confidence
        How surely each cell is of a known type, (n,), in any unit; None where the method does not say.
    probabilities, classes
        Of each label, (n, L) and (L,); None where the method does not give them.
    train_seconds, predict_seconds
        Without imports and reading of files. What cannot be told apart counts as training.
    versions
        Of the packages that did the work.
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
        """Write the answer to a folder; it is whole as soon as its figures are there."""
        arrays = {name: getattr(self, name) for name in ("labels", *OPTIONAL)}
        stored = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
        stored |= {name: stored[name].astype(np.str_) for name in ("labels", "classes") if name in stored}
        figures = {
            "train_seconds": float(self.train_seconds),
            "predict_seconds": float(self.predict_seconds),
            "versions": {name: str(version) for name, version in self.versions.items()},
        }
        temporary = folder / f".{ARRAYS}"
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **stored)
        temporary.replace(folder / ARRAYS)
        temporary = folder / f".{FIGURES}"
        temporary.write_text(json.dumps(figures, indent=1, sort_keys=True))
        temporary.replace(folder / FIGURES)

    @classmethod
    def read(cls, folder: Path) -> Answer:
        """Read what :meth:`write` wrote."""
        return cls.of(folder / ARRAYS, json.loads((folder / FIGURES).read_text()))

    @classmethod
    def of(cls, file: Path, figures: Mapping[str, Any]) -> Answer:
        """Return an answer of the arrays in a file and of its other figures."""
        with np.load(file, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files}, **figures)

    def fault(self, cells: int) -> str | None:
        """Say what is wrong with the answer to a number of cells; None where nothing is."""
        shapes = {name: getattr(self, name) for name in ("labels", "assigned", "confidence")}
        for name, array in shapes.items():
            if array is not None and np.shape(array) != (cells,):
                return f"{name} has the shape {np.shape(array)}, not ({cells},)"
        for name in ("confidence", "probabilities"):
            array = getattr(self, name)
            if array is not None and not np.isfinite(array).all():
                return f"{name} is not finite everywhere"
        if self.probabilities is not None and (
            self.classes is None or self.probabilities.shape != (cells, len(self.classes))
        ):
            return "probabilities and classes do not fit one another"
        return None
