"""SingleR by its Python package, with the pruning that the package lacks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from anndata import AnnData

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.preparing import Clock, labels_of, linear_of, log_normalised, versions_of
from spikgpt.types import Bools, Strings

# A cell is pruned when it lies this many median absolute deviations below the median of its label.
MOST_DEVIATIONS = 3.0
# Makes the median absolute deviation of normal numbers their standard deviation.
NORMAL = 1.4826


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by SingleR."""
    import singler

    genes = reference.var_names.to_list()
    clock = Clock()
    trained = singler.train_single(
        log_normalised(reference).T.tocsc().astype(np.float64),
        labels_of(reference, settings.label_key).tolist(),
        genes,
        test_features=genes,
        num_threads=settings.threads,
    )
    train_seconds = clock.lap()
    # Ranks within a cell are all that it reads of the query.
    asked = linear_of(query, settings).T.tocsc()
    found = singler.classify_single(asked, trained, num_threads=settings.threads)
    scores = found.column("scores")
    classes = np.array(list(scores.column_names), dtype=str)
    table = np.stack([np.asarray(scores.column(name)) for name in scores.column_names], axis=1)
    labels = np.array(found.column("best"), dtype=str)
    assigned = kept(table, labels, classes)
    return Answer(
        labels=labels,
        assigned=assigned,
        confidence=np.asarray(found.column("delta"), dtype=np.float64),
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("singler"),
    )


def kept(scores: npt.NDArray[np.float64], labels: Strings, classes: Strings) -> Bools:
    """Return which cells keep their label, shape (n,), as the package in R prunes by default.

    By how much the score of its label exceeds the median of its scores is compared with other cells of the same label.

    Parameters
    ----------
    scores
        Before any fine-tuning, shape (n, L).
    labels, classes
        Label of each cell, shape (n,), and those that the scores are of, shape (L,).
    """
    place = {name: at for at, name in enumerate(classes)}
    own = scores[np.arange(len(labels)), [place[name] for name in labels]]
    excess = own - np.median(scores, axis=1)
    keep = np.ones(len(labels), dtype=bool)
    for name in np.unique(labels):
        cells = labels == name
        middle = np.median(excess[cells])
        spread = NORMAL * np.median(np.abs(excess[cells] - middle))
        keep[cells] = excess[cells] >= middle - MOST_DEVIATIONS * spread
    return keep
