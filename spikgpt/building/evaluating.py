"""What a reference makes of the studies that it is asked, and of a type that it lacks: the paper's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spikgpt.building.preparing import LABEL
from spikgpt.cells.expression import Cells
from spikgpt.cells.obs import counted, labels_of
from spikgpt.cells.reading import open_cells
from spikgpt.engines.opening import torch_engine
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference
from spikgpt.reference.schema import Asked, LeftOut
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.thresholds import PAPER_THRESHOLD
from spikgpt.training.evaluation import evaluate
from spikgpt.training.metrics import measure
from spikgpt.training.train import OnEpoch, train
from spikgpt.types import Bools, Strings

# Labels that unseen cells are mistaken for, at most.
SHOWN = 5


@dataclass(frozen=True)
class Answers:
    """The answers to a study: its figures, and of the cells whose label is known the truth and the best label."""

    figures: Asked
    truth: Strings
    best: Strings


def ask(reference: Reference, study: str, path: Path) -> Answers:
    """Annotate a prepared study and hold the labels against its own.

    Raises
    ------
    LabelsError
        When the reference knows none of its labels.
    """
    with open_cells(path) as cells:
        annotation = annotated(reference, cells)
        found = evaluate(annotation, cells, LABEL)
        truth = labels_of(cells, LABEL)[0]
    known = np.isin(truth, annotation.label_names)
    return Answers(_figures(study, found, annotation, known), truth[known], annotation.best_labels[known])


def together(answers: list[Answers]) -> Asked:
    """Return the figures of several studies as one."""
    agreement = measure(np.concatenate([one.truth for one in answers]), np.concatenate([one.best for one in answers]))
    cells = np.array([one.figures.cells for one in answers], dtype=float)

    def mean(name: str) -> float:
        return float(np.average([getattr(one.figures, name) for one in answers], weights=cells))

    return Asked(
        study="all of them",
        cells=int(cells.sum()),
        accuracy=agreement.accuracy,
        macro_f1=agreement.macro_f1,
        share_right=mean("share_right"),
        known_unknown=mean("known_unknown"),
        known_unknown_by_paper=mean("known_unknown_by_paper"),
    )


def leave_out(
    label: str,
    reference: Path,
    queries: Mapping[str, Path],
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
) -> list[LeftOut]:
    """Train a reference without a label, and ask it studies that have cells of it.

    Parameters
    ----------
    reference
        Prepared cells to train on.
    queries
        Prepared studies to ask, by name; those without cells of the label are not asked.
    """
    with open_cells(reference) as cells:
        known = labels_of(cells, LABEL)[0] != label
        lacking = train(cells[known], LABEL, options=options, on_epoch=on_epoch)
    rows = []
    for study, path in queries.items():
        with open_cells(path) as cells:
            truth = labels_of(cells, LABEL)[0]
            if (truth == label).any() and np.isin(truth, lacking.labels.names).any():
                rows.append(became_of(label, study, lacking, cells))
    return rows


def became_of(label: str, study: str, lacking: Reference, cells: Cells) -> LeftOut:
    """Return what a reference that lacks a label makes of a study that has it."""
    annotation = annotated(lacking, cells)
    found, truth = evaluate(annotation, cells, LABEL), labels_of(cells, LABEL)[0]
    unseen, known = truth == label, np.isin(truth, lacking.labels.names)
    by_paper = _by_paper(annotation)
    mistaken = counted(annotation.best_labels[unseen])
    return LeftOut(
        label=label,
        study=study,
        unseen_cells=int(unseen.sum()),
        known_cells=int(known.sum()),
        unseen_unknown=float(annotation.rejected[unseen].mean()),
        known_unknown=found.known_unknown_fraction,
        unseen_unknown_by_paper=float(by_paper[unseen].mean()),
        known_unknown_by_paper=float(by_paper[known].mean()),
        auroc=float(found.auroc_unknown or 0.0),
        mistaken_for=dict(list(mistaken.items())[:SHOWN]),
    )


def annotated(reference: Reference, cells: Cells) -> Annotation:
    """Return the labels that a reference gives cells by default."""
    return annotate(reference, torch_engine(reference), cells, AnnotateOptions(progress=False))


def _figures(study: str, found: Any, annotation: Annotation, known: Bools) -> Asked:
    return Asked(
        study=study,
        cells=found.metrics.cells,
        accuracy=found.metrics.accuracy,
        macro_f1=found.metrics.macro_f1,
        share_right=found.share_right,
        known_unknown=found.known_unknown_fraction,
        known_unknown_by_paper=float(_by_paper(annotation)[known].mean()),
        unseen_labels=found.unseen_labels,
    )


def _by_paper(annotation: Annotation) -> Bools:
    """Return whether each cell is Unknown by the paper's rule, shape (n,)."""
    return np.asarray(annotation.confidence.astype(np.float32) < PAPER_THRESHOLD)
