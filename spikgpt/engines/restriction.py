"""Restriction of a reference to some of its labels: the types that a query can have.

Probabilities and energy are those of the allowed labels. The in-distribution score compares a cell with the centroids
and profiles of these labels. So a cell of an excluded type becomes Unknown if it is unlike all allowed labels. The
weights of genes are still computed from all labels. So the restriction hardly changes the in-distribution scores of
cells of allowed types, and hardly changes the calibration of these scores.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.base import Embedding, Engine
from spikgpt.errors import ConfigError, listed
from spikgpt.options import AnnotateOptions
from spikgpt.reference.files import Reference
from spikgpt.types import Integers, NetworkOutput, OnCells, Scale

# Lowest number of allowed labels, because scores compare a label with the other labels.
LEAST_LABELS = 2
# Largest number of labels that a message names.
SHOWN = 30


def restrict(reference: Reference, engine: Engine, options: AnnotateOptions) -> tuple[Reference, Engine]:
    """Return a reference and its engine with the labels that the options allow; unchanged without a restriction.

    Raises
    ------
    ConfigError
        When an option names a label that the reference lacks, or leaves fewer than two labels.
    """
    if options.labels is None and options.exclude is None:
        return reference, engine
    names = reference.labels.names
    allowed = set(names if options.labels is None else find_labels(options.labels, names, "labels"))
    allowed -= set(find_labels(options.exclude or [], names, "exclude"))
    if len(allowed) < LEAST_LABELS:
        msg = (
            f"labels and exclude leave {len(allowed)} of the {len(names)} labels of the reference "
            f"({listed(sorted(allowed))}); expected at least {LEAST_LABELS}, because each label is compared with the "
            "others. Allow one more label (--labels, --exclude)."
        )
        raise ConfigError(msg)
    rows = np.flatnonzero([name in allowed for name in names])
    if len(rows) == len(names):
        return reference, engine
    geometry = reference.familiarity
    restricted = replace(reference, familiarity=geometry and replace(geometry, allowed=rows))
    return restricted, RestrictedEngine(engine, rows, reference.thresholds.temperature)


def excluded_labels(reference: Reference, engine: Engine) -> tuple[str, ...]:
    """Return the labels of a reference that its engine may not give."""
    if not isinstance(engine, RestrictedEngine):
        return ()
    allowed = set(engine.allowed.tolist())
    return tuple(name for row, name in enumerate(reference.labels.names) if row not in allowed)


def find_labels(texts: Sequence[str], names: Sequence[str], option: str, *, source: str = "the reference") -> list[str]:
    """Return the labels that texts name: each text is one label, or several labels separated by commas.

    Labels may contain commas themselves; the longest possible label is taken. ``source`` names the reference in errors.

    Raises
    ------
    ConfigError
        When a text names no label.
    """
    return [label for text in texts for label in _split(text, names, option, source)]


def _split(text: str, names: Sequence[str], option: str, source: str) -> Iterator[str]:
    """Yield the labels in a text, which is one label, or several labels separated by commas."""
    if text in names:
        yield text
        return
    parts = text.split(",")
    start = 0
    while start < len(parts):
        ends = range(len(parts), start, -1)
        joined = [(end, ",".join(parts[start:end]).strip()) for end in ends]
        end, label = next((pair for pair in joined if pair[1] in names), (start + 1, parts[start].strip()))
        if label not in names:
            msg = f"{option} names {label!r}, which is not a label of {source}. {_suggestion(label, names)}"
            raise ConfigError(msg)
        yield label
        start = end


def _suggestion(label: str, names: Sequence[str]) -> str:
    """Return a hint for a wrong label: the most similar label, or else a list of the reference's labels."""
    folded = {name.casefold(): name for name in reversed(names)}
    if near := difflib.get_close_matches(label.casefold(), list(folded), n=1, cutoff=0.5):
        return f"Did you mean {folded[near[0]]!r}?"
    more = f" and {len(names) - SHOWN} more (spikgpt info MODEL)" if len(names) > SHOWN else ""
    return f"Expected one of {listed(names[:SHOWN])}{more}."


@dataclass(frozen=True)
class RestrictedEngine:
    """Engine that computes probabilities and energies from the allowed labels alone; other probabilities are 0.

    Attributes
    ----------
    allowed
        Indices of the allowed labels, ascending.
    temperature
        Number by which the network divides its logits.
    """

    engine: Engine
    allowed: Integers
    temperature: float

    @property
    def name(self) -> str:
        """Name of the program and the hardware."""
        return self.engine.name

    @property
    def embedding(self) -> Embedding:
        """Embedding that reads the cells."""
        return self.engine.embedding

    @property
    def chunk_threads(self) -> int:
        """Number of chunks of cells to label at the same time."""
        return self.engine.chunk_threads

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return the network's output for cells, none of them empty; see :class:`spikgpt.embedding.base.Engine`."""
        output = self.engine.run(cells, scale, batch_size=batch_size, on_cells=on_cells)
        every = output.probabilities.astype(np.float64)
        allowed = np.zeros_like(every)
        allowed[:, self.allowed] = every[:, self.allowed]
        total = allowed.sum(axis=1, keepdims=True)
        # Probabilities to the power of the temperature are proportional to the exponentials of the logits.
        part, whole = ((values**self.temperature).sum(axis=1) for values in (allowed, every))
        shares = np.divide(part, whole, out=np.ones(len(every)), where=whole > 0)
        probabilities = np.divide(allowed, total, out=np.zeros_like(allowed), where=total > 0)
        return NetworkOutput(
            output.vectors,
            probabilities.astype(output.probabilities.dtype),
            (output.energies + np.log(np.maximum(shares, 1e-300))).astype(output.energies.dtype),
        )
