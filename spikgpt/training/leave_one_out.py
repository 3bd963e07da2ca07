"""Leave-one-type-out: train without each type in turn, and measure how well its cells are recognised as unknown."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from msgspec import structs

from spikgpt.cells.obs import check_trainable, counted, labels_of
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.errors import LabelsError, listed, with_noun
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.pictures import plain, png
from spikgpt.scoring.annotation import Annotation
from spikgpt.training.cells import LabelledCells
from spikgpt.training.evaluation import evaluate, known_score
from spikgpt.training.metrics import tpr_at_fpr
from spikgpt.training.split import can_hold_out, hold_out
from spikgpt.training.train import train
from spikgpt.types import Strings

if TYPE_CHECKING:
    import pandas as pd

# Least number of cells of a type that is left out: with fewer cells the figures are too uncertain.
LEAST_CELLS = 30
# False positive rate at which the true positive rate is measured: the share of known cells that are rejected.
FPR = 0.05


@dataclass(frozen=True)
class LeaveOneOutResult:
    """Result for one type that the reference was not trained on.

    Attributes
    ----------
    label
        The type that was left out.
    unseen_cells, known_cells
        Number of query cells of this type, and of the types that the reference has.
    auroc
        AUROC of the OOD score for unseen against known cells.
    tpr_at_5_fpr
        Share of unseen cells that are rejected by the cut-off that rejects 5% of the known cells (TPR at 5% FPR).
    unseen_unknown, known_unknown
        Share of the unseen cells, and share of the known cells, that the default rule makes Unknown.
    mistaken_for
        Number of unseen cells that got each label, before rejection.
    """

    label: str
    unseen_cells: int
    known_cells: int
    auroc: float
    tpr_at_5_fpr: float
    unseen_unknown: float
    known_unknown: float
    mistaken_for: dict[str, int]


@dataclass(frozen=True)
class LeaveOneOutReport:
    """Results of the types that were left out, sorted by name."""

    rows: tuple[LeaveOneOutResult, ...]

    @property
    def mean_auroc(self) -> float:
        """Mean AUROC over the types."""
        return float(np.mean([row.auroc for row in self.rows]))

    def table(self) -> pd.DataFrame:
        """Return a table with one row per type."""
        import pandas as pd

        texts = [", ".join(f"{name} {cells}" for name, cells in row.mistaken_for.items()) for row in self.rows]
        table = pd.DataFrame([vars(row) for row in self.rows]).assign(mistaken_for=texts)
        # ``unseen_found`` is the name of this column up to version 0.9.
        return table.assign(unseen_found=table["tpr_at_5_fpr"])

    def picture(self) -> bytes:
        """Return a bar chart of AUROC and TPR at 5% FPR for each type, as PNG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, min(1 + 0.35 * len(self.rows), 100)), layout="constrained")
        axes = figure.add_subplot()
        heights = np.arange(len(self.rows))[::-1]
        axes.barh(heights + 0.2, [row.auroc for row in self.rows], 0.38, label="AUROC")
        axes.barh(heights - 0.2, [row.tpr_at_5_fpr for row in self.rows], 0.38, label=f"TPR at {100 * FPR:g}% FPR")
        axes.set_yticks(heights, [plain(row.label) for row in self.rows])
        axes.set_xlim(0, 1)
        axes.set_xlabel("type left out of the reference")
        figure.legend(loc="outside upper center", ncols=2)
        return png(figure)


