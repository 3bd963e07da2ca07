"""``spikgpt ...`` on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from spikgpt.errors import ConfigError, HubError, SpikGPTError

app = typer.Typer(
    help="Annotate single-cell RNA-seq with trained references, or train your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False)

MODEL_HELP = "Reference: a name that `spikgpt list` shows, a folder, or ORG/REPO\\[@REVISION] on the Hub."
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]
Endpoint = Annotated[str | None, typer.Option(help="Address of the Hub; by default HF_ENDPOINT, or huggingface.co.")]
Layer = Annotated[str | None, typer.Option(help="Layer to read; by default the best expression values in the file.")]
Scaling = Annotated[str, typer.Option(help="Scale of query genes: auto, composition, reference or query.")]
Neighbours = Annotated[
    bool, typer.Option("--neighbours/--alone", help="Average each cell with those most like it, or label it alone.")
]
UnknownRate = Annotated[
    float | None, typer.Option(help="Share of the known cells that may be Unknown; by default 0.05.")
]
NoUnknown = Annotated[bool, typer.Option("--no-unknown", help="Give every cell the label that fits it best.")]
Threshold = Annotated[
    float | None, typer.Option(help="Confidence below which a cell is Unknown, instead; the paper's is 0.95.")
]
Recalibrate = Annotated[
    bool, typer.Option("--recalibrate", help="Be as lenient as the query suggests, if it lies far from the reference.")
]
ScGPT = Annotated[
    str | None,
    typer.Option("--scgpt", help="Folder of the scGPT checkpoint that the reference needs, if it does not bring it."),
]
MaxLength = Annotated[int, typer.Option(help="scGPT tokens of a cell at most.")]
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
    cluster_key: Annotated[
        str | None, typer.Option(help="Column of obs with clusters: name each by vote, and find new types among them.")
    ] = None,
    cluster_table: Annotated[Path | None, typer.Option(help="Also write one row a cluster, .csv.")] = None,
    layer: Layer = None,
    scaling: Scaling = "auto",
    neighbours: Neighbours = True,
    unknown_rate: UnknownRate = None,
    no_unknown: NoUnknown = False,
    threshold: Threshold = None,
    recalibrate: Recalibrate = False,
    scgpt: ScGPT = None,
    batch_size: BatchSize = 4096,
) -> None:
    """Label the cells of QUERY."""
    from spikgpt.api import SpikGPT
    from spikgpt.cells import output as files
    from spikgpt.cells.obs import labels_of
    from spikgpt.cells.reading import open_cells
    from spikgpt.pipeline import annotate as annotate_cells
    from spikgpt.report.clusters import CLUSTER_LABEL, summarise

    if table:
        files.check_table(table)
    if cluster_table and not cluster_key:
        msg = "--cluster-table needs --cluster-key, the column of obs that holds the clusters."
        raise ConfigError(msg)
    if out.exists() and out.samefile(query):
        msg = f"{out} is the input; name another file for the output."
        raise ConfigError(msg)
    reference = SpikGPT.from_pretrained(model, scgpt=scgpt).reference
    with open_cells(query) as adata, _bar("cells") as progress:
        if cluster_key:
            labels_of(adata, cluster_key)  # refuse a wrong column before the work
        task = progress.add_task("Annotating", total=adata.n_obs)
        annotation = annotate_cells(
            reference,
            adata,
            layer=layer,
            scaling=scaling,
            neighbours=neighbours,
            unknown_rate=_rate(unknown_rate, threshold, no_unknown),
            threshold=threshold,
            recalibrate=recalibrate,
            batch_size=batch_size,
            on_cells=lambda cells: progress.advance(task, cells),
        )
        clusters = summarise(annotation, adata, cluster_key, layer=layer) if cluster_key else None
    annotation.write_h5ad(query, out, {} if clusters is None else {CLUSTER_LABEL: clusters.labels})
    if table:
        files.write_table(annotation.tables(), table)
    if clusters is not None:
        _show_clusters(clusters, cluster_table)
    summary = Table("label", "cells", "share", title=_plain(f"{query.name} by {reference.name}"))
    for label, cells in annotation.counts().items():
        summary.add_row(_plain(label), str(cells), f"{100 * cells / len(annotation.best):.1f}%")
    console.print(summary)
    report = annotation.report
    console.print(f"Read {report.values} from {report.source}; scaling: {report.scaling}.", soft_wrap=True)
    if report.genes:
        console.print(report.genes)
    console.print(f"{100 * annotation.unknown_rate:.1f}% Unknown: {annotation.decision.rule}.", soft_wrap=True)
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
    unknown_rate: UnknownRate = None,
    no_unknown: NoUnknown = False,
    threshold: Threshold = None,
    recalibrate: Recalibrate = False,
    scgpt: ScGPT = None,
    batch_size: BatchSize = 4096,
) -> None:
    """Label the cells of QUERY and hold the labels against the truth."""
    from spikgpt.api import SpikGPT
    from spikgpt.cells.reading import read_cells
    from spikgpt.files import replacing

    evaluation = SpikGPT.from_pretrained(model, scgpt=scgpt).evaluate(
        read_cells(query),
        label_key,
        layer=layer,
        scaling=scaling,
        neighbours=neighbours,
        unknown_rate=_rate(unknown_rate, threshold, no_unknown),
        threshold=threshold,
        recalibrate=recalibrate,
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
        with replacing(json_file) as temporary:
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
    embedder: Annotated[str, typer.Option(help="pca, scgpt, or obsm:KEY for an embedding in the file.")] = "pca",
    scgpt: Annotated[
        str | None, typer.Option("--scgpt", help="scGPT checkpoint: a folder, or ORG/REPO\\[@REVISION] on the Hub.")
    ] = None,
    max_length: MaxLength = 1200,
    bundle: Annotated[bool, typer.Option("--bundle", help="Put the scGPT checkpoint into the reference.")] = False,
    recipe: Annotated[str, typer.Option(help="default, or paper for the published settings.")] = "default",
    name: Annotated[str | None, typer.Option(help="Name of the reference; by default that of the folder.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same reference.")] = 0,
    source: Annotated[str | None, typer.Option(help="Where the cells come from, for the card.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the reference, such as MIT, for the card.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Accession of the cells, for the card; repeatable.")] = None,
    description: Annotated[
        Path | None, typer.Option(help="Markdown file with intended use and limits, for the card.")
    ] = None,
    layer: Layer = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a reference that is already there.")] = False,
) -> None:
    """Train a reference. An interrupted training goes on from the last epoch when started again."""
    from spikgpt.cells.reading import read_cells
    from spikgpt.reference.layout import check_writable
    from spikgpt.training.embedders import open_scgpt
    from spikgpt.training.reference import save
    from spikgpt.training.train import train as train_reference

    check_writable(out, overwrite=overwrite)
    about: dict[str, Any] = {"source": source, "licence": licence, "datasets": dataset}
    if description:
        if not description.is_file():
            msg = f"There is no file {description}; --description takes a Markdown file."
            raise ConfigError(msg)
        about["description"] = description.read_text(encoding="utf-8").strip()
    chosen: Any = embedder
    if (embedder == "scgpt") != (scgpt is not None):
        msg = "--embedder scgpt and --scgpt CHECKPOINT go together; give both or neither."
        raise ConfigError(msg)
    if scgpt is not None:
        chosen = open_scgpt(scgpt, max_length=max_length, bundled=bundle)
    adata = read_cells(reference)
    checkpoints = out.with_name(f".{out.name}.training")
    with _bar("epochs", TextColumn("{task.fields[figures]}")) as progress:
        tasks: dict[str, Any] = {}

        def on_cells(cells: int) -> None:
            if "cells" not in tasks:
                tasks["cells"] = progress.add_task("Embedding (cells)", total=adata.n_obs, figures="")
            progress.advance(tasks["cells"], cells)

        def on_epoch(stage: str, state: Any) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(f"Training ({stage})", total=state.epochs, figures="")
            figures = f"loss {state.loss:.3f} accuracy {state.accuracy:.3f}"
            progress.update(tasks[stage], completed=state.epoch, figures=figures)

        trained = train_reference(
            adata,
            label_key,
            batch_key=batch_key,
            embedder=chosen,
            layer=layer,
            recipe=recipe,
            name=name or out.name,
            seed=seed,
            checkpoints=checkpoints,
            provenance={key: value for key, value in about.items() if value},
            on_cells=on_cells,
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
    needed = f" --scgpt {scgpt}" if scgpt is not None and not bundle else ""
    console.print(
        f"Wrote {out}; annotate with: spikgpt annotate QUERY.h5ad --model {out}{needed} --out OUT.h5ad", soft_wrap=True
    )


@app.command()
def novelty(
    reference: Annotated[Path, typer.Argument(help="Labelled cells, an h5ad file.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    batch_key: Annotated[
        str | None, typer.Option(help="Column of obs with the donor or batch, to hold out whole ones.")
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Type to leave out; repeatable, by default all of 30 cells.")
    ] = None,
    embedder: Annotated[str, typer.Option(help="pca, or obsm:KEY for an embedding in the file.")] = "pca",
    table_file: Annotated[Path | None, typer.Option("--table", help="Also write one row a type, .csv.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the figures, .png.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same figures.")] = 0,
    layer: Layer = None,
) -> None:
    """Leave each type out of a reference in turn, and see whether its cells come out as Unknown."""
    from spikgpt.cells.reading import read_cells
    from spikgpt.files import replacing
    from spikgpt.training.novelty import study

    adata = read_cells(reference)
    with _bar("types") as progress:
        task = progress.add_task("Leaving out", total=None)
        report = study(
            adata,
            label_key,
            batch_key=batch_key,
            types=types,
            seed=seed,
            embedder=embedder,
            layer=layer,
            on_type=lambda _: progress.advance(task),
        )
    table = Table("left out", "cells", "AUROC", "found at 5%", "Unknown", "known Unknown", "mistaken for")
    for row in report.rows:
        mistaken = ", ".join(f"{name} {cells}" for name, cells in list(row.mistaken_for.items())[:3])
        shares = (f"{100 * share:.1f}%" for share in (row.unseen_found, row.unseen_unknown, row.known_unknown))
        table.add_row(_plain(row.label), str(row.unseen_cells), f"{row.auroc:.3f}", *shares, _plain(mistaken))
    Console().print(table)
    console.print(
        f"Mean AUROC {report.mean_auroc:.3f}. Found at 5%: unseen cells that are less familiar than all but 5% of the "
        "known ones; Unknown: by the reference's own limits.",
        soft_wrap=True,
    )
    if table_file:
        with replacing(table_file) as temporary:
            report.table().to_csv(temporary, index=False)
    if plot:
        with replacing(plot) as temporary:
            temporary.write_bytes(report.picture())


@app.command()
def embed(
    query: Annotated[Path, typer.Argument(help="Cells to embed, an h5ad file.")],
    scgpt: Annotated[str, typer.Option("--scgpt", help="Checkpoint: a folder, or ORG/REPO\\[@REVISION] on the Hub.")],
    out: Annotated[Path, typer.Option(help="h5ad file to write: the input with the embedding in obsm.")],
    key: Annotated[str, typer.Option(help="Name of the embedding in obsm.")] = "X_scGPT",
    layer: Layer = None,
    max_length: MaxLength = 1200,
    batch_size: Annotated[str, typer.Option(help="Cells at a time; auto takes what is fast and fits.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32; bfloat16 or float16 on a GPU.")] = "float32",
    upstream_seeds: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Follow upstream's random draws, from these seeds of NumPy and torch."),
    ] = None,
    cache: Annotated[bool, typer.Option(help="Keep finished cells, to resume from and to reuse.")] = True,
) -> None:
    """Write scGPT's embedding of QUERY. An interrupted run goes on from its last finished cells."""
    from spikgpt.cells.output import write_copy
    from spikgpt.cells.reading import open_cells
    from spikgpt.scgpt.draws import UpstreamDraws
    from spikgpt.scgpt.embedding import cache_folder
    from spikgpt.training.embedders import open_scgpt

    if out.exists() and out.samefile(query):
        msg = f"{out} is the input; name another file for the output."
        raise ConfigError(msg)
    if batch_size != "auto" and not batch_size.isdecimal():
        msg = f"--batch-size is {batch_size!r}; expected auto or a number of cells."
        raise ConfigError(msg)
    embedder = open_scgpt(
        scgpt,
        max_length=max_length,
        batch_size=None if batch_size == "auto" else int(batch_size),
        precision=precision,
        draws=UpstreamDraws(*upstream_seeds) if upstream_seeds else None,
        cache=cache_folder() if cache else None,
    )
    with open_cells(query) as adata, _bar("cells", _Speed()) as progress:
        task = progress.add_task("Embedding", total=adata.n_obs)
        embedding = embedder.embed(adata, layer=layer, on_cells=lambda cells: progress.advance(task, cells))
    write_copy(query, out, obsm={key: embedding.vectors.astype("float32")})
    report = embedding.report
    console.print(f"Read {report.values} from {report.source}.", soft_wrap=True)
    console.print(report.genes)
    if embedding.empty.any():
        console.print(
            f"[yellow]Note:[/] {int(embedding.empty.sum())} cells have no such genes; their vectors mean nothing."
        )
    for note in report.notes:
        console.print(f"[yellow]Note:[/] {_plain(note)}", soft_wrap=True)
    console.print(f"Wrote {out}, obsm[{key!r}], {embedder.dim} values a cell.".replace("[", r"\["), soft_wrap=True)


