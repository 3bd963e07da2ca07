"""scPred: a support vector machine for each type, on the principal components that tell it from the others.

Written from Alquicira-Hernandez et al., Genome Biology 2019, doi:10.1186/s13059-019-1862-5, and the settings that its
users' guide names. The query is projected with the reference's means and deviations, and aligned by Harmony with the
reference held still, as Symphony does. Variable genes are those of scanpy, the machine and its probabilities those of
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from anndata import AnnData
from scipy.spatial.distance import pdist
from scipy.stats import false_discovery_control, mannwhitneyu

from spikgpt.benchmark.methods.answer import Answer, Settings
from spikgpt.benchmark.methods.packages.symphony import ALIGNED, compressed, mapped
from spikgpt.benchmark.methods.preparing import Clock, labels_of, likeliest, versions_of
from spikgpt.types import Bools, Floats, Rows, Strings

# The rate of false discoveries below which a component tells a type from the others.
FALSE_DISCOVERIES = 0.05
# Below this probability a cell is unassigned.
LEAST_PROBABILITY = 0.55
COSTS, FOLDS = (0.25, 0.5, 1.0), 5
# Cells whose distances set the width of the kernel.
CELLS_FOR_WIDTH = 1000


def run(reference: AnnData, query: AnnData, settings: Settings) -> Answer:
    """Label a query by scPred."""
    clock = Clock()
    # A query is aligned as one, whatever batches it has.
    settings = replace(settings, batch_key=None)
    known = compressed(reference, settings)
    labels = labels_of(reference, settings.label_key)
    machines = machines_of(known.obsm[ALIGNED], labels, settings.seed)
    train_seconds = clock.lap()
    asked, _ = mapped(known, query, settings)
    names = np.unique(labels)
    probabilities = np.stack([machines[name](asked) for name in names], axis=1)
    return replace(
        likeliest(probabilities, names),
        assigned=probabilities.max(axis=1) > LEAST_PROBABILITY,
        train_seconds=train_seconds,
        predict_seconds=clock.lap(),
        versions=versions_of("scikit-learn", "scanpy", "symphonypy"),
    )


def machines_of(points: Floats, labels: Strings, seed: int) -> dict[str, Callable[[Floats], Floats]]:
    """Train a machine for each type; each gives the probability of its type for points, (m, D) to (m,)."""
    machines = {}
    for name in np.unique(labels):
        own = labels == name
        chosen = telling_components(points, own)
        machines[str(name)] = _machine(points, own, chosen, seed)
    return machines


def telling_components(points: Floats, own: Bools) -> Rows:
    """Return the columns that tell cells of a type from the others by the Wilcoxon test; all where none does."""
    tested = mannwhitneyu(points[own], points[~own], axis=0).pvalue
    chosen = np.flatnonzero(false_discovery_control(tested) < FALSE_DISCOVERIES)
    return chosen if len(chosen) else np.arange(points.shape[1])


def kernel_width(points: Floats, seed: int) -> float:
    """Return gamma: the mean of the inverse 10% and 90% quantiles of the squared distances of cells."""
    size = min(CELLS_FOR_WIDTH, len(points))
    chosen = np.random.default_rng(seed).choice(len(points), size, replace=False)
    squares = pdist(points[chosen], "sqeuclidean")
    return float(np.mean(1 / np.quantile(squares[squares > 0], (0.1, 0.9))))


def _machine(points: Floats, own: Bools, chosen: Rows, seed: int) -> Callable[[Floats], Floats]:
    """Train the machine of one type, its cost chosen by cross-validation, with probabilities after Platt."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    scaler = StandardScaler().fit(points[:, chosen])
    scaled = scaler.transform(points[:, chosen])
    folds = StratifiedKFold(min(FOLDS, int(own.sum())), shuffle=True, random_state=seed)
    machine = SVC(kernel="rbf", gamma=kernel_width(scaled, seed))
    search = GridSearchCV(machine, {"C": COSTS}, scoring="roc_auc", cv=folds, refit=False).fit(scaled, own)
    machine.set_params(**search.best_params_)
    calibrated = CalibratedClassifierCV(machine, method="sigmoid", cv=folds, ensemble=False).fit(scaled, own)

    def probability(asked: Floats) -> Floats:
        found: Floats = calibrated.predict_proba(scaler.transform(asked[:, chosen]))[:, 1]
        return found

    return probability
