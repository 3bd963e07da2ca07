"""Compare references with plain classifiers on the same embedding: accuracy, calibration and OOD scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from scipy.stats import betabinom
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from spikgpt import SpikGPT
from spikgpt.embedding.query_pca import QueryPCA
from spikgpt.options import Scaling
from spikgpt.scoring.rejection import CellScores
from spikgpt.scoring.smoothing import KNNSmoother
from spikgpt.scoring.thresholds import CELLS_FOR_OWN_LIMIT, Calibration
from spikgpt.training.calibration import score_all
from spikgpt.training.metrics import measure, reliability, tpr_at_fpr, unknown_auroc
from spikgpt.types import Floats, Strings
from spikgpt_benchmark.studies.datasets import LABEL, UNSEEN, donor_column, leave_type_out, load_pair, read_study
from spikgpt_benchmark.studies.scoring import aligned_cells, annotate_with
from spikgpt_benchmark.studies.suite import Record, StudyContext, StudySuite

RECIPES: tuple[Literal["default", "paper"], ...] = ("default", "paper")
RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "reference cut-off": {"reference_cutoff": True},
    "no smoothing": {"smoothing": False},
    "threshold 0.95": {"threshold": 0.95},
}
# Smallest number of cells, in reference and in query, of a type that is left out.
CELLS_TO_LEAVE_OUT = 30
# Number of references in the measurement of the false rejection rate; all splits share these references.
MODELS = 5
# Number of splits, for each seed, into cells that calibrate a cut-off and query cells.
SPLITS = 40


def known_pair(name: str, context: StudyContext) -> tuple[AnnData, AnnData, Strings]:
    """Return reference, query and the query's labels of a pair, without types that the reference lacks."""
    reference, query = load_pair(name, context.data)
    query = query[query.obs[LABEL].isin(reference.obs[LABEL])].copy()
    return reference, query, query.obs[LABEL].astype(str).to_numpy()


def accuracy_records(context: StudyContext) -> Iterator[Record]:
    """Yield accuracy and macro-F1 of both recipes, and of logistic regression on the same embedding."""
    for name in filter(context.selects, UNSEEN):
        reference, query, truth = known_pair(name, context)
        for recipe in RECIPES:
            for seed in range(context.seeds):
                model = SpikGPT.train(reference, LABEL, recipe=recipe, seed=seed)
                # The paper labels each cell by itself, scaled as the reference.
                scaling: Scaling = "reference" if recipe == "paper" else "auto"
                annotation = annotate_with(model, query, {"scaling": scaling, "smoothing": recipe != "paper"})
                labels = {f"spikgpt {recipe}": annotation.best_labels}
                if recipe == "default":
                    labels["spikgpt default, no smoothing"] = annotate_with(
                        model, query, {"smoothing": False}
                    ).best_labels
                if seed == 0:
                    labels |= regression_labels(model, recipe, reference, query, scaling)
                for method, predicted in labels.items():
                    agreement = measure(truth, predicted)
                    record: Record = {"pair": name, "method": method, "seed": seed}
                    yield record | {"accuracy": agreement.accuracy, "macro-F1": agreement.macro_f1}


def regression_labels(
    model: SpikGPT, recipe: str, reference: AnnData, query: AnnData, scaling: Scaling
) -> dict[str, Strings]:
    """Return the labels of logistic regression on the reference's embedding, without and with smoothing."""
    engine, aligned = aligned_cells(model, query)
    vectors = engine.vectors(aligned, engine.embedding.fit_scale(aligned, scaling, engine.run).scale)
    logs, rows = engine.embedding.logs(aligned), np.arange(len(vectors))
    points = vectors if logs is None else QueryPCA.fit(logs).transform(logs)
    labels, trained = {}, engine.vectors(aligned_cells(model, reference)[1])
    for weight in (None, "balanced"):
        regression = fit_regression(trained, reference, weight)
        probabilities = regression.predict_proba(vectors)
        smoother = KNNSmoother.fit(rows, points, probabilities)
        smoothed = smoother.smooth(probabilities, points, smoother.neighbours)
        method = f"logistic regression{f' {weight}' if weight else ''}, embedding of {recipe}"
        labels[method] = regression.classes_[probabilities.argmax(axis=1)]
        labels[f"{method}, smoothed"] = regression.classes_[smoothed.argmax(axis=1)]
    return labels


