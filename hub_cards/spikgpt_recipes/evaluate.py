"""Evaluate a reference on query studies, and on labels that are left out of the reference, as in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import structs

from spikgpt.cells.expression import Cells
from spikgpt.cells.obs import counted, labels_of
from spikgpt.cells.reading import open_cells
from spikgpt.engines.opening import torch_engine
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference
from spikgpt.reference.schema import LeftOutRecord, StudyRecord
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.thresholds import PAPER_THRESHOLD
from spikgpt.training.evaluation import evaluate
from spikgpt.training.fit import OnEpoch
from spikgpt.training.metrics import measure
from spikgpt.training.split import can_hold_out, hold_out
from spikgpt.training.train import train
from spikgpt.types import Bools, Integers, Strings
from spikgpt_recipes.recipe import LABEL

# Largest number of labels in the list of labels that unseen cells are mistaken for.
MOST_MISTAKEN = 5


@dataclass(frozen=True)
class StudyEvaluation:
    """Figures of a study, and the true and the best labels of the cells whose true label the reference has."""

    record: StudyRecord
    truth: Strings
    best: Strings


def evaluate_study(reference: Reference, study: str, path: Path) -> StudyEvaluation:
    """Annotate the prepared cells of a study, and compare the labels with the study's own labels.

    Raises
    ------
    LabelsError
        When the reference has none of the study's labels.
    """
    with open_cells(path) as cells:
        annotation = _annotate(reference, cells)
        result = evaluate(annotation, cells, LABEL)
        truth = labels_of(cells, LABEL)[0]
    known = np.isin(truth, annotation.label_names)
    record = StudyRecord(
        study=study,
        cells=result.metrics.cells,
        accuracy=result.metrics.accuracy,
        macro_f1=result.metrics.macro_f1,
        share_right=result.open_set_accuracy,
        known_unknown=result.known_unknown_fraction,
        known_unknown_by_paper=float(_rejected_by_paper(annotation)[known].mean()),
        unseen_labels=result.unseen_labels,
    )
    return StudyEvaluation(record, truth[known], annotation.best_labels[known])


def pool_studies(evaluations: list[StudyEvaluation]) -> StudyRecord:
    """Return the figures over the cells of all studies together."""
    records = [evaluation.record for evaluation in evaluations]
    best = np.concatenate([evaluation.best for evaluation in evaluations])
    agreement = measure(np.concatenate([evaluation.truth for evaluation in evaluations]), best)
    cells = [record.cells for record in records]

    def mean(name: str) -> float:
        return float(np.average([getattr(record, name) for record in records], weights=cells))

    return StudyRecord(
        study="all of them",
        cells=sum(cells),
        accuracy=agreement.accuracy,
        macro_f1=agreement.macro_f1,
        share_right=mean("share_right"),
        known_unknown=mean("known_unknown"),
        known_unknown_by_paper=mean("known_unknown_by_paper"),
    )


def leave_label_out(
    label: str,
    reference: Path,
    queries: Mapping[str, Path],
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
) -> list[LeftOutRecord]:
    """Train a reference without a label, and evaluate it on the studies with cells of the label.

    Without query studies, whole donors of the reference are held out for the evaluation, or 30% of the cells of each
    label if there is one donor.

    Parameters
    ----------
    reference
        Prepared cells to train on.
    queries
        Prepared studies by name.
    """
    records = []
    with ExitStack() as stack:
        cells = stack.enter_context(open_cells(reference))
        labels = labels_of(cells, LABEL)[0]
        rows: Integers = np.arange(len(labels))
        parts: dict[str, Cells] = {}
        if not queries:
            rows, options, parts = _held_out(cells, labels, options)
        trained = train(cells[rows[labels[rows] != label]], LABEL, options=options, on_epoch=on_epoch)
        parts |= {study: stack.enter_context(open_cells(path)) for study, path in queries.items()}
        for study, part in parts.items():
            truth = labels_of(part, LABEL)[0]
            if (truth == label).any() and np.isin(truth, trained.labels.names).any():
                records.append(evaluate_left_out(label, study, trained, part))
    return records


def _held_out(cells: Cells, labels: Strings, options: TrainOptions) -> tuple[Integers, TrainOptions, dict[str, Cells]]:
    """Return the rows to train on, the options of the training, and the held-out cells by title."""
    groups = labels_of(cells, options.batch_key)[0] if options.batch_key else None
    rows, held_out = hold_out(labels, groups, seed=options.seed)
    if groups is None:
        return rows, options, {"held-out cells": cells[held_out]}
    title = f"held-out {options.batch_key} {', '.join(np.unique(groups[held_out]).tolist())}"
    if not can_hold_out(labels[rows], groups[rows]):
        options = structs.replace(options, batch_key=None)
    return rows, options, {title: cells[held_out]}


def evaluate_left_out(label: str, study: str, reference: Reference, cells: Cells) -> LeftOutRecord:
    """Return the figures of a study with a label that the reference lacks."""
    annotation = _annotate(reference, cells)
    result, truth = evaluate(annotation, cells, LABEL), labels_of(cells, LABEL)[0]
    unseen, known = truth == label, np.isin(truth, reference.labels.names)
    by_paper = _rejected_by_paper(annotation)
    mistaken = counted(annotation.best_labels[unseen])
    return LeftOutRecord(
        label=label,
        study=study,
        unseen_cells=int(unseen.sum()),
        known_cells=int(known.sum()),
        unseen_unknown=float(annotation.rejected[unseen].mean()),
        known_unknown=result.known_unknown_fraction,
        unseen_unknown_by_paper=float(by_paper[unseen].mean()),
        known_unknown_by_paper=float(by_paper[known].mean()),
        auroc=float(result.auroc_unknown or 0.0),
        mistaken_for=dict(list(mistaken.items())[:MOST_MISTAKEN]),
    )


def _annotate(reference: Reference, cells: Cells) -> Annotation:
    return annotate(reference, torch_engine(reference), cells, AnnotateOptions(progress=False))


def _rejected_by_paper(annotation: Annotation) -> Bools:
    """Return whether each cell is Unknown by the paper's threshold, shape (n,)."""
    return np.asarray(annotation.confidence.astype(np.float32) < PAPER_THRESHOLD)
