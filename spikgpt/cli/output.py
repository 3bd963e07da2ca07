"""What the command line shows: sentences, tables and progress bars; and what it says when it is interrupted."""

from __future__ import annotations

import os
import shlex
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.text import Text

from spikgpt.errors import SpikGPTWarning, printable

if TYPE_CHECKING:
    from tqdm import tqdm

console = Console(stderr=True, highlight=False)


class Interrupted(Exception):
    """The user or a signal ended a command; the message says what is kept."""

    def __init__(self, kept: str, number: int = signal.SIGINT) -> None:
        super().__init__(kept)
        self.number = number


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Say what is kept when the user interrupts the block."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise Interrupted(kept(), getattr(stopped, "number", signal.SIGINT)) from None


def goes_on(kept: str, where: Path | None) -> str:
    """Say what an interrupted command goes on from, if that is there."""
    if where is None or not where.exists():
        return "Nothing is kept; the same command starts again."
    return f"{kept} kept in {where}; the same command goes on from there."


def say(text: str, lead: str = "", style: str = "") -> None:
    """Print a sentence on standard error, on one line, after a coloured word."""
    console.print(Text.assemble((lead, style), printable(" ".join(text.split()))), soft_wrap=True)


def note(*texts: str) -> None:
    """Print sentences that the user should not miss."""
    for text in texts:
        say(text, "Note: ", "yellow")


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print a SpikGPTWarning of the block as a note; other warnings are shown as they were."""
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
    """Return the command that labels cells with a reference; a relative folder gets ``./``, so that it is no name."""
    return f"spikgpt annotate QUERY.h5ad {option('--model', model, *more)} --out OUT.h5ad"


def option(flag: str, value: Path | str, *more: str) -> str:
    """Return a flag and its value as a shell takes them."""
    if isinstance(value, Path) and not value.is_absolute() and not str(value).startswith("."):
        value = f".{os.sep}{value}"
    return " ".join((flag, shlex.quote(str(value)), *more))


def show(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None, *, result: bool) -> None:
    """Print a table: on standard output when it is the result that was asked for, else on standard error."""
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in columns), title=Text(printable(title)) if title else None)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    (Console() if result else console).print(table)


def show_scores(metrics: dict[str, Any]) -> None:
    """Print the figures of each label, and what it was mistaken for."""
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    rows = []
    for row in metrics["per_label"]:
        confused = zip(labels, counts[labels.index(row["label"])], strict=True)
        mistakes = sorted(((n, name) for name, n in confused if n and name != row["label"]), reverse=True)
        figures = (f"{row[figure]:.3f}" for figure in ("precision", "recall", "f1"))
        rows.append((row["label"], row["cells"], *figures, ", ".join(f"{name} {n}" for n, name in mistakes) or "-"))
    show(("label", "cells", "precision", "recall", "F1", "mistaken for"), rows, result=False)


class Bars(ExitStack):
    """Progress bars on standard error, where that is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: dict[str, tqdm[Any]] = {}

    def __call__(
        self, what: str, total: int | None, unit: str, step: int = 1, *, done: int | None = None, figures: str = ""
    ) -> None:
        """Move the bar of what is done by a step, or to the number of units that are done."""
        from tqdm import tqdm

        if what not in self._bars:
            self._bars[what] = self.enter_context(tqdm(desc=what, total=total, unit=f" {unit}", disable=None))
        bar = self._bars[what]
        bar.set_postfix_str(figures, refresh=False)
        bar.update(step if done is None else done - bar.n)
