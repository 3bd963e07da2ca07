"""Labels of a query under other names than the reference's: which are the same, and which may be."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from unicodedata import normalize

from spikgpt.errors import LabelsError, listed
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.ontology import ontology

# How alike two names must be to be asked about, and names that are shown to a user.
ALIKE, SHOWN = 0.85, 8
# Pairs of names that are compared letter by letter at most.
MOST_PAIRS = 40_000
GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon"}
# Endings that labels often leave out: "Mono" for "Monocytes".
ENDINGS = re.compile(r"(cyte|blast|phage|phil|thelial|thelium)s?")


@dataclass(frozen=True)
class MatchedNames:
    """The reference's name of each query label that has another name, and ``notes`` on labels, whole sentences."""

    renamed: dict[str, str]
    notes: tuple[str, ...]


def match_names(
    names: list[str], labels: LabelMap, label_map: Mapping[str, str], ids: Mapping[str, str]
) -> MatchedNames:
    """Match the labels of a query with those of a reference.

    Parameters
    ----------
    names
        Labels of the query.
    labels
        Labels of the reference.
    label_map
        Names that the user gives: from labels of the query to labels of the reference.
    ids
        Cell Ontology ids of labels of the query, where they are known.

    Raises
    ------
    LabelsError
        When ``label_map`` names no label of the reference, or no label of the query is one of the reference.
    """
    notes, known = _check_map(names, labels.names, label_map), set(labels.names)
    renamed = {name: other for name, other in label_map.items() if name in names}
    near: dict[str, tuple[str, str]] = {}
    unmatched = [name for name in names if name not in known and name not in renamed]
    own, by_term = _KnownNames(labels), _inverted(dict(zip(labels.names, labels.cell_ontology_ids, strict=True)))
    for name in unmatched:
        if len(same := by_term.get(ids.get(name, ""), [])) == 1:
            renamed[name] = same[0]
            notes.append(f"{name!r} counts as {same[0]!r}: both are {ids[name]} in the Cell Ontology.")
        elif found := own.near(name, ids.get(name), thorough=len(unmatched) * len(known) <= MOST_PAIRS):
            near[name] = found
    if near:
        pairs = [f"{name!r} as {other!r} ({why})" for name, (other, why) in near.items()]
        whole = dict(label_map) | {name: other for name, (other, _) in near.items()}
        option = shlex.quote(json.dumps(whole, ensure_ascii=False))
        notes.append(
            f"The reference may have these labels under other names: {listed(pairs[:SHOWN])}"
            f"{_more(pairs)}. If they are the same, add: --label-map {option}"
        )
    unseen = [name for name in unmatched if name not in renamed and name not in near]
    if not any(name in known or name in renamed for name in names):
        msg = (
            f"None of the query's labels ({listed(names[:SHOWN])}{_more(names)}) is a label of the reference "
            f"({listed(labels.names[:SHOWN])}{_more(labels.names)}). "
        )
        remedy = "Choose another label column, or map the query's labels to the reference's with --label-map."
        raise LabelsError(msg + (" ".join(notes) if near else remedy))
    if unseen:
        notes.append(
            f"The reference has no label like {listed(unseen[:SHOWN])}{_more(unseen)}. These cells count as unseen: "
            "Unknown is the right answer for them."
        )
    return MatchedNames(renamed, tuple(notes))


def _check_map(names: list[str], known: tuple[str, ...], label_map: Mapping[str, str]) -> list[str]:
    """Return notes on keys of a label map that no cell has, and refuse values that the reference does not have."""
    turned = (
        ""
        if set(label_map) - set(known) or not set(label_map.values()) & set(names)
        else (" The label map goes from the query's labels to the reference's; exchange both sides.")
    )
    for wanted in label_map.values():
        if wanted not in known:
            near = difflib.get_close_matches(str(wanted), known, n=3, cutoff=0.4) or known[:5]
            msg = (
                f"label_map names {wanted!r}, which the reference does not have; near names are {listed(near)}.{turned}"
            )
            raise LabelsError(msg)
    notes = []
    for name in label_map:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
            notes.append(
                f"label_map names {name!r}, which no cell has{f'; near names are {listed(near)}' if near else ''}."
            )
    return notes


