"""``spikgpt ...`` on the command line."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from spikgpt.cli import annotate, scgpt, share, train
from spikgpt.cli.flags import command
from spikgpt.cli.output import Interrupted, say
from spikgpt.errors import SpikGPTError

# typer brings click's errors along under a name that changed.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Annotate single-cell RNA-seq with trained references, or train your own.", pretty_exceptions_enable=False
)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, an interruption is exit code 130."""
    code = 2
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
    except UsageError as error:
        context = getattr(error, "ctx", None)
        of = context.command_path if context else "spikgpt"
        _fail(f"{error.format_message().rstrip('.')}. See {of} --help.")  # type: ignore[attr-defined]
    except SpikGPTError as error:
        _fail(str(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}. Check the path, whether you may use it, and the free space.")
    sys.exit(code)


def _fail(message: str) -> None:
    say(message, "Error: ", "bold red")


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


@command("")
def doctor() -> None:
    """Say what works on this machine; exit code 1 when nothing can run a graph."""
    from spikgpt_onnx.doctor import findings
    from spikgpt_onnx.session import PROVIDERS

    found = findings()
    for finding in found:
        typer.echo(f"{'ok' if finding.works else '--'}  {finding.what}: {' '.join(finding.found.split())}")
    if not any(finding.works for finding in found if finding.what in PROVIDERS):
        raise typer.Exit(1)


for name, function in {
    "annotate": annotate.annotate,
    "evaluate": annotate.evaluate,
    "list": share.list_references,
    "info": share.info,
    "verify": share.verify,
    "pull": share.pull,
    "push": share.push,
    "export": share.export,
    "train": train.train,
    "novelty": train.novelty,
    "embed": scgpt.embed,
    "convert-scgpt": scgpt.convert,
    "pretrain": scgpt.pretrain,
    "doctor": doctor,
}.items():
    app.command(name)(function)
