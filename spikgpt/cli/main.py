"""``spikgpt ...`` on the command line."""

from __future__ import annotations

import re
import signal
import sys
from typing import Annotated, Any

import typer

from spikgpt.cli.annotate import annotate, evaluate
from spikgpt.cli.benchmark import benchmark
from spikgpt.cli.build import build
from spikgpt.cli.flags import command
from spikgpt.cli.output import Interrupted, say, warnings_as_notes
from spikgpt.cli.scgpt import convert_scgpt, embed, pretrain
from spikgpt.cli.share import export, info, list_, pull, push, verify
from spikgpt.cli.streams import ending_in_order, standard_streams
from spikgpt.cli.train import novelty, train
from spikgpt.errors import SpikGPTError, fault, printable

# typer brings click's errors along under a name that changed.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
# Messages of the parser of numbers, and what to say instead.
NUMBER_ERRORS = {
    re.compile("Input should be a valid number.*"): "expected a number such as 0.05, with a decimal point, without %",
    re.compile("Input should be a valid integer.*"): "expected a whole number, such as 100",
}

app = typer.Typer(
    help="Annotate single-cell RNA-seq with trained references, or train your own.", pretty_exceptions_enable=False
)


def main() -> None:
    """Run the command line.

    The exit code of a user's mistake is 2, with one line; that of a command that was ended is 128 and the number of the
    signal, 130 for Ctrl-C. It is 1 where standard output was closed by its reader, 2 where it could not be written
    otherwise; the command does all of its work all the same.
    """
    with standard_streams() as streams:
        code = _run()
        sys.stdout.flush()
        if streams.error is not None and not code:
            code = 1 if isinstance(streams.error, BrokenPipeError) else 2
        if code == 2 and streams.error is not None:
            say(f"Standard output cannot be written. {_explained(streams.error)}", "Error: ", "bold red")
    sys.exit(code)


def _run() -> int:
    """Run the command that the user named, and return the exit code."""
    try:
        with ending_in_order(), warnings_as_notes():
            return int(app(sys.argv[1:] or ["--help"], prog_name="spikgpt", standalone_mode=False) or 0)
    except (Interrupted, KeyboardInterrupt, typer.Abort) as stopped:
        say(f"Interrupted. {stopped if isinstance(stopped, Interrupted) else 'Nothing was written.'}")
        return 128 + getattr(stopped, "number", signal.SIGINT)
    except BrokenPipeError:
        # Of a connection, not of standard output.
        say("A connection was closed before all was sent; try again.", "Error: ", "bold red")
        return 2
    except (SpikGPTError, UsageError, OSError) as error:
        say(_explained(error), "Error: ", "bold red")
        return 2


def _explained(error: Exception) -> str:
    """Say what a user did wrong, and what to do."""
    if isinstance(error, UsageError):
        return _usage(error)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        remedy = fault(error) or "Check the path, whether you may use it, and the free space."
        return f"{error.strerror or error}{where}. {remedy}"
    return str(error)


def _usage(error: Any) -> str:
    """Return what is wrong with a command line, and what to write instead."""
    message, context, parameter = error.format_message(), error.ctx, getattr(error, "param", None)
    explanation = getattr(parameter, "help", None)
    for pattern, expected in NUMBER_ERRORS.items():
        message = pattern.sub(expected, message)
    message = message.replace("Value error, ", "")
    sentences = [f"{message}{'' if message[-1] in '.?' else '.'}"]
    if message.startswith("Missing") and explanation:
        sentences.append(f"{explanation.replace(chr(92), '').rstrip('.')}.")
    elif message.startswith("No such option: -") and context:
        # A letter means the options that begin with it.
        letter = error.option_name.strip("-")
        names = [name for one in context.command.params for name in one.opts if name.startswith(f"--{letter}")]
        if len(letter) == 1 and names:
            sentences.append(f"Did you mean {' or '.join(names)}?")
    elif message.startswith("Got unexpected extra argument") and context:
        names = [one.metavar or one.name.upper() for one in context.command.params if one.param_type_name == "argument"]
        again = "Run the command once for each, and put quotes around a name with spaces." if len(names) == 1 else ""
        sentences.append(f"{context.command_path} takes {' and '.join(names) or 'options only'}. {again}".rstrip())
    return f"{' '.join(sentences)} See {context.command_path if context else 'spikgpt'} --help."


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
