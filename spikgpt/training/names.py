"""Match labels of a query with labels of a reference that have other names."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unicodedata import normalize

import numpy as np
from anndata import AnnData

from spikgpt.errors import LabelsError, listed
from spikgpt.sampling import rows_by_label
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.ontology import ontology
from spikgpt.types import Strings

# Columns of obs with Cell Ontology ids: the column of this library, and that of the CELLxGENE schema.
ONTOLOGY_COLUMNS = ("cell_ontology_id", "cell_type_ontology_term_id")
# Lowest similarity of two names for a suggestion, and largest number of names in a message.
LEAST_SIMILARITY, SHOWN = 0.85, 8
# Largest number of pairs of names that are compared letter by letter.
MOST_PAIRS = 40_000
GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon"}
# Endings that labels often omit: "Mono" for "Monocytes".
ENDINGS = re.compile(r"(cyte|blast|phage|phil|thelial|thelium)s?")


@dataclass(frozen=True)
class MatchedNames:
    """Labels of a query that match labels of a reference with another name, and notes on labels.

    ``renamed`` maps the label of the query to the label of the reference.
    """

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
        Map from labels of the query to labels of the reference, given by the user.
    ids
        Cell Ontology id of each label of the query whose id is known.

    Raises
    ------
    LabelsError
        When ``label_map`` names a label that the reference lacks, or no label of the query is a label of the reference.
    """
    notes, known = _check_map(names, labels.names, label_map), set(labels.names)
    renamed = {name: other for name, other in label_map.items() if name in names}
    near: dict[str, tuple[str, str]] = {}
    unmatched = [name for name in names if name not in known and name not in renamed]
    index, by_term = _LabelIndex(labels), _inverted(dict(zip(labels.names, labels.cell_ontology_ids, strict=True)))
    for name in unmatched:
        if len(same := by_term.get(ids.get(name, ""), [])) == 1:
            renamed[name] = same[0]
            notes.append(f"{name!r} counts as {same[0]!r}: both are {ids[name]} in the Cell Ontology.")
        elif match := index.near(name, ids.get(name), spelling=len(unmatched) * len(known) <= MOST_PAIRS):
            near[name] = match
    if near:
        pairs = [f"{name!r} as {other!r} ({why})" for name, (other, why) in near.items()]
        whole = dict(label_map) | {name: other for name, (other, _) in near.items()}
        option = shlex.quote(json.dumps(whole, ensure_ascii=False))
        notes.append(
            f"The reference may have these labels under other names: {first_names(pairs)}. If they are the same, add: "
            f"--label-map {option}"
        )
    unseen = [name for name in unmatched if name not in renamed and name not in near]
    if not any(name in known or name in renamed for name in names):
        msg = (
            f"None of the query's labels ({first_names(names)}) is a label of the reference "
            f"({first_names(labels.names)}). "
        )
        remedy = "Choose another label column, or map the query's labels to the reference's with --label-map."
        raise LabelsError(msg + (" ".join(notes) if near else remedy))
    if unseen:
        notes.append(
            f"The reference has no label like {first_names(unseen)}. Cells of these labels count as unseen: the right "
            "answer is Unknown."
        )
    return MatchedNames(renamed, tuple(notes))


def _check_map(names: list[str], known: tuple[str, ...], label_map: Mapping[str, str]) -> list[str]:
    """Return notes on query labels in a label map that no cell has; raise LabelsError for wrong reference labels."""
    for label in label_map.values():
        if label not in known:
            near = difflib.get_close_matches(str(label), known, n=3, cutoff=0.4) or known[:5]
            msg = f"label_map names {label!r}, which the reference does not have; near names are {listed(near)}."
            if set(label_map) <= set(known) and set(label_map.values()) & set(names):
                msg += " The label map goes from the query's labels to the reference's; exchange both sides."
            raise LabelsError(msg)
    notes = []
    for name in label_map:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
            notes.append(
                f"label_map names {name!r}, which no cell has{f'; near names are {listed(near)}' if near else ''}."
            )
    return notes


