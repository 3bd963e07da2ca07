"""Annotate real pancreas cells of new donors, by torch and by ONNX Runtime: ``python examples/demo.py``."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# LoopbackHub, a Hub on this machine, is part of the package ``tests``.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# huggingface_hub reads these variables when it is imported; the loopback Hub has no xet storage.
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import anndata
import numpy as np
import scanpy
from anndata import AnnData
from rich.console import Console
from rich.table import Table

from spikgpt import Annotation, Evaluation, SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.engines.scgpt.source import open_scgpt
from spikgpt.reference.hub import Hub
from spikgpt.sharing import push
from spikgpt.training.evaluation import evaluate
from spikgpt.types import UNKNOWN
from tests.hub_server import LoopbackHub

# Acinar enzymes, then genes of duct cells.
MARKERS = ("PRSS1", "CPA1", "CTRB2", "KRT19", "CFTR", "MMP7")
CELLS = Path(__file__).resolve().parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"


def show(console: Console, evaluation: Evaluation) -> None:
    """Print the number of correct cells of each type, and the labels of its wrongly labelled cells."""
    metrics = evaluation.metrics
    table = Table("type", "cells", "correct", "mistaken for")
    for score, row in zip(metrics.per_label, _rows(evaluation), strict=True):
        mistakes = [f"{label} {count}" for label, count in row.items() if count and label != score.label]
        table.add_row(score.label, str(score.cells), str(row[score.label]), ", ".join(mistakes) or "-")
    console.print(table)


def show_markers(console: Console, cells: AnnData, annotation: Annotation) -> None:
    """Print marker genes of the ductal cells labelled acinar, beside cells with undisputed labels."""
    truth, label = cells.obs["cell_type"].astype(str).to_numpy(), annotation.best_labels
    human3 = read_cells(CELLS.with_name("pancreas_baron_human3.h5ad"))
    groups = {
        "beta, labelled beta": cells[(truth == "beta") & (label == "beta")],
        "ductal, labelled ductal": cells[(truth == "ductal") & (label == "ductal")],
        "ductal, labelled acinar": cells[(truth == "ductal") & (label == "acinar")],
        "acinar cells of the reference, human3": human3[(human3.obs["cell_type"] == "acinar").to_numpy()],
    }
    table = Table("mean ln(1 + counts per 10,000)", "cells", *MARKERS)
    for name, group in groups.items():
        logs = scanpy.pp.log1p(scanpy.pp.normalize_total(group, target_sum=1e4, copy=True), copy=True)
        means = np.asarray(logs[:, list(MARKERS)].X.mean(axis=0)).ravel()
        table.add_row(name, str(group.n_obs), *(f"{mean:.1f}" for mean in means))
    console.print(table)


def _rows(evaluation: Evaluation) -> list[dict[str, int]]:
    """Return the confusion counts of each true type by predicted label."""
    labels = evaluation.metrics.confusion.labels
    counts = dict(zip(labels, evaluation.metrics.confusion.counts, strict=True))
    return [dict(zip(labels, counts[score.label], strict=True)) for score in evaluation.metrics.per_label]


def annotate(console: Console, model: SpikGPT, cells: AnnData) -> Annotation:
    """Label cells and compare the labels with the published ones."""
    donors = ", ".join(cells.obs["donor"].unique())
    console.print(f"[bold]1. Annotate[/] {cells.n_obs} cells, donors {donors}: {model!r}")
    annotation = model.annotate(cells, progress=False)
    evaluation = evaluate(annotation, cells, "cell_type")
    show(console, evaluation)
    show_markers(console, cells, annotation)
    show_accuracy(console, evaluation)
    console.print(
        f"{100 * evaluation.known_unknown_fraction:.1f}% of the cells of known types became {UNKNOWN}; "
        f"open-set accuracy, with these counted as errors, {evaluation.open_set_accuracy:.4f}."
    )
    return annotation


def show_accuracy(console: Console, evaluation: Evaluation) -> None:
    """Print accuracy and macro-F1."""
    metrics = evaluation.metrics
    console.print(f"Accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f} over {metrics.cells} cells.")


def export_and_compare(console: Console, model: SpikGPT, cells: AnnData, by_torch: Annotation, folder: Path) -> bool:
    """Export the reference, label the same cells by its graphs, and return True if the labels are equal."""
    console.print("\n[bold]2. Export to ONNX[/], with a parity check on made-up cells and on the weights.")
    for name, parity in model.export(folder, precisions=("fp32", "int8")).items():
        console.print(f"{name}, {parity}.")
    console.print("\n[bold]3. Annotate again[/] by ONNX Runtime, without torch.")
    by_onnx = SpikGPT.from_pretrained(folder, engine="onnx").annotate(CELLS, progress=False)
    in_8_bits = SpikGPT.from_pretrained(folder, engine="onnx", precision="int8").annotate(CELLS, progress=False)
    console.print(f"Scaling {by_onnx.input_report.scaling}.")
    show_accuracy(console, evaluate(by_onnx, cells, "cell_type"))
    same, total = int((by_onnx.labels == by_torch.labels).sum()), len(by_torch.labels)
    difference = float(np.abs(by_onnx.probabilities - by_torch.probabilities).max())
    console.print(f"{same} of {total} labels are equal; probabilities differ by at most {difference:.1e}.")
    console.print(f"With 8-bit weights {int((in_8_bits.labels == by_torch.labels).sum())} are equal.")
    return same == total


def train_on_scgpt(console: Console, donors: AnnData, cells: AnnData) -> None:
    """Train a reference on the embeddings of a small scGPT."""
    console.print("\n[bold]4. Train on scGPT[/]: a small scGPT embeds the cells of both donors.")
    scgpt = open_scgpt(CELLS.with_name("scgpt_baron"))
    model = SpikGPT.train(donors, "cell_type", embedder=scgpt, name="pancreas on scGPT")
    show_accuracy(console, model.evaluate(cells, "cell_type", progress=False))


def share(console: Console, cells: AnnData, expected: Annotation, exported: Path) -> bool:
    """Push an exported reference, pull it again, and return True if its probabilities equal those of ``expected``."""
    console.print("\n[bold]5. Share[/]: push the reference with its graphs to a Hub on this machine, and pull it.")
    cache = exported.with_name("cache")
    with LoopbackHub() as hub:
        pushed = push(exported, "me/pancreas", hub=Hub(hub.endpoint, cache_dir=cache))
        pulled = SpikGPT.from_pretrained("me/pancreas", endpoint=hub.endpoint, cache_dir=cache, engine="torch")
    again = pulled.annotate(cells.copy(), progress=False)
    equal = bool((again.probabilities == expected.probabilities).all())
    console.print(
        f"{len(pushed.changes)} files in one commit. The pulled reference, {pulled.reference.origin}, gives "
        f"{'the same' if equal else 'OTHER'} probabilities to the last bit."
    )
    return equal


def leave_a_type_out(console: Console, donors: AnnData, cells: AnnData) -> None:
    """Train without a type and count how many of its cells are Unknown."""
    console.print(
        "\n[bold]6. A type missing from the reference[/]: train without alpha cells, annotate the same cells."
    )
    lacking = SpikGPT.train(donors[donors.obs["cell_type"] != "alpha"].copy(), "cell_type", batch_key="donor")
    rules: dict[str, dict[str, Any]] = {
        "by default": {},
        "by the paper's 0.95": {"threshold": 0.95},
        "never": {"unknown_rate": 0},
    }
    for rule, keywords in rules.items():
        evaluation = lacking.evaluate(cells, "cell_type", **keywords)
        console.print(
            f"{UNKNOWN} {rule}: {100 * (evaluation.unseen_unknown_fraction or 0):.1f}% of the "
            f"{sum(evaluation.unseen_labels.values())} unseen cells, "
            f"{100 * evaluation.known_unknown_fraction:.1f}% of the others; "
            f"open-set accuracy {evaluation.open_set_accuracy:.3f}, AUROC {evaluation.auroc_unknown:.3f}."
        )


def main() -> int:
    """Run the demo; exit code 1 when the engines disagree."""
    started = time.perf_counter()
    console = Console(highlight=False)
    model, cells = SpikGPT.from_pretrained("pancreas", engine="torch"), read_cells(CELLS)
    donors = anndata.concat([read_cells(CELLS.with_name(f"pancreas_baron_human{donor}.h5ad")) for donor in (1, 3)])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPIKGPT_CACHE"] = folder
        exported = Path(folder) / "pancreas"
        annotation = annotate(console, model, cells)
        same = export_and_compare(console, model, cells, annotation, exported)
        train_on_scgpt(console, donors, cells)
        equal = share(console, cells, annotation, exported)
        leave_a_type_out(console, donors, cells)
    console.print(f"\nThe demo took {time.perf_counter() - started:.0f} s.")
    return 0 if same and equal else 1


if __name__ == "__main__":
    sys.exit(main())
