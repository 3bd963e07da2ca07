"""Unknown cells: types left out of the reference, rivals, the promise, calibration, and cells that belong nowhere.

    python benchmarks/unknown.py --data DIR [--seeds 5] [--splits 200] [--part fixed --part rivals ...]

DIR holds pancreas_baron_human.h5ad, pancreas_baron_mouse.h5ad, pancreas_xin_980genes.h5ad, pbmc_10x_3k.h5ad and
pbmc_kang_ifnb.h5ad. CellTypist is measured where it is installed; its version 1.7.1 needs
scikit-learn 1.6. Limits are set on the reference alone throughout; where a row does not say otherwise, cells below
them are Unknown if they stand apart from the query's other cells of their label too.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy
from accuracy import embedded, labelled
from anndata import AnnData, read_h5ad
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import sparse
from scipy.stats import betabinom
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from spikgpt import SpikGPT
from spikgpt.benchmark.suites import LABEL, UNSEEN, batch_key_of, load_task, without
from spikgpt.options import AnnotateKeywords
from spikgpt.scoring.rejection import CellScores
from spikgpt.scoring.thresholds import CELLS_FOR_OWN_LIMIT, Calibration
from spikgpt.training.metrics import reliability, unknown_auroc, unseen_found
from spikgpt.training.train import score_all
from spikgpt.types import Floats

# The AUROC of the best rival measured on each task with one type left out.
FIXED = {"pbmc": 0.813, "baron": 0.985, "xin": 0.960}
# Cells that a type needs on both sides to be left out.
CELLS_TO_LEAVE_OUT = 30
GIVEN = "given the label "
# Column of obs that says which cells are no strangers.
BELONGS = "belongs"
# Trained for the promise.
MODELS = 5
PARTS = ("fixed", "rivals", "promise", "calibration", "strange")
console = Console()


def fixed(data: Path, seeds: int) -> dict[str, Any]:
    """Measure the tasks of the published comparisons, with one type removed from the reference."""
    rules: dict[str, AnnotateKeywords] = {
        "default": {},
        "as the same study": {"same_study": True},
        "each cell alone": {"neighbours": False},
        "the paper's 0.95": {"threshold": 0.95},
    }
    results: dict[str, Any] = {}
    table = Table("task", "rule", "AUROC", "best rival", "unseen Unknown", "known Unknown", title="One type left out")
    for task, rival in FIXED.items():
        left_out = UNSEEN[task]
        cells, query = without(*load_task(task, data), left_out)
        found: dict[str, list[tuple[float, float, float]]] = {rule: [] for rule in rules}
        for seed in range(seeds):
            model = SpikGPT.train(cells, LABEL, batch_key=batch_key_of(cells), seed=seed)
            for rule, options in rules.items():
                result = model.evaluate(query, LABEL, **options)
                assert result.auroc_unknown is not None
                assert result.unseen_unknown_fraction is not None
                row = result.auroc_unknown, result.unseen_unknown_fraction, result.known_unknown_fraction
                found[rule].append(row)
        for rule, rows in found.items():
            means, spreads = np.mean(rows, axis=0), np.std(rows, axis=0)
            figures = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(means, spreads, strict=True)]
            table.add_row(f"{task} without {left_out}", rule, figures[0], f"{rival:.3f}", *figures[1:])
        results[task] = found
    console.print(table)
    return results


def rivals(data: Path) -> dict[str, Any]:
    """Leave out every type with at least 30 cells, and measure other scores on the same cells."""
    results: dict[str, Any] = {}
    for task in ("pbmc", "baron"):
        everything, asked = load_task(task, data)
        counts = [adata.obs[LABEL].value_counts() for adata in (everything, asked)]
        types = [name for name in counts[0].index if min(count.get(name, 0) for count in counts) >= CELLS_TO_LEAVE_OUT]
        for left_out in track(sorted(types), task, console=console):
            cells, query = without(everything, asked, left_out)
            known = (query.obs[LABEL] != left_out).to_numpy()
            model = SpikGPT.train(cells, LABEL, batch_key=batch_key_of(cells))
            annotation = labelled(model, query)
            assert annotation.familiarity is not None
            scores = {"familiarity (spikgpt)": annotation.familiarity, **others(model, cells, query)}
            scores |= celltypist_scores(cells, query)
            for name, score in scores.items():
                row = unknown_auroc(score, known), unseen_found(score, known, 0.05)
                results.setdefault(task, {}).setdefault(name, {})[left_out] = row
        table = Table("score", *sorted(types), "mean AUROC", "mean found at 5%", title=f"{task}: each type left out")
        order = sorted(results[task].items(), key=lambda item: -np.mean([row[0] for row in item[1].values()]))
        for name, rows in order:
            means = np.mean(list(rows.values()), axis=0)
            table.add_row(name, *(f"{rows[key][0]:.3f}" for key in sorted(types)), *(f"{mean:.3f}" for mean in means))
        console.print(table)
    return results


def others(model: SpikGPT, cells: AnnData, query: AnnData) -> dict[str, Floats]:
    """Return what else could tell unseen cells, each cell alone, on the reference's own embedding."""
    engine, own = embedded(model, cells)
    _, asked = embedded(model, query)
    trained = engine.vectors(own)
    output = engine.run(asked, engine.embedding.fit_scale(asked, "auto", engine.run).scale)
    vectors, probabilities = output.vectors, output.probabilities
    scaler = StandardScaler().fit(trained)
    regression = LogisticRegression(max_iter=5000).fit(scaler.transform(trained), cells.obs[LABEL].astype(str))
    familiarity = model.reference.familiarity
    assert familiarity is not None
    whitening = familiarity.whitening.astype(np.float64)
    places = familiarity.centroids @ whitening
    distances, _ = NearestNeighbors(n_neighbors=10, metric="cosine").fit(trained).kneighbors(vectors)
    return {
        "softmax": probabilities.max(axis=1),
        "entropy": (probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1),
        "energy": output.energies,
        "Mahalanobis": -np.linalg.norm((vectors @ whitening)[:, None] - places[None], axis=2).min(axis=1),
        "distance to 10 nearest": -distances.mean(axis=1),
        "logistic regression": regression.predict_proba(scaler.transform(vectors)).max(axis=1),
    }


