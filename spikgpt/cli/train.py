"""``spikgpt train`` and ``spikgpt leave-one-type-out``."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from spikgpt.cli.flags import CHECKPOINT, command, hub_of
from spikgpt.cli.output import (
    Bars,
    annotate_command,
    cross_validation_line,
    inform,
    interruptible,
    note,
    option,
    resume_hint,
    show,
    show_scores,
)
from spikgpt.cli.paths import CSV, PNG, Output, check_outputs
from spikgpt.errors import ConfigError
from spikgpt.imports import without_collection
from spikgpt.options import Count, HubOptions, Options, TrainOptions, about


class EmbedderOptions(Options, frozen=True):
    """Embedding of the cells."""

    embedder: Annotated[str, about("pca (principal components), scgpt, or obsm:KEY for an embedding in the file.")] = (
        "pca"
    )
    scgpt: Annotated[str | None, about(CHECKPOINT)] = None
    max_length: Annotated[Count, about("Largest number of scGPT tokens of a cell.")] = 1200
    bundle: Annotated[bool, about("Copy the scGPT checkpoint into the reference.", "--bundle")] = False

    def __post_init__(self) -> None:
        if (self.embedder == "scgpt") != (self.scgpt is not None):
            msg = "--embedder scgpt and --scgpt CHECKPOINT go together; give both or neither."
            raise ConfigError(msg)

    def open(self, hub: HubOptions) -> Any:
        """Return the embedder for the training: its name, or an opened scGPT checkpoint."""
        from spikgpt.engines.scgpt.source import open_scgpt

        if self.scgpt is None:
            return self.embedder
        return open_scgpt(self.scgpt, max_length=self.max_length, bundled=self.bundle, hub=hub_of(hub))


class CardOptions(Options, frozen=True):
    """Description of the reference for its card."""

    name: Annotated[str | None, about("Name of the reference; default: the name of the folder.")] = None
    source: Annotated[str | None, about("Origin of the cells, such as a study.")] = None
    tissue: Annotated[str | None, about("Tissue of the cells, such as kidney.")] = None
    organism: Annotated[str | None, about("Organism of the cells, such as 'Homo sapiens'.")] = None
    licence: Annotated[str | None, about("Licence of the reference, such as CC-BY-4.0.")] = None
    dataset: Annotated[list[str] | None, about("Accession of the cells, such as GSE84133; repeatable.")] = None
    description: Annotated[Path | None, about("Markdown file with a description, such as intended use and limits.")] = (
        None
    )

    def provenance(self) -> dict[str, Any]:
        """Return the facts for the card that the user named."""
        names = ("source", "tissue", "organism", "licence")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names} | {"datasets": self.dataset}
        if self.description:
            try:
                fields["description"] = self.description.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                msg = f"{self.description} cannot be read ({error}); --description takes a Markdown file."
                raise ConfigError(msg) from None
        return {key: value for key, value in fields.items() if value}


@command()
def train(
    reference: Annotated[Path, typer.Argument(help="Labelled cells: .h5ad, .zarr, or 10x files.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    out: Annotated[Path, typer.Option(help="Folder to write the reference to.")],
    embedding: EmbedderOptions,
    card: CardOptions,
    options: TrainOptions,
    hub: Annotated[HubOptions, ("endpoint", "local_files_only")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing reference.")] = False,
) -> None:
    """Train a reference. If the training is interrupted, run the command again to continue from the last epoch."""
    from spikgpt.reference.format import check_writable

    check_writable(out, overwrite=overwrite)
    with without_collection():
        from spikgpt.cells.reading import open_cells
        from spikgpt.reference.files import save
        from spikgpt.training.train import train as train_on

    checkpoints = out.with_name(f".{out.name}.training")
    name, provenance = card.name or out.name, card.provenance()
    options = structs.replace(options, name=name, checkpoints=checkpoints, provenance=provenance)
    embedder, last = embedding.open(hub), "the last finished epoch"
    resumes = interruptible(lambda: resume_hint(f"The state after {last} is", checkpoints))

    with open_cells(reference) as adata, resumes, Bars() as bars:

        def on_epoch(stage: str, state: Any) -> None:
            nonlocal last
            last = f"epoch {state.epoch} of {state.epochs} ({stage})"
            figures = f"loss {state.loss:.3f} accuracy {state.accuracy:.3f}"
            bars(f"Training ({stage})", state.epochs, "epochs", done=state.epoch, figures=figures)

        on_cells = functools.partial(bars, "Embedding", adata.n_obs, "cells")
        trained = train_on(
            adata, label_key, embedder=embedder, options=options, on_cells=on_cells, on_epoch=on_epoch, on_note=note
        )
        save(trained, out, overwrite=overwrite)
    shutil.rmtree(checkpoints, ignore_errors=True)
    held_out = trained.metrics["held_out"]
    show_scores(held_out)
    inform(
        f"Held out: {trained.metrics['held_out_by']}. Accuracy {held_out['accuracy']:.4f}, "
        f"macro-F1 {held_out['macro_f1']:.4f} over {held_out['cells']} cells."
    )
    if validation := trained.metrics.get("cross_validation"):
        inform(cross_validation_line(validation))
    needed = [option("--scgpt", embedding.scgpt)] if embedding.scgpt is not None and not embedding.bundle else []
    inform(f"Wrote {out}; annotate with: {annotate_command(out, *needed)}")


@command()
def leave_one_type_out(
    reference: Annotated[Path, typer.Argument(help="Labelled cells: .h5ad, .zarr, or 10x files.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    options: Annotated[TrainOptions, ("batch_key", "layer", "recipe", "seed", "device")],
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Cell type to leave out; repeatable. Default: all types.")
    ] = None,
    embedder: Annotated[
        str, typer.Option(help="Embedding of the cells: pca (principal components), or obsm:KEY for one in the file.")
    ] = "pca",
    table: Annotated[Path | None, typer.Option(help="Output table, .csv: one row per type.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Output plot, .png.")] = None,
) -> None:
    """Train without each cell type in turn, and measure the share of its cells that become Unknown."""
    check_outputs(Output("--table", table, CSV), Output("--plot", plot, PNG), inputs=[reference])
    from spikgpt.cells.output import write_csv
    from spikgpt.cells.reading import read_cells
    from spikgpt.files import replacing
    from spikgpt.training.leave_one_out import leave_one_type_out as evaluate_types

    adata = read_cells(reference)
    with Bars() as bars:

        def on_type(_: str) -> None:
            bars("Leaving out", None, "types")

        report = evaluate_types(adata, label_key, types=types, embedder=embedder, options=options, on_type=on_type)
    rows = []
    for row in report.rows:
        mistaken = ", ".join(f"{name} {cells}" for name, cells in list(row.mistaken_for.items())[:3])
        shares = (f"{100 * share:.1f}%" for share in (row.tpr_at_5_fpr, row.unseen_unknown, row.known_unknown))
        rows.append((row.label, row.unseen_cells, f"{row.auroc:.3f}", *shares, mistaken))
    columns = ("left out", "cells", "AUROC", "TPR at 5% FPR", "Unknown", "known Unknown", "mistaken for")
    show(columns, rows, result=True)
    inform(
        f"Mean AUROC {report.mean_auroc:.3f}. TPR at 5% FPR: share of the left-out type's cells that are rejected at a "
        "cut-off that rejects 5% of the other cells. Unknown: share of the type's cells, by the default rule."
    )
    if table:
        write_csv([report.table()], table, index=False)
    if plot:
        with replacing(plot) as temporary:
            temporary.write_bytes(report.picture())


def _renamed(function: Callable[..., None], old: str, new: str) -> Callable[..., None]:
    @functools.wraps(function)
    def _run(**values: Any) -> None:
        note(f"{old} is now called {new}; the old name will be removed in version 1.0.")
        function(**values)

    return _run


novelty = _renamed(leave_one_type_out, "spikgpt novelty", "spikgpt leave-one-type-out")
