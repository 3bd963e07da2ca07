"""How well a reference labels cells whose true types are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from anndata import AnnData

from spikgpt.cells.obs import counted, labels_of
from spikgpt.errors import ConfigError
from spikgpt.reference.schema import Agreement
from spikgpt.sampling import rows_by_label
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.label_map import LabelMap
from spikgpt.training.metrics import measure, unknown_auroc
from spikgpt.training.names import MatchedNames, match_names
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
    known_labels = labels or LabelMap(annotation.label_names, (None,) * len(annotation.label_names))
    matched = match_labels(adata, label_key, known_labels, label_map)
    truth = np.array([matched.renamed.get(name, name) for name in names.tolist()])[codes]
    known = labelled & np.isin(truth, annotation.label_names)
    unseen = labelled & ~known
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
        notes=matched.notes,
    )


def match_labels(
    adata: AnnData, label_key: str, labels: LabelMap, label_map: Mapping[str, str] | None = None
) -> MatchedNames:
    """Match the labels of a query with those of a reference, before the work; see :func:`evaluate`.

    Raises
    ------
    LabelsError
        When no label is one of the reference, or ``label_map`` names labels that the reference does not have.
    """
    stated, labelled = labels_of(adata, label_key)
    ids = ontology_ids(adata, stated)
    return match_names(np.unique(stated[labelled]).tolist(), labels, label_map or {}, ids)


def read_label_map(source: str) -> dict[str, str]:
    """Read a JSON object from names of the query's labels to the reference's: the text itself, or a file of it."""
    inline = source.lstrip().startswith(("{", "["))
    try:
        return msgspec.json.decode(source if inline else Path(source).read_bytes(), type=dict[str, str])
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        msg = f'{source} is no label map ({error}); expected JSON such as {{"Alpha cells": "alpha"}}, or a file of it.'
        raise ConfigError(msg) from None


def ontology_ids(adata: AnnData, labels: Strings) -> dict[str, str]:
    """Return the Cell Ontology id of each label, shape (n,), all of whose cells have the same one."""
    column = next((key for key in ONTOLOGY_COLUMNS if key in adata.obs), None)
    if column is None:
        return {}
    stated = adata.obs[column].astype(str).to_numpy()
    found = {name: np.unique(stated[rows]) for name, rows in rows_by_label(labels).items()}
    return {name: str(ids[0]) for name, ids in found.items() if len(ids) == 1 and ids[0].startswith("CL:")}
