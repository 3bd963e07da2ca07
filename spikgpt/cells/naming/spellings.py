"""Interpret gene names in files: genome prefixes, ids joined to symbols, suffixes of duplicates, dates of Excel."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from spikgpt.cells.naming.human import human_genes, human_id, respelled

# Genome prefixes that Cell Ranger, Drop-seq and STAR put before gene names. R turns the _ after a prefix into a - or a
# dot.
GENOME = re.compile(
    r"(?P<genome>GRCh3\d|hg\d\d|human|GRCm3\d|mm\d\d?|mouse|GRCr\d|mRatBN7|Rnor_\d|rn\d|GRCz1\d|danRer\d+|dm\d|ce\d\d)"
    r"[_.\-]+(?P<name>.+)",
    re.IGNORECASE,
)
HUMAN_GENOME = re.compile(r"GRCh|hg|human", re.IGNORECASE)
ID = r"ENS[A-Z]{0,4}G\d{11}(?:\.\d+)?"
ID_FIRST = re.compile(rf"(?P<id>{ID})[|_:;,/\s.(\[-]+(?P<symbol>.+?)[)\]]?", re.IGNORECASE)
ID_LAST = re.compile(rf"(?P<symbol>.+?)[|_:;,/\s.(\[-]+(?P<id>{ID})[)\]]?", re.IGNORECASE)
# A symbol with an Entrez id, as in TCGA, or with a chromosome, as from CEL-Seq.
TAGGED = re.compile(r"(?P<symbol>.+?)(?:\|\d+|__chr\w+)")
ANY_ID = re.compile(ID, re.IGNORECASE)
# Suffix of the second of two equal names: .1 by R and pandas, -1 by anndata, _1 by others.
REPEATED = re.compile(r"(?P<name>.+)[.\-_][1-9]\d?")
SIGNS = {".", "-", "_"}
# A Python bytes string written as text.
BYTES = re.compile(r"b(['\"])(?P<name>.*)\1")
MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
DATE = re.compile(rf"\d{{1,2}}-({MONTHS})|({MONTHS})-\d{{1,2}}|\d{{4}}-\d\d-\d\d( 00:00:00)?", re.IGNORECASE)
# Number of names sampled to detect the axis of the genes in a table.
SAMPLED = 2000


def plain(name: str) -> str:
    """Return a name without surrounding spaces, quotes, or the b'' around a bytes string."""
    if name.isalnum():
        return name
    name = name.strip()
    if name[:1] == "b" and (match := BYTES.fullmatch(name)):
        name = match["name"]
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1]
    return name.strip()


def spellings(names: list[str]) -> list[list[str]]:
    """Return other readings of a list of names: without genome prefixes, symbols only, ids only.

    If a list has human genes and genes of other genomes, the names of the other genes become empty.
    """
    lists = []
    without = _without_genome(names)
    if without != names:
        lists.append(without)
    parts = [_parts(name) for name in without]
    if sum(pair != ("", "") for pair in parts) > len(names) / 2:
        lists.append([symbol or name for (symbol, _), name in zip(parts, without, strict=True)])
        lists.append([gene_id or name for (_, gene_id), name in zip(parts, without, strict=True)])
    return [without_suffixes(reading) for reading in lists]


def without_suffixes(names: list[str]) -> list[str]:
    """Return names without suffixes of repeats: ``INS`` for ``INS.1`` if ``INS`` is present too."""
    present = set(names)
    # Most names have no such suffix, and need no regular expression.
    return [
        (_repeats(name, present) if name[-2:-1] in SIGNS or name[-3:-2] in SIGNS else None) or name for name in names
    ]


def foreign_genes(names: Sequence[str]) -> Counter[str]:
    """Return the number of names with each genome prefix that is not human; empty if no name has a human prefix."""
    if not _may_have_genomes(names):
        return Counter()
    genomes = Counter(match["genome"] for name in names if (match := GENOME.fullmatch(name)))
    human = sum(count for genome, count in genomes.items() if HUMAN_GENOME.match(genome))
    # Gene names may start with a word such as human too, so at least half of the names must have a prefix.
    if not human or genomes.total() < len(names) / 2:
        return Counter()
    return Counter({genome: count for genome, count in genomes.items() if not HUMAN_GENOME.match(genome)})


def is_foreign(name: str) -> bool:
    """Return True for a name with the prefix of a genome that is not human."""
    match = GENOME.fullmatch(name)
    return match is not None and not HUMAN_GENOME.match(match["genome"])


def dates(names: Iterable[str]) -> list[str]:
    """Return the names that Excel converted to dates."""
    # Dates have a hyphen, and most names have none.
    return [name for name in names if "-" in name and DATE.fullmatch(name)]


def is_gene(name: str) -> bool:
    """Return True for an Ensembl id, or a human symbol in any case and spelling."""
    if match := GENOME.fullmatch(name):
        name = match["name"]
    if ANY_ID.fullmatch(name):
        return True
    symbol, gene_id = _parts(name)
    return bool(gene_id) or respelled(symbol or name) in human_genes().respelled_ids


def gene_share(names: Sequence[str]) -> float:
    """Return the share of gene names in a sample of names."""
    sample = names[:: max(1, len(names) // SAMPLED)]
    return sum(is_gene(plain(str(name))) for name in sample) / max(1, len(sample))


def _may_have_genomes(names: Sequence[str]) -> bool:
    """Return True if a sample of the names has any genome prefix."""
    return any(map(GENOME.fullmatch, names[:: max(1, len(names) // SAMPLED)]))


def _without_genome(names: list[str]) -> list[str]:
    if not _may_have_genomes(names):
        return names
    matches = [GENOME.fullmatch(name) for name in names]
    if sum(match is not None for match in matches) <= len(names) / 2:
        return names
    mixed = any(match and HUMAN_GENOME.match(match["genome"]) for match in matches)
    return [
        name if not match else "" if mixed and not HUMAN_GENOME.match(match["genome"]) else match["name"]
        for name, match in zip(names, matches, strict=True)
    ]


def _parts(name: str) -> tuple[str, str]:
    """Return the symbol and the id of a name such as ``INS|ENSG00000254647``; two empty texts for any other name."""
    if not ("|" in name or "__chr" in name or "ENS" in name.upper()) or human_id(name):
        return "", ""
    match = ID_FIRST.fullmatch(name) or ID_LAST.fullmatch(name)
    if match:
        return match["symbol"], match["id"]
    tagged = TAGGED.fullmatch(name)
    return (tagged["symbol"], "") if tagged else ("", "")


def _repeats(name: str, present: set[str]) -> str | None:
    """Return the human gene that a name repeats with a suffix, such as ``INS`` for ``INS.1``; None for other names."""
    match = REPEATED.fullmatch(name)
    if not match or match["name"] not in present:
        return None
    genes, base = human_genes().respelled_ids, match["name"]
    known = human_id(base) or respelled(base) in genes
    return base if known and respelled(name) not in genes else None
