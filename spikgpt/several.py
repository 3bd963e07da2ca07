"""Annotation of one query with several references, such as those of two tissues in one file.

1. Each reference scores all cells. A cell is assigned to the reference that gives the cell the lowest OOD score.
2. Each reference labels the cells assigned to it again, as a separate query. So the compatibility check, the batch
   effects and the rule for Unknown refer to these cells alone.

If a reference does not suit its cells, the cells are assigned to the other references. If these do not suit the cells
either, the first assignment is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from spikgpt.cells.expression import Cells
from spikgpt.embedding.base import Engine
from spikgpt.errors import ConfigError, listed
from spikgpt.options import AnnotateOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference
from spikgpt.report.map import MapSource
from spikgpt.report.writer import ReportWriter
from spikgpt.scoring.annotation import REFERENCE, Annotation
from spikgpt.scoring.compatibility import STUDY, Compatibility
from spikgpt.scoring.rejection import RejectionRule
from spikgpt.types import Floats, InputReport, Integers

T = TypeVar("T")


@dataclass(frozen=True)
class NamedModel:
    """A reference and its engine, with the name that the user gave."""

    name: str
    reference: Reference
    engine: Engine


def annotate_by_several(models: Sequence[NamedModel], cells: Cells, options: AnnotateOptions) -> Annotation:
    """Label every cell of a query by the reference that fits the cell best; the query is not changed.

    Raises
    ------
    DataError
        When the cells cannot be read or share too few genes with a reference.
    ConfigError
        When an option does not fit a reference, or a reference has no OOD score.
    """
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        msg = f"The references are {listed(names)}; expected at least one, each once."
        raise ConfigError(msg)
    if len(models) == 1:
        return annotate(models[0].reference, models[0].engine, cells, options)
    if chosen := [name for name in ("labels", "exclude", "cluster_key", "majority_vote") if getattr(options, name)]:
        msg = f"{listed(chosen)} cannot be used with several references. Name one reference, or leave the option out."
        raise ConfigError(msg)
    scored = [_scored(model, cells, options) for model in models]
    scores = np.stack([score for score, _ in scored])
    parts, owner = _annotations_by_owner(models, cells, options, scores, tuple(range(len(models))))
    names = [model.reference.name for model in models]
    names = names if len(set(names)) == len(names) else [model.name for model in models]
    annotation = merged({names[index]: part for index, part in parts.items()}, owner, cells)
    # The map of a report uses the sample of the reference to which most cells are assigned.
    _, source = scored[list(parts)[np.bincount(owner).argmax()]]
    return replace(annotation, reporter=ReportWriter(options, source))


def _scored(
    model: NamedModel, cells: Cells, options: AnnotateOptions
) -> tuple[npt.NDArray[np.float32], MapSource | None]:
    """Return the OOD score of each cell by a reference, shape (n,), and the sample that places all cells on a map.

    The compatibility is not checked, because the reference may be of another tissue than a part of the cells.
    """
    annotation = annotate(model.reference, model.engine, cells, options.plain(), check=False)
    if annotation.ood_score is None:
        msg = f"The reference {model.name} has format 1, which has no OOD score. Train it again, or name it alone."
        raise ConfigError(msg)
    return annotation.ood_score, MapSource.from_annotation(annotation)


def _annotations_by_owner(
    models: Sequence[NamedModel],
    cells: Cells,
    options: AnnotateOptions,
    scores: Floats,
    indices: tuple[int, ...],
) -> tuple[dict[int, Annotation], Integers]:
    """Assign each cell to a reference, and annotate the cells of each reference.

    Parameters
    ----------
    scores
        OOD scores by each reference, shape (R, n); NaN for empty cells.
    indices
        Indices of the references to which cells may be assigned.

    Returns
    -------
    Annotation by the index of its reference, for each reference with cells. For each cell, the position of its
    annotation in this dictionary, shape (n,).
    """
    some = scores[list(indices)]
    owner = np.array(indices)[np.where(np.isnan(some), np.inf, some).argmin(axis=0)]
    parts = dict[int, Annotation]()
    for index in np.unique(owner).tolist():
        model = models[index]
        part = annotate(model.reference, model.engine, cells, options, only=owner == index)
        parts[index] = replace(part, nearest=None)
    refused = {index for index, part in parts.items() if not _suits(part)}
    if refused and len(refused) < len(parts):
        remaining = tuple(index for index in indices if index not in refused)
        fewer = _annotations_by_owner(models, cells, options, scores, remaining)
        if all(map(_suits, fewer[0].values())):
            return fewer
    return parts, np.searchsorted(np.array(list(parts)), owner)


def _suits(part: Annotation) -> bool:
    """Return False for an annotation by a reference of another tissue or species."""
    return part.compatibility is None or part.compatibility.usable


def merged(parts: Mapping[str, Annotation], owner: Integers, cells: Cells) -> Annotation:
    """Return one annotation of n cells from the annotations by several references.

    Parameters
    ----------
    parts
        Annotation of all cells by each reference; the keys are the names of the references.
    owner
        Index of the part that each cell takes its label from, shape (n,).
    """
    names, n_cells = tuple(parts), len(owner)
    own = [_subset(part, np.flatnonzero(owner == index)) for index, part in enumerate(parts.values())]
    label_names, best = _united([part.label_names for part in own])
    label_ids = {
        name: term for part in own for name, term in zip(part.label_names, part.label_ids, strict=True) if term
    }
    # A broad name may have different Cell Ontology terms in two references.
    broad_pairs, broad = _united([tuple(zip(part.broad_names, part.broad_ids, strict=True)) for part in own])
    probabilities = np.zeros((n_cells, len(label_names)), dtype=np.float32)
    for index, part in enumerate(own):
        probabilities[np.ix_(owner == index, best[index])] = part.probabilities

    def gathered(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return an array for all cells, from one array for the cells of each part."""
        whole = np.empty(n_cells, dtype=arrays[0].dtype)
        for index, values in enumerate(arrays):
            whole[owner == index] = values
        return whole

    def optional(name: str) -> npt.NDArray[Any] | None:
        """Return a field for all cells: NaN where a cell's annotation lacks it, None if every annotation lacks it."""
        if all(getattr(part, name) is None for part in own):
            return None
        arrays = (getattr(part, name) for part in own)
        return gathered([_or_nan(array, part) for array, part in zip(arrays, own, strict=True)])

    first = own[0]
    return replace(
        first,
        obs_names=cells.obs_names,
        confidence=gathered([part.confidence for part in own]),
        empty=gathered([part.empty for part in own]),
        rejected=gathered([part.rejected for part in own]),
        best=gathered([codes[part.best] for codes, part in zip(best, own, strict=True)]).astype(np.int16),
        broad=gathered([codes[part.broad] for codes, part in zip(broad, own, strict=True)]).astype(np.int16),
        probabilities=probabilities,
        label_names=label_names,
        label_ids=tuple(map(label_ids.get, label_names)),
        broad_names=tuple(name for name, _ in broad_pairs),
        broad_ids=tuple(term for _, term in broad_pairs),
        typicality=optional("typicality"),
        ood_score=optional("ood_score"),
        rule=_rule(names, own),
        compatibility=_compatibility(names, own),
        smoothed=all(part.smoothed for part in own),
        reference_name=" + ".join(part.reference_name for part in own),
        reference_origin=" + ".join(part.reference_origin or name for name, part in zip(names, own, strict=True)),
        reference_digest=" + ".join(part.reference_digest for part in own),
        input_report=_report(names, own),
        batch_key=" + ".join(dict.fromkeys(part.batch_key for part in own if part.batch_key)) or None,
        columns={REFERENCE: pd.Categorical.from_codes(owner, pd.Index(names))},
        facts={"references": np.array(names, dtype=object)},
        nearest=None,
        query=None,
        queries={name: part.query for name, part in zip(names, own, strict=True) if part.query is not None},
    )