@app.command(name="convert-scgpt")
def convert_scgpt(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint: a folder, or ORG/REPO\\[@REVISION] on the Hub.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    upstream: Annotated[bool, typer.Option("--upstream", help="Write best_model.pt instead of safetensors.")] = False,
) -> None:
    """Write an scGPT checkpoint with safetensors weights, or as upstream's package reads it."""
    from spikgpt.scgpt.checkpoint import save_checkpoint
    from spikgpt.training.embedders import open_scgpt

    found = open_scgpt(checkpoint).checkpoint
    save_checkpoint(found, out, upstream=upstream)
    console.print(f"Wrote {out}: {len(found.vocabulary)} tokens, sha256 {found.sha256}.", soft_wrap=True)


@app.command()
def pretrain(
    cells: Annotated[Path, typer.Argument(help="Cells to learn from, an h5ad file; no labels are needed.")],
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    genes: Annotated[int, typer.Option(help="Size of the vocabulary: the most variable genes.")] = 3000,
    dim: Annotated[int, typer.Option(help="Length of a cell's vector.")] = 128,
    layers: Annotated[int, typer.Option(help="Layers of the transformer.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads of a layer.")] = 4,
    max_length: Annotated[int, typer.Option(help="Tokens of a cell at most.")] = 600,
    epochs: Annotated[int, typer.Option(help="Passes over the cells.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Cells to a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights on a CPU.")] = 0,
    layer: Layer = None,
) -> None:
    """Train an scGPT network of your own. An interrupted training goes on from the last epoch when started again."""
    from spikgpt.cells.reading import read_cells
    from spikgpt.scgpt.checkpoint import save_checkpoint
    from spikgpt.scgpt.encoder import ScGPTConfig
    from spikgpt.training.pretraining import Pretraining
    from spikgpt.training.pretraining import pretrain as pretrain_network

    if out.exists():
        msg = f"{out} exists already; name a new folder for the checkpoint."
        raise ConfigError(msg)
    config = ScGPTConfig(dim=dim, heads=heads, hidden=2 * dim, layers=layers, dropout=0.0)
    settings = Pretraining(genes, max_length, epochs, batch_size, learning_rate, seed=seed)
    adata = read_cells(cells)
    state = out.with_name(f".{out.name}.training.safetensors")
    with _bar("epochs", TextColumn("{task.fields[figures]}")) as progress:
        task = progress.add_task("Training", total=epochs, figures="")
        checkpoint = pretrain_network(
            adata,
            config,
            settings,
            layer=layer,
            state=state,
            on_epoch=lambda epoch, _, loss: progress.update(task, completed=epoch, figures=f"loss {loss:.3f}"),
        )
    save_checkpoint(checkpoint, out)
    state.unlink(missing_ok=True)
    console.print(f"Wrote {out}; embed with: spikgpt embed QUERY.h5ad --scgpt {out} --out OUT.h5ad", soft_wrap=True)


