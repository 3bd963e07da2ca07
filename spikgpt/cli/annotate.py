"""``spikgpt annotate`` and ``spikgpt evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Meta, structs

from spikgpt.cli.flags import MODEL, command, hub_of
from spikgpt.cli.output import check_files, interruptible, note, say, show, show_scores
from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions, EngineOptions, HubOptions, Options

if TYPE_CHECKING:
    from spikgpt.cli.adapters import Annotation


class ModelOptions(Options, frozen=True):
    """Which reference labels the cells."""

    model: Annotated[str, Meta(description=MODEL)]
    scgpt: Annotated[
        Path | None,
        Meta(description="Folder of the scGPT checkpoint that the reference needs, if it does not bring it."),
    ] = None


class ClusterOptions(Options, frozen=True):
    """Clusters of the query."""

    cluster_key: Annotated[
        str | None,
        Meta(description="Column of obs with clusters: name each by vote, and find new types among them."),
    ] = None
    cluster_table: Annotated[Path | None, Meta(description="Also write one row a cluster, .csv.")] = None

    def __post_init__(self) -> None:
        if self.cluster_table and not self.cluster_key:
            msg = "--cluster-table needs --cluster-key, the column of obs that holds the clusters."
            raise ConfigError(msg)


class LabelOptions(AnnotateOptions, frozen=True):
    """How the cells are labelled."""

    no_unknown: Annotated[
        bool, Meta(description="Give every cell the label that fits it best.", extra={"flag": "--no-unknown"})
    ] = False

    def __post_init__(self) -> None:
        if self.no_unknown and (self.unknown_rate is not None or self.threshold is not None):
            msg = "--no-unknown rejects no cell; leave --unknown-rate and --threshold out."
            raise ConfigError(msg)
        super().__post_init__()


@command()
def annotate(
    query: Annotated[Path, typer.Argument(help="Cells to label: .h5ad, .zarr, or 10x files.")],
    model: ModelOptions,
    *,
    out: Annotated[Path | None, typer.Option(help="File to write: the input with the labels added.")] = None,
    table: Annotated[Path | None, typer.Option(help="File to write: one row a cell, .csv or .parquet.")] = None,
    clusters: ClusterOptions,
    options: LabelOptions,
    engine: EngineOptions,
    hub: HubOptions,
) -> None:
    """Label the cells of QUERY."""
    import pandas as pd

    from spikgpt.cli import adapters
    from spikgpt.files import replacing
    from spikgpt.report.clusters import CLUSTER_LABEL, summarise

    _check_outputs(query, out, table, clusters)
    written: list[Path] = []
    with interruptible(lambda: f"Written in whole: {', '.join(map(str, written)) or 'nothing'}."):
        with adapters.open_cells(query) as cells:
            annotation, engine_name = _annotated(cells, clusters.cluster_key, model, options, engine, hub)
            found = clusters.cluster_key and summarise(annotation, cells, clusters.cluster_key, layer=options.layer)
            uns, notes = annotation.uns(cells), annotation.notes(cells)
        if out:
            obs = dict(annotation.obs()) | ({CLUSTER_LABEL: pd.Categorical(found.labels)} if found else {})
            adapters.write_copy(query, out, obs=obs, obsm=annotation.obsm(), uns=uns)
            written.append(out)
        if table:
            adapters.write_table(annotation, table)
            written.append(table)
        if found and clusters.cluster_table:
            with replacing(clusters.cluster_table) as temporary:
                found.table().to_csv(temporary, index=False)
            written.append(clusters.cluster_table)
    if found:
        _show_clusters(found)
    _show_labels(annotation, query, engine_name, notes)
    say(f"Wrote {' and '.join(map(str, written))}")


@command()
def evaluate(
    query: Annotated[Path, typer.Argument(help="Cells of known types: .h5ad, .zarr, or 10x files.")],
    model: ModelOptions,
    label_key: Annotated[str, typer.Option(help="Column of obs with the true types.")],
    *,
    label_map: Annotated[
        Path | None, typer.Option(help="JSON file from names of the query's types to the reference's.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    options: LabelOptions,
    engine: EngineOptions,
    hub: HubOptions,
) -> None:
    """Label the cells of QUERY and hold the labels against the truth."""
    from spikgpt.cli import adapters
    from spikgpt.files import dumped, replacing

    check_files(json_file, source=query)
    names = adapters.read_label_map(label_map) if label_map else None
    with adapters.open_cells(query) as cells:
        annotation, engine_name = _annotated(cells, label_key, model, options, engine, hub)
        evaluation = adapters.evaluate(annotation, cells, label_key, names)
    metrics = evaluation.metrics
    show_scores(metrics.to_dict())
    say(f"Accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f} over {metrics.cells} cells.")
    say(
        f"Unknown: {100 * evaluation.known_unknown_fraction:.1f}% of the cells of known types; "
        f"accuracy with these counted as errors {evaluation.accuracy_after_rejection:.4f}."
    )
    if evaluation.unseen_unknown_fraction is not None:
        say(
            f"Types that the reference does not have ({', '.join(evaluation.unseen_labels)}): "
            f"{100 * evaluation.unseen_unknown_fraction:.1f}% Unknown, AUROC {evaluation.auroc_unknown:.4f}."
        )
    for text in (*annotation.notes(), *evaluation.notes):
        note(text)
    say(f"Engine: {engine_name}.")
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_bytes(dumped(evaluation.to_dict()))
        say(f"Wrote {json_file}")


def _check_outputs(query: Path, out: Path | None, table: Path | None, clusters: ClusterOptions) -> None:
    """Refuse before the work what could not be written after it."""
    from spikgpt.cli.adapters import check_table

    if not out and not table:
        msg = (
            "Nothing would be written; name the file of the cells with --out, one of the labels with --table, or both."
        )
        raise ConfigError(msg)
    check_files(out, table, clusters.cluster_table, source=query)
    if table:
        check_table(table)


def _annotated(
    cells: Any, column: str | None, model: ModelOptions, options: LabelOptions, engine: EngineOptions, hub: HubOptions
) -> tuple[Annotation, str]:
    """Return the labels of cells that need to have a column in obs, and what computed them."""
    from spikgpt.cells.obs import labels_of
    from spikgpt.cli import adapters

    if column:
        labels_of(cells, column)  # refuse a wrong column before the work
    if options.no_unknown:
        options = structs.replace(options, unknown_rate=0.0, no_unknown=False)
    client = hub_of(hub)
    reference = adapters.open_reference(model.model, hub=client)
    opened = adapters.open_engine(reference, engine, scgpt=model.scgpt, hub=client)
    return adapters.annotate(reference, opened, cells, options), opened.name


def _show_labels(annotation: Annotation, query: Path, engine_name: str, notes: list[str]) -> None:
    """Print how many cells have which label, and how they were found."""
    counts, report = annotation.counts(), annotation.report
    rows = ((label, cells, f"{100 * cells / len(annotation.best):.1f}%") for label, cells in counts.items())
    show(("label", "cells", "share"), rows, f"{query.name} by {annotation.reference_name}", result=False)
    say(f"Read {report.values} from {report.source}; scaling: {report.scaling}. Engine: {engine_name}.")
    if report.genes:
        say(report.genes)
    say(f"{100 * annotation.unknown_fraction:.1f}% Unknown: {annotation.cutoffs.rule}.")
    for text in notes:
        note(text)


def _show_clusters(report: Any) -> None:
    """Print what the clusters are."""
    rows = []
    for cluster in report.clusters:
        label = "Unknown, a new type?" if cluster.candidate else cluster.label
        shares = f"{100 * cluster.share:.0f}%", f"{100 * cluster.unknown_share:.0f}%"
        genes = ", ".join(marker.gene for marker in cluster.markers) or cluster.note or "-"
        rows.append((cluster.name, cluster.cells, label, *shares, cluster.nearest or "-", genes))
    show(("cluster", "cells", "label", "share", "Unknown", "nearest known type", "marker genes"), rows, result=False)
