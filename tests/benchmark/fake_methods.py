"""Fake methods that the benchmark runs in separate processes; ``options["how"]`` selects the behaviour."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from anndata import AnnData

from spikgpt_benchmark.methods import Method
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict


def method(name: str, how: str, **fields: object) -> Method:
    """Return a fake method; ``fit`` in this module is its entry point."""
    return Method(name, name.capitalize(), __name__, **{"options": {"how": how}, "deterministic": True, **fields})  # type: ignore[arg-type]


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Return a function that labels the cells of a query."""
    return lambda query: label(reference, query, settings)


def label(reference: AnnData, query: AnnData, settings: MethodSettings) -> MethodResult:
    """Label cells by the nearest mean profile, or misbehave in the way that ``options["how"]`` names."""
    how = settings.options["how"]
    if how == "eat":
        eaten = []
        while True:
            eaten.append(np.ones(4_000_000))  # 32 MB
            time.sleep(0.02)
    if how == "sleep":
        time.sleep(600)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fail":
        msg = "no luck today"
        raise RuntimeError(msg)
    if how.startswith("wait for "):
        while not Path(how.removeprefix("wait for ")).exists():
            time.sleep(0.05)
    labels = reference.obs[settings.label_key].astype(str).to_numpy()
    if how == "strange":
        return MethodResult(labels=np.repeat("Unknown", query.n_obs))
    if how == "majority":
        names, counts = np.unique(labels, return_counts=True)
        return MethodResult(labels=np.repeat(names[counts.argmax()], query.n_obs))
    return nearest(reference, labels, query)


def nearest(reference: AnnData, labels: np.ndarray, query: AnnData) -> MethodResult:
    """Label each cell by the type whose mean profile correlates most; at 0.3 or less the cell is unassigned."""
    names = np.unique(labels)
    learned, unlabelled = (logs(cells) for cells in (reference, query))
    means = np.stack([learned[labels == name].mean(axis=0) for name in names])
    correlations = np.corrcoef(unlabelled, means)[: len(unlabelled), len(unlabelled) :]
    weights = np.exp(10 * correlations)
    best = correlations.max(axis=1)
    return MethodResult(
        labels=names[correlations.argmax(axis=1)],
        assigned=best > 0.3,
        confidence=best,
        probabilities=weights / weights.sum(axis=1, keepdims=True),
        classes=names,
        train_seconds=0.5,
        predict_seconds=0.25,
        versions={"numpy": np.__version__},
    )


def logs(cells: AnnData) -> np.ndarray:
    """Return log1p of the counts scaled to 10,000 per cell, shape (cells, genes)."""
    values = cells.X.toarray().astype(np.float64)
    return np.asarray(np.log1p(1e4 * values / np.maximum(values.sum(axis=1, keepdims=True), 1)))
