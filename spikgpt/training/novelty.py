"""How well a reference tells the types that it lacks: each type is left out in turn, and should come out Unknown."""

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
from spikgpt.errors import LabelsError, listed
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.pictures import plain, png
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.label_map import LabelMap
from spikgpt.training.evaluation import evaluate
from spikgpt.training.metrics import unseen_found
from spikgpt.training.split import batches_of, can_hold_out, check_names, hold_out
from spikgpt.training.train import train
from spikgpt.types import Strings

if TYPE_CHECKING:
    import pandas as pd

# Types of fewer cells are not left out: so few say nothing.
LEFT_OUT_CELLS = 30
# Share of known cells that may be rejected where unseen ones are counted.
KNOWN_REJECTED = 0.05


@dataclass(frozen=True)
class LeftOut:
    """What became of one type that the reference did not know.

    ``unseen_cells`` and ``known_cells`` count the query. ``auroc`` is that of familiarity, known against unseen;
    ``unseen_found`` is the share of unseen cells that are less familiar than all but 5% of the known ones.
    ``unseen_unknown`` and ``known_unknown`` are the shares Unknown by default. ``mistaken_for``
    counts the labels that fit the unseen cells best.
    """

    label: str
    unseen_cells: int
    known_cells: int
    auroc: float
    unseen_found: float
    unseen_unknown: float
    known_unknown: float
    mistaken_for: dict[str, int]


@dataclass(frozen=True)
class NoveltyReport:
    """The study over all types of a reference, in their order."""

    rows: tuple[LeftOut, ...]

    @property
    def mean_auroc(self) -> float:
        """Mean over the types."""
        return float(np.mean([row.auroc for row in self.rows]))

    def table(self) -> pd.DataFrame:
        """Return one row a type."""
        import pandas as pd

        texts = [{"mistaken_for": ", ".join(f"{n} {k}" for n, k in row.mistaken_for.items())} for row in self.rows]
        return pd.DataFrame([vars(row) | text for row, text in zip(self.rows, texts, strict=True)])

    def picture(self) -> bytes:
        """Draw AUROC and the share of unseen cells found, for each type, as PNG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, min(1 + 0.35 * len(self.rows), 100)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(self.rows))[::-1]
        axes.barh(places + 0.2, [row.auroc for row in self.rows], 0.38, label="AUROC")
        shares = [row.unseen_found for row in self.rows]
        axes.barh(places - 0.2, shares, 0.38, label=f"found with {100 * KNOWN_REJECTED:g}% of known cells rejected")
        axes.set_yticks(places, [plain(row.label) for row in self.rows])
        axes.set_xlim(0, 1)
        axes.set_xlabel("type left out of the reference")
        figure.legend(loc="outside upper center", ncols=2)
        return png(figure)


def study(
    adata: AnnData,
    label_key: str,
    *,
    types: Collection[str] | None = None,
    embedder: str | ScGPTSource = "pca",
    options: TrainOptions | None = None,
    on_type: Callable[[str], None] | None = None,
) -> NoveltyReport:
    """Leave each type with at least 30 cells out of a reference in turn.

    A part of the cells is the query, whole donors or batches if ``options.batch_key`` names their column, else 30% of
    each label. A reference is trained on the rest without the type, and shown the query, in which the type is.

    Parameters
    ----------
    label_key
        Column of ``obs`` with the cell types.
    types
        Types to leave out; by default all that can be.
    embedder, options
        Those of :func:`spikgpt.training.train.train`.
    on_type
        Called with each type that is done.

    Raises
    ------
    LabelsError
        When there are fewer than 3 types, or none can be left out.
    """
    options = options or TrainOptions()
    labels, labelled = labels_of(adata, label_key)
    used = labelled & ~np.isin(labels, list(check_trainable(labels[labelled])))
    cells, labels, batch_key = adata[used].copy(), labels[used], options.batch_key
    groups, counts = batches_of(cells, label_key, batch_key), counted(labels)
    check_names(LabelMap(tuple(counts), (None,) * len(counts)))
    rest, asked = hold_out(labels, groups, seed=options.seed)
    order = sorted(counts)
    possible = _possible(label_key, types, counts, labels[rest], labels[asked])
    rows = []
    for name in possible:
        known = rest[labels[rest] != name]
        several = groups is not None and can_hold_out(labels[known], groups[known])
        folder = options.checkpoints / f"type {order.index(name)}" if options.checkpoints else None
        own = structs.replace(options, batch_key=batch_key if several else None, checkpoints=folder)
        reference = train(cells[known].copy(), label_key, embedder=embedder, options=own)
        engine = torch_engine(reference, source=None if isinstance(embedder, str) else embedder)
        query = cells[asked[np.isin(labels[asked], [*reference.labels.names, name])]].copy()
        annotation = annotate(reference, engine, query, AnnotateOptions(layer=options.layer, progress=False))
        rows.append(_left_out(name, annotation, query, label_key))
        if on_type:
            on_type(name)
    return NoveltyReport(tuple(rows))


def _possible(
    label_key: str, types: Collection[str] | None, counts: dict[str, int], learned: Strings, asked: Strings
) -> list[str]:
    """Return which types can be left out, by name.

    Parameters
    ----------
    types
        Types that are asked for; None for all.
    counts
        Cells of each type.
    learned, asked
        Labels of the cells to learn from and of the query.
    """
    if missing := sorted(set(types or ()) - counts.keys()):
        msg = f"obs[{label_key!r}] has no type {missing[0]!r} with enough cells; it has {listed(sorted(counts))}."
        raise LabelsError(msg)
    few, query = check_trainable(learned, minimum_classes=0), set(asked.tolist())
    trained = set(learned.tolist()) - few.keys()

    def can_be_left_out(name: str) -> bool:
        others = trained - {name}
        return counts[name] >= LEFT_OUT_CELLS and name in query and len(others) > 1 and bool(others & query)

    possible = [name for name in sorted(types or counts) if can_be_left_out(name)]
    if not possible:
        msg = (
            f"None of {len(counts)} types of obs[{label_key!r}] can be left out. Expected at least 3 types, one of "
            f"them with at least {LEFT_OUT_CELLS} cells, and 2 others in both the training part and the query. Add "
            "cells, or leave the batch key out."
        )
        raise LabelsError(msg)
    return possible


def _left_out(name: str, annotation: Annotation, query: AnnData, label_key: str) -> LeftOut:
    """Return what became of a type in the annotation of a query by a reference without it."""
    result = evaluate(annotation, query, label_key)
    is_known = labels_of(query, label_key)[0] != name
    certainty = annotation.confidence if annotation.familiarity is None else annotation.familiarity
    return LeftOut(
        label=name,
        unseen_cells=int((~is_known).sum()),
        known_cells=int(is_known.sum()),
        auroc=float(result.auroc_unknown or 0.0),
        unseen_found=unseen_found(certainty, is_known, KNOWN_REJECTED),
        unseen_unknown=float(result.unseen_unknown_fraction or 0.0),
        known_unknown=result.known_unknown_fraction,
        mistaken_for=counted(annotation.best_labels[~is_known]),
    )
