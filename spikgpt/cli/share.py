"""``spikgpt list``, ``info``, ``card``, ``verify``, ``pull``, ``push`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikgpt.cli.flags import Model, PinnedOptions, ScGPT, command, hub_of
from spikgpt.cli.output import annotate_command, cross_validation_line, inform, show, show_markdown
from spikgpt.cli.paths import Output, check_outputs
from spikgpt.errors import ConfigError, printable
from spikgpt.options import HubOptions, PushOptions

if TYPE_CHECKING:
    from spikgpt.reference.hub import Push


@command()
def list_(
    hub: HubOptions,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with further facts, instead of a table.")] = False,
) -> None:
    """List the references in this package, in the cache and on the Hub.

    The table has accuracy and macro-F1 on held-out cells, or the means over donors that were held out in turn.
    """
    from spikgpt.reference.json_files import dumped
    from spikgpt.reference.listing import reference_list

    references = reference_list(hub_of(hub))
    if json:
        typer.echo(dumped(references.to_list()), nl=False)
        return
    show(references.COLUMNS, references.table(), result=True, numbers=range(2, 8))


@command()
def card(model: Model, hub: HubOptions) -> None:
    """Show the card of a reference: intended use, limits, accuracy, studies and licence."""
    from spikgpt.reference.card import Card
    from spikgpt.sharing import open_reference

    reference = open_reference(model, hub=hub_of(hub))
    show_markdown(Card.from_files(reference.files).body)


@command()
def info(model: Model, hub: HubOptions) -> None:
    """Show the labels of a reference, its training cells, and its accuracy on held-out cells."""
    from spikgpt.reference.summary import Labels
    from spikgpt.sharing import open_reference

    reference = open_reference(model, hub=hub_of(hub))
    metrics, provenance = reference.metrics, reference.provenance
    held_out, validation = metrics["held_out"], metrics.get("cross_validation")
    rows = [
        (row.name, row.cell_ontology_id or "-", row.cells, "not measured" if row.f1 is None else f"{row.f1:.3f}")
        for row in Labels.from_metrics(reference.labels, metrics).rows
    ]
    show(Labels.COLUMNS, rows, reference.name, result=True)
    genes = f", {len(reference.genes)} genes." if len(reference.genes) else "."
    for line in (
        f"Trained on {metrics['cells']} cells, recipe {provenance['recipe']['name']}, "
        f"seed {provenance['seed']}; source: {provenance.get('source', 'not stated')}.",
        f"Embedder {reference.embedder['kind']}, {reference.config.input_dim} values a cell{genes}",
        f"Held out ({metrics['held_out_by']}): accuracy {held_out['accuracy']:.4f}, "
        f"macro-F1 {held_out['macro_f1']:.4f} over {held_out['cells']} cells.",
        *([cross_validation_line(validation)] if validation else []),
        _unknown_rule(reference.thresholds),
        f"From {reference.origin or model}, sha256 {reference.digest}.",
    ):
        typer.echo(printable(line))


@command()
def verify(model: Model, hub: HubOptions, scgpt: ScGPT = None) -> None:
    """Check that a reference is complete and consistent; exit code 2 if it is not."""
    from spikgpt import sharing
    from spikgpt.reference.registry import resolve

    client = hub_of(hub)
    resolved = resolve(model, hub=client)
    verified = sharing.verify(resolved.source, scgpt=scgpt, hub=client)
    for check in verified.checks:
        typer.echo(f"ok: {check}")
    typer.echo(f"{resolved.origin or resolved.folder} is complete, sha256 {verified.reference.digest}.")


@command("Nothing was written; finished downloads stay in the cache.")
def pull(
    model: Model, out: Annotated[Path, typer.Option(help="Folder to write the reference to.")], hub: PinnedOptions
) -> None:
    """Download a reference from the Hub to a folder, and print its digest."""
    from spikgpt import sharing

    pin = hub.pin()
    check_outputs(Output("--lock-file", pin.lock), inputs=[model])
    pulled = sharing.pull(model, out, hub=hub_of(hub), pin=pin)
    inform(f"Wrote {out}, {pulled.origin or f'the reference {model}'}.")
    inform(f"Annotate with: {annotate_command(out)}")
    if pulled.locked:
        inform(f"Wrote {model} to {pin.lock}.")
    typer.echo(f"sha256:{pulled.digest}")


@command("The repository is unchanged or completely updated: see its page on the Hub.")
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of the reference.")],
    repository: Annotated[str, typer.Argument(help="Repository ORG/NAME on the Hub; created if it is missing.")],
    options: PushOptions,
    hub: Annotated[HubOptions, ("endpoint",)],
    scgpt: ScGPT = None,
) -> None:
    """Upload a reference to the Hub, in one commit. Log in first with `hf auth login`, or set HF_TOKEN."""
    from spikgpt import sharing

    pushed = sharing.push(folder, repository, options, hub=hub_of(hub), scgpt=scgpt)
    changes = [(change.path, f"{change.size:,}", change.kind) for change in pushed.changes]
    show(("file", "bytes", ""), changes, result=True)
    if pushed.commit is None:
        inform(f"Nothing was sent to {repository}: this was a dry run.")
        return
    report_push(pushed)


def report_push(pushed: Push) -> None:
    """Print the commit and the address of a pushed reference."""
    unchanged = all(change.kind == "unchanged" for change in pushed.changes)
    lead = "Nothing changed, as every file is there already: " if unchanged else ""
    inform(f"{lead}{pushed.repository} is at commit {pushed.commit}: {pushed.url}")
    inform(f"Use it with: {annotate_command(pushed.repository)}")


@command()
def export(
    model: Model,
    hub: HubOptions,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; it can be the folder of the reference itself.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Number format of a graph: fp32 (default), fp16 or int8; repeatable.")
    ] = None,
    literal: Annotated[
        bool, typer.Option("--literal", help="Write one .onnx file of the network with m tokens, as in the paper.")
    ] = False,
    triton: Annotated[
        Path | None, typer.Option(help="Model repository of Triton to write the graph to, in place of --out.")
    ] = None,
    scgpt: ScGPT = None,
) -> None:
    """Write a reference with its ONNX graphs, after a comparison of each graph with the trained model."""
    from spikgpt.engines.opening import torch_engine
    from spikgpt.sharing import open_reference
    from spikgpt_onnx import exporter
    from spikgpt_onnx.parity import ExportableReference
    from spikgpt_onnx.triton import export_triton

    if (out is None) == (triton is None):
        msg = "Pass --out FOLDER for a reference with graphs, or --triton FOLDER for a model repository of Triton."
        raise ConfigError(msg)
    if triton and (literal or len(precision or ()) > 1):
        msg = "--triton writes one graph; leave out --literal, and give --precision once."
        raise ConfigError(msg)
    if literal:
        check_outputs(Output("--out", out, (".onnx",)), inputs=(model, scgpt))
    client = hub_of(hub)
    stored = open_reference(model, hub=client)
    reference = ExportableReference(stored, torch_engine(stored, scgpt=scgpt, hub=client))
    if triton:
        folder, parity = export_triton(reference, triton, precision=(precision or ["fp32"])[0])
        inform(f"Wrote {folder}, {parity}. {folder / 'README.md'} says what the graph alone cannot do.")
        return
    assert out is not None
    if literal:
        exporter.export_literal(reference, out)
        inform(f"Wrote {out}, m = {stored.config.copies}.")
        return
    for name, parity in exporter.export(reference, out, precisions=precision or ["fp32"]).items():
        inform(f"{name}, {parity}.")
    inform(f"Wrote {out}; run it with: {annotate_command(out)}")


def _unknown_rule(thresholds: Any) -> str:
    if thresholds.smoothed is None:
        return f"Unknown below a probability of {thresholds.threshold:.4f}."
    cells = thresholds.smoothed.everything.cells
    rate = f"{100 * thresholds.unknown_rate:g}%"
    return f"Calibrated on {cells} held-out cells: at most {rate} of known cells become Unknown."
