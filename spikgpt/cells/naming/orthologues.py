"""The table of one-to-one orthologues of human and mouse that ships with the library."""

from __future__ import annotations

import gzip
import re
from functools import cache
from importlib.resources import files

from spikgpt.cells.naming.human import human_genes, human_id, respelled

MOUSE_ID = re.compile(r"(ENSMUSG\d{11})(\.\d+)?", re.IGNORECASE)
SPECIES = ("human", "mouse")
# Symbol and Ensembl id of a gene, empty where unknown.
Gene = tuple[str, str]


@cache
def orthologues() -> dict[str, dict[str, Gene]]:
    """Return a dictionary for each query species, from a gene's id, symbol or respelled symbol to its orthologue."""
    text = gzip.decompress((files("spikgpt") / "resources" / "mouse_orthologues.tsv.gz").read_bytes()).decode()
    known = human_genes()
    pairs: list[tuple[Gene, Gene]] = []
    for human_number, mouse_number, symbol in (line.split("\t") for line in text.splitlines()):
        gene_id = f"ENSG{int(human_number):011}"
        pairs.append(((known.symbols.get(gene_id, ""), gene_id), (symbol, f"ENSMUSG{int(mouse_number):011}")))
    to_mouse, to_human = dict[str, Gene](), dict[str, Gene]()
    for human, mouse in pairs:
        for table, gene, other in ((to_mouse, human, mouse), (to_human, mouse, human)):
            table |= {name: other for name in gene if name}
    for human, mouse in pairs:  # an exact symbol comes before a respelled one
        to_mouse.setdefault(respelled(human[0]), mouse)
        to_human.setdefault(respelled(mouse[0]), human)
    return {"human": to_mouse, "mouse": to_human}


def orthologue_names(names: list[str], species: str) -> list[list[str]]:
    """Return two lists, the symbols and the Ensembl ids of the orthologues of genes in the other species.

    A gene without a one-to-one orthologue gets an empty name.

    Parameters
    ----------
    names
        Symbols or Ensembl ids of genes, with or without version.
    species
        Species of the genes, ``human`` or ``mouse``.
    """
    table, nothing = orthologues()[species], ("", "")
    genes = [table.get(_key(name), table.get(respelled(name), nothing)) if name else nothing for name in names]
    return [[gene[at] for gene in genes] for at in (0, 1)]


def _key(name: str) -> str:
    """Return an Ensembl id without its version, and any other name unchanged."""
    if match := MOUSE_ID.fullmatch(name):
        return match[1].upper()
    return human_id(name) or name