class _LabelIndex:
    """Index of a reference's labels, to search for labels with a similar name or Cell Ontology term."""

    def __init__(self, labels: LabelMap) -> None:
        self.plain = {label: _plain(label) for label in labels.names}
        pairs = zip(labels.names, labels.cell_ontology_ids, strict=True)
        self.terms = {label: term or _terms().get(self.plain[label]) for label, term in pairs}
        self.by_plain = _inverted(self.plain)
        self.by_term = _inverted(self.terms)
        self.by_words = _inverted({label: _sorted_words(label) for label in labels.names})

    def near(self, name: str, term: str | None, *, spelling: bool) -> tuple[str, str] | None:
        """Return the only label that may mean the same as a name, and the reason; None for no label or several labels.

        With ``spelling``, labels with another ending or a few other letters count too.
        """
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
        if spelling:
            for same in (_shortened, _similar):
                if len(matches := [label for label, own in self.plain.items() if same(own, plain)]) == 1:
                    return matches[0], "near name"
        wider = [label for label, own in self.terms.items() if own in above]
        return (wider[0], f"above {term} in the Cell Ontology") if len(wider) == 1 else None


def _inverted(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Return the labels with each value, from a map of labels to values."""
    labels: dict[Any, list[str]] = {}
    for label, value in values.items():
        labels.setdefault(value, []).append(label)
    return labels


@cache
def _terms() -> dict[str, str]:
    """Return the id of each Cell Ontology term, by the name of the term in plain spelling."""
    return {_plain(name): term for term, name in ontology().names.items()}


def _words(name: str) -> list[str]:
    """Return the words of a name in one spelling: lower case, singular, Greek letters as words."""
    text = normalize("NFKC", name).casefold()
    for letter, word in GREEK.items():
        text = text.replace(letter, word)
    # A minus after a marker is part of the name, as in CD4-, and becomes a word. A plus is left out.
    text = re.sub(r"(?<=\w)[-\N{MINUS SIGN}](?=\s|$)", " negative ", text)
    words = [word for word in re.split(r"[^\w.]+|_+", text) if word]
    words = [word.removesuffix("s") if len(word) > 2 else word for word in words]
    return [word for word in words if word != "cell"] or words


def _sorted_words(name: str) -> tuple[str, ...]:
    return tuple(sorted(_words(name)))


def _plain(name: str) -> str:
    """Return the words of a name, joined without spaces, and without the word "cell"."""
    return re.sub(r"(?<=.)cell$", "", "".join(_words(name)))


def _shortened(first: str, second: str) -> bool:
    """Return True if two plain names differ only by an ending, such as a plural."""
    short, long = sorted((first, second), key=len)
    return len(short) > 3 and long.startswith(short) and ENDINGS.fullmatch(long[len(short) :]) is not None


def _similar(first: str, second: str) -> bool:
    """Return True if two plain names differ in a few letters only; CD14 and CD16 differ in a number, so False."""
    numbers = [re.findall(r"\d+|negative", name) for name in (first, second)]
    if numbers[0] != numbers[1]:
        return False
    pair = difflib.SequenceMatcher(None, first, second)
    return pair.quick_ratio() >= LEAST_SIMILARITY and pair.ratio() >= LEAST_SIMILARITY


def first_names(names: Sequence[str]) -> str:
    """Return a text with the first eight names, and the number of the remaining names."""
    return listed(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def ontology_ids(adata: AnnData, labels: Strings) -> dict[str, str]:
    """Return the Cell Ontology id of each label whose cells all have the same id; ``labels`` has shape (n,)."""
    column = next((key for key in ONTOLOGY_COLUMNS if key in adata.obs), None)
    if column is None:
        return {}
    stated = adata.obs[column].astype(str).to_numpy()
    ids_of = {name: np.unique(stated[rows]) for name, rows in rows_by_label(labels).items()}
    return {name: str(ids[0]) for name, ids in ids_of.items() if len(ids) == 1 and ids[0].startswith("CL:")}
