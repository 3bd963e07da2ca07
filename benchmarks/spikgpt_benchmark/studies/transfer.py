"""Measure label transfer between studies: all types known or one missing, all genes or a panel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from anndata import AnnData

from spikgpt.errors import DataError, GenesError
from spikgpt_benchmark.studies.datasets import LABEL
from spikgpt_benchmark.studies.pooled import pooled_evaluation_tasks, pooled_tuning_tasks
from spikgpt_benchmark.studies.scoring import figures, known_agreement, score_query, train_or_load
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite
from spikgpt_benchmark.studies.tasks import StudyTask, evaluation_tasks, gene_panel, tuning_tasks


def transfer_records(tasks: Callable[[Path], Iterator[StudyTask]], context: StudyContext) -> Iterator[Record]:
    """Yield the figures of each task, with all types and with one type left out, for each gene panel.

    Each reference is trained on all its genes once, whatever genes a query has.
    """
    for task in tasks(context.data):
        if not context.selects(task.name):
            continue
        queries = {n: task.query if n is None else gene_panel(task.query, n) for n in context.genes}
        for left_out in (None, *(() if context.complete else task.types)):
            reference = task.reference_without(left_out)
            model = train_or_load(reference, context.cache)
            for genes, query in queries.items():
                record: Record = {"task": task.name, "left out": left_out or "nothing", "genes": genes or "all"}
                record |= {"missing": "one type" if left_out else "nothing", "cells": query.n_obs}
                truth = query.obs[LABEL].astype(str).to_numpy()
                try:
                    scores = score_query(model, query)
                except GenesError:
                    record["refused"] = True
                else:
                    record |= {"refused": scores.refused, "genes found": scores.report.genes_matched}
                    record["compatibility"] = scores.compatibility.kind if scores.compatibility else None
                    record |= figures(scores, truth)
                if context.shared_genes and left_out is None:
                    record |= _trained_on_shared_genes(reference, query, context.cache)
                yield record


def _trained_on_shared_genes(reference: AnnData, query: AnnData, cache: Path) -> Record:
    """Return the figures of a reference trained on the query's genes; empty if all genes are shared or too few are."""
    shared = reference.var_names.isin(query.var_names)
    if shared.all():
        return {}
    try:
        scores = score_query(train_or_load(reference[:, shared].copy(), cache), query)
    except DataError:
        return {}
    agreement = known_agreement(scores, np.asarray(query.obs[LABEL].astype(str)))
    return {f"shared genes: {name}": value for name, value in agreement.items()}


def _suite(title: str, tasks: Callable[[Path], Iterator[StudyTask]]) -> StudySuite:
    """Return a suite that measures label transfer on these tasks."""
    keys = ("task", "left out", "genes", "missing", "cells", "genes found", "compatibility")
    return StudySuite(title, lambda context: transfer_records(tasks, context), keys, ("genes", "missing"))


SUITES = {
    "transfer": _suite("other studies, donors and platforms", evaluation_tasks),
    "transfer-tuning": _suite("the tasks that rules are tuned on", tuning_tasks),
    "pooled": _suite("queries that pool batches", pooled_evaluation_tasks),
    "pooled-tuning": _suite("queries that pool batches, to tune rules on", pooled_tuning_tasks),
}