def _subset(part: Annotation, rows: Integers) -> Annotation:
    """Return the annotation of some of the cells, from their row numbers."""
    names = ("best", "confidence", "probabilities", "empty", "broad", "rejected", "typicality", "ood_score")
    arrays = {name: values[rows] for name in names if (values := getattr(part, name)) is not None}
    return replace(part, obs_names=part.obs_names[:][rows], **arrays)


def _or_nan(array: npt.NDArray[Any] | None, part: Annotation) -> npt.NDArray[Any]:
    """Return the array of a part; if it is None, return NaN for each cell of the part."""
    return np.full(len(part.best), np.nan, dtype=np.float32) if array is None else array


def _united(lists: Sequence[tuple[T, ...]]) -> tuple[tuple[T, ...], list[Integers]]:
    """Return the union of lists, and for each list the indices of its entries in the union."""
    union = tuple(dict.fromkeys(entry for some in lists for entry in some))
    index = {entry: position for position, entry in enumerate(union)}
    return union, [np.array([index[entry] for entry in some], dtype=np.int64) for some in lists]


def _rule(names: Sequence[str], parts: Sequence[Annotation]) -> RejectionRule:
    """Return one rule for Unknown whose text describes the rules of all parts."""
    rules = [part.rule for part in parts]
    if len(texts := list(dict.fromkeys(rule.rule for rule in rules))) > 1:
        texts = [f"{name}: {rule.rule}" for name, rule in zip(names, rules, strict=True)]
    return RejectionRule("; ".join(texts), threshold=rules[0].threshold, unknown_rate=rules[0].unknown_rate)


def _compatibility(names: Sequence[str], parts: Sequence[Annotation]) -> Compatibility | None:
    """Return the compatibility of the references with their own cells; None if it was checked for no reference."""
    checks = [(name, part.compatibility) for name, part in zip(names, parts, strict=True) if part.compatibility]
    if not checks:
        return None
    kinds = {check.kind for _, check in checks}
    values = {
        f"{name}: {key}".replace("/", "_"): value for name, check in checks for key, value in check.values.items()
    }
    evidence = "; ".join(f"{name}: {check.evidence}" for name, check in checks)
    return Compatibility(kinds.pop() if len(kinds) == 1 else STUDY, evidence, values)


def _report(names: Sequence[str], parts: Sequence[Annotation]) -> InputReport:
    """Return one report on the input, with the notes of each part after the name of its reference."""
    reports = [part.input_report for part in parts]
    return replace(
        reports[0],
        scaling=", ".join(dict.fromkeys(report.scaling for report in reports)),
        genes_matched=sum(report.genes_matched for report in reports),
        genes_total=sum(report.genes_total for report in reports),
        notes=tuple(f"{name}: {note}" for name, part in zip(names, parts, strict=True) for note in part.notes()),
        simulated_accuracy=None,
    )
