"""Compare an annotation with the true types of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.cells.obs import counted, labels_of
from spikgpt.errors import ConfigError, printable, warn, with_noun
from spikgpt.reference.schema import Agreement
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.label_map import LabelMap
from spikgpt.tables import html_table, html_view
from spikgpt.training.metrics import measure, unknown_auroc
from spikgpt.training.names import MatchedNames, match_names, ontology_ids
from spikgpt.types import UNKNOWN


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Comparison of an annotation with the true types of the cells. Shares go from 0 to 1.

    Attributes
    ----------
    metrics
        Metrics of the labels before rejection, over the cells of known types. Known types are those of the reference.
    open_set_accuracy
        Share of all labelled cells with the right answer: their type, or Unknown for a type that the reference lacks.
    accuracy_after_rejection
        Accuracy over the cells of known types, where Unknown counts as an error.
    unknown_fraction, known_unknown_fraction, unseen_unknown_fraction
        Share of Unknown among all labelled cells, the cells of known types and the cells of missing types. The last is
        None without cells of missing types.
    auroc_unknown
        AUROC of cells of missing types against cells of known types, by the score of :func:`known_score`. None without
        cells of missing types.
    unseen_labels
        Number of cells of each missing type.
    unlabelled_cells
        Number of cells without a true type, which are left out.
    notes
        Sentences on labels that were matched by another name, or not matched.
    verdict
        Sentence on the compatibility of the query and the reference; None for a reference of format 1.
    """

    metrics: Agreement
    open_set_accuracy: float
    accuracy_after_rejection: float
    unknown_fraction: float
    known_unknown_fraction: float
    unseen_unknown_fraction: float | None
    auroc_unknown: float | None
    unseen_labels: dict[str, int]
    unlabelled_cells: int
    notes: tuple[str, ...] = ()
    verdict: str | None = None

    def sentences(self) -> list[str]:
        """Return sentences on the cells of known types, on Unknown cells and on missing types."""
        metrics, known = self.metrics, _percent(self.known_unknown_fraction)
        texts = [
            f"{with_noun(metrics.cells, 'cell', form=',')} of known types: accuracy {metrics.accuracy:.3f}, "
            f"macro-F1 {metrics.macro_f1:.3f} "
            f"before rejection. {known} of them are {UNKNOWN}."
        ]
        if self.unseen_unknown_fraction is not None:
            types = ", ".join(f"{name} ({cells:,})" for name, cells in self.unseen_labels.items())
            auroc = "" if self.auroc_unknown is None else f" AUROC of missing against known: {self.auroc_unknown:.3f}."
            texts.append(
                f"{_percent(self.unseen_unknown_fraction)} of the cells of missing types are {UNKNOWN}: {types}.{auroc}"
            )
        if self.unlabelled_cells:
            texts.append(f"Cells without a true type were left out: {self.unlabelled_cells:,}.")
        return texts

    def __repr__(self) -> str:
        return printable(f"Evaluation: {self._headline} {self.sentences()[0]}")

    def _repr_html_(self) -> str:
        rows = [
            (score.label, f"{score.cells:,}", f"{score.precision:.3f}", f"{score.recall:.3f}", f"{score.f1:.3f}")
            for score in self.metrics.per_label
        ]
        table = html_table(("true label", "cells", "precision", "recall", "F1"), rows, numbers=1)
        texts = [*([self._headline] if self.verdict else []), *self.sentences()]
        return html_view(self.verdict or self._headline, texts, [table], self.notes)

    @property
    def _headline(self) -> str:
        return f"{_percent(self.open_set_accuracy)} of all labelled cells have the right answer."

    @property
    def share_right(self) -> float:
        """Deprecated name of :attr:`open_set_accuracy`."""
        warn("Evaluation.share_right is now called open_set_accuracy.", category=DeprecationWarning)
        return self.open_set_accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with the metrics at the top level, also under the names of older versions."""
        values = {name: value for name, value in vars(self).items() if name not in ("metrics", "verdict")}
        former = {name.replace("fraction", "rate"): value for name, value in values.items() if "fraction" in name}
        former["share_right"] = self.open_set_accuracy
        return self.metrics.to_dict() | values | former | {"notes": list(self.notes)}


def evaluate(
    annotation: Annotation,
    adata: AnnData,
    label_key: str,
    label_map: Mapping[str, str] | None = None,
    *,
    labels: LabelMap | None = None,
) -> Evaluation:
    """Compare an annotation with the true types in ``adata.obs[label_key]``.

    Cells without a true type are left out. The right answer for cells of a type that the reference lacks, or that the
    options excluded, is Unknown.

    Parameters
    ----------
    label_map
        Maps names of the query's types to labels of the reference, where the names differ.
    labels
        Labels of the reference with their Cell Ontology ids. If ``obs`` has a column of ``ONTOLOGY_COLUMNS``, types of
        the query are also matched by these ids.

    Raises
    ------
    LabelsError
        When no type of the query is a label of the reference.
    """
    stated, labelled = labels_of(adata, label_key)
    names, codes = np.unique(stated, return_inverse=True)
    excluded = set(annotation.excluded_labels)
    known_labels = labels or LabelMap(annotation.label_names, (None,) * len(annotation.label_names))
    matched = match_labels(adata, label_key, known_labels, label_map)
    truth = np.array([matched.renamed.get(name, name) for name in names.tolist()])[codes]
    known = labelled & np.isin(truth, [name for name in annotation.label_names if name not in excluded])
    unseen = labelled & ~known
    rejected = annotation.rejected
    certainty = known_score(annotation)
    return Evaluation(
        metrics=measure(truth[known], annotation.best_labels[known]),
        open_set_accuracy=float(np.where(known, truth == annotation.labels, rejected)[labelled].mean()),
        accuracy_after_rejection=float((truth[known] == annotation.labels[known]).mean()),
        unknown_fraction=float(rejected[labelled].mean()),
        known_unknown_fraction=float(rejected[known].mean()),
        unseen_unknown_fraction=float(rejected[unseen].mean()) if unseen.any() else None,
        auroc_unknown=unknown_auroc(certainty[labelled], known[labelled]),
        unseen_labels=dict(sorted(counted(truth[unseen]).items())),
        unlabelled_cells=int((~labelled).sum()),
        notes=matched.notes,
        verdict=annotation.compatibility.sentence if annotation.compatibility else None,
    )


def known_score(annotation: Annotation) -> npt.NDArray[np.float64]:
    """Return the score that decides which cells are Unknown, shape (n,); the score is higher for known types.

    The score is the negative OOD score if there is an OOD score. Otherwise the score is the typicality, or the
    confidence for a rule with a threshold on the confidence.
    """
    if annotation.ood_score is not None:
        return -np.nan_to_num(annotation.ood_score.astype(np.float64), nan=np.inf)
    by_confidence = annotation.typicality is None or annotation.rule.threshold is not None
    return np.asarray(annotation.confidence if by_confidence else annotation.typicality, dtype=np.float64)


def match_labels(
    adata: AnnData, label_key: str, labels: LabelMap, label_map: Mapping[str, str] | None = None
) -> MatchedNames:
    """Match the types of a query with the labels of a reference; see :func:`evaluate`.

    Raises
    ------
    LabelsError
        When no type is a label of the reference, or ``label_map`` names labels that the reference does not have.
    """
    stated, labelled = labels_of(adata, label_key)
    ids = ontology_ids(adata, stated)
    return match_names(np.unique(stated[labelled]).tolist(), labels, label_map or {}, ids)


def read_label_map(source: str) -> dict[str, str]:
    """Read a map from the query's types to the reference's labels from JSON text or a JSON file.

    Entries with the value ``null``, for types that the reference lacks, are left out.
    """
    inline = source.lstrip().startswith(("{", "["))
    try:
        text = source if inline else Path(source).read_bytes()
        return {name: label for name, label in msgspec.json.decode(text, type=dict[str, str | None]).items() if label}
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        msg = f'{source} is no label map ({error}); expected JSON such as {{"Alpha cells": "alpha"}}, or a JSON file.'
        raise ConfigError(msg) from None


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
