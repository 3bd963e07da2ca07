"""``spikgpt train`` and ``spikgpt novelty``."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from spikgpt.cli.flags import CHECKPOINT, command, hub_of
from spikgpt.cli.output import (
    Bars,
    annotate_command,
    goes_on,
    interruptible,
    note,
    option,
    say,
    show,
    show_scores,
)
from spikgpt.cli.paths import CSV, PNG, Output, check_outputs
from spikgpt.errors import ConfigError
from spikgpt.options import Count, HubOptions, Options, TrainOptions, about


class EmbedderOptions(Options, frozen=True):
    """What turns cells into vectors."""

    embedder: Annotated[str, about("pca, scgpt, or obsm:KEY for an embedding in the file.")] = "pca"
    scgpt: Annotated[str | None, about(CHECKPOINT)] = None
    max_length: Annotated[Count, about("scGPT tokens of a cell at most.")] = 1200
    bundle: Annotated[bool, about("Put that checkpoint into the reference.", "--bundle")] = False

    def __post_init__(self) -> None:
        if (self.embedder == "scgpt") != (self.scgpt is not None):
            msg = "--embedder scgpt and --scgpt CHECKPOINT go together; give both or neither."
            raise ConfigError(msg)

    def opened(self, hub: HubOptions) -> Any:
        """Return the embedder as a training takes it."""
        from spikgpt.engines.scgpt.source import open_scgpt

        if self.scgpt is None:
            return self.embedder
        return open_scgpt(self.scgpt, max_length=self.max_length, bundled=self.bundle, hub=hub_of(hub))


class CardOptions(Options, frozen=True):
    """What the card of the reference says."""

    name: Annotated[str | None, about("Name of the reference; by default that of the folder.")] = None
    source: Annotated[str | None, about("Where the cells come from.")] = None
    licence: Annotated[str | None, about("Licence of the reference, such as MIT.")] = None
    dataset: Annotated[list[str] | None, about("Accession of the cells; repeatable.")] = None
    description: Annotated[Path | None, about("Markdown file with intended use and limits.")] = None

    def provenance(self) -> dict[str, Any]:
        """Return what the user told, as a reference keeps it."""
        told: dict[str, Any] = {"source": self.source, "licence": self.licence, "datasets": self.dataset}
        if self.description:
            try:
                told["description"] = self.description.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                msg = f"{self.description} cannot be read ({error}); --description takes a Markdown file."
                raise ConfigError(msg) from None
        return {key: value for key, value in told.items() if value}


@command()
def train(
    reference: Annotated[Path, typer.Argument(help="Labelled cells: .h5ad, .zarr, or 10x files.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    out: Annotated[Path, typer.Option(help="Folder to write the reference to.")],
    chosen: EmbedderOptions,
    card: CardOptions,
    options: TrainOptions,
    hub: Annotated[HubOptions, ("endpoint", "local_files_only")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a reference that is already there.")] = False,
) -> None:
    """Train a reference. An interrupted training goes on from the last epoch when started again."""
    from spikgpt.reference.layout import check_writable

    check_writable(out, overwrite=overwrite)
    from spikgpt.cells.reading import read_cells
    from spikgpt.reference.files import save
    from spikgpt.training.train import train as train_on

    checkpoints = out.with_name(f".{out.name}.training")
    told = {"name": card.name or out.name, "checkpoints": checkpoints, "provenance": card.provenance()}
    options = structs.replace(options, **told)
    embedder, adata = chosen.opened(hub), read_cells(reference)
    last = "the last finished epoch"

    with interruptible(lambda: goes_on(f"The state after {last} is", checkpoints)), Bars() as bars:

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
    say(
        f"Held out: {trained.metrics['held_out_by']}. Accuracy {held_out['accuracy']:.4f}, "
        f"macro-F1 {held_out['macro_f1']:.4f} over {held_out['cells']} cells."
    )
    needed = [option("--scgpt", chosen.scgpt)] if chosen.scgpt is not None and not chosen.bundle else []
    say(f"Wrote {out}; annotate with: {annotate_command(out, *needed)}")


@command()
def novelty(
    reference: Annotated[Path, typer.Argument(help="Labelled cells: .h5ad, .zarr, or 10x files.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    options: TrainOptions,
    types: Annotated[list[str] | None, typer.Option("--type", help="Type to leave out; repeatable.")] = None,
    embedder: Annotated[str, typer.Option(help="pca, or obsm:KEY for an embedding in the file.")] = "pca",
    table: Annotated[Path | None, typer.Option(help="Also write one row a type, .csv.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the figures, .png.")] = None,
) -> None:
    """Leave each type out of a reference in turn, and see whether its cells come out as Unknown."""
    check_outputs(Output("--table", table, CSV), Output("--plot", plot, PNG), inputs=[reference])
    from spikgpt.cells.output import write_csv
    from spikgpt.cells.reading import read_cells
    from spikgpt.files import replacing
    from spikgpt.training.novelty import study

    adata = read_cells(reference)
    with Bars() as bars:

        def on_type(_: str) -> None:
            bars("Leaving out", None, "types")

        report = study(adata, label_key, types=types, embedder=embedder, options=options, on_type=on_type)
    rows = []
    for row in report.rows:
        mistaken = ", ".join(f"{name} {cells}" for name, cells in list(row.mistaken_for.items())[:3])
        shares = (f"{100 * share:.1f}%" for share in (row.unseen_found, row.unseen_unknown, row.known_unknown))
        rows.append((row.label, row.unseen_cells, f"{row.auroc:.3f}", *shares, mistaken))
    show(("left out", "cells", "AUROC", "found at 5%", "Unknown", "known Unknown", "mistaken for"), rows, result=True)
    say(
        f"Mean AUROC {report.mean_auroc:.3f}. Found at 5%: unseen cells that are less familiar than all but 5% of the "
        "known ones; Unknown: by the reference's own limits."
    )
    if table:
        write_csv([report.table()], table, index=False)
    if plot:
        with replacing(plot) as temporary:
            temporary.write_bytes(report.picture())