@app.command()
def info(
    model: ModelArgument,
    scgpt: ScGPT = None,
) -> None:
    """Show what a reference is and what was measured."""
    from spikgpt.training.sharing import open_reference

    reference = open_reference(model, scgpt=scgpt)
    scores = {row["label"]: row for row in reference.metrics["held_out"]["per_label"]}
    table = Table("label", "Cell Ontology id", "cells", "F1, held out", title=_plain(reference.name))
    for row in reference.labels.to_list():
        score = scores.get(row["name"])
        table.add_row(
            _plain(row["name"]),
            _plain(row["cell_ontology_id"] or "-"),
            str(reference.metrics["cells_per_label"][row["name"]]),
            f"{score['f1']:.3f}" if score else "not measured",
        )
    Console().print(table)
    held_out = reference.metrics["held_out"]
    genes = reference.embedder.genes
    for line in (
        f"Trained on {reference.metrics['cells']} cells, recipe {reference.provenance['recipe']['name']}, "
        f"seed {reference.provenance['seed']}; source: {reference.provenance.get('source', 'not stated')}.",
        f"Embedder {reference.embedder.kind}, {reference.embedder.dim} values a cell"
        + (f", {len(genes)} genes." if genes else "."),
        f"Held out ({reference.metrics['held_out_by']}): accuracy {held_out['accuracy']:.4f}, "
        f"macro-F1 {held_out['macro_f1']:.4f} over {held_out['cells']} cells.",
        _unknown_rule(reference.thresholds),
        f"From {reference.origin or model}.",
    ):
        typer.echo(line)