def leave_one_type_out(
    adata: AnnData,
    label_key: str,
    *,
    types: Collection[str] | None = None,
    embedder: str | ScGPTSource = "pca",
    options: TrainOptions | None = None,
    on_type: Callable[[str], None] | None = None,
) -> LeaveOneOutReport:
    """Train a reference without each type in turn, and measure how well the cells of this type become Unknown.

    Some cells are the query: whole donors or batches if ``options.batch_key`` names their column, else 30% of each
    label. A reference is trained on the other cells without the type, and annotates the query with the type. Types with
    at least 30 cells can be left out.

    Parameters
    ----------
    label_key
        Column of ``obs`` with the cell types.
    types
        Types to leave out; None for all types that can be left out.
    embedder, options
        As for :func:`spikgpt.training.train.train`.
    on_type
        Called with each type after its result is computed.

    Raises
    ------
    LabelsError
        When there are fewer than 3 types, or no type can be left out.
    """
    options = options or TrainOptions()
    cells = LabelledCells.select(adata, label_key, options.batch_key)
    labels, groups, counts = cells.labels, cells.groups, counted(cells.labels)
    train_rows, query_rows = hold_out(labels, groups, seed=options.seed)
    order, results = sorted(counts), []
    for name in _possible_types(label_key, types, counts, labels[train_rows], labels[query_rows]):
        known = train_rows[labels[train_rows] != name]
        several = groups is not None and can_hold_out(labels[known], groups[known])
        folder = options.checkpoints / f"type {order.index(name)}" if options.checkpoints else None
        without = structs.replace(options, batch_key=options.batch_key if several else None, checkpoints=folder)
        reference = train(adata[cells.rows[known]].copy(), label_key, embedder=embedder, options=without)
        engine = torch_engine(reference, source=None if isinstance(embedder, str) else embedder)
        included = np.isin(labels[query_rows], [*reference.labels.names, name])
        query = adata[cells.rows[query_rows[included]]].copy()
        read = AnnotateOptions(layer=options.layer, gene_key=options.gene_key, progress=False)
        annotation = annotate(reference, engine, query, read)
        results.append(_result(name, annotation, query, label_key))
        if on_type:
            on_type(name)
    return LeaveOneOutReport(tuple(results))


def _possible_types(
    label_key: str, types: Collection[str] | None, counts: dict[str, int], train_labels: Strings, query_labels: Strings
) -> list[str]:
    """Return the names of the types that can be left out, sorted.

    Parameters
    ----------
    types
        Types that the user asks for; None for all.
    counts
        Number of cells of each type.
    train_labels, query_labels
        Labels of the training cells and of the query's cells.
    """
    if missing := sorted(set(types or ()) - counts.keys()):
        msg = f"obs[{label_key!r}] has no type {missing[0]!r} with enough cells; it has {listed(sorted(counts))}."
        raise LabelsError(msg)
    in_query = set(query_labels.tolist())
    trained = set(train_labels.tolist()) - check_trainable(train_labels, minimum_classes=0).keys()

    def is_possible(name: str) -> bool:
        other_types = trained - {name}
        return (
            counts[name] >= LEAST_CELLS and name in in_query and len(other_types) > 1 and bool(other_types & in_query)
        )

    possible = [name for name in sorted(types or counts) if is_possible(name)]
    if not possible:
        msg = (
            f"None of {with_noun(len(counts), 'type')} of obs[{label_key!r}] can be left out. Expected at least "
            "3 types, one of "
            f"them with at least {LEAST_CELLS} cells, and 2 others in both the training part and the query. Add "
            "cells, or leave the batch key out."
        )
        raise LabelsError(msg)
    return possible


def _result(name: str, annotation: Annotation, query: AnnData, label_key: str) -> LeaveOneOutResult:
    """Return the result for a type from the annotation of a query by a reference without the type."""
    evaluation = evaluate(annotation, query, label_key)
    is_known = labels_of(query, label_key)[0] != name
    return LeaveOneOutResult(
        label=name,
        unseen_cells=int((~is_known).sum()),
        known_cells=int(is_known.sum()),
        auroc=float(evaluation.auroc_unknown or 0.0),
        tpr_at_5_fpr=tpr_at_fpr(known_score(annotation), is_known, FPR),
        unseen_unknown=float(evaluation.unseen_unknown_fraction or 0.0),
        known_unknown=evaluation.known_unknown_fraction,
        mistaken_for=counted(annotation.best_labels[~is_known]),
    )
