"""scPred: a support vector machine for each type, on the principal components that distinguish the type.

Written from Alquicira-Hernandez et al., Genome Biology 2019, doi:10.1186/s13059-019-1862-5, with the settings of its
users' guide. The query is scaled with the means and deviations of the reference. Harmony aligns the query with the
fixed reference, as in Symphony. Variable genes are those of scanpy. The support vector machine and its
probabilities are those of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from anndata import AnnData
from scipy.spatial.distance import pdist
from scipy.stats import false_discovery_control, mannwhitneyu

from spikgpt.types import Bools, Floats, Rows, Strings
from spikgpt_benchmark.methods.packages.symphony import ALIGNED, compress, map_query
from spikgpt_benchmark.methods.preprocess import labels_of, result_from_probabilities
from spikgpt_benchmark.methods.result import MethodResult, MethodSettings, Predict

IMPORTS, VERSIONS = ("symphonypy", "sklearn.svm"), ("scikit-learn", "scanpy", "symphonypy")
# The false discovery rate below which a component distinguishes a type.
FALSE_DISCOVERIES = 0.05
# Below this probability a cell is unassigned.
LEAST_PROBABILITY = 0.55
COSTS, FOLDS = (0.25, 0.5, 1.0), 5
# Largest number of cells whose distances set the width of the kernel.
CELLS_FOR_WIDTH = 1000


def fit(reference: AnnData, settings: MethodSettings) -> Predict:
    """Train a support vector machine for each type, on a reference that is compressed by Symphony."""
    # A query is aligned as one batch.
    settings = replace(settings, batch_key=None)
    known = compress(reference, settings)
    labels = labels_of(reference, settings.label_key)
    machines = train_svms(known.obsm[ALIGNED], labels, settings.seed)

    def predict(query: AnnData) -> MethodResult:
        points, _ = map_query(known, query, settings)
        names = np.unique(labels)
        probabilities = np.stack([machines[name](points) for name in names], axis=1)
        result = result_from_probabilities(probabilities, names)
        return replace(result, assigned=probabilities.max(axis=1) > LEAST_PROBABILITY)

    return predict


def train_svms(points: Floats, labels: Strings, seed: int) -> dict[str, Callable[[Floats], Floats]]:
    """Return a function for each type, from points, shape (m, D), to the probabilities of the type, shape (m,)."""
    machines = {}
    for name in np.unique(labels):
        own = labels == name
        chosen = discriminating_components(points, own)
        machines[str(name)] = _machine(points, own, chosen, seed)
    return machines


def discriminating_components(points: Floats, own: Bools) -> Rows:
    """Return the columns that distinguish the cells of a type by the Wilcoxon test; all columns if none does."""
    tested = mannwhitneyu(points[own], points[~own], axis=0).pvalue
    chosen = np.flatnonzero(false_discovery_control(tested) < FALSE_DISCOVERIES)
    return chosen if len(chosen) else np.arange(points.shape[1])


def kernel_width(points: Floats, seed: int) -> float:
    """Return gamma of the kernel: the mean of the inverse 10% and 90% quantiles of the squared distances of cells."""
    size = min(CELLS_FOR_WIDTH, len(points))
    chosen = np.random.default_rng(seed).choice(len(points), size, replace=False)
    squares = pdist(points[chosen], "sqeuclidean")
    return float(np.mean(1 / np.quantile(squares[squares > 0], (0.1, 0.9))))


def _machine(points: Floats, own: Bools, chosen: Rows, seed: int) -> Callable[[Floats], Floats]:
    """Train the support vector machine of one type: cost by cross-validation, probabilities by Platt scaling."""
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

    def probability(query: Floats) -> Floats:
        values: Floats = calibrated.predict_proba(scaler.transform(query[:, chosen]))[:, 1]
        return values

    return probability