@app.command(name="list")
def list_references(
    endpoint: Endpoint = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the Hub.")] = False,
) -> None:
    """List the references that can be named: shipped with this package, in the cache, and on the Hub."""
    from spikgpt.reference.hub import Hub
    from spikgpt.reference.layout import parsed, verified_files
    from spikgpt.reference.registry import cached_references, namespace, shipped_references

    hub = Hub(endpoint, local_files_only=offline)
    table = Table(Column("name", overflow="fold"), "where", "labels", "cells", "accuracy", "macro-F1")
    rows = [(name, "shipped", folder) for name, folder in shipped_references().items()]
    rows += [
        (f"{cached.repository}@{cached.commit[:12]}", ", ".join(("cached", *cached.refs)), cached.folder)
        for cached in cached_references(hub)
    ]
    for name, where, folder in rows:
        try:
            metrics = parsed(verified_files(folder)["metrics.json"], "metrics.json")
        except SpikGPTError as error:
            table.add_row(_plain(name), f"{where}, damaged")
            console.print(f"[yellow]Note:[/] {_plain(str(error))}", soft_wrap=True)
            continue
        held_out = metrics["held_out"]
        table.add_row(
            _plain(name),
            _plain(where),
            str(len(metrics["cells_per_label"])),
            str(metrics["cells"]),
            f"{held_out['accuracy']:.3f}",
            f"{held_out['macro_f1']:.3f}",
        )
    try:
        for name in hub.references(namespace()):
            table.add_row(_plain(name), "Hub")
    except HubError as error:
        console.print(f"[yellow]Note:[/] {_plain(str(error))}", soft_wrap=True)
    Console().print(table)