class _KnownNames:
    """Index of a reference's labels, to find those whose names are near to another name."""

    def __init__(self, labels: LabelMap) -> None:
        self.plain = {label: _plain(label) for label in labels.names}
        pairs = zip(labels.names, labels.cell_ontology_ids, strict=True)
        self.terms = {label: term or _terms().get(self.plain[label]) for label, term in pairs}
        self.by_plain = _inverted(self.plain)
        self.by_term = _inverted(self.terms)
        self.by_words = _inverted({label: _sorted_words(label) for label in labels.names})

    def near(self, name: str, term: str | None, *, thorough: bool) -> tuple[str, str] | None:
        """Return the one label that may be the same as a name, and why; misspelt ones where ``thorough``."""
        plain = _plain(name)
        term = term or _terms().get(plain)
        above = ontology().above(term) - {term} if term else set()
        exact = (
            (self.by_plain.get(plain, []), "near name"),
            (self.by_term.get(term, []) if term else [], f"{term} in the Cell Ontology"),
            (self.by_words.get(_sorted_words(name), []), "same words"),
        )
        for labels, why in exact:
            if labels:
                return (labels[0], why) if len(labels) == 1 else None
        if thorough:
            for holds in (_shortened, _alike):
                if len(found := [label for label, own in self.plain.items() if holds(own, plain)]) == 1:
                    return found[0], "near name"
        wider = [label for label, own in self.terms.items() if own in above]
        return (wider[0], f"above {term} in the Cell Ontology") if len(wider) == 1 else None


def _inverted(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Return the labels of each value."""
    found: dict[Any, list[str]] = {}
    for label, value in values.items():
        found.setdefault(value, []).append(label)
    return found


@cache
def _terms() -> dict[str, str]:
    """Return the Cell Ontology ids by the names of their terms."""
    return {_plain(name): term for term, name in ontology().names.items()}


def _words(name: str) -> list[str]:
    """Return the words of a name without what differs between ways of writing it."""
    text = normalize("NFKC", name).casefold()
    for letter, word in GREEK.items():
        text = text.replace(letter, word)
    # A minus behind a marker is part of the name, as in CD4-; a plus goes without saying.
    text = re.sub(r"(?<=\w)[-\N{MINUS SIGN}](?=\s|$)", " negative ", text)
    words = [word for word in re.split(r"[^\w.]+|_+", text) if word]
    words = [word.removesuffix("s") if len(word) > 2 else word for word in words]
    return [word for word in words if word != "cell"] or words


def _sorted_words(name: str) -> tuple[str, ...]:
    return tuple(sorted(_words(name)))


def _plain(name: str) -> str:
    """Return a name without what differs between ways of writing it."""
    return re.sub(r"(?<=.)cell$", "", "".join(_words(name)))


def _shortened(one: str, other: str) -> bool:
    """Return True for plain names that differ by an ending alone, such as a plural."""
    short, long = sorted((one, other), key=len)
    return len(short) > 3 and long.startswith(short) and ENDINGS.fullmatch(long[len(short) :]) is not None


def _alike(one: str, other: str) -> bool:
    """Return whether two plain names differ in a letter or two; CD14 and CD16 are not alike."""
    numbers = [re.findall(r"\d+|negative", name) for name in (one, other)]
    if numbers[0] != numbers[1]:
        return False
    pair = difflib.SequenceMatcher(None, one, other)
    return pair.quick_ratio() >= ALIKE and pair.ratio() >= ALIKE


def _more(names: list[str] | tuple[str, ...]) -> str:
    return f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
