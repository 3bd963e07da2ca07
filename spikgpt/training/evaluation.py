"""How well a reference labels cells whose true types are known."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from anndata import AnnData

from spikgpt.cells.obs import counted, labels_of
from spikgpt.errors import ConfigError, LabelsError
from spikgpt.labels.annotation import Annotation
from spikgpt.labels.label_map import LabelMap
from spikgpt.reference.schema import Agreement
from spikgpt.training.metrics import measure, unknown_auroc
from spikgpt.types import Strings

# obs columns that hold Cell Ontology ids: ours, and that of the CELLxGENE schema.
ONTOLOGY_COLUMNS = ("cell_ontology_id", "cell_type_ontology_term_id")


@dataclass(frozen=True)
class Evaluation:
    """An annotation held against the truth.

    ``metrics`` compares the labels before rejection, over the cells whose true type the reference knows.
    ``accuracy_after_rejection`` counts every Unknown among those cells as an error. ``share_right`` is that of all
    labelled cells with the right answer: their label, or Unknown where the reference does not have it. Shares go from
    0 to 1: of the labelled cells that are Unknown, of those of known types, and of those of types that the reference
    does not have.
    The last and ``auroc_unknown`` are None without such cells; the AUROC is that of familiarity, or of the confidence
    where that made cells Unknown. ``notes`` are sentences on labels that were matched, or could not be.
    """

    metrics: Agreement
    share_right: float
    accuracy_after_rejection: float
    unknown_fraction: float
    known_unknown_fraction: float
    unseen_unknown_fraction: float | None
    auroc_unknown: float | None
    unseen_labels: dict[str, int]
    unlabelled_cells: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, the metrics at the top level; each fraction under its former name too."""
        values = {name: value for name, value in vars(self).items() if name != "metrics"}
        former = {name.replace("fraction", "rate"): value for name, value in values.items() if "fraction" in name}
        return self.metrics.to_dict() | values | former | {"notes": list(self.notes)}


def evaluate(
    annotation: Annotation,
    adata: AnnData,
    label_key: str,
    label_map: Mapping[str, str] | None = None,
    *,
    labels: LabelMap | None = None,
) -> Evaluation:
    """Hold an annotation against ``adata.obs[label_key]``, where at least one label must be of the reference.

    Cells without a label are left out. Cells of types that the reference does not have count as unseen: the right
    answer for them is Unknown. ``label_map`` leads from names of the query's labels to the reference's, where they
    differ. ``labels`` are those of the reference, with their Cell Ontology ids: a label of the query with another name
    but the id of one of them, in a column of ``ONTOLOGY_COLUMNS``, counts as that.
    """
    stated, labelled = labels_of(adata, label_key)
    names, codes = np.unique(stated, return_inverse=True)
    ids, known_names = ontology_ids(adata, stated), annotation.label_names
    renamed, notes = _renamed(names.tolist(), known_names, label_map or {}, ids, labels)
    truth = np.array([renamed.get(name, name) for name in names.tolist()])[codes]
    known = labelled & np.isin(truth, known_names)
    unseen = labelled & ~known
    if not known.any():
        found, expected = ", ".join(np.unique(truth[labelled])[:5]), ", ".join(known_names[:5])
        msg = (
            f"No label of obs[{label_key!r}] ({found}, ...) is in the reference ({expected}, ...). "
            f"Rename the labels of the query to those of the reference, or give a label_map. {' '.join(notes)}"
        )
        raise LabelsError(msg.rstrip())
    rejected = annotation.rejected
    # What made cells Unknown, or would have.
    familiarity = annotation.familiarity if annotation.cutoffs.threshold is None else None
    certainty = annotation.confidence if familiarity is None else familiarity
    return Evaluation(
        metrics=measure(truth[known], annotation.best_labels[known]),
        share_right=float(np.where(known, truth == annotation.labels, rejected)[labelled].mean()),
        accuracy_after_rejection=float((truth[known] == annotation.labels[known]).mean()),
        unknown_fraction=float(rejected[labelled].mean()),
        known_unknown_fraction=float(rejected[known].mean()),
        unseen_unknown_fraction=float(rejected[unseen].mean()) if unseen.any() else None,
        auroc_unknown=unknown_auroc(certainty[labelled], known[labelled]),
        unseen_labels=dict(sorted(counted(truth[unseen]).items())),
        unlabelled_cells=int((~labelled).sum()),
        notes=tuple(notes),
    )


def read_label_map(path: Path) -> dict[str, str]:
    """Read a JSON object from names of the query's labels to the reference's."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        msg = f'{path} is no label map ({error}); expected JSON such as {{"Alpha cells": "alpha"}}.'
        raise ConfigError(msg) from error


def ontology_ids(adata: AnnData, labels: Strings) -> dict[str, str]:
    """Return the Cell Ontology id of each label, shape (n,), all of whose cells have the same one."""
    column = next((key for key in ONTOLOGY_COLUMNS if key in adata.obs), None)
    if column is None:
        return {}
    stated = adata.obs[column].astype(str).to_numpy()
    found = {name: np.unique(stated[labels == name]) for name in np.unique(labels).tolist()}
    return {name: str(ids[0]) for name, ids in found.items() if len(ids) == 1 and ids[0].startswith("CL:")}


def _renamed(
    names: list[str], known: tuple[str, ...], label_map: Mapping[str, str], ids: dict[str, str], labels: LabelMap | None
) -> tuple[dict[str, str], list[str]]:
    """Return the reference's name of each label that has another one in the query, and notes on labels.

    ``ids`` are Cell Ontology ids of the query's labels; an empty name is no label.
    """
    for wanted in label_map.values():
        if wanted not in known:
            near = difflib.get_close_matches(str(wanted), known, n=3, cutoff=0.4) or known[:5]
            msg = f"label_map names {wanted!r}, which the reference does not have; near names are {', '.join(near)}."
            raise LabelsError(msg)
    notes = [f"label_map names {name!r}, which no cell has." for name in label_map if name not in names]
    renamed = dict(label_map)
    own = list(zip(labels.cell_ontology_ids, labels.names, strict=True)) if labels else []
    alike = {_plain(name): name for name in reversed(known)}
    for name in names:
        if not name or name in known or name in renamed:
            continue
        same = [other for term, other in own if term == ids.get(name, "")]
        other = alike.get(_plain(name))
        if len(same) == 1:
            renamed[name] = same[0]
            notes.append(f"{name!r} counts as {same[0]!r}: both are {ids[name]} in the Cell Ontology.")
        elif other:
            pair = json.dumps({name: other}, ensure_ascii=False)
            notes.append(f"The reference has no {name!r}; did you mean {other!r}? Then give the label map {pair}.")
    return renamed, notes


def _plain(name: str) -> str:
    """Return a label without what differs between ways of writing it."""
    text = re.sub(r"[\s_-]+", "", name.casefold())
    return re.sub(r"(?<=.)cells?$", "", text).removesuffix("s") or text
