"""``spikgpt-onnx ...`` on the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spikgpt_onnx.errors import ConfigError, SpikGPTError
from spikgpt_onnx.version import __version__


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(options.run(options))
    except SpikGPTError as error:
        _say(f"Error: {' '.join(str(error).split())}")
        sys.exit(2)
    except KeyboardInterrupt:
        _say("Interrupted.")
        sys.exit(130)


def annotate(options: argparse.Namespace) -> int:
    """Label the cells of a file."""
    from spikgpt_onnx.annotator import Annotator

    query, out, table = options.query, options.out, options.table
    if out is None and table is None:
        msg = "Nothing would be written; name an h5ad file with --out, a CSV file with --table, or both."
        raise ConfigError(msg)
    if out is not None and out.exists() and out.samefile(query):
        msg = f"{out} is the input; name another file for the output."
        raise ConfigError(msg)
    if table is not None and table.suffix != ".csv":
        msg = f"{table} ends in {table.suffix!r}; a table is written as .csv."
        raise ConfigError(msg)
    annotator = Annotator.from_pretrained(
        options.model,
        endpoint=options.endpoint,
        local_files_only=options.offline,
        precision=options.precision,
        provider=options.provider,
        strict=options.strict,
        threads=options.threads,
        memory_arena=options.memory_arena,
        engine_cache=options.engine_cache,
    )
    annotation = annotator.annotate(
        query,
        layer=options.layer,
        scaling=options.scaling,
        neighbours=options.neighbours,
        unknown_rate=0.0 if options.no_unknown else options.unknown_rate,
        threshold=options.threshold,
        recalibrate=options.recalibrate,
        batch_size=options.batch_size,
    )
    if out is not None:
        annotation.write_h5ad(query, out)
    if table is not None:
        annotation.write_csv(table)
    counts = annotation.counts()
    width = max(map(len, counts))
    for label, cells in counts.items():
        _say(f"{label:<{width}}  {cells:>8,}  {100 * cells / len(annotation.best):5.1f}%")
    report = annotation.report
    _say(f"Read {report.values} from {report.source}; scaling: {report.scaling}; ran on {annotator.provider}.")
    if report.genes:
        _say(report.genes)
    _say(f"{100 * annotation.unknown_rate:.1f}% Unknown: {annotation.decision.rule}.")
    for note in annotation.notes():
        _say(f"Note: {note}")
    _say(f"Wrote {' and '.join(str(path) for path in (out, table) if path is not None)}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Say what works here; exit code 1 when nothing can run a graph."""
    from spikgpt_onnx.doctor import findings

    found = findings()
    for finding in found:
        print(f"{'ok' if finding.works else '--'}  {finding.what}: {' '.join(finding.found.split())}")  # noqa: T201
    return 0 if any(finding.works for finding in found if finding.what in ("cpu", "cuda", "tensorrt")) else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("spikgpt-onnx", description="Annotate single-cell RNA-seq without torch.")
    parser.add_argument("--version", action="version", version=f"spikgpt-onnx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser(
        "annotate", help="label the cells of an h5ad file", description="Label the cells of QUERY."
    )
    add.set_defaults(run=annotate)
    add.add_argument("query", type=Path, metavar="QUERY", help="cells to label, an h5ad file")
    add.add_argument("--model", required=True, help="reference: a name, a folder, or ORG/REPO[@REVISION] on the Hub")
    add.add_argument("--out", type=Path, help="h5ad file to write: the input with the labels added")
    add.add_argument("--table", type=Path, help="CSV file to write: one row a cell")
    add.add_argument("--layer", help="layer to read; by default the best expression values in the file")
    scalings = ("auto", "composition", "reference", "query")
    add.add_argument("--scaling", default="auto", choices=scalings, help="scale of query genes (default: auto)")
    add.add_argument("--alone", dest="neighbours", action="store_false", help="label each cell without its neighbours")
    unknown = add.add_mutually_exclusive_group()
    unknown.add_argument(
        "--unknown-rate", type=float, help="share of the known cells that may be Unknown (default: 0.05)"
    )
    unknown.add_argument("--threshold", type=float, help="confidence below which a cell is Unknown, as in the paper")
    unknown.add_argument("--no-unknown", action="store_true", help="give every cell the label that fits it best")
    add.add_argument("--recalibrate", action="store_true", help="be as lenient as the query suggests")
    add.add_argument("--batch-size", type=int, help="cells classified at a time; the labels do not depend on it")
    providers = ("auto", "cpu", "cuda", "tensorrt")
    add.add_argument("--provider", default="auto", choices=providers, help="where the graph runs (default: auto)")
    add.add_argument("--not-strict", dest="strict", action="store_false", help="let the CPU run what the GPU cannot")
    add.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "fp16", "int8"),
        help="which of the graphs to run (default: fp32)",
    )
    add.add_argument("--threads", type=int, help="batches run at a time on a CPU; by default one for each core")
    add.add_argument(
        "--no-memory-arena", dest="memory_arena", action="store_false", help="hold less memory, run slower"
    )
    add.add_argument("--engine-cache", type=Path, help="folder for the engines that TensorRT builds")
    add.add_argument("--endpoint", help="address of the Hub; by default HF_ENDPOINT, or huggingface.co")
    add.add_argument("--offline", action="store_true", help="do not ask the Hub")
    look = commands.add_parser("doctor", help="tell what works on this machine", description=doctor.__doc__)
    look.set_defaults(run=doctor)
    return parser
