"""Output of the command line: sentences, tables, progress bars, and messages of interrupted commands."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

from spikgpt.errors import SpikGPTWarning, printable

if TYPE_CHECKING:
    from tqdm import tqdm

# Largest width of the first column, in characters, in a table that is wider than the terminal.
LONGEST_NAME = 20

console = Console(stderr=True, highlight=False)


class CommandInterrupted(Exception):
    """The user or a signal ended a command; the message names the files that remain."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Raise :class:`CommandInterrupted` with a message when the user interrupts the block."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise CommandInterrupted(message(), getattr(stopped, "number", signal.SIGINT)) from None


def resume_hint(saved: str, path: Path | None) -> str:
    """Return a sentence that says if the same command resumes the work saved in ``path``, or starts again."""
    if path is None or not path.exists():
        return "Nothing is saved; the same command starts again."
    return f"{saved} saved in {path}; the same command resumes there."


def inform(text: str, prefix: str = "", style: str = "") -> None:
    """Print a line on standard error, after a coloured prefix."""
    console.print(Text.assemble((prefix, style), printable(" ".join(text.split()))), soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error on standard error."""
    inform(text, "Error: ", "bold red")


def note(*texts: str) -> None:
    """Print important notes on standard error."""
    for text in texts:
        inform(text, "Note: ", "yellow")


def describe(sentences: Sequence[str], engine: str, notes: Sequence[str]) -> None:
    """Print the sentences and the notes on an annotation; a sentence that is also a note is printed once."""
    values, *rest = sentences
    for sentence in (f"{values} Engine: {engine}.", *rest):
        if sentence not in notes:
            inform(sentence)
    note(*notes)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print each SpikGPTWarning of the block as a note, and other warnings as usual."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show_warning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, SpikGPTWarning):
                note(str(message))
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", SpikGPTWarning)
        warnings.showwarning = show_warning
        yield


def annotate_command(model: Path | str, *more: str) -> str:
    """Return the command that labels cells with a reference."""
    return f"spikgpt annotate QUERY.h5ad {option('--model', model, *more)} --out OUT.h5ad"


def option(flag: str, value: Path | str, *more: str) -> str:
    """Return a flag and its value for a shell; a relative path gets ``./``, so that it is not read as a name."""
    if isinstance(value, Path) and not value.is_absolute() and not str(value).startswith("."):
        value = f".{os.sep}{value}"
    return " ".join((flag, shlex.quote(str(value)), *more))


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str | None = None,
    *,
    result: bool,
    numbers: Collection[int] = (),
) -> None:
    """Print a table: a result on standard output, other tables on standard error.

    ``numbers`` are the indices of columns that are aligned to the right and never folded. With
    ``numbers``, the table has no borders, so that many columns fit on a terminal.
    """
    from rich.box import HEAVY_HEAD
    from rich.table import Column, Table

    lines = [tuple(printable(str(cell)) for cell in row) for row in rows]
    heads = [Column(name, overflow="fold") for name in columns]
    for index in numbers:
        heads[index] = Column(columns[index], no_wrap=True, justify="right")
    output = Console() if result else console
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    if numbers and sum(widths) + 2 * len(widths) > output.width:
        heads[0].width = min(widths[0], LONGEST_NAME)
    table = Table(
        *heads,
        title=Text(printable(title)) if title else None,
        box=None if numbers else HEAVY_HEAD,
        pad_edge=not numbers,
        padding=(0, 2, 0, 0) if numbers else (0, 1),
    )
    for line in lines:
        table.add_row(*map(Text, line))
    output.print(table)


def show_markdown(text: str) -> None:
    """Print Markdown on standard output: formatted on a terminal, else as it is."""
    from rich.markdown import Markdown

    safe = "\n".join(map(printable, text.splitlines()))
    if sys.stdout.isatty():
        Console().print(Markdown(safe, hyperlinks=False))
    else:
        typer.echo(safe)


def show_scores(metrics: dict[str, Any]) -> None:
    """Print the scores of each label, and the wrong labels that cells of this label got."""
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    rows = []
    for row in metrics["per_label"]:
        confused = zip(labels, counts[labels.index(row["label"])], strict=True)
        mistakes = sorted(((n, name) for name, n in confused if n and name != row["label"]), reverse=True)
        figures = (f"{row[figure]:.3f}" for figure in ("precision", "recall", "f1"))
        rows.append((row["label"], row["cells"], *figures, ", ".join(f"{name} {n}" for n, name in mistakes) or "-"))
    show(("label", "cells", "precision", "recall", "F1", "mistaken for"), rows, result=False)


def cross_validation_line(validation: dict[str, Any]) -> str:
    """Return the scores of a cross-validation in a sentence."""
    accuracy, macro_f1 = (
        f"{validation[figure]['mean']:.4f} ± {validation[figure]['std']:.4f}" for figure in ("accuracy", "macro_f1")
    )
    return (
        f"Each {validation['batch_key']} held out in turn ({len(validation['groups'])}): accuracy {accuracy}, macro-F1 "
        f"{macro_f1} (mean ± standard deviation)."
    )


class Bars(ExitStack):
    """Progress bars on standard error, shown on terminals only."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: dict[str, tqdm[Any]] = {}

    def __call__(
        self, title: str, total: int | None, unit: str, step: int = 1, *, done: int | None = None, figures: str = ""
    ) -> None:
        """Move the bar of a title by ``step`` units, or to ``done`` units."""
        from tqdm import tqdm

        if title not in self._bars:
            self._bars[title] = self.enter_context(tqdm(desc=title, total=total, unit=f" {unit}", disable=None))
        bar = self._bars[title]
        bar.set_postfix_str(figures, refresh=False)
        bar.update(step if done is None else done - bar.n)