@app.command()
def verify(model: ModelArgument, scgpt: ScGPT = None) -> None:
    """Check that a reference is whole and consistent; exit code 2 when it is not."""
    from spikgpt.reference.registry import find
    from spikgpt.training import sharing

    found = find(model)
    for check in sharing.verify(found.folder, scgpt=scgpt).checks:
        typer.echo(f"ok: {check}")
    typer.echo(f"{found.origin or found.folder} is whole.")


@app.command()
def pull(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder to write the reference to.")],
    endpoint: Endpoint = None,
) -> None:
    """Get a reference from the Hub into a folder."""
    from spikgpt.reference.hub import Hub
    from spikgpt.training import sharing

    found = sharing.pull(model, out, hub=Hub(endpoint))
    console.print(f"Wrote {out}, {found.origin or f'the shipped reference {model}'}.", soft_wrap=True)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of the reference.")],
    repository: Annotated[str, typer.Argument(help="ORG/NAME on the Hub; made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str | None, typer.Option(help="Branch to commit to, instead of main.")] = None,
    tag: Annotated[str | None, typer.Option(help="Name for the commit, such as v1.")] = None,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, show what would go.")] = False,
    scgpt: ScGPT = None,
    endpoint: Endpoint = None,
) -> None:
    """Put a reference on the Hub, in one commit. Log in first with `hf auth login`, or set HF_TOKEN."""
    from spikgpt.reference.hub import Hub
    from spikgpt.training import sharing

    pushed = sharing.push(
        folder,
        repository,
        private=private,
        branch=branch,
        tag=tag,
        pull_request=pull_request,
        message=message,
        dry_run=dry_run,
        scgpt=scgpt,
        hub=Hub(endpoint),
    )
    table = Table("file", "bytes", "")
    for change in pushed.changes:
        table.add_row(change.path, f"{change.size:,}", change.kind)
    Console().print(table)
    if pushed.commit is None:
        console.print(f"Nothing was sent: this is what would go to {repository}.", soft_wrap=True)
        return
    console.print(f"{repository} is at commit {pushed.commit}: {pushed.url}", soft_wrap=True)
    console.print(f"Use it with: spikgpt annotate QUERY.h5ad --model {repository} --out OUT.h5ad", soft_wrap=True)


@app.command()
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder to write; that of the reference itself gets the graphs added.")],
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, the default, fp16 for GPUs, or int8 for CPUs; repeatable.")
    ] = None,
    literal: Annotated[
        bool, typer.Option("--literal", help="Write one .onnx file with the paper's m copies, for comparison.")
    ] = False,
    scgpt: ScGPT = None,
) -> None:
    """Write a reference with its ONNX graphs, from counts to labels, each checked against the trained model."""
    try:
        from spikgpt_onnx import exporter
    except ImportError as error:
        msg = f"The exporter is not installed ({error}): pip install 'spikgpt-onnx[export,cpu]'"
        raise ConfigError(msg) from error
    from spikgpt.api import SpikGPT

    reference = SpikGPT.from_pretrained(model, scgpt=scgpt).reference
    if literal:
        exporter.export_literal(reference, out)
        console.print(f"Wrote {out}, m = {reference.config.copies}.", soft_wrap=True)
        return
    for name, parity in exporter.export(reference, out, precisions=precision or ["fp32"]).items():
        console.print(f"{name}, {parity}.", soft_wrap=True)
    console.print(
        f"Wrote {out}; run it with: spikgpt-onnx annotate QUERY.h5ad --model {out} --out OUT.h5ad", soft_wrap=True
    )


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from spikgpt import __version__

        typer.echo(f"spikgpt {__version__}")
        raise typer.Exit


