"""Commands ``spikgpt annotate`` and ``spikgpt evaluate``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from msgspec import structs

from spikgpt.cli.flags import MODEL, SCGPT, PinnedOptions, command, hub_of
from spikgpt.cli.output import describe, inform, interruptible, note, show, show_scores
from spikgpt.cli.paths import CELLS, CSV, HTML, JSON, TABLES, Output, check_outputs
from spikgpt.cli.shards import ShardOptions, label_shards
from spikgpt.errors import ConfigError, needs, with_noun
from spikgpt.options import AnnotateOptions, EngineOptions, about

if TYPE_CHECKING:
    from spikgpt.embedding.base import Engine
    from spikgpt.reference.files import Reference
    from spikgpt.scoring.annotation import Annotation
    from spikgpt.scoring.compatibility import Compatibility


class ModelOptions(EngineOptions, frozen=True, kw_only=True):
    """Reference, and program that runs its network."""

    model: Annotated[str, about(f"{MODEL} `auto`: the best available reference. A,B: for several tissues.")]
    scgpt: Annotated[Path | None, about(SCGPT)] = None


class LabelOptions(AnnotateOptions, frozen=True):
    """Annotation of the query."""

    strict: Annotated[bool, about("Exit with code 3 if the query is of another tissue or species.", "--strict")] = False
    no_unknown: Annotated[bool, about("Give every cell with counts a label.", "--no-unknown")] = False
    no_batch: Annotated[bool, about("Treat all cells as one batch.", "--no-batch")] = False
    # Names of two options in version 0.9.
    alone: Annotated[bool, about("Deprecated name of --no-smoothing.", "--alone/--neighbours", hidden=True)] = False
    same_study: Annotated[bool, about("Deprecated name of --reference-cutoff.", "--same-study", hidden=True)] = False

    def __post_init__(self) -> None:
        if self.no_batch and self.batch_key != "auto":
            msg = "--no-batch treats all cells as one batch; leave out --batch-key."
            raise ConfigError(msg)
        if self.no_unknown and (self.unknown_rate is not None or self.threshold is not None):
            msg = "--no-unknown rejects no cell; leave out --unknown-rate and --threshold."
            raise ConfigError(msg)
        super().__post_init__()


# Options that ``evaluate`` does not have: it compares the labels of single cells, and writes no columns.
LEFT_OUT = ("key_added", "certainty", "cluster_key", "majority_vote")
EVALUATED = tuple(name for name in LabelOptions.__struct_fields__ if name not in LEFT_OUT)


class _Files(NamedTuple):
    """Paths of the output files of ``annotate`` for one query file, and the options of these files."""

    out: Path | None
    table: Path | None
    cluster_table: Path | None
    cas: Path | None
    report: Path | None
    cas_author: str
    map_key: str | None


@command()
def annotate(
    query: Annotated[
        list[str],
        typer.Argument(
            help="Cells to label: .h5ad, .zarr, a count matrix (10x, STARsolo, kallisto, alevin-fry, Parse), or a "
            "table. With --out-dir, several files are one query."
        ),
    ],
    model: ModelOptions,
    options: LabelOptions,
    hub: PinnedOptions,
    shards: ShardOptions,
    out: Annotated[Path | None, typer.Option(help="Output file, .h5ad or .zarr: the input with labels.")] = None,
    table: Annotated[Path | None, typer.Option(help="Output table, .csv, .tsv or .parquet: one row per cell.")] = None,
    cluster_table: Annotated[Path | None, typer.Option(help="Output table, .csv or .tsv: one row per cluster.")] = None,
    cas: Annotated[Path | None, typer.Option(help="Output file, .json: labels in the Cell Annotation Schema.")] = None,
    cas_author: Annotated[str, typer.Option(help="Name of the author in the file of --cas.")] = "",
    report: Annotated[Path | None, typer.Option(help="Output file, .html: a report with a map of the cells.")] = None,
    map_key: Annotated[
        str | None, typer.Option(help="Array of obsm with the map of --report; default: X_umap, else a new UMAP.")
    ] = None,
) -> None:
    """Annotate QUERY, and write the labels to --out, --table or both, or to the parts of --out-dir.

    Existing output files are replaced. With --out-dir, finished parts of an earlier run are kept.
    """
    files = _Files(out, table, cluster_table, cas, report, cas_author, map_key)
    if shards.out_dir:
        _check_alone(files)
        reference, engine = opened(model, hub)
        annotation = label_shards(query, reference, engine, _resolved(options), shards)
        hub.keep(model.model, reference)
        _leave(annotation.summary.compatibility, options)
        return
    if len(query) > 1:
        msg = (
            f"spikgpt annotate takes one QUERY, not {len(query)}. Run the command once for each, and put quotes around "
            "a name with spaces. Or add --out-dir DIR to label all files as one query. See spikgpt annotate --help."
        )
        raise ConfigError(msg)
    _annotate_file(Path(query[0]), model, options, hub, files)


def _annotate_file(query: Path, model: ModelOptions, options: LabelOptions, hub: PinnedOptions, files: _Files) -> None:
    """Annotate one file."""
    from spikgpt.cells.output import write_copy, write_csv, write_table
    from spikgpt.cells.reading import open_cells
    from spikgpt.cells.storage import identity_of
    from spikgpt.reference.registry import AUTO, separate_names
    from spikgpt.report.clusters import summarise
    from spikgpt.report.map import check_map_key
    from spikgpt.report.writer import ReportWriter

    out, table, cluster_table, cas, report, cas_author, map_key = files
    _check_outputs(files)
    clustered = options.majority_vote or options.cluster_key is not None
    if cluster_table and not clustered:
        msg = "--cluster-table needs --cluster-key, the column of obs that holds the clusters, or --majority-vote."
        raise ConfigError(msg)
    tables = Output("--table", table, TABLES), Output("--cluster-table", cluster_table, CSV), Output("--cas", cas, JSON)
    further = Output("--report", report, HTML), Output("--lock-file", hub.pin().lock)
    outputs = Output("--out", out, CELLS), *tables, *further
    check_outputs(*outputs, inputs=(query, *separate_names(model.model), model.scgpt))
    written: list[Path] = []
    identity = identity_of(query)
    with interruptible(lambda: f"Written: {', '.join(map(str, written))}." if written else "Nothing was written."):
        with open_cells(query) as cells:
            if map_key is not None:
                check_map_key(cells, map_key)
            annotation, engine, reference = _annotated(cells, options.cluster_key, model, options, hub)
            clusters = None
            if options.cluster_key or (clustered and (cluster_table or cas)):
                key, layer, genes = options.cluster_key, options.layer, options.gene_key
                clusters = summarise(annotation, cells, key, layer=layer, gene_key=genes)
            uns, notes = annotation.uns(cells), annotation.notes(cells)
            if out:
                names, obs = annotation.obs_names, dict(annotation.obs())
                write_copy(query, out, obs=obs, obsm=annotation.obsm(), uns=uns, obs_names=names, identity=identity)
                written.append(out)
            if table:
                write_table(annotation.table_chunks(), table)
                written.append(table)
            if clusters and cluster_table:
                write_csv([clusters.table()], cluster_table, index=False)
                written.append(cluster_table)
            if cas:
                sets = clusters.cell_sets(annotation) if clusters else ()
                annotation.to_cas(cas, title=query.name, author_name=cas_author, more=sets)
                written.append(cas)
            if report:
                # The report comes last, so that the labels are kept if the report cannot be drawn.
                inform(f"{_wrote(written)}Drawing the report.")
                writer, title = annotation.reporter, f"Cell types of {query.name}"
                assert isinstance(writer, ReportWriter)  # true for every annotation of this command
                writer.write(annotation, report, cells, map_key=map_key, title=title, clusters=clusters)
                written.append(report)
    if reference and model.model != AUTO:
        hub.keep(model.model, reference)
    if clusters is not None:
        _show_clusters(clusters)
    _show_labels(annotation, query, engine, notes)
    inform(f"Wrote {' and '.join(map(str, written))}")
    _leave(annotation.compatibility, options)


def _wrote(written: list[Path]) -> str:
    """Return a sentence that names the written files, with a space at the end; an empty text if there are none."""
    return f"Wrote {' and '.join(map(str, written))}. " if written else ""


@command()
def evaluate(
    query: Annotated[Path, typer.Argument(help="Cells of known types: .h5ad, .zarr, a count matrix, or a table.")],
    model: ModelOptions,
    label_key: Annotated[str, typer.Option(help="Column of obs with the true types.")],
    options: Annotated[LabelOptions, EVALUATED],
    hub: PinnedOptions,
    label_map: Annotated[
        str | None,
        typer.Option(
            help='Names of types in QUERY and in the reference: JSON, such as {"A": "alpha"}, or a JSON file.'
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Output file with all figures, .json.")] = None,
) -> None:
    """Annotate QUERY, and compare the labels with the true types in obs. An existing --json file is replaced."""
    from spikgpt.cells.reading import open_cells
    from spikgpt.files import replacing
    from spikgpt.reference.json_files import dumped
    from spikgpt.reference.registry import AUTO
    from spikgpt.training.evaluation import evaluate as compare
    from spikgpt.training.evaluation import match_labels, read_label_map

    outputs = Output("--json", json_file), Output("--lock-file", hub.pin().lock)
    check_outputs(*outputs, inputs=(query, label_map, model.model, model.scgpt))
    names = read_label_map(label_map) if label_map else None
    with open_cells(query) as cells:

        def match(reference: Reference) -> None:
            note(*match_labels(cells, label_key, reference.labels, names).notes)

        annotation, engine, reference = _annotated(cells, label_key, model, options, hub, check=match)
        assert reference is not None  # _annotated refuses several references if ``check`` is given
        evaluation = compare(annotation, cells, label_key, names, labels=reference.labels)
    if model.model != AUTO:
        hub.keep(model.model, reference)
    metrics = evaluation.metrics
    show_scores(metrics.to_dict())
    inform(
        f"Accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f} over {with_noun(metrics.cells, 'cell')}. "
        f"Unknown: {100 * evaluation.known_unknown_fraction:.1f}% of the cells of known types; "
        f"accuracy if these count as errors: {evaluation.accuracy_after_rejection:.4f}. Engine: {engine}."
    )
    excluded = " or excluded" if annotation.excluded_labels else ""
    if evaluation.unseen_unknown_fraction is not None:
        inform(
            f"Types missing from the reference{excluded} ({', '.join(evaluation.unseen_labels)}): "
            f"{100 * evaluation.unseen_unknown_fraction:.1f}% Unknown, AUROC {evaluation.auroc_unknown:.4f}. "
            f"Open-set accuracy: {100 * evaluation.open_set_accuracy:.1f}% of all cells."
        )
    note(*annotation.notes())
    if json_file:
        with replacing(json_file) as temporary:
            temporary.write_bytes(dumped(evaluation.to_dict()))
        inform(f"Wrote {json_file}")
    _leave(annotation.compatibility, options)


def _leave(compatibility: Compatibility | None, options: LabelOptions) -> None:
    """Exit with code 3 if ``--strict`` is set and the query is of another tissue or species."""
    if options.strict and compatibility and not compatibility.usable:
        raise typer.Exit(3)


def _check_outputs(files: _Files) -> None:
    table = files.table
    if not files.out and not table and not files.cas and not files.report:
        msg = (
            "No output is named; pass --out FILE for cells with labels, --table FILE for a table of labels, or "
            "--report FILE for a page with figures."
        )
        raise ConfigError(msg)
    if files.map_key is not None and not files.report:
        msg = "--map-key names the map of a report; add --report FILE.html, or leave out --map-key."
        raise ConfigError(msg)
    if table and table.suffix.lower() == ".parquet":
        with needs("pyarrow"):
            importlib.import_module("pyarrow")


def _check_alone(files: _Files) -> None:
    """Raise ConfigError if an option for a single output file is combined with ``--out-dir``."""
    flags: dict[str, object] = {"--out": files.out, "--table": files.table, "--cluster-table": files.cluster_table}
    flags |= {"--cas": files.cas, "--report": files.report, "--map-key": files.map_key}
    if named := [flag for flag, value in flags.items() if value]:
        msg = f"--out-dir writes one table per part; leave out {', '.join(named)}, or leave out --out-dir for one file."
        raise ConfigError(msg)


def _annotated(
    cells: Any,
    column: str | None,
    model: ModelOptions,
    options: LabelOptions,
    hub: PinnedOptions,
    *,
    check: Callable[[Reference], None] | None = None,
) -> tuple[Annotation, str, Reference | None]:
    """Annotate cells; return the annotation, the name of the engine, and the reference.

    The reference is None if several references labelled the cells.

    Parameters
    ----------
    column
        Column that obs must have; None for no such column.
    check
        Called with the reference before the cells are labelled.
    """
    from spikgpt.cells.obs import column_of, labels_of
    from spikgpt.pipeline import annotate as annotated
    from spikgpt.reference.registry import AUTO, separate_names

    # A missing column is refused before the cells are labelled.
    if column:
        labels_of(cells, column)
    if options.batch_key not in (None, "auto"):
        column_of(cells, options.batch_key)
    options = _resolved(options)
    names = separate_names(model.model)
    if names != [model.model] or model.model == AUTO:
        if check and names != [AUTO]:
            msg = f"spikgpt evaluate takes one reference, or auto; got --model {model.model}."
            raise ConfigError(msg)
        return annotated_by_choice(
            cells, names, model, options, hub, check=check and (lambda candidate, _: check(candidate))
        )
    reference, engine = opened(model, hub, check=check)
    return annotated(reference, engine, cells, options), engine.name, reference


def annotated_by_choice(
    cells: Any,
    names: list[str],
    model: ModelOptions,
    options: AnnotateOptions,
    hub: PinnedOptions,
    *,
    check: Callable[[Reference, Engine], object] | None = None,
) -> tuple[Annotation, str, Reference | None]:
    """Annotate cells by the best available reference, or by several references; see :func:`_annotated`.

    With several references, ``check`` is called with each reference before the cells are labelled. With the best
    reference, ``check`` is called after the cells are labelled.
    """
    from spikgpt.choice import annotate_by_best, models_at_hand, open_model
    from spikgpt.reference.registry import AUTO
    from spikgpt.several import annotate_by_several

    if hub.expect or hub.pin().lock:
        msg = f"--expect, --lock and --lock-file pin one reference; got --model {model.model}. Name one reference."
        raise ConfigError(msg)
    client = hub_of(hub)
    if names != [AUTO]:
        models = [open_model(name, model, scgpt=model.scgpt, hub=client) for name in names]
        if check:
            for opened_model in models:
                check(opened_model.reference, opened_model.engine)
        annotation = annotate_by_several(models, cells, options)
        return annotation, ", ".join(dict.fromkeys(opened_model.engine.name for opened_model in models)), None
    models, failed = models_at_hand(model, scgpt=model.scgpt, hub=client)
    annotation, choice, best = annotate_by_best(cells, models, options, failed=failed)
    if check:
        check(best.reference, best.engine)
    for sentence in choice.sentences() if choice.best else ():
        inform(sentence)
    return annotation, best.engine.name, best.reference


def opened(
    model: ModelOptions, hub: PinnedOptions, *, check: Callable[[Reference], None] | None = None
) -> tuple[Reference, Engine]:
    """Return a reference and its engine; ``check`` is called with the reference before the engine is opened."""
    from spikgpt.engines.opening import open_engine
    from spikgpt.sharing import open_reference

    client = hub_of(hub)
    reference = open_reference(model.model, hub=client, pin=hub.pin())
    if check:
        check(reference)
    return reference, open_engine(reference, model, scgpt=model.scgpt, hub=client)


def _resolved(options: LabelOptions) -> LabelOptions:
    """Replace flags such as ``--no-unknown`` by the values of the options that the flags stand for."""
    changes: dict[str, Any] = {"no_unknown": False, "no_batch": False, "alone": False, "same_study": False}
    if options.no_unknown:
        changes["unknown_rate"] = 0.0
    if options.no_batch:
        changes["batch_key"] = None
    if options.alone:
        changes["smoothing"] = False
    if options.same_study:
        changes["reference_cutoff"] = True
    resolved = structs.replace(options, **changes)
    for flag, new in (("--alone", "--no-smoothing"), ("--same-study", "--reference-cutoff")):
        if getattr(options, flag[2:].replace("-", "_")):
            note(f"{flag} is now called {new}; the old name will be removed in version 1.0.")
    return resolved


def _show_labels(annotation: Annotation, query: Path, engine: str, notes: list[str]) -> None:
    """Print the number of cells of each label, and how the labels were computed."""
    counts = annotation.counts()
    rows = ((label, cells, f"{100 * cells / len(annotation.best):.1f}%") for label, cells in counts.items())
    show(("label", "cells", "share"), rows, f"{query.name} by {annotation.reference_name}", result=False)
    describe(annotation.sentences(), engine, notes)


def _show_clusters(report: Any) -> None:
    """Print one row per cluster: cells, label, shares, nearest label and marker genes."""
    rows = []
    for cluster in report.clusters:
        label = "Unknown, a new type?" if cluster.candidate else cluster.label
        shares = f"{100 * cluster.share:.0f}%", f"{100 * cluster.unknown_share:.0f}%"
        genes = ", ".join(marker.gene for marker in cluster.markers) or cluster.note or "-"
        rows.append((cluster.name, cluster.cells, label, *shares, cluster.nearest or "-", genes))
    show(("cluster", "cells", "label", "share", "Unknown", "nearest label", "marker genes"), rows, result=False)
