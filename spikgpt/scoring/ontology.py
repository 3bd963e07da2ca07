"""Cell Ontology terms of labels, and broad labels of uncertain cells: terms above the likely labels.

For example, a cell that is either a CD4 or a CD8 T cell gets the broad label T cell. The library ships a table with the
terms of the Cell Ontology and their parents; ``resources/README.md`` names the source of the table.
"""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Self

import numpy as np
import numpy.typing as npt

from spikgpt.scoring.label_map import LabelMap
from spikgpt.types import UNKNOWN, Bools, Floats, Integers

# Release of the Cell Ontology that the table holds.
RELEASE = "2026-03-26"
# Value of the ontology columns for a cell without a term, as the schema of CELLxGENE requires.
NO_TERM = "unknown"
# Terms that the schema of CELLxGENE refuses as cell types.
REFUSED_TERMS = ("CL:0000255", "CL:0000257", "CL:0000548")
# Largest number of terms below the term of a broad label. Terms with more terms below them, such as "eukaryotic cell",
# are not informative. The term "leukocyte" has 572.
LARGEST_TERM = 600


@dataclass(frozen=True)
class Ontology:
    """Cell Ontology: name of each term, ids of its parents, and number of terms below it, by the id of the term."""

    names: dict[str, str]
    parents: dict[str, tuple[str, ...]]
    below: dict[str, int]

    def above(self, term: str) -> set[str]:
        """Return the ids of a term and of all terms above the term; an empty set for an unknown id."""
        terms: set[str] = set()
        queue = [term] if term in self.names else []
        while queue:
            if (current := queue.pop()) not in terms:
                terms.add(current)
                queue += self.parents[current]
        return terms


@cache
def ontology() -> Ontology:
    """Read the Cell Ontology from the table that comes with the library."""
    rows = _rows("cell_ontology.tsv.gz")
    names = {f"CL:{number}": name for number, name, _ in rows}
    parents = {f"CL:{number}": tuple(f"CL:{p}" for p in above.split(",") if p) for number, _, above in rows}
    table = Ontology(names, parents, {})
    below = Counter(term for name in names for term in table.above(name) if term != name)
    return Ontology(names, parents, dict(below))


@cache
def _replacements() -> dict[str, str]:
    """Return the id that replaces each obsolete id of the Cell Ontology, by the obsolete id."""
    return {f"CL:{old}": f"CL:{new}" for old, new in _rows("cell_ontology_replaced.tsv.gz")}


def _rows(table: str) -> list[list[str]]:
    """Return the rows of a compressed table in ``spikgpt/resources``, each row as a list of texts."""
    text = gzip.decompress((files("spikgpt") / "resources" / table).read_bytes()).decode()
    return [line.split("\t") for line in text.splitlines()]


def current_id(term: str | None) -> str | None:
    """Return the id that replaces an obsolete Cell Ontology id; any other id, and None, is returned unchanged."""
    return term if not term or term in REFUSED_TERMS else _replacements().get(term, term)


def term_of(term: str | None) -> str:
    """Return a Cell Ontology id that CELLxGENE accepts as a cell type; "unknown" for any other id, and for None.

    For an obsolete id, the id that replaces the obsolete id is returned.
    """
    term = current_id(term)
    return term if term and term in ontology().names and term not in REFUSED_TERMS else NO_TERM


def name_of(term: str) -> str:
    """Return the name of a Cell Ontology id; "unknown" for "unknown"."""
    return NO_TERM if term == NO_TERM else ontology().names[term]


@dataclass(frozen=True)
class BroadLabels:
    """Broad labels that a reference can give: its labels, the Cell Ontology terms above its labels, and Unknown.

    Attributes
    ----------
    names
        The L labels, Unknown, and the T terms above the labels. Terms with the fewest terms below them come first.
    term_ids
        Cell Ontology id of each name, "unknown" for a label without a valid id.
    codes
        Indices of the terms and then of Unknown in ``names``, shape (T + 1,).
    under
        True if a label lies below a term of ``codes``, shape (L, T + 1); all labels lie below Unknown.
    are_terms
        True for labels with a term in the Cell Ontology, shape (L,).
    """

    names: tuple[str, ...]
    term_ids: tuple[str, ...]
    codes: Integers
    under: Bools
    are_terms: Bools

    @classmethod
    @lru_cache(maxsize=16)
    def from_labels(cls, labels: LabelMap) -> Self:
        """Collect the terms above the labels of a reference; the result is cached, as each chunk of cells needs it."""
        ids = tuple(map(current_id, labels.cell_ontology_ids))
        table = ontology() if any(ids) else Ontology({}, {}, {})
        above = [table.above(term) if term else set() for term in ids]
        useful = [term for term in set().union(*above) if table.below.get(term, 0) <= LARGEST_TERM]
        terms = sorted(set(useful).difference(REFUSED_TERMS), key=lambda term: (table.below.get(term, 0), term))
        names = (*labels.names, UNKNOWN, *(table.names[term] for term in terms))
        term_ids = (*(term_of(term) if term else NO_TERM for term in ids), NO_TERM, *terms)
        codes = [*range(len(ids) + 1, len(names)), len(ids)]
        under, column = np.zeros((len(ids), len(codes)), dtype=bool), {term: code for code, term in enumerate(terms)}
        under[:, -1] = True
        for label, some in enumerate(above):
            under[label, [column[term] for term in some if term in column]] = True
        return cls(names, term_ids, np.array(codes), under, np.array([bool(some) for some in above]))

    def assign(self, probabilities: Floats, certainty: float) -> npt.NDArray[np.int16]:
        """Return the broad label of each cell as an index of ``names``, shape (n,), from probabilities, shape (n, L).

        The most probable label stays if its probability is at least ``certainty``, or if the label has no Cell Ontology
        term. Otherwise a term above the label replaces the label. The probability of a term is the sum over the labels
        below the term. Of the terms whose probability is at least ``certainty``, the term with the fewest terms below
        it is chosen; Unknown if there is no such term.
        """
        broad: npt.NDArray[np.int16] = probabilities.argmax(axis=1).astype(np.int16)
        ambiguous = np.flatnonzero((probabilities.max(axis=1) < certainty) & self.are_terms[broad])
        enough = probabilities[ambiguous].astype(np.float64) @ self.under >= certainty  # (ambiguous, T + 1)
        enough[:, -1] = True
        broad[ambiguous] = self.codes[(enough & self.under[broad[ambiguous]]).argmax(axis=1)]
        return broad
