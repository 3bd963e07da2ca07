"""``spikgpt ...`` on the command line."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, TextIO

import typer

from spikgpt.cli.annotate import annotate, evaluate
from spikgpt.cli.benchmark import benchmark
from spikgpt.cli.build import build
from spikgpt.cli.flags import command
from spikgpt.cli.output import Interrupted, note, say
from spikgpt.cli.scgpt import convert_scgpt, embed, pretrain
from spikgpt.cli.share import export, info, list_, pull, push, verify
from spikgpt.cli.train import novelty, train
from spikgpt.errors import SpikGPTError, SpikGPTWarning, fault, printable

# typer brings click's errors along under a name that changed.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Annotate single-cell RNA-seq with trained references, or train your own.", pretty_exceptions_enable=False
)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, an interruption is exit code 130."""
    warnings.showwarning = _show_warning
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="spikgpt", standalone_mode=False)
        sys.stdout.flush()
    except Interrupted as stopped:
        say(f"Interrupted. {stopped}")
        code = 130
    except BrokenPipeError:
        # Who reads our output has seen enough. Python itself writes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (SpikGPTError, UsageError, OSError) as error:
        say(_explained(error), "Error: ", "bold red")
        code = 2
    sys.exit(code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning; one of ours on one line, as a note."""
    if issubclass(category, SpikGPTWarning):
        note(str(message))
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _explained(error: Exception) -> str:
    """Say what a user did wrong, and what to do."""
    if isinstance(error, UsageError):
        context, said = getattr(error, "ctx", None), error.format_message().replace("Value error, ", "")  # type: ignore[attr-defined]
        stop = "" if said[-1] in ".?" else "."
        return f"{said}{stop} See {context.command_path if context else 'spikgpt'} --help."
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        remedy = fault(error) or "Check the path, whether you may use it, and the free space."
        return f"{error.strerror or error}{where}. {remedy}"
    return str(error)


def _print_version(asked: bool) -> None:
    if asked:
        from spikgpt.version import __version__

        typer.echo(f"spikgpt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of all commands."""


@command()
def doctor() -> None:
    """Check what works on this machine; exit code 1 when nothing can run a graph."""
    from spikgpt_onnx.doctor import findings
    from spikgpt_onnx.session import PROVIDERS

    found = findings()
    for finding in found:
        told = printable(" ".join(finding.found.split()))
        typer.echo(f"{'ok' if finding.works else '--'}  {finding.what}: {told}")
    if not any(finding.works for finding in found if finding.what in PROVIDERS):
        raise typer.Exit(1)


# In the order of the help.
for function in (
    *(annotate, evaluate, list_, info, verify, pull, push, export),
    *(train, build, novelty, benchmark, embed, convert_scgpt, pretrain, doctor),
):
    app.command(function.__name__.strip("_").replace("_", "-"))(function)
