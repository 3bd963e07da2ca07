"""Parts of the reference that are made from the code itself: tables of commands and of options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from spikgpt import options
from spikgpt.cli.main import app

OPTIONS = ("AnnotateOptions", "EngineOptions", "HubOptions", "TrainOptions", "PushOptions")
FLAG = re.compile(r"(?<!`)--[a-z-]+")
VALUES = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def option_tables() -> str:
    """Return the options of the Python methods: a heading and a table for each options class."""
    parts = []
    for name in OPTIONS:
        kind = getattr(options, name)
        rows = [
            (
                f"`{field.name}`",
                options.expected(kind, field.name),
                f"`{field.default!r}`",
                description(kind, field.name),
            )
            for field in msgspec.structs.fields(kind)
        ]
        head = ("option", "takes", "default", "meaning")
        parts.append(f":::{{py:class}} spikgpt.options.{name}\n{kind.__doc__}\n\n{table(head, rows)}:::\n")
    return "\n".join(parts)


def description(kind: type[options.Options], name: str) -> str:
    """Return what is said of a field."""
    hint = inspect.get_annotations(kind, eval_str=True)[name]
    return next(meta.description for meta in get_args(hint) if isinstance(meta, Meta) and meta.description)


def command_tables() -> str:
    """Return the commands: a heading, the usage, and a table for each group of flags."""
    parts = []
    for command in app.registered_commands:
        assert command.callback is not None
        groups: dict[str, list[tuple[str, str]]] = {}
        usage = [f"spikgpt {command.name}"]
        for parameter in inspect.signature(command.callback).parameters.values():
            group, shown, needed, said = described(parameter)
            said = FLAG.sub(r"`\g<0>`", said) + (" Needed." if needed and shown.startswith("-") else "")
            groups.setdefault(group, []).append((f"`{shown}`", said))
            usage += [shown] if needed else []
        parts += [f"## spikgpt {command.name}\n", FLAG.sub(r"`\g<0>`", f"{inspect.getdoc(command.callback)}\n")]
        parts += [f"```text\n{' '.join(sorted(usage, key=lambda word: word.startswith('-')))}\n```\n"]
        # The command's own flags, then those that many commands have.
        for group in sorted(groups, key=lambda group: group != ""):
            parts += [f"**{group}**\n"] if group else []
            parts.append(table(("flag", "meaning"), groups[group]))
    return "\n".join(parts)


def described(parameter: inspect.Parameter) -> tuple[str, str, bool, str]:
    """Return the group of a command's parameter, how it is typed, whether it must be, and what it means."""
    hint, info = get_args(parameter.annotation)
    values, default, needed = list(placeholders(hint)), parameter.default, parameter.default is inspect.Parameter.empty
    said = info.help.replace("\\[", "[")
    if type(info).__name__ == "ArgumentInfo":
        return "", parameter.name.upper(), needed, said
    # Beside a type, typer keeps the first spelling of a flag as if it were the default.
    flag = info.default if isinstance(info.default, str) else f"--{parameter.name.replace('_', '-')}"
    if "/" in flag:
        yes, no = flag.split("/")
        flag, default = f"{yes}, {no}", yes if default else no
    if not any(default is nothing for nothing in (inspect.Parameter.empty, None, False)):
        said += f" Default: `{default}`."
    return info.rich_help_panel or "", " ".join([flag, *values]), needed, said


def placeholders(hint: Any) -> Iterator[str]:
    """Give what stands for the values of a flag."""
    if get_origin(hint) is Literal:
        yield "|".join(get_args(hint))
    elif get_args(hint):
        for part in get_args(hint):
            yield from placeholders(part)
    elif hint not in (bool, NoneType):
        yield VALUES[hint]


def write(folder: Path) -> None:
    """Write both into the folder of the reference."""
    (folder / "_commands.md").write_text(command_tables(), encoding="utf-8")
    (folder / "_options.md").write_text(option_tables(), encoding="utf-8")
