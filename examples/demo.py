"""Annotate real pancreas cells of donors that the reference never saw, in torch and through ONNX Runtime.

python examples/demo.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# Read by huggingface_hub when it is imported; the Hub on this machine has no xet storage.
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import anndata
import numpy as np
import scanpy
from anndata import AnnData
from rich.console import Console
from rich.table import Table

from spikgpt import Annotation, Evaluation, SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.labels.thresholds import UNKNOWN
from spikgpt.reference.hub import Hub
from spikgpt.testing.hub import LoopbackHub
from spikgpt.training.embedders import open_scgpt
from spikgpt.training.evaluation import evaluate
from spikgpt.training.metrics import measure
from spikgpt.training.sharing import open_reference, push
from spikgpt_onnx.annotator import Annotator
from spikgpt_onnx.exporter import export

# Acinar enzymes, then genes of duct cells.
MARKERS = ("PRSS1", "CPA1", "CTRB2", "KRT19", "CFTR", "MMP7")
CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"


def show(console: Console, evaluation: Evaluation) -> None:
    """Print the figures of each type, and what it was mistaken for."""
    metrics = evaluation.metrics
    table = Table("type", "cells", "right", "mistaken for")
    for score, row in zip(metrics.per_label, _rows(evaluation), strict=True):
        mistakes = [f"{label} {count}" for label, count in row.items() if count and label != score.label]
        table.add_row(score.label, str(score.cells), str(row[score.label]), ", ".join(mistakes) or "-")
    console.print(table)


def show_markers(console: Console, cells: AnnData, annotation: Annotation) -> None:
    """Print what the ductal cells that are called acinar express, beside cells that nobody disputes."""
    truth, called = cells.obs["cell_type"].astype(str).to_numpy(), annotation.best_labels
    unseen = read_cells(CELLS.with_name("pancreas_baron_human3.h5ad"))
    groups = {
        "beta, called beta": cells[(truth == "beta") & (called == "beta")],
        "ductal, called ductal": cells[(truth == "ductal") & (called == "ductal")],
        "ductal, called acinar": cells[(truth == "ductal") & (called == "acinar")],
        "acinar cells of the reference, human3": unseen[(unseen.obs["cell_type"] == "acinar").to_numpy()],
    }
    table = Table("mean ln(1 + counts per 10,000)", "cells", *MARKERS)
    for name, group in groups.items():
        logs = scanpy.pp.log1p(scanpy.pp.normalize_total(group, target_sum=1e4, copy=True), copy=True)
        means = np.asarray(logs[:, list(MARKERS)].X.mean(axis=0)).ravel()
        table.add_row(name, str(group.n_obs), *(f"{mean:.1f}" for mean in means))
    console.print(table)


def _rows(evaluation: Evaluation) -> list[dict[str, int]]:
    """Return the confusion counts of each true type by predicted label."""
    labels = evaluation.metrics.confusion_labels
    counts = dict(zip(labels, evaluation.metrics.confusion, strict=True))
    return [dict(zip(labels, counts[score.label], strict=True)) for score in evaluation.metrics.per_label]


def main() -> int:
    """Run the demo; exit code 1 when the two ways disagree."""
    console = Console(highlight=False)
    model = SpikGPT.from_pretrained("pancreas")
    cells = read_cells(CELLS)
    console.print(
        f"[bold]1. Annotate[/] {cells.n_obs} cells, donors {', '.join(cells.obs['donor'].unique())}: {model!r}"
    )
    annotation = model.annotate(cells)
    evaluation = evaluate(annotation, cells, "cell_type")
    show(console, evaluation)
    show_markers(console, cells, annotation)
    metrics = evaluation.metrics
    console.print(f"Accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f} over {metrics.cells} cells.")
    console.print(
        f"{100 * evaluation.known_unknown_rate:.1f}% of the cells of known types were called {UNKNOWN}; "
        f"accuracy with these counted as errors {evaluation.accuracy_after_rejection:.4f}."
    )

    with tempfile.TemporaryDirectory() as folder:
        reports = export(model.reference, Path(folder) / "onnx", precisions=["fp32", "int8"])
        console.print("\n[bold]2. Export to ONNX[/], behind a gate: made-up cells, and the weights themselves.")
        for name, parity in reports.items():
            console.print(f"{name}, {parity}.")
        console.print("\n[bold]3. Annotate again[/] through ONNX Runtime, without torch, straight from the file.")
        annotators = [Annotator(Path(folder) / "onnx", precision=precision) for precision in ("fp32", "int8")]
        through_onnx, in_8_bits = (annotator.annotate(CELLS, progress=False) for annotator in annotators)
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, through_onnx.label_names)
    accuracy = measure(truth[known], through_onnx.best_labels[known]).accuracy
    same, total = int((through_onnx.labels == annotation.labels).sum()), len(truth)
    difference = float(np.abs(through_onnx.probabilities - annotation.probabilities).max())
    console.print(f"Scaling {through_onnx.report.scaling}. Accuracy {accuracy:.4f} over {int(known.sum())} cells.")
    console.print(f"{same} of {total} labels are the same; probabilities differ by at most {difference:.1e}.")
    console.print(f"With 8-bit weights {int((in_8_bits.labels == annotation.labels).sum())} are the same.")
    console.print("\n[bold]4. The same with scGPT[/]: a small network in its format embeds the cells of both donors.")
    donors = [read_cells(CELLS.with_name(f"pancreas_baron_{donor}.h5ad")) for donor in ("human1", "human3")]
    scgpt = open_scgpt(CELLS.with_name("scgpt_baron"), cache=None)
    reference = SpikGPT.train(anndata.concat(donors), "cell_type", embedder=scgpt, name="pancreas on scGPT")
    metrics = reference.evaluate(cells, "cell_type").metrics
    console.print(f"Accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f} over {metrics.cells} cells.")

    console.print("\n[bold]5. Share[/]: push the reference with its graph to a Hub on this machine, and pull it again.")
    with tempfile.TemporaryDirectory() as folder, LoopbackHub() as hub:
        export(model.reference, Path(folder) / "pancreas")
        client = Hub(hub.endpoint, cache_dir=Path(folder) / "cache")
        pushed = push(Path(folder) / "pancreas", "me/pancreas", hub=client)
        pulled = open_reference("me/pancreas", hub=client)
        again = SpikGPT(pulled).annotate(cells.copy())
    equal = bool((again.probabilities == annotation.probabilities).all())
    console.print(
        f"{len(pushed.changes)} files in one commit. The pulled reference, {pulled.origin}, gives "
        f"{'the same' if equal else 'OTHER'} probabilities to the last bit."
    )

    console.print(
        "\n[bold]6. A type that the reference lacks[/]: trained again without alpha cells, shown the same cells."
    )
    everything = anndata.concat(donors)
    lacking = SpikGPT.train(everything[everything.obs["cell_type"] != "alpha"].copy(), "cell_type", batch_key="donor")
    for rule, options in (("by familiarity", {}), ("by the paper's 0.95", {"threshold": 0.95})):
        found = lacking.evaluate(cells, "cell_type", **options)
        console.print(
            f"Unknown {rule}: {100 * (found.unseen_unknown_rate or 0):.1f}% of the {sum(found.unseen_labels.values())} "
            f"unseen cells, {100 * found.known_unknown_rate:.1f}% of the others; AUROC {found.auroc_unknown:.3f}."
        )
    return 0 if same == total and equal else 1


if __name__ == "__main__":
    sys.exit(main())
