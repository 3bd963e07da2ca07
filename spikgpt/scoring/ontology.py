"""What ambiguous labels have in common: the terms of the Cell Ontology above them.

A cell that is torn between CD4 and CD8 T cells is a T cell. The table that ships with the library has the terms of the
Cell Ontology and their parents; ``resources/README.md`` tells where it comes from.
"""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.scoring.label_map import LabelMap
from spikgpt.types import UNKNOWN, Bools, Floats, Integers

# Probability that a broad label has to hold.
SHARE = 0.95
# Terms above more than this many others, such as "eukaryotic cell" and "motile cell", tell nobody anything. Leukocytes
# have 572.
LARGEST_TERM = 600


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


@dataclass(frozen=True)
class BroadLabels:
    """The names that a reference can give to cells that are torn between labels.

    Attributes
    ----------
    names
        The L labels, Unknown, and the T terms above the labels, those with the fewest terms below them first.
    codes
        Indices of the terms and then of Unknown in ``names``, shape (T + 1,).
    under
        Whether a label lies below each of ``codes``, shape (L, T + 1); all lie below Unknown.
    are_terms
        Whether the label itself is in the Cell Ontology, shape (L,).
    """

    names: tuple[str, ...]
    codes: Integers
    under: Bools
    are_terms: Bools

    @classmethod
    def of(cls, labels: LabelMap) -> Self:
        """Look up what lies above the labels of a reference."""
        ids = labels.cell_ontology_ids
        table = ontology() if any(ids) else Ontology({}, {}, {})
        above = [table.above(term) if term else set() for term in ids]
        useful = [term for term in set().union(*above) if table.below.get(term, 0) <= LARGEST_TERM]
        terms = sorted(useful, key=lambda term: (table.below.get(term, 0), term))
        names = tuple(dict.fromkeys([*labels.names, UNKNOWN, *(table.names[term] for term in terms)]))
        place = {name: code for code, name in enumerate(names)}
        codes = [*(place[table.names[term]] for term in terms), place[UNKNOWN]]
        under, column = np.zeros((len(ids), len(codes)), dtype=bool), {term: code for code, term in enumerate(terms)}
        under[:, -1] = True
        for label, some in enumerate(above):
            under[label, [column[term] for term in some if term in column]] = True
        return cls(names, np.array(codes), under, np.array([bool(some) for some in above]))

    def assign(self, probabilities: Floats) -> npt.NDArray[np.int16]:
        """Return each cell's label, or what its likely labels have in common: (n, L) to indices of ``names``, (n,).

        A best label with less than 95% of the probability gives way to the term above it with the fewest others below
        that holds at least 95% together with the other labels below it. Where no term that says something does, the
        broad label is Unknown. A label without an id stays as it is.
        """
        broad: npt.NDArray[np.int16] = probabilities.argmax(axis=1).astype(np.int16)
        torn = np.flatnonzero((probabilities.max(axis=1) < SHARE) & self.are_terms[broad])
        held = probabilities[torn].astype(np.float64) @ self.under >= SHARE  # (torn, T + 1)
        held[:, -1] = True
        broad[torn] = self.codes[(held & self.under[broad[torn]]).argmax(axis=1)]
        return broad
