"""Reference pages that are generated from the code: tables of commands and of options."""

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
from spikgpt_benchmark.cli import benchmark

OPTIONS = ("AnnotateOptions", "EngineOptions", "HubOptions", "TrainOptions", "PushOptions")
FLAG = re.compile(r"(?<!`)--[a-z-]+")
VALUES = {Path: "PATH", int: "N", float: "X", str: "TEXT"}

# The command of a plug-in, which the command line adds only when it runs.
app.command("benchmark")(benchmark)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def option_tables() -> str:
    """Return a heading and a table for each options class."""
    parts = []
    for name in OPTIONS:
        kind = getattr(options, name)
        rows = [
            (f"`{field.name}`", options.expected(kind, field.name), f"`{field.default!r}`", text)
            for field in msgspec.structs.fields(kind)
            if (text := description(kind, field.name))
        ]
        head = ("option", "values", "default", "meaning")
        parts.append(f":::{{py:class}} spikgpt.options.{name}\n{kind.__doc__}\n\n{table(head, rows)}:::\n")
    return "\n".join(parts)


def description(kind: type[options.Options], name: str) -> str:
    """Return the description of a field; empty for a field without one."""
    hint = inspect.get_annotations(kind, eval_str=True)[name]
    return next((meta.description for meta in get_args(hint) if isinstance(meta, Meta) and meta.description), "")


def command_tables() -> str:
    """Return a heading, the usage, and a table for each group of flags, for each command."""
    parts = []
    for command in app.registered_commands:
        assert command.callback is not None
        if command.hidden:
            continue
        groups: dict[str, list[tuple[str, str]]] = {}
        usage = [f"spikgpt {command.name}"]
        for parameter in inspect.signature(command.callback).parameters.values():
            if get_args(parameter.annotation)[1].hidden:
                continue
            group, syntax, required, text = described(parameter)
            text = FLAG.sub(r"`\g<0>`", text) + (" Required." if required and syntax.startswith("-") else "")
            groups.setdefault(group, []).append((f"`{syntax}`", text))
            usage += [syntax] if required else []
        parts += [f"## spikgpt {command.name}\n", FLAG.sub(r"`\g<0>`", f"{inspect.getdoc(command.callback)}\n")]
        parts += [f"```text\n{' '.join(sorted(usage, key=lambda word: word.startswith('-')))}\n```\n"]
        # The flags of the command alone come before those that many commands share.
        for group in sorted(groups, key=lambda group: group != ""):
            parts += [f"**{group}**\n"] if group else []
            parts.append(table(("flag", "meaning"), groups[group]))
    return "\n".join(parts)


def described(parameter: inspect.Parameter) -> tuple[str, str, bool, str]:
    """Return the group, syntax, necessity and description of a command's parameter."""
    hint, info = get_args(parameter.annotation)
    values, default = list(placeholders(hint)), parameter.default
    required = default is inspect.Parameter.empty
    text = info.help.replace("\\[", "[")
    if type(info).__name__ == "ArgumentInfo":
        return "", parameter.name.upper(), required, text
    # Beside a type, typer keeps the first spelling of a flag as if it were the default.
    flag = info.default if isinstance(info.default, str) else f"--{parameter.name.replace('_', '-')}"
    if "/" in flag:
        yes, no = flag.split("/")
        flag, default = f"{yes}, {no}", yes if default else no
    if not any(default is nothing for nothing in (inspect.Parameter.empty, None, False)):
        text += f" Default: `{default}`."
    return info.rich_help_panel or "", " ".join([flag, *values]), required, text


def placeholders(hint: Any) -> Iterator[str]:
    """Yield the placeholders for the values of a flag."""
    if get_origin(hint) is Literal:
        yield "|".join(get_args(hint))
    elif get_args(hint):
        for part in get_args(hint):
            yield from placeholders(part)
    elif hint not in (bool, NoneType):
        yield VALUES[hint]


def write(folder: Path) -> None:
    """Write both pages into the folder of the reference."""
    (folder / "_commands.md").write_text(command_tables(), encoding="utf-8")
    (folder / "_options.md").write_text(option_tables(), encoding="utf-8")
