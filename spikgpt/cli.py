"""``spikgpt ...`` on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spikgpt.errors import ConfigError, SpikGPTError

app = typer.Typer(
    help="Annotate single-cell RNA-seq with trained references, or train your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False)

Model = Annotated[str, typer.Option(help="Reference: a name that `spikgpt list` shows, or a folder.")]
Layer = Annotated[str | None, typer.Option(help="Layer to read; by default the best expression values in the file.")]
Scaling = Annotated[str, typer.Option(help="Scale of query genes: auto, composition, reference or query.")]
Neighbours = Annotated[
    bool, typer.Option("--neighbours/--alone", help="Average each cell with those most like it, or label it alone.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Confidence below which a cell is Unknown; by default the reference's own.")
]
BatchSize = Annotated[int, typer.Option(help="Cells classified at a time; the labels do not depend on it.")]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    try:
        app(prog_name="spikgpt")
    except SpikGPTError as error:
        console.print(f"[bold red]Error:[/] {_plain(str(error))}", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)


def _plain(text: str) -> str:
    """Return text on one line, with nothing that rich would read as markup."""
    return " ".join(text.split()).replace("[", r"\[")


@app.command()
def annotate(
    query: Annotated[Path, typer.Argument(help="Cells to label, an h5ad file.")],
    model: Model,
    out: Annotated[Path, typer.Option(help="h5ad file to write: the input with the labels added.")],
    table: Annotated[Path | None, typer.Option(help="Also write one row a cell, .csv or .parquet.")] = None,
    layer: Layer = None,
    scaling: Scaling = "auto",
    neighbours: Neighbours = True,
    threshold: Threshold = None,
    batch_size: BatchSize = 4096,
) -> None:
    """Label the cells of QUERY."""
    from spikgpt import data, files
    from spikgpt.annotate import annotate as annotate_cells
    from spikgpt.api import SpikGPT

    if table:
        files.check_table(table)
    if out.exists() and out.samefile(query):
        msg = f"{out} is the input; name another file for the output."
        raise ConfigError(msg)
    reference = SpikGPT.from_pretrained(model).reference
    adata = data.read_h5ad(query, backed=True)
    with _bar("cells") as progress:
        task = progress.add_task("Annotating", total=adata.n_obs)
        annotation = annotate_cells(
            reference,
            adata,
            layer=layer,
            scaling=scaling,
            neighbours=neighbours,
            threshold=threshold,
            batch_size=batch_size,
            on_cells=lambda cells: progress.advance(task, cells),
        )
    adata.file.close()
    files.write_annotated(annotation, adata, query, out)
    if table:
        files.write_table(annotation, table)
    counts = Counter(annotation.labels.tolist())
    summary = Table("label", "cells", "share", title=f"{query.name} by {reference.name}")
    for label, cells in counts.most_common():
        summary.add_row(label, str(cells), f"{100 * cells / adata.n_obs:.1f}%")
    console.print(summary)
    report = annotation.report
    console.print(f"Read {report.values} from {report.source}; scaling: {report.scaling}.", soft_wrap=True)
    if report.genes_total:
        console.print(f"{report.genes_matched} of the reference's {report.genes_total} genes are in the query.")
    console.print(f"{100 * annotation.unknown_rate:.1f}% Unknown at threshold {annotation.threshold:.4f}.")
    for note in annotation.notes():
        console.print(f"[yellow]Note:[/] {_plain(note)}", soft_wrap=True)
    console.print(f"Wrote {out}" + (f" and {table}" if table else ""), soft_wrap=True)


@app.command()
def evaluate(
    query: Annotated[Path, typer.Argument(help="Cells of known types, an h5ad file.")],
    model: Model,
    label_key: Annotated[str, typer.Option(help="Column of obs with the true types.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    layer: Layer = None,
    scaling: Scaling = "auto",
    neighbours: Neighbours = True,
    threshold: Threshold = None,
    batch_size: BatchSize = 4096,
) -> None:
    """Label the cells of QUERY and hold the labels against the truth."""
    from spikgpt import data, files
    from spikgpt.api import SpikGPT

    evaluation = SpikGPT.from_pretrained(model).evaluate(
        data.read_h5ad(query),
        label_key,
        layer=layer,
        scaling=scaling,
        neighbours=neighbours,
        threshold=threshold,
        batch_size=batch_size,
    )
    console.print(_scores(evaluation.metrics.to_dict()))
    metrics = evaluation.metrics
    console.print(f"Accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f} over {metrics.cells} cells.")
    console.print(
        f"Unknown: {100 * evaluation.known_unknown_rate:.1f}% of the cells of known types; "
        f"accuracy with these counted as errors {evaluation.accuracy_after_rejection:.4f}.",
        soft_wrap=True,
    )
    if evaluation.unseen_unknown_rate is not None:
        console.print(
            f"Types that the reference does not have ({', '.join(evaluation.unseen_labels)}): "
            f"{100 * evaluation.unseen_unknown_rate:.1f}% Unknown, AUROC {evaluation.auroc_unknown:.4f}.",
            soft_wrap=True,
        )
    if json_file:
        with files.replacing(json_file) as temporary:
            temporary.write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n")
        console.print(f"Wrote {json_file}", soft_wrap=True)


@app.command()
def train(
    reference: Annotated[Path, typer.Argument(help="Labelled cells, an h5ad file.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    out: Annotated[Path, typer.Option(help="Folder to write the reference to.")],
    batch_key: Annotated[
        str | None, typer.Option(help="Column of obs with the donor or batch, to hold out whole ones.")
    ] = None,
    embedder: Annotated[str, typer.Option(help="pca, or obsm:KEY for an embedding in the file.")] = "pca",
    recipe: Annotated[str, typer.Option(help="default, or paper for the published settings.")] = "default",
    name: Annotated[str | None, typer.Option(help="Name of the reference; by default that of the folder.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same reference.")] = 0,
    layer: Layer = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a reference that is already there.")] = False,
) -> None:
    """Train a reference. An interrupted training goes on from the last epoch when started again."""
    from spikgpt import data
    from spikgpt.building import train as train_reference
    from spikgpt.reference import check_writable, save

    check_writable(out, overwrite=overwrite)
    adata = data.read_h5ad(reference)
    checkpoints = out.with_name(f".{out.name}.training")
    with _bar("epochs", TextColumn("{task.fields[figures]}")) as progress:
        tasks: dict[str, Any] = {}

        def on_epoch(stage: str, state: Any) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(f"Training ({stage})", total=state.epochs, figures="")
            figures = f"loss {state.loss:.3f} accuracy {state.accuracy:.3f}"
            progress.update(tasks[stage], completed=state.epoch, figures=figures)

        trained = train_reference(
            adata,
            label_key,
            batch_key=batch_key,
            embedder=embedder,
            layer=layer,
            recipe=recipe,
            name=name or out.name,
            seed=seed,
            checkpoints=checkpoints,
            on_epoch=on_epoch,
        )
    save(trained, out, overwrite=overwrite)
    if checkpoints.exists():
        shutil.rmtree(checkpoints)
    held_out = trained.metrics["held_out"]
    console.print(_scores(held_out))
    for label, cells in trained.provenance["labels_left_out"].items():
        console.print(f"[yellow]Note:[/] {_plain(label)} has {cells} cells, too few to learn from; left out.")
    console.print(
        f"Held out: {trained.metrics['held_out_by']}. Accuracy {held_out['accuracy']:.4f}, "
        f"macro-F1 {held_out['macro_f1']:.4f} over {held_out['cells']} cells.",
        soft_wrap=True,
    )
    console.print(
        f"Wrote {out}; annotate with: spikgpt annotate QUERY.h5ad --model {out} --out OUT.h5ad", soft_wrap=True
    )


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Reference: a name that `spikgpt list` shows, or a folder.")],
) -> None:
    """Show what a reference is and what was measured."""
    from spikgpt.api import SpikGPT

    reference = SpikGPT.from_pretrained(model).reference
    scores = {row["label"]: row for row in reference.metrics["held_out"]["per_label"]}
    table = Table("label", "Cell Ontology id", "cells", "F1, held out", title=reference.name)
    for row in reference.labels.to_list():
        score = scores.get(row["name"])
        table.add_row(
            row["name"],
            row["cell_ontology_id"] or "-",
            str(reference.metrics["cells_per_label"][row["name"]]),
            f"{score['f1']:.3f}" if score else "not measured",
        )
    Console().print(table)
    held_out = reference.metrics["held_out"]
    genes = len(reference.embedder.genes or ())
    for line in (
        f"Trained on {reference.metrics['cells']} cells, recipe {reference.provenance['recipe']['name']}, "
        f"seed {reference.provenance['seed']}; source: {reference.provenance.get('source', 'not stated')}.",
        f"Embedder {reference.embedder.kind}, {reference.embedder.dim} values a cell, {genes} genes.",
        f"Held out ({reference.metrics['held_out_by']}): accuracy {held_out['accuracy']:.4f}, "
        f"macro-F1 {held_out['macro_f1']:.4f} over {held_out['cells']} cells.",
        f"Unknown below {reference.thresholds.threshold:.4f}.",
    ):
        typer.echo(line)


@app.command(name="list")
def list_references() -> None:
    """List the references that can be named."""
    from spikgpt.api import shipped_references
    from spikgpt.reference import load

    table = Table("name", "labels", "cells", "accuracy", "macro-F1", "held out")
    for name, folder in shipped_references().items():
        metrics = load(folder).metrics
        held_out = metrics["held_out"]
        table.add_row(
            name,
            str(len(metrics["cells_per_label"])),
            str(metrics["cells"]),
            f"{held_out['accuracy']:.3f}",
            f"{held_out['macro_f1']:.3f}",
            metrics["held_out_by"],
        )
    Console().print(table)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Reference: a name that `spikgpt list` shows, or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write the ONNX graph and its parity report to.")],
) -> None:
    """Write a reference as an ONNX graph, from counts to probabilities, checked against the trained model."""
    try:
        from spikgpt_onnx.exporter import export as export_reference
    except ImportError as error:
        msg = f"The exporter is not installed ({error}): pip install 'spikgpt-onnx[export,cpu]'"
        raise ConfigError(msg) from error
    from spikgpt.api import SpikGPT

    parity = export_reference(SpikGPT.from_pretrained(model).reference, out)
    console.print(
        f"Wrote {out}. Parity over {parity.cells} cells: every label equal, "
        f"probabilities within {parity.largest_difference:.1e}.",
        soft_wrap=True,
    )


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from spikgpt import __version__

        typer.echo(f"spikgpt {__version__}")
        raise typer.Exit


def _bar(unit: str, *more: TextColumn) -> Progress:
    """Return a progress bar on standard error that counts units."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        *more,
        TimeRemainingColumn(),
        console=console,
        # Without a terminal a bar would only leave stray lines in a log.
        disable=not console.is_terminal,
    )


def _scores(metrics: dict[str, Any]) -> Table:
    """Return the figures of each label, and what it was mistaken for, as a table."""
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    table = Table("label", "cells", "precision", "recall", "F1", "mistaken for")
    for row in metrics["per_label"]:
        confused = dict(zip(labels, counts[labels.index(row["label"])], strict=True))
        confused.pop(row["label"])
        mistakes = sorted(((n, name) for name, n in confused.items() if n), reverse=True)
        table.add_row(
            row["label"],
            str(row["cells"]),
            f"{row['precision']:.3f}",
            f"{row['recall']:.3f}",
            f"{row['f1']:.3f}",
            ", ".join(f"{name} {n}" for n, name in mistakes) or "-",
        )
    return table