def celltypist_scores(cells: AnnData, query: AnnData) -> dict[str, Floats]:
    """Return CellTypist's confidence, with its defaults, where it is installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import celltypist
    except ImportError:
        return {}
    pair = []
    for adata in (cells, query):
        normal = AnnData(sparse.csr_matrix(adata.X), obs=adata.obs, var=adata.var)
        scanpy.pp.normalize_total(normal, target_sum=1e4)
        scanpy.pp.log1p(normal)
        pair.append(normal)
    celltypist.logger.set_level(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = celltypist.train(pair[0], labels=LABEL, n_jobs=1)
        confidence = celltypist.annotate(pair[1], model=model).probability_matrix.to_numpy().max(axis=1)
    return {"CellTypist": confidence}


def promise(data: Path, splits: int) -> dict[str, Any]:
    """Count known cells that are Unknown at 5%, over splits of cells that a model has not seen into two halves.

    One half sets the limits and the other is asked about, each a query of its own; five models share the splits.
    """
    results: dict[str, Any] = {}
    cells, _ = load_task("baron", data)
    labels = cells.obs[LABEL].astype(str).to_numpy()
    # Of each split: cells that are Unknown, cells, and those that calibrated the limit.
    counted: dict[str, list[tuple[int, int, int]]] = {}
    random = np.random.default_rng(0)
    for split in track(range(splits), "baron, by cell", console=console):
        if split % max(1, splits // MODELS) == 0:
            seen = random.random(len(labels)) < 0.6
            model = SpikGPT.train(cells[seen].copy(), LABEL, seed=split)
            names = np.array(model.reference.labels.names)
            rest = np.flatnonzero(~seen & np.isin(labels, names))
        halves = np.array_split(random.permutation(rest), 2)
        (_, calibrating), (asked, found) = ((part, scores_of(model, cells[part].copy())) for part in halves)
        best = [scores.probabilities.argmax(axis=1) for scores in (calibrating, found)]
        assert calibrating.familiarity is not None
        assert found.familiarity is not None
        calibration = Calibration.of(calibrating.familiarity, names[best[0]])
        rejected = found.familiarity < calibration.limits(model.reference.labels.names, 0.05)[best[1]]
        own = {name: kept.cells for name, kept in calibration.labels.items() if kept.cells >= CELLS_FOR_OWN_LIMIT}
        groups = {"all": np.ones(len(asked), dtype=bool)}
        groups |= {f"{GIVEN}{name}": names[best[1]] == name for name in own}
        groups |= {f"truly {name}": labels[asked] == name for name in names}
        for name, group in groups.items():
            number = own.get(name.removeprefix(GIVEN), calibration.everything.cells)
            counted.setdefault(name, []).append((int(rejected[group].sum()), int(group.sum()), number))
    table = Table(
        "cells", "cells a split", "Unknown", "splits above the 99% bound", title=f"baron: {splits} splits by cell"
    )
    for name, rows in counted.items():
        lost, sizes, held = np.array(rows).T
        # A conformal limit varies with the cells that calibrated it, so the number is beta-binomial, not binomial.
        rank = np.floor(0.05 * (held + 1))
        above = float((lost > betabinom.ppf(0.99, sizes, rank, held + 1 - rank)).mean())
        results[name] = rows
        if sizes.mean() >= 20:
            share = f"{100 * lost.sum() / sizes.sum():.2f}%"
            table.add_row(name, f"{sizes.mean():.0f}", share, f"{100 * above:.1f}%")
    console.print(table)
    human = read_h5ad(data / "pancreas_baron_human.h5ad")
    columns = "donor", "cells", "Unknown", "as the same study", "expected of that"
    table = Table(*columns, title="baron: each donor held out of the other three")
    for donor in human.obs["donor"].unique():
        apart = (human.obs["donor"] == donor).to_numpy()
        model = SpikGPT.train(human[~apart].copy(), LABEL, batch_key="donor")
        query = human[apart & human.obs[LABEL].isin(model.reference.labels.names).to_numpy()].copy()
        each = [labelled(model, query, same_study=same) for same in (False, True)]
        shares = [annotation.unknown_fraction for annotation in each]
        farther = each[0].cutoffs.farther
        expected = "-" if farther is None else f"{100 * farther:.1f}%"
        table.add_row(str(donor), str(query.n_obs), *(f"{100 * share:.1f}%" for share in shares), expected)
        results[f"donor {donor}"] = shares
    console.print(table)
    return results


def scores_of(model: SpikGPT, query: AnnData) -> CellScores:
    """Return the scores of the cells of a query, none of them empty, seen with their neighbours."""
    engine, cells = embedded(model, query)
    assert model.reference.familiarity is not None
    return score_all(engine, model.reference.familiarity, cells, neighbours=True)[1]


def calibration(data: Path, seeds: int) -> dict[str, Any]:
    """Measure the expected calibration error on donors that were held out."""
    table = Table("cells", "expected calibration error", title="baron")
    cells, query = load_task("baron", data)
    query = query[query.obs[LABEL].isin(cells.obs[LABEL])].copy()
    truth = query.obs[LABEL].astype(str).to_numpy()
    inside, outside = [], []
    for seed in range(seeds):
        model = SpikGPT.train(cells, LABEL, batch_key="donor", seed=seed)
        inside.append(model.reference.metrics["reliability"]["expected_calibration_error"])
        annotation = labelled(model, query)
        measured = reliability(annotation.confidence, annotation.best_labels == truth)
        outside.append(measured["expected_calibration_error"])
    held_out = model.reference.metrics["held_out_by"]
    rows = {f"{held_out}, held out of the reference": inside, "human2 and human4": outside}
    for name, errors in rows.items():
        table.add_row(name, f"{np.mean(errors):.4f} ± {np.std(errors):.4f}")
    console.print(table)
    return rows


def strange(data: Path, seeds: int) -> dict[str, Any]:
    """Count Unknown cells among those that a human pancreas reference has no label for."""
    cells, query = load_task("baron", data)
    human = read_h5ad(data / "pancreas_baron_human.h5ad")
    cells = human[human.obs_names.isin(cells.obs_names)].copy()
    query = human[human.obs_names.isin(query.obs_names)].copy()
    table = Table("cells", "number", "Unknown", "the same, alone", "0.95", title="Human pancreas, human1 and human3")
    results: dict[str, Any] = {}
    rules: tuple[AnnotateKeywords, ...] = ({}, {"neighbours": False}, {"threshold": 0.95})
    for seed in range(seeds):
        model = SpikGPT.train(cells, LABEL, batch_key="donor", seed=seed)
        for name, strangers in strangers_of(data, query):
            shares = [labelled(model, strangers, **rule).unknown_fraction for rule in rules]
            results.setdefault(name, []).append((strangers.n_obs, *shares))
    for name, rows in results.items():
        means = np.mean(rows, axis=0)
        table.add_row(name, f"{means[0]:.0f}", *(f"{100 * mean:.1f}%" for mean in means[1:]))
    console.print(table)
    return results


def strangers_of(data: Path, query: AnnData) -> Iterator[tuple[str, AnnData]]:
    """Give cells of other kinds, each with its name; ``obs["belongs"]`` says which of them are cells of the query."""
    random = np.random.default_rng(0)
    counts = sparse.csr_matrix(query.X)
    yield "human2 and human4, which belong there", marked(counts, query.var, query.n_obs)
    mouse = read_h5ad(data / "pancreas_baron_mouse.h5ad")
    mouse.var_names = mouse.var_names.str.upper()
    mouse = mouse[:, ~mouse.var_names.duplicated()]
    yield "mouse pancreas, upper-cased symbols", marked(mouse.X, mouse.var, 0)
    blood = read_h5ad(data / "pbmc_10x_3k.h5ad")
    yield "blood (PBMC 3k)", marked(blood.X, blood.var, 0)
    empty = empty_droplets(query, 500, random)
    yield "empty droplets, 100 to 1000 counts", marked(empty, query.var, 0)
    with_empty = sparse.csr_matrix(sparse.vstack([counts, empty]))
    yield "the same cells and empty droplets together", marked(with_empty, query.var, query.n_obs)
    labels = query.obs[LABEL].astype(str).to_numpy()
    first, second = random.integers(query.n_obs, size=(2, 1000))
    apart = labels[first] != labels[second]
    pairs = sparse.csr_matrix(counts[first[apart]] + counts[second[apart]])
    yield "doublets, sums of two cells of different types", marked(pairs, query.var, 0)
    few = sparse.csr_matrix(sparse.vstack([counts, pairs[:75]]))
    yield "the same cells and 75 doublets together", marked(few, query.var, query.n_obs)


def empty_droplets(cells: AnnData, number: int, random: np.random.Generator) -> sparse.csr_matrix:
    """Return counts of droplets that hold the ambient RNA of cells, 100 to 1000 counts each, shape (number, G)."""
    counts = sparse.csr_matrix(cells.X)
    profile = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
    totals = random.integers(100, 1000, number)
    return sparse.csr_matrix(random.poisson(totals[:, None] * profile).astype(np.float32))


def marked(values: Any, genes: pd.DataFrame, belong: int) -> AnnData:
    """Return cells by their values, shape (n, G); the first of them belong there."""
    places = pd.RangeIndex(values.shape[0])
    obs = pd.DataFrame({BELONGS: places < belong}, index=places.astype(str))
    return AnnData(sparse.csr_matrix(values), obs=obs, var=genes)


def main() -> None:
    """Run the parts that are asked for and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SPIKGPT_DATA"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the folder of the studies with --data or SPIKGPT_DATA")
    data, results = Path(options.data), {}
    for part in options.part or PARTS:
        if part == "fixed":
            results[part] = fixed(data, options.seeds)
        elif part == "rivals":
            results[part] = rivals(data)
        elif part == "promise":
            results[part] = promise(data, options.splits)
        elif part == "calibration":
            results[part] = calibration(data, options.seeds)
        else:
            results[part] = strange(data, options.seeds)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