def fit_regression(vectors: Floats, reference: AnnData, weight: str | None = None) -> Pipeline:
    """Train logistic regression on standardised vectors of a reference, shape (n, D)."""
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, class_weight=weight))
    return regression.fit(vectors, reference.obs[LABEL].astype(str))


def unseen_records(context: StudyContext) -> Iterator[Record]:
    """Yield AUROC and shares of Unknown cells for each rejection rule, with one type left out of the reference."""
    for name, left_out in UNSEEN.items():
        if not context.selects(name):
            continue
        reference, query = leave_type_out(*load_pair(name, context.data), left_out)
        for seed in range(context.seeds):
            model = SpikGPT.train(reference, LABEL, batch_key=donor_column(reference), seed=seed)
            for rule, options in RULES.items():
                evaluation = model.evaluate(query, LABEL, **options)
                record: Record = {"pair": f"{name} without {left_out}", "rule": rule, "seed": seed}
                record |= {"AUROC unseen": evaluation.auroc_unknown}
                record |= {"unseen Unknown": evaluation.unseen_unknown_fraction}
                yield record | {"known Unknown": evaluation.known_unknown_fraction}


def ood_score_records(context: StudyContext) -> Iterator[Record]:
    """Yield AUROC and TPR at 5% FPR of several OOD scores, with each frequent type left out in turn."""
    for name in filter(context.selects, ("pbmc", "baron")):
        everything, cells = load_pair(name, context.data)
        counts = [part.obs[LABEL].value_counts() for part in (everything, cells)]
        types = [label for label in counts[0].index if min(n.get(label, 0) for n in counts) >= CELLS_TO_LEAVE_OUT]
        for left_out in sorted(types):
            reference, query = leave_type_out(everything, cells, left_out)
            known = (query.obs[LABEL] != left_out).to_numpy()
            model = SpikGPT.train(reference, LABEL, batch_key=donor_column(reference))
            typicality = annotate_with(model, query, {}).typicality
            assert typicality is not None
            for score, values in {"typicality": typicality, **other_scores(model, reference, query)}.items():
                record: Record = {"pair": name, "score": score, "left out": left_out}
                record["AUROC unseen"] = unknown_auroc(values, known)
                yield record | {"TPR at 5% FPR": tpr_at_fpr(values, known, 0.05)}


def other_scores(model: SpikGPT, reference: AnnData, query: AnnData) -> dict[str, Floats]:
    """Return OOD scores by other methods, each from the vector of one cell; higher values mean more typical cells."""
    engine, aligned = aligned_cells(model, query)
    trained = engine.vectors(aligned_cells(model, reference)[1])
    output = engine.run(aligned, engine.embedding.fit_scale(aligned, "auto", engine.run).scale)
    vectors, probabilities = output.vectors, output.probabilities
    geometry = model.reference.familiarity
    assert geometry is not None
    whitening = geometry.whitening.astype(np.float64)
    centroids = geometry.centroids @ whitening
    distances, _ = NearestNeighbors(n_neighbors=10, metric="cosine").fit(trained).kneighbors(vectors)
    return {
        "softmax": probabilities.max(axis=1),
        "entropy": (probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1),
        "energy": output.energies,
        "Mahalanobis": -np.linalg.norm((vectors @ whitening)[:, None] - centroids[None], axis=2).min(axis=1),
        "distance to 10 nearest": -distances.mean(axis=1),
        "logistic regression": fit_regression(trained, reference).predict_proba(vectors).max(axis=1),
    }


