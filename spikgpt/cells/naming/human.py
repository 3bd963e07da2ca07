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
    """Human genes: Ensembl id to symbol, and symbol to Ensembl id."""

    symbols: dict[str, str]
    ids: dict[str, str]
    respelled_ids: dict[str, str]


@cache
def human_genes() -> HumanGenes:
    """Read the table that ships with the library."""
    text = gzip.decompress((files("spikgpt") / "resources" / "human_genes.tsv.gz").read_bytes()).decode()
    symbols = {f"ENSG{int(number):011}": symbol for number, symbol in (line.split("\t") for line in text.splitlines())}
    ids: dict[str, str] = {}
    for gene_id, symbol in symbols.items():
        # A gene with copies, as on X and Y, keeps its oldest id.
        ids.setdefault(symbol, gene_id)
    return HumanGenes(symbols, ids, {respelled(symbol): gene_id for symbol, gene_id in ids.items()})


def respelled(symbol: str) -> str:
    """Return a symbol in upper case, with "-" in place of "." and "_", which R and Seurat write."""
    return symbol.upper().replace(".", "-").replace("_", "-")


def human_id(name: str) -> str | None:
    """Return a human Ensembl gene id without its version, or None for any other name."""
    # Most names begin otherwise, and need no regular expression.
    match = HUMAN_ID.fullmatch(name) if name[:3].upper() == "ENS" else None
    return match[1].upper() if match else None
