"""The table of human genes that ships with the library."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

HUMAN_ID = re.compile(r"(ENSG\d{11})(\.\d+)?(_PAR_Y)?", re.IGNORECASE)


@dataclass(frozen=True)
class HumanGenes:
    """Human genes: ``symbols`` by Ensembl id, ``ids`` by symbol, and ``respelled_ids`` by respelled symbol."""

    symbols: dict[str, str]
    ids: dict[str, str]
    respelled_ids: dict[str, str]


@cache
def human_genes() -> HumanGenes:
    """Read the table that ships with the library."""
    text = gzip.decompress((files("spikgpt") / "resources" / "human_genes.tsv.gz").read_bytes()).decode()
    columns = text.split()
    gene_ids, symbols = ["ENSG" + number.zfill(11) for number in columns[::2]], columns[1::2]
    # A gene with copies, as on X and Y, keeps its oldest id, which is the first in the table.
    ids = dict(zip(reversed(symbols), reversed(gene_ids), strict=True))
    # One call for the text of all symbols takes a tenth of the time of one call per symbol.
    respelled_ids = dict(zip(respelled(" ".join(ids)).split(" "), ids.values(), strict=True))
    return HumanGenes(dict(zip(gene_ids, symbols, strict=True)), ids, respelled_ids)


def respelled(symbol: str) -> str:
    """Return a symbol in upper case with "-" in place of "." and "_", because R and Seurat exchange these signs."""
    return symbol.upper().replace(".", "-").replace("_", "-")


def human_id(name: str) -> str | None:
    """Return a human Ensembl gene id without its version, or None for any other name."""
    # Most names do not begin with ENS, and need no regular expression.
    match = HUMAN_ID.fullmatch(name) if name[:3].upper() == "ENS" else None
    return match[1].upper() if match else None
