"""What ambiguous labels have in common: the terms of the Cell Ontology above them.

A cell that is torn between CD4 and CD8 T cells is a T cell. The table that ships with the library has the terms of the
Cell Ontology and their parents; ``resources/README.md`` tells where it comes from.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.labels.thresholds import UNKNOWN

# Probability that a broad label has to hold.
SHARE = 0.95
# Terms above more than this many others, such as "eukaryotic cell" and "motile cell", tell nobody anything. Leukocytes
# have 572.
LARGEST_TERM = 600
# Cells looked at at a time.
CHUNK = 50_000

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Ontology:
    """Names of terms, the ids of their parents, and the number of terms below each."""

    names: dict[str, str]
    parents: dict[str, tuple[str, ...]]
    below: dict[str, int]

    def above(self, term: str) -> set[str]:
        """Return a term and all above it; nothing for an id that is no term."""
        found: set[str] = set()
        left = [term] if term in self.names else []
        while left:
            if (one := left.pop()) not in found:
                found.add(one)
                left += self.parents[one]
        return found


@cache
def ontology() -> Ontology:
    """Read the table that ships with the library."""
    text = gzip.decompress((files("spikgpt") / "resources" / "cell_ontology.tsv.gz").read_bytes()).decode()
    rows = [line.split("\t") for line in text.splitlines()]
    names = {f"CL:{number}": name for number, name, _ in rows}
    parents = {f"CL:{number}": tuple(f"CL:{p}" for p in above.split(",") if p) for number, _, above in rows}
    table = Ontology(names, parents, {})
    below = Counter(term for name in names for term in table.above(name) if term != name)
    return Ontology(names, parents, dict(below))


def broad_labels(
    probabilities: Floats, names: tuple[str, ...], cell_ontology_ids: Sequence[str | None], share: float = SHARE
) -> tuple[npt.NDArray[np.int16], tuple[str, ...]]:
    """Return each cell's label, or what its likely labels have in common.

    A best label with less than ``share`` of the probability gives way to the term above it with the fewest others below
    that holds at least ``share`` together with the other labels below it. Where no term that says something does, the
    broad label is Unknown. A label without an id stays as it is.

    Parameters
    ----------
    probabilities
        Label probabilities, shape (n, L).
    names, cell_ontology_ids
        Of the L labels.

    Returns
    -------
    For each cell an index, shape (n,), into the names that follow.
    """
    table = ontology() if any(cell_ontology_ids) else Ontology({}, {}, {})
    above = [table.above(term) if term else set() for term in cell_ontology_ids]
    useful = [term for term in set().union(*above) if table.below.get(term, 0) <= LARGEST_TERM]
    terms = sorted(useful, key=lambda term: (table.below.get(term, 0), term))
    broad_names = tuple(dict.fromkeys([*names, UNKNOWN, *(table.names[term] for term in terms)]))
    code = {name: place for place, name in enumerate(broad_names)}
    # The last column holds for everyone and means Unknown.
    under = np.array([[term in some for term in terms] + [True] for some in above])  # (L, terms + 1)
    codes_of_terms = np.array([*(code[table.names[term]] for term in terms), code[UNKNOWN]])
    best = probabilities.argmax(axis=1).astype(np.int16)
    torn = probabilities.max(axis=1) < share
    torn &= np.array([bool(some) for some in above])[best]
    broad = best.copy()
    cells = np.flatnonzero(torn)
    for start in range(0, len(cells), CHUNK):
        part = cells[start : start + CHUNK]
        held = probabilities[part].astype(np.float64) @ under >= share  # (chunk, terms + 1)
        held[:, -1] = True
        broad[part] = codes_of_terms[(held & under[best[part]]).argmax(axis=1)]
    return broad, broad_names
