"""Commands of ``spikgpt ...`` on the command line, and the messages for a user's mistakes."""

from __future__ import annotations

import re
import signal
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from spikgpt.cli.annotate import annotate, evaluate
from spikgpt.cli.build import build
from spikgpt.cli.explain import explain
from spikgpt.cli.flags import command
from spikgpt.cli.output import CommandInterrupted, inform, note, print_error, warnings_as_notes
from spikgpt.cli.page import app_
from spikgpt.cli.scgpt import convert_scgpt, embed, pretrain
from spikgpt.cli.serve import serve
from spikgpt.cli.share import card, export, info, list_, pull, push, verify
from spikgpt.cli.streams import signals_as_interrupts
from spikgpt.cli.train import leave_one_type_out, novelty, train
from spikgpt.errors import ConfigError, SpikGPTError, fault, printable

# Base class of click's usage errors. typer contains its own copy of click, whose module name differs between versions.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
# Messages on options that are no numbers, and the texts that replace these messages.
NUMBER_ERRORS = {
    re.compile("Input should be a valid number.*"): "expected a number such as 0.05, with a decimal point, without %",
    re.compile("Input should be a valid integer.*"): "expected a whole number, such as 100",
}

# Commands that separate packages add, and for each the shell command that installs its package.
PLUG_INS = {"benchmark": "pip install ./benchmarks"}

app = typer.Typer(
    help="Annotate single-cell RNA-seq with trained references, or train your own.", pretty_exceptions_enable=False
)


def run() -> int:
    """Run a command, print its error in one line, and return the exit code."""
    try:
        with signals_as_interrupts(), warnings_as_notes():
            add_plug_ins(sys.argv[1:2])
            return int(app(sys.argv[1:] or ["--help"], prog_name="spikgpt", standalone_mode=False) or 0)
    except (CommandInterrupted, KeyboardInterrupt, typer.Abort) as stopped:
        inform(f"Interrupted. {stopped if isinstance(stopped, CommandInterrupted) else 'Nothing was written.'}")
        return 128 + getattr(stopped, "number", signal.SIGINT)
    except BrokenPipeError:
        # Standard output never raises this error; a network connection does.
        print_error("A connection was closed before all data was sent; try again.")
        return 2
    except (SpikGPTError, UsageError, OSError) as error:
        print_error(error_text(error))
        return 2


def add_plug_ins(words: list[str]) -> None:
    """Add the commands of installed plug-ins, unless the first word is a command or option that needs no plug-in.

    Raises
    ------
    ConfigError
        When the word is a command whose plug-in is not installed.
    """
    known = {registered.name for registered in app.registered_commands}
    if {"--version", *known} & {*words}:
        return
    for plug_in in entry_points(group="spikgpt.commands"):
        if plug_in.name in known:
            continue
        try:
            app.command(plug_in.name)(plug_in.load())
        except Exception as error:  # noqa: BLE001, code of another package
            note(f"The plug-in {plug_in.value} cannot be loaded ({error}); install it again.")
        else:
            known.add(plug_in.name)
    for name in PLUG_INS.keys() & {*words} - known:
        msg = f"spikgpt {name} is not installed. In a clone of the repository, run: {PLUG_INS[name]}"
        raise ConfigError(msg)


def error_text(error: Exception) -> str:
    """Return the message of an error with the next step, in one line."""
    if isinstance(error, UsageError):
        return _usage_error_text(error)
    if isinstance(error, OSError):
        path = f": {error.filename}" if error.filename else ""
        remedy = fault(error) or "Check the path, its permissions, and the free space on the disk."
        return f"{error.strerror or error}{path}. {remedy}"
    return str(error)


def _usage_error_text(error: Any) -> str:
    """Return a message on the mistake in a command line, with the correct form of the command."""
    message, context, parameter = error.format_message(), error.ctx, getattr(error, "param", None)
    explanation = getattr(parameter, "help", None)
    for pattern, expected in NUMBER_ERRORS.items():
        message = pattern.sub(expected, message)
    message = message.replace("Value error, ", "")
    sentences = [f"{message}{'' if message[-1] in '.?' else '.'}"]
    if message.startswith("Missing") and explanation:
        sentences.append(f"{explanation.replace(chr(92), '').rstrip('.')}.")
    elif message.startswith("No such option: -") and context:
        # Suggest the options that begin with a single letter.
        letter = error.option_name.strip("-")
        names = [name for option in context.command.params for name in option.opts if name.startswith(f"--{letter}")]
        if len(letter) == 1 and names:
            sentences.append(f"Did you mean {' or '.join(names)}?")
    elif message.startswith("Got unexpected extra argument") and context:
        names = [
            argument.metavar or argument.name.upper()
            for argument in context.command.params
            if argument.param_type_name == "argument"
        ]
        again = "Run the command once for each, and put quotes around a name with spaces." if len(names) == 1 else ""
        sentences.append(f"{context.command_path} takes {' and '.join(names) or 'options only'}. {again}".rstrip())
    return f"{' '.join(sentences)} See {context.command_path if context else 'spikgpt'} --help."


def _print_version(requested: bool) -> None:
    if requested:
        from spikgpt.version import __version__

        typer.echo(f"spikgpt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Define the options of all commands."""


@command()
def doctor() -> None:
    """Report installed packages, devices and the default engine; exit code 1 when that engine does not work."""
    from spikgpt.engines.doctor import DEFAULT_ENGINE, findings

    report = findings()
    for finding in report:
        typer.echo(f"{'ok' if finding.works else '--'}  {finding.name}: {printable(' '.join(finding.state.split()))}")
    if not all(finding.works for finding in report if finding.name == DEFAULT_ENGINE):
        raise typer.Exit(1)


# The help lists the commands in this order.
for function in (
    *(annotate, evaluate, explain, list_, info, card, verify, pull, push, export),
    *(train, build, leave_one_type_out, embed, convert_scgpt, pretrain, serve, app_, doctor),
):
    app.command(function.__name__.strip("_").replace("_", "-"))(function)
app.command("novelty", hidden=True)(novelty)
