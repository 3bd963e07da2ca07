"""How well a reference labels cells whose true types are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData

from spikgpt.cells.obs import labels_of
from spikgpt.errors import LabelsError
from spikgpt.labels.annotation import Annotation
from spikgpt.training.metrics import Metrics, measure, unknown_auroc
from spikgpt.types import UNKNOWN


@dataclass(frozen=True)
class Evaluation:
    """An annotation held against the truth.

    ``metrics`` compares the labels before rejection, over the cells whose true type the reference knows.
    ``accuracy_after_rejection`` counts every Unknown among those cells as an error. Shares go from 0 to 1;
    ``unseen_unknown_rate`` and ``auroc_unknown`` are None without cells of unseen types; the latter is that of
    familiarity, or of the confidence where that made cells Unknown.
    """

    metrics: Metrics
    accuracy_after_rejection: float
    unknown_rate: float
    known_unknown_rate: float
    unseen_unknown_rate: float | None
    auroc_unknown: float | None
    unseen_labels: dict[str, int]
    unlabelled_cells: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, the metrics at the top level."""
        return self.metrics.to_dict() | {name: value for name, value in vars(self).items() if name != "metrics"}


def evaluate(annotation: Annotation, adata: AnnData, label_key: str) -> Evaluation:
    """Hold an annotation against ``adata.obs[label_key]``.

    Cells without a label are left out. Cells of types that the reference does not have count as unseen: the right
    answer for them is Unknown.

    Raises
    ------
    LabelsError
        When the column does not exist, or none of its labels is in the reference.
    """
    truth, labelled = labels_of(adata, label_key)
    known = labelled & np.isin(truth, annotation.label_names)
    unseen = labelled & ~known
    if not known.any():
        found, expected = ", ".join(np.unique(truth[labelled])[:5]), ", ".join(annotation.label_names[:5])
        msg = (
            f"No label of obs[{label_key!r}] ({found}, ...) is in the reference ({expected}, ...). "
            "Rename the labels of the query to those of the reference."
        )
        raise LabelsError(msg)
    rejected = annotation.labels == UNKNOWN
    # What made cells Unknown, or would have.
    familiarity = annotation.familiarity if annotation.cutoffs.threshold is None else None
    certainty = annotation.confidence if familiarity is None else familiarity
    names, counts = np.unique(truth[unseen], return_counts=True)
    return Evaluation(
        metrics=measure(truth[known], annotation.best_labels[known]),
        accuracy_after_rejection=float((truth[known] == annotation.labels[known]).mean()),
        unknown_rate=float(rejected[labelled].mean()),
        known_unknown_rate=float(rejected[known].mean()),
        unseen_unknown_rate=float(rejected[unseen].mean()) if unseen.any() else None,
        auroc_unknown=unknown_auroc(certainty[labelled], known[labelled]),
        unseen_labels=dict(zip(names.tolist(), counts.tolist(), strict=True)),
        unlabelled_cells=int((~labelled).sum()),
    )