def false_rejection_records(context: StudyContext) -> Iterator[Record]:
    """Yield the false rejection rate at the unknown rate 5%, over splits of cells that a reference has not seen.

    In each split, half of the cells calibrate the cut-offs, and the other half is the query. Five references share the
    splits.
    """
    cells, _ = load_pair("baron", context.data)
    labels = cells.obs[LABEL].astype(str).to_numpy()
    # For each group and split: numbers of Unknown cells, of all cells, and of cells that calibrated the cut-off.
    counted: dict[str, list[tuple[int, int, int]]] = {}
    random, splits = np.random.default_rng(0), SPLITS * context.seeds
    for split in range(splits):
        if split % max(1, splits // MODELS) == 0:
            seen = random.random(len(labels)) < 0.6
            model = SpikGPT.train(cells[seen].copy(), LABEL, seed=split)
            names = np.array(model.reference.labels.names)
            rest = np.flatnonzero(~seen & np.isin(labels, names))
        halves = np.array_split(random.permutation(rest), 2)
        calibrating, scores = (cell_scores(model, cells[rows].copy()) for rows in halves)
        held_out, best = (part.probabilities.argmax(axis=1) for part in (calibrating, scores))
        assert calibrating.id_score is not None
        assert scores.id_score is not None
        calibration = Calibration.fit(calibrating.id_score, names[held_out])
        rejected = scores.id_score < calibration.limits(model.reference.labels.names, 0.05)[best]
        own = {name: part.cells for name, part in calibration.labels.items() if part.cells >= CELLS_FOR_OWN_LIMIT}
        groups = {"all": (np.ones(len(best), dtype=bool), calibration.everything.cells)}
        groups |= {f"given the label {name}": (names[best] == name, number) for name, number in own.items()}
        groups |= {
            f"truly {name}": (labels[halves[1]] == name, own.get(name, calibration.everything.cells)) for name in names
        }
        for name, (group, number) in groups.items():
            counted.setdefault(name, []).append((int(rejected[group].sum()), int(group.sum()), number))
    for name, rows in counted.items():
        lost, sizes, n_calibrating = np.array(rows).T
        # A conformal cut-off varies with its calibration cells, so the number of rejected cells is beta-binomial.
        rank = np.floor(0.05 * (n_calibrating + 1))
        above = lost > betabinom.ppf(0.99, sizes, rank, n_calibrating + 1 - rank)
        record: Record = {"cells": name, "cells per split": float(sizes.mean()), "splits": len(rows)}
        yield record | {"Unknown": float(lost.sum() / max(1, sizes.sum())), "above the 99% bound": float(above.mean())}


def cell_scores(model: SpikGPT, query: AnnData) -> CellScores:
    """Return the smoothed scores of the cells of a query that has no empty cells."""
    engine, aligned = aligned_cells(model, query)
    assert model.reference.familiarity is not None
    return score_all(engine, model.reference.familiarity, aligned, smoothing=True)[1]


def donor_records(context: StudyContext) -> Iterator[Record]:
    """Yield the share of Unknown cells of each donor of Baron et al., with a reference of all other donors."""
    human = read_study(context.data, "baron")
    for donor in human.obs["donor"].unique():
        held_out = (human.obs["donor"] == donor).to_numpy()
        model = SpikGPT.train(human[~held_out].copy(), LABEL, batch_key="donor")
        query = human[held_out & human.obs[LABEL].isin(model.reference.labels.names).to_numpy()].copy()
        default, fixed = (annotate_with(model, query, {"reference_cutoff": fixed}) for fixed in (False, True))
        record: Record = {"donor": str(donor), "cells": query.n_obs, "Unknown": default.unknown_fraction}
        record |= {"Unknown by the reference cut-off": fixed.unknown_fraction}
        yield record | {"expected false rejection": fixed.rule.false_rejection}


def calibration_records(context: StudyContext) -> Iterator[Record]:
    """Yield the expected calibration error on a donor held out of the reference, and on the donors of the query."""
    reference, query, truth = known_pair("baron", context)
    for seed in range(context.seeds):
        model = SpikGPT.train(reference, LABEL, batch_key="donor", seed=seed)
        metrics, annotation = model.reference.metrics, annotate_with(model, query, {})
        errors = {
            f"{metrics['held_out_by']}, held out of the reference": metrics["reliability"],
            "human2 and human4": reliability(annotation.confidence, annotation.best_labels == truth),
        }
        for cells, error in errors.items():
            yield {"cells": cells, "seed": seed, "calibration error": error["expected_calibration_error"]}


SUITES = {
    "accuracy": StudySuite("labels before rejection", accuracy_records, ("pair", "method", "seed"), ("pair", "method")),
    "unseen": StudySuite("one type left out", unseen_records, ("pair", "rule", "seed"), ("pair", "rule")),
    "ood-scores": StudySuite(
        "each type left out in turn", ood_score_records, ("pair", "score", "left out"), ("pair", "score")
    ),
    "false-rejection": StudySuite("known cells that are Unknown at a rate of 5%", false_rejection_records, ("cells",)),
    "donors": StudySuite("each donor held out of the other donors", donor_records, ("donor",)),
    "calibration": StudySuite("pancreas donors", calibration_records, ("cells", "seed"), ("cells",)),
}
