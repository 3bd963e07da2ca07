"""Generate pages: tables of commands and of options, and the gallery of shipped references with example reports."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import msgspec
from anndata import read_h5ad
from msgspec import Meta

from spikgpt import SpikGPT, options
from spikgpt.cli.app import app
from spikgpt.reference.files import Reference, read_reference
from spikgpt.reference.registry import shipped_references
from spikgpt.reference.summary import Labels
from spikgpt.training.simulation import simulated_cells
from spikgpt_benchmark.cli import benchmark

OPTIONS = ("AnnotateOptions", "ExplainOptions", "EngineOptions", "HubOptions", "TrainOptions", "PushOptions")
HERE = Path(__file__).resolve().parent
# Reference whose example report shows real cells, and the file of these cells.
PANCREAS, DONORS = "pancreas", "pancreas_baron_human2_human4.h5ad"
# Folder of the example reports, relative to the pages of the site.
REPORTS = "../reports"
FLAG = re.compile(r"(?<!`)--[a-z-]+")
VALUES = {Path: "PATH", int: "N", float: "X", str: "TEXT"}

# ``spikgpt benchmark`` is a plug-in, which the command line adds only at run time.
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
    """Return the description of a field; empty for a field without description."""
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
        # Flags of this command come before flags that many commands share.
        for group in sorted(groups, key=lambda group: group != ""):
            parts += [f"**{group}**\n"] if group else []
            parts.append(table(("flag", "meaning"), groups[group]))
    return "\n".join(parts)


def described(parameter: inspect.Parameter) -> tuple[str, str, bool, str]:
    """Return a parameter's help group, its syntax, True if it is required, and its description."""
    hint, info = get_args(parameter.annotation)
    values, default = list(placeholders(hint)), parameter.default
    required = default is inspect.Parameter.empty
    text = info.help.replace("\\[", "[")
    if type(info).__name__ == "ArgumentInfo":
        return "", parameter.name.upper(), required, text
    # If a type is given, typer stores the first spelling of a flag as the default.
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


def gallery() -> str:
    """Return a table of the shipped references, and a section for each."""
    references = [read_reference(folder) for folder in shipped_references().values()]
    rows = [
        (
            f"[{reference.name}](#{reference.name})",
            f"{reference.provenance['tissue']}, {reference.provenance['organism']}",
            str(len(reference.labels.names)),
            f"{reference.metrics['cells']:,}",
            score(reference, "accuracy"),
            score(reference, "macro_f1"),
        )
        for reference in references
    ]
    head = ("reference", "cells of", "types", "cells", "accuracy", "macro-F1")
    return "\n".join((table(head, rows), *map(section, references)))


def score(reference: Reference, figure: str) -> str:
    """Return a score on held-out cells; if donors were held out in turn, its mean and standard deviation."""
    if validation := reference.metrics.get("cross_validation"):
        return f"{validation[figure]['mean']:.3f} ± {validation[figure]['std']:.3f}"
    return f"{reference.metrics['held_out'][figure]:.3f}"


def section(reference: Reference) -> str:
    """Return the Markdown section on a shipped reference."""
    provenance, metrics = reference.provenance, reference.metrics
    held_out, validation = metrics["held_out"], metrics.get("cross_validation")
    facts = [
        ("cells", f"{metrics['cells']:,} of {len(reference.labels.names)} types"),
        ("origin", provenance["source"]),
        ("tissue, organism", f"{provenance['tissue']}, {provenance['organism']}"),
        ("licence of the reference", provenance["licence"]),
        (f"held out: {metrics['held_out_by']}", scores(held_out["accuracy"], held_out["macro_f1"])),
    ]
    if validation:
        values = (score(reference, figure) for figure in ("accuracy", "macro_f1"))
        title = f"each {validation['batch_key']} held out in turn ({len(validation['groups'])})"
        facts.append((title, "accuracy {}, macro-F1 {} (mean ± standard deviation)".format(*values)))
    facts += [
        (f"other cells: {row['study']}", f"{scores(row['accuracy'], row['macro_f1'])}, {row['cells']:,} cells")
        for row in metrics.get("studies", ())
    ]
    studies = [
        tuple(str(row[field]) for field in ("study", "accession", "role", "cells", "citation", "licence"))
        for row in provenance.get("studies", ())
    ]
    labels = [
        (name, f"[{term}](http://purl.obolibrary.org/obo/{term.replace(':', '_')})" if ":" in term else term, *more)
        for name, term, *more in Labels.from_metrics(reference.labels, metrics).table()
    ]
    command = f"spikgpt annotate QUERY.h5ad --model {reference.name} --out labelled.h5ad"
    return "\n".join(
        (
            f"({reference.name})=\n## {reference.name}\n",
            f"```text\n{command}\n```\n",
            # An address of the built site, because Sphinx links only pages.
            f'Example: <a href="{REPORTS}/{reference.name}.html">report</a> of {cells_of_report(reference.name)}.\n',
            table(("", ""), facts),
            re.sub(r"(?m)^#", "##", provenance["description"]) + "\n",
            f":::{{dropdown}} {len(labels)} cell types\n{table(Labels.COLUMNS, labels)}:::\n",
            f"### Attribution\n\n{table(('study', 'accession', 'role', 'cells', 'citation', 'licence'), studies)}",
        )
    )


def cells_of_report(name: str) -> str:
    """Return a description of the cells in the example report of a reference."""
    return "two donors that the reference was not trained on" if name == PANCREAS else "simulated cells, not real cells"


def scores(accuracy: float, macro_f1: float) -> str:
    """Return accuracy and macro-F1 as text."""
    return f"accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f}"


def write_reports(folder: Path) -> None:
    """Write an example report for each shipped reference.

    The report of the pancreas shows two other donors. All other reports show simulated cells, because the real cells of
    these studies may not be part of this repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in shipped_references():
        model = SpikGPT.from_pretrained(name)
        if name == PANCREAS:
            adata, described = read_h5ad(HERE.parent / "tests/data" / DONORS), "of the donors human2 and human4"
        else:
            adata, described = simulated_cells(model.reference), f"simulated from the reference {name}, not real cells"
        annotation = model.annotate(adata, progress=False)
        annotation.report(folder / f"{name}.html", adata, title=f"{adata.n_obs} cells {described}")


def write(folder: Path) -> None:
    """Write the generated pages into ``folder``."""
    (folder / "_gallery.md").write_text(gallery(), encoding="utf-8")
    (folder / "_commands.md").write_text(command_tables(), encoding="utf-8")
    (folder / "_options.md").write_text(option_tables(), encoding="utf-8")
