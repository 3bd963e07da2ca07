"""Command ``spikgpt explain``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from spikgpt.cli.annotate import ModelOptions, annotated_by_choice, opened
from spikgpt.cli.flags import PinnedOptions, command
from spikgpt.cli.output import inform, note
from spikgpt.cli.paths import CSV, JSON, Output, check_outputs
from spikgpt.errors import printable
from spikgpt.options import ExplainOptions

if TYPE_CHECKING:
    from spikgpt.explain.explanation import Explanation

# Largest number of printed genes of each role.
GENES_SHOWN = 6


@command()
def explain(
    query: Annotated[Path, typer.Argument(help="Cells to explain: .h5ad, .zarr, a count matrix, or a table.")],
    model: ModelOptions,
    options: ExplainOptions,
    hub: PinnedOptions,
    cells: Annotated[
        list[str] | None,
        typer.Option(help="Names or positions of cells, as A,B or repeated, to explain each cell by itself."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output file: .csv or .tsv with one row per gene, or .json with all figures.")
    ] = None,
) -> None:
    """Show the genes behind the labels of QUERY, and the reasons for Unknown.

    With several references, each label is explained by the reference that gave the label.

    An existing --out file is replaced.
    """
    from spikgpt.cells.output import write_csv
    from spikgpt.cells.reading import open_cells
    from spikgpt.explain.front import expression_embedding
    from spikgpt.explain.groups import explain_annotation
    from spikgpt.files import replacing
    from spikgpt.pipeline import annotate
    from spikgpt.reference.json_files import dumped
    from spikgpt.reference.registry import AUTO, separate_names

    names = separate_names(model.model)
    inputs = query, *names, model.scgpt
    check_outputs(Output("--out", out, (*CSV, *JSON)), Output("--lock-file", hub.pin().lock), inputs=inputs)
    with open_cells(query) as adata:
        # References that read no genes are refused before the cells are annotated.
        if names != [model.model] or model.model == AUTO:
            check = expression_embedding
            annotation, *_ = annotated_by_choice(adata, names, model, options.reading(), hub, check=check)
        else:
            reference, engine = opened(model, hub)
            expression_embedding(reference, engine)
            annotation = annotate(reference, engine, adata, options.reading())
            hub.keep(model.model, reference)
        explanation = explain_annotation(annotation, adata, options, cells=cells)
    _show(explanation, query.name)
    note(*annotation.notes(), *explanation.notes)
    if out is None:
        return
    if out.name.lower().endswith(JSON):
        with replacing(out) as temporary:
            temporary.write_bytes(dumped(explanation.to_dict()))
    else:
        write_csv([explanation.table()], out, index=False)
    inform(f"Wrote {out}")


def _show(explanation: Explanation, query: str) -> None:
    """Print the genes of each group on standard output, and the reasons for Unknown on standard error."""
    from rich.console import Console
    from rich.text import Text

    from spikgpt.explain.explanation import ROLES, gene_list, legend

    if not explanation.groups:
        return
    output = Console()
    show_line = partial(output.print, soft_wrap=True)
    show_line(Text(printable(f"{query} by {explanation.reference}"), "italic"))
    indent = " " * (max(map(len, ROLES)) + 4)
    for group in explanation.groups:
        show_line(Text.assemble((printable(group.name), "bold"), f": {group.facts(explanation.kind)}"))
        for role in ROLES:
            genes = gene_list(group.genes, role, GENES_SHOWN) or "-"
            # Lines do not break at hyphens, because gene symbols can contain hyphens.
            lines = wrap(genes, max(output.width - len(indent), 20), break_long_words=False, break_on_hyphens=False)
            show_line(Text(f"  {role:{len(indent) - 2}}" + f"\n{indent}".join(lines)))
    for line in legend(explanation.groups, count=GENES_SHOWN):
        inform(line)
    for group in explanation.groups:
        if group.unknown is not None:
            inform(f"{group.name}: {' '.join(group.unknown.sentences())}")