def _rate(unknown_rate: float | None, threshold: float | None, no_unknown: bool) -> float | None:
    """Return the unknown rate that options ask for."""
    if not no_unknown:
        return unknown_rate
    if unknown_rate is not None or threshold is not None:
        msg = "--no-unknown rejects no cell; leave --unknown-rate and --threshold out."
        raise ConfigError(msg)
    return 0.0


def _show_clusters(report: Any, path: Path | None) -> None:
    """Print what the clusters are, and write their table."""
    from spikgpt.files import replacing
    from spikgpt.labels.thresholds import UNKNOWN

    table = Table("cluster", "cells", "label", "share", "Unknown", "nearest known type", "marker genes")
    for cluster in report.clusters:
        label = f"[bold]{UNKNOWN}, a new type?[/]" if cluster.candidate else _plain(cluster.label)
        row = (f"{100 * cluster.share:.0f}%", f"{100 * cluster.unknown_share:.0f}%", _plain(cluster.nearest or "-"))
        genes = ", ".join(marker.gene for marker in cluster.markers) or cluster.note or "-"
        table.add_row(_plain(cluster.name), str(cluster.cells), label, *row, _plain(genes))
    console.print(table)
    if path is not None:
        with replacing(path) as temporary:
            report.table().to_csv(temporary, index=False)
        console.print(f"Wrote {path}", soft_wrap=True)


def _unknown_rule(thresholds: Any) -> str:
    """Say when a cell is Unknown."""
    if thresholds.together is None:
        return f"Unknown below a probability of {thresholds.threshold:.4f}."
    return (
        f"Unknown: at most {100 * thresholds.unknown_rate:g}% of cells like the {thresholds.together.everything.cells} "
        "held-out ones."
    )


class _Speed(ProgressColumn):
    """Cells a second, once known."""

    def render(self, task: Task) -> str:
        return f"{task.speed:.1f} cells/s" if task.speed else ""


def _bar(unit: str, *more: ProgressColumn) -> Progress:
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
            _plain(row["label"]),
            str(row["cells"]),
            f"{row['precision']:.3f}",
            f"{row['recall']:.3f}",
            f"{row['f1']:.3f}",
            _plain(", ".join(f"{name} {n}" for n, name in mistakes)) or "-",
        )
    return table
