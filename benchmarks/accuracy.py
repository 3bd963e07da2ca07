"""Three fixed tasks across donors and studies: both recipes, and logistic regression on the same embedding.

    python benchmarks/accuracy.py --data DIR [--seeds 5] [--recipe default --recipe paper]

DIR holds pancreas_baron_human.h5ad, pancreas_xin_980genes.h5ad, pbmc_10x_3k.h5ad and pbmc_kang_ifnb.h5ad. As in the
published comparisons, a reference is trained on the genes that it shares with the query.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from spikgpt import Annotation, SpikGPT
from spikgpt.benchmark.suites import load_task
from spikgpt.cells.align import AlignedCells, joined
from spikgpt.embedding.query_pca import QueryPCA
from spikgpt.engines.scgpt.source import ScGPTSource, open_scgpt
from spikgpt.engines.torch import TorchEngine
from spikgpt.options import AnnotateKeywords, AnnotateOptions, Scaling, options_of
from spikgpt.pipeline import annotate
from spikgpt.reference.schema import Agreement
from spikgpt.scoring.smoothing import KNNSmoother
from spikgpt.training.metrics import measure

# Accuracy and macro-F1 to reach, mean over seeds.
TARGETS = {"pbmc": (0.90, 0.78), "baron": (0.965, 0.90), "xin": (0.95, 0.95)}


def labelled(model: SpikGPT, cells: AnnData, **keywords: Unpack[AnnotateKeywords]) -> Annotation:
    """Annotate cells and leave them as they are."""
    return annotate(model.reference, model.engine, cells, options_of(AnnotateOptions, keywords))


def embedded(model: SpikGPT, cells: AnnData) -> tuple[TorchEngine, AlignedCells]:
    """Return the engine that trained a reference, and cells, none of them empty, as its embedding reads them."""
    engine = model.engine
    assert isinstance(engine, TorchEngine)
    aligned = joined(list(engine.embedding.read(cells, layer=None, scaling="auto").chunks))
    assert not aligned.empty.any()
    return engine, aligned


def logistic_regression(
    model: SpikGPT, cells: AnnData, query: AnnData, *, scaling: str, balanced: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the labels that logistic regression gives on the reference's own embedding, alone and with neighbours."""
    engine, own = embedded(model, cells)
    _, asked = embedded(model, query)
    trained = engine.vectors(own)
    vectors = engine.vectors(asked, engine.embedding.fit_scale(asked, scaling, engine.run).scale)
    scaler = StandardScaler().fit(trained)
    regression = LogisticRegression(max_iter=5000, class_weight="balanced" if balanced else None)
    regression.fit(scaler.transform(trained), cells.obs["cell_type"].astype(str))
    probabilities = regression.predict_proba(scaler.transform(vectors))
    logs, rows = engine.embedding.logs(asked), np.arange(len(vectors))
    points = vectors if logs is None else QueryPCA.fit(logs).place(logs)
    among = KNNSmoother.of(rows, points, probabilities)
    smoothed = among.smooth(probabilities, points, among.near)
    return regression.classes_[probabilities.argmax(axis=1)], regression.classes_[smoothed.argmax(axis=1)]


def main() -> None:
    """Run the tasks and print one row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SPIKGPT_DATA"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--task", action="append", choices=list(TARGETS))
    parser.add_argument("--recipe", action="append", choices=["default", "paper"])
    parser.add_argument("--scgpt", help="embed with this scGPT checkpoint instead of pca")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the folder of the studies with --data or SPIKGPT_DATA")
    console = Console()
    embedder: str | ScGPTSource = open_scgpt(options.scgpt) if options.scgpt else "pca"
    results: dict[str, Any] = {}
    for task in options.task or TARGETS:
        cells, query = load_task(task, Path(options.data))
        known = query.obs["cell_type"].isin(cells.obs["cell_type"]).to_numpy()
        asked = query[known].copy()
        truth = asked.obs["cell_type"].astype(str).to_numpy()
        scores: dict[str, list[Agreement]] = {}
        below, scalings = [], set()
        for recipe in options.recipe or ["default", "paper"]:
            for seed in range(options.seeds):
                model = SpikGPT.train(cells, "cell_type", recipe=recipe, seed=seed, embedder=embedder)
                # The paper labels each cell alone, in the reference's scale.
                scaling: Scaling = "reference" if recipe == "paper" else "auto"
                annotation = labelled(model, asked, scaling=scaling, neighbours=recipe != "paper")
                if recipe == "default":
                    alone = labelled(model, asked, neighbours=False)
                    scores.setdefault("spikgpt default, each cell alone", []).append(measure(truth, alone.best_labels))
                scores.setdefault(f"spikgpt {recipe}", []).append(measure(truth, annotation.best_labels))
                if recipe == "default":
                    scalings.add(annotation.report.scaling)
                    below.append(annotation.unknown_fraction)
                if seed == 0:
                    for balanced in (False, True):
                        name = f"logistic regression{' balanced' if balanced else ''}, embedding of {recipe}"
                        each, joint = logistic_regression(model, cells, asked, scaling=scaling, balanced=balanced)
                        scores[f"{name}, each cell alone"] = [measure(truth, each)]
                        scores[f"{name}, with neighbours"] = [measure(truth, joint)]
        table = Table("method", "accuracy", "macro-F1", "seeds", title=f"{task}: {len(truth)} cells")
        for name, rows in scores.items():
            accuracy, macro = (np.array([getattr(row, key) for row in rows]) for key in ("accuracy", "macro_f1"))
            table.add_row(
                name,
                f"{accuracy.mean():.4f} ± {accuracy.std():.4f}",
                f"{macro.mean():.4f} ± {macro.std():.4f}",
                str(len(rows)),
            )
            results.setdefault(task, {})[name] = {"accuracy": accuracy.tolist(), "macro_f1": macro.tolist()}
        console.print(table)
        one_error = (TARGETS[task][0] * (1 - TARGETS[task][0]) / len(truth)) ** 0.5
        rejected = f"{100 * np.mean(below):.1f}%" if below else "-"
        console.print(
            f"Targets {TARGETS[task]}; one standard error of an accuracy here is {one_error:.4f}. Scaling used: "
            f"{', '.join(sorted(scalings)) or '-'}. Known cells called Unknown by default: {rejected}."
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
