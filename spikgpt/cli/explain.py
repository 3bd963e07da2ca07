"""Command ``spikgpt explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from spikgpt.cli.annotate import ModelOptions
from spikgpt.cli.flags import PinnedOptions, command, hub_of
from spikgpt.cli.output import inform, note, show
from spikgpt.cli.paths import CSV, JSON, Output, check_outputs
from spikgpt.errors import ConfigError
from spikgpt.options import ExplainOptions

if TYPE_CHECKING:
    from spikgpt.explain.explanation import Explanation

# Genes of each role in a printed table.
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
    """Show the genes behind the labels of QUERY, and the reasons for Unknown."""
    from spikgpt.cells.output import write_csv
    from spikgpt.cells.reading import open_cells
    from spikgpt.engines.opening import open_engine
    from spikgpt.explain.front import expression_embedding
    from spikgpt.explain.groups import explain as explained
    from spikgpt.files import replacing
    from spikgpt.pipeline import annotate
    from spikgpt.reference.json_files import dumped
    from spikgpt.reference.registry import AUTO, separate_names
    from spikgpt.sharing import open_reference

    inputs = query, model.model, model.scgpt
    check_outputs(Output("--out", out, (*CSV, *JSON)), Output("--lock-file", hub.pin().lock), inputs=inputs)
    if model.model == AUTO or separate_names(model.model) != [model.model]:
        msg = (
            f"spikgpt explain takes one reference; got --model {model.model}. Name the reference that spikgpt annotate "
            "reports."
        )
        raise ConfigError(msg)
    client = hub_of(hub)
    reference = open_reference(model.model, hub=client, pin=hub.pin())
    engine = open_engine(reference, model, scgpt=model.scgpt, hub=client)
    expression_embedding(reference, engine)  # refuse other references before the work
    with open_cells(query) as opened:
        annotation = annotate(reference, engine, opened, options.reading())
        explanation = explained(annotation, opened, options, cells=cells)
    hub.keep(model.model, reference)
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
    """Print one row per group, and the reasons for Unknown."""
    from spikgpt.explain.explanation import gene_list
    from spikgpt.explain.labels import Role

    # The name of a label needs no column beside it.
    named = explanation.kind != "label"
    rows = [
        (
            *(group.name, group.genes.cells, *([group.genes.label] if named else []), group.genes.runner_up),
            *(gene_list(group.genes, role, GENES_SHOWN) or "-" for role in get_args(Role)),
        )
        for group in explanation.groups
    ]
    columns = (explanation.kind, "cells", *(["label"] if named else []), "runner-up", *get_args(Role))
    show(columns, rows, f"{query} by {explanation.reference}", result=True)
    inform("A minus sign marks genes that count by their absence.")
    for group in explanation.groups:
        if group.unknown is not None:
            inform(f"{group.name}: {' '.join(group.unknown.sentences())}")
