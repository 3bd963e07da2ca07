"""Compare references with the files of a folder, as ``--model auto`` does, and print a Markdown table.

    python benchmarks/reference_matrix.py --data FOLDER [--reference NAME=FOLDER ...] [--out TABLE.md]

Without ``--reference``, the references in the package are compared. For each file with counts, 600 empty droplets are
simulated: 200 counts each, drawn from the mean expression of the file. The folder is also read from the environment
variable ``SPIKGPT_DATA``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.expression import find_expression
from spikgpt.cells.reading import open_cells
from spikgpt.choice import ReferenceScore, choose, open_model
from spikgpt.errors import DataError
from spikgpt.options import AnnotateOptions
from spikgpt.reference.registry import shipped_references

OPTIONS = AnnotateOptions(progress=False)
HEAD = "| query | reference | verdict | correlation | agreement | genes found | Unknown | chosen |\n|" + "---|" * 8


def empty_droplets(cells: AnnData) -> AnnData | None:
    """Return 600 simulated empty droplets, 200 counts each of the cells' mean expression; None without counts."""
    expression = find_expression(cells)
    if expression.kind != "counts":
        return None
    starts = range(0, expression.n_cells, 1024)
    parts = (expression.rows(start, min(start + 1024, expression.n_cells)) for start in starts)
    profile = np.sum([np.asarray(part.sum(axis=0), dtype=np.float64).ravel() for part in parts], axis=0)
    draws = np.random.default_rng(0).multinomial(200, profile / profile.sum(), size=600)
    return AnnData(sparse.csr_matrix(draws.astype(np.float32)), var=expression.var[[]].copy())


def queries(folder: Path) -> Iterator[tuple[str, AnnData]]:
    """Yield name and cells of each file in a folder, then name and cells of empty droplets simulated from the file."""
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".h5ad", ".zarr")):
        with open_cells(path) as cells:
            try:
                droplets = empty_droplets(cells)
            except DataError as error:
                sys.stderr.write(f"{path.name} was left out: {error}\n")
                continue
            yield path.stem, cells
        if droplets is not None:
            yield f"{path.stem}, empty droplets", droplets


def row(query: str, score: ReferenceScore, best: str | None) -> str:
    """Return the Markdown row of a query and a reference; ``best`` is the name of the chosen reference."""
    figures = ("-" if value is None else f"{value:.2f}" for value in (score.correlation, score.agreement))
    unknown = "-" if score.unknown_fraction is None else f"{100 * score.unknown_fraction:.1f}%"
    genes = f"{score.genes_found} of {score.genes_total}"
    verdict = "suits" if score.suits else score.reason.split(";")[0].replace("|", "/")
    chosen = "yes" if score.name == best else ""
    return f"| {query} | {score.name} | {verdict} | {' | '.join(figures)} | {genes} | {unknown} | {chosen} |"


def main() -> None:
    """Compare all references with all queries, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SPIKGPT_DATA"), help="folder of .h5ad files")
    parser.add_argument("--reference", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, help="file for the table; default: standard output")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("no folder of queries: pass --data FOLDER, or set SPIKGPT_DATA")
    named = dict(text.split("=", 1) for text in arguments.reference) or {name: name for name in shipped_references()}
    models = [replace(open_model(address), name=name) for name, address in named.items()]
    lines, summary, started = [HEAD], [], time.process_time()
    for query, cells in queries(arguments.data):
        choice = choose(cells, models, OPTIONS)
        lines += [row(query, score, choice.best) for score in choice.scores]
        ties = f" (as good: {', '.join(choice.ties)})" if choice.ties else ""
        summary.append(f"| {query} | {choice.best or 'none'}{ties} |")
        sys.stderr.write(f"{summary[-1]}\n")
    seconds = (time.process_time() - started) / max(len(summary) * len(models), 1)
    text = "\n".join(["| query | chosen |", "|---|---|", *summary, "", *lines, ""])
    text += f"\n{seconds:.2f} s of processor time for each query and reference.\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
