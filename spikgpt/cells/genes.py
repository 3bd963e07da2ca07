"""Gene lists of references, and the match between a query's genes and a reference's genes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from spikgpt.cells.naming.human import human_genes, human_id, respelled
from spikgpt.cells.naming.orthologues import SPECIES, orthologue_names
from spikgpt.cells.naming.spellings import dates, gene_share, plain, spellings, without_suffixes
from spikgpt.errors import GenesError, with_noun
from spikgpt.types import Bools, Integers, Rows

if TYPE_CHECKING:
    import pandas as pd

# Columns of var that name genes in files from scanpy, Cell Ranger, CELLxGENE, Seurat and Monocle, in lower case.
NAME_COLUMNS = (
    *("gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl", "feature_id", "feature_name"),
    *("gene_symbols", "gene_symbol", "gene_names", "gene_name", "gene_short_name", "symbol", "symbols", "hgnc_symbol"),
)

# A column with another name is read as gene names if more than this share of its values are gene names.
LEAST_GENE_SHARE = 0.5

# Texts into which str() turns missing values of NumPy and pandas.
MISSING = ("nan", "<NA>", "None", "NaT")

# Remedy for a query with correct names but too few genes.
FEW_GENES = "Pass the AnnData with all measured genes, from before its genes were selected."

NOT_MOUSE = (
    "species is 'mouse', but the gene names do not look like mouse: mouse symbols are capitalised, like Gcg. If the "
    "query is human, leave species out (--species)."
)

# Least number of shared genes, unless the reference itself is smaller.
MINIMUM_GENES = 50

# Prefixes of gene ids of species other than human.
ID_PREFIX = re.compile(r"ENS[A-Z]+G(?=\d)|FBgn|WBGene")
# Pattern of symbols that only mouse genes have. With at least this share and this number of matching names, a query is
# taken for mouse.
MOUSE_SYMBOL = re.compile(r"Gm\d{3,}|\d{4,}[A-Z]\d\dRik", re.IGNORECASE)
SHARE_OF_MOUSE_SYMBOLS, LEAST_MOUSE_SYMBOLS = 0.005, 3

SPECIES_PREFIXES = {
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSSSCG": "pig",
    "ENSBTAG": "cow",
    "ENSGALG": "chicken",
    "ENSMMUG": "rhesus macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSCJAG": "marmoset",
    "ENSPTRG": "chimpanzee",
    "FBGN": "fruit fly",
    "WBGENE": "roundworm",
}


@dataclass(frozen=True)
class GeneList:
    """Ordered list of the genes of a reference, without repeats; an unknown Ensembl id is None."""

    symbols: tuple[str, ...]
    ensembl_ids: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if len(self.symbols) != len(self.ensembl_ids):
            msg = (
                f"{with_noun(len(self.symbols), 'symbol')} for "
                f"{with_noun(len(self.ensembl_ids), 'Ensembl id')}; give one id, or None, a symbol."
            )
            raise GenesError(msg)
        for names in (self.symbols, [gene_id for gene_id in self.ensembl_ids if gene_id is not None]):
            if len(set(names)) < len(names):
                repeated = [name for name, count in Counter(names).items() if count > 1]
                msg = f"A gene list names {_examples(repeated)} more than once; name every gene of a reference once."
                raise GenesError(msg)

    def __len__(self) -> int:
        return len(self.symbols)

    def __add__(self, more: GeneList) -> GeneList:
        return GeneList(self.symbols + more.symbols, self.ensembl_ids + more.ensembl_ids)

    def part(self, chosen: Rows) -> GeneList:
        """Return the genes with the given indices."""
        return GeneList(tuple(self.symbols[at] for at in chosen), tuple(self.ensembl_ids[at] for at in chosen))

    def positions(self, genes: GeneList) -> Rows:
        """Return the index in this list of each gene of ``genes``, found by its symbol."""
        index = {symbol: position for position, symbol in enumerate(self.symbols)}
        return np.array([index[symbol] for symbol in genes.symbols], dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``genes.json`` as a dictionary."""
        return {"sha256": self.sha256, "symbols": list(self.symbols), "ensembl_ids": list(self.ensembl_ids)}

    @property
    def sha256(self) -> str:
        """Return the SHA-256 digest, in hexadecimal, of the symbols and Ensembl ids written as canonical JSON."""
        values = {"symbols": self.symbols, "ensembl_ids": self.ensembl_ids}
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class GeneMatch:
    """The columns of a query for the G genes of a reference.

    ``selection``, shape (query genes, G), is 1 where a query column belongs to a gene of the reference. Linear values
    times ``selection`` are the values of the reference's genes, with columns of the same gene summed. ``how`` counts
    the matched genes by kind of name. ``naming`` is the index or column of ``var`` from which the query's names were
    read. ``notes`` are sentences on suspicious names. ``orthologues_of`` is the species of the query if its genes were
    mapped to orthologues, else None.
    """

    selection: sparse.csc_matrix
    how: dict[str, int]
    naming: str
    notes: tuple[str, ...] = ()
    orthologues_of: str | None = None

    def part(self, genes: Integers) -> GeneMatch:
        """Return the match for the reference's genes with the given indices."""
        return replace(self, selection=sparse.csc_matrix(self.selection[:, genes]))

    @cached_property
    def columns(self) -> Rows:
        """Return the first query column of each gene of the reference, shape (G,); -1 if the query lacks the gene."""
        first = np.full(self.selection.shape[1], -1, dtype=np.int64)
        first[self.genes_present] = self.selection.indices[self.selection.indptr[:-1][self.genes_present]]
        return first

    @cached_property
    def genes_present(self) -> Bools:
        """Return True for the genes that the query has, shape (G,)."""
        return np.asarray(np.diff(self.selection.indptr) > 0)


def ensembl_ids_of(symbols: Iterable[str]) -> list[str | None]:
    """Return the human Ensembl id of each symbol, also for spellings such as ``HLA.A``; None for unknown symbols."""
    table = human_genes()
    return [table.ids.get(symbol) or table.respelled_ids.get(respelled(symbol)) for symbol in symbols]


def genes_of(var: pd.DataFrame, gene_key: str | None = None) -> GeneList:
    """Return the genes of a training set without repeats, sorted by symbol.

    The sorted list does not depend on the order of the genes in the file. The index or column of ``var`` with the most
    human gene names is read, or the column ``gene_key``. The table of human genes adds missing symbols and Ensembl ids.
    A gene that the table lacks keeps its name.
    """
    table = human_genes()

    def known(naming: tuple[str, list[str]]) -> int:
        return sum(name in table.ids or human_id(name) in table.symbols for name in naming[1])

    names = sorted(set(max(_namings(var, gene_key), key=known)[1]) - {""})
    symbols: dict[str, str | None] = {}
    used_ids: set[str | None] = set()
    for name, named_id, found_id in zip(names, map(human_id, names), ensembl_ids_of(names), strict=True):
        if named_id is not None and named_id in used_ids:
            continue
        symbol = table.symbols.get(named_id, named_id) if named_id else name
        gene_id = named_id or found_id
        if named_id and symbol in symbols:
            symbol = named_id
        symbols.setdefault(symbol, None if gene_id in used_ids else gene_id)
        used_ids.add(gene_id)
    ordered = sorted(symbols)
    return GeneList(tuple(ordered), tuple(symbols[symbol] for symbol in ordered))


def match_genes(
    query: pd.DataFrame,
    genes: GeneList,
    *,
    minimum_share: float = 0.1,
    at_least: int = MINIMUM_GENES,
    cells: Iterable[object] = (),
    gene_key: str | None = None,
    species: str | None = None,
) -> GeneMatch:
    """Match a reference's genes with the ``var`` of a query.

    Names may be symbols or Ensembl ids, with or without version. The index and columns such as ``gene_ids`` or
    ``feature_name`` are read. If neither the index nor these columns hold genes, any other column of genes is read. The
    index or column with the most matches is used; in a tie, the index. Names may have the prefix of a genome
    (``GRCh38_INS``), join a symbol and an id (``INS|ENSG00000254647``), or be bytes. A gene is matched by the first of
    these names that the query has:

    - its exact symbol
    - its Ensembl id
    - its symbol in any case, with ``.`` and ``_`` read as ``-`` (R writes ``HLA.A``)
    - a newer symbol with the same Ensembl id

    Parameters
    ----------
    minimum_share, at_least
        Least share and number of matched genes; a reference with fewer than ``at_least`` genes needs all of them.
    cells
        Names of the query's cells, to detect a transposed query.
    gene_key
        Column of ``query`` with the names; None for the index or column with most matches.
    species
        Species of the query, ``human`` or ``mouse``. If the reference is of the other species, genes are mapped to
        one-to-one orthologues. None for no mapping.

    Raises
    ------
    GenesError
        When too few genes match, or there is no table of orthologues for the two species.
    """
    namings = _namings(query, gene_key)
    finder = _finder(genes)
    of_reference = finder.species
    mapped = _mapped(namings, species, of_reference or "human")
    matches = [finder.match(names) for _, names in mapped or namings]
    best = max(range(len(matches)), key=lambda index: len(matches[index]))
    label, names = (mapped or namings)[best]
    chosen = matches[best]
    other = next(filter(None, (_species_of(names) for _, names in namings)), None)
    doubtful = bool(mapped) and species == "mouse" and other != "mouse"
    other = None if other == of_reference or mapped else other
    needed = min(len(genes), max(at_least, math.ceil(minimum_share * len(genes))))
    if len(chosen) < needed:
        msg = _too_few(len(chosen), needed, genes, label, namings[0][1] if label == "var_names" or mapped else names)
        known = len(chosen) > sum(map(bool, names)) / 2
        remedy = _remedy(names, other, of_reference or "human", list(map(_name, cells)))
        if mapped:
            remedy = (
                f"With species={species!r} (--species {species}), {sum(map(bool, names))} of these genes have a "
                "one-to-one orthologue. Check the species of the query."
            )
        msg += f" {FEW_GENES if known else remedy}"
        raise GenesError(msg)
    how = Counter(kind for kind, _ in chosen.values())
    return GeneMatch(
        selection=_selection(chosen, len(names), len(genes)),
        how={kind: how[kind] for kind in ("symbol", "Ensembl id", "respelled symbol")},
        naming=label,
        notes=(
            *_notes(chosen, how, other, of_reference, names),
            *([NOT_MOUSE] if doubtful else []),
            *(_note_on_column(query, label) if gene_key is None else ()),
        ),
        orthologues_of=species if mapped else None,
    )


def _mapped(namings: list[tuple[str, list[str]]], species: str | None, target: str) -> list[tuple[str, list[str]]]:
    """Return the query's gene names mapped to orthologues in the species ``target``; empty if no mapping is needed.

    Raises
    ------
    GenesError
        When there is no table of orthologues for the two species, or when the names already belong to ``target``.
    """
    if species is None or species == target:
        return []
    if target not in SPECIES:
        msg = (
            f"species is {species!r}, and the reference is {target}; the table of orthologues has human and mouse. Map "
            f"the genes to {target} orthologues first, and leave species out (--species)."
        )
        raise GenesError(msg)
    if any(_species_of(names) == target if target == "mouse" else _human_ids(names) for _, names in namings):
        msg = (
            f"species is {species!r}, but the query has {target} genes like {_examples(namings[0][1])}, as the "
            "reference has. Leave species out (--species)."
        )
        raise GenesError(msg)
    return [(label, names) for label, own in namings for names in orthologue_names(own, species)]


def _human_ids(names: list[str]) -> bool:
    """Return True if most names are human Ensembl ids."""
    return sum(human_id(name) is not None for name in names) > len(names) / 2


# Index of a reference gene -> the kind of name by which the gene was matched, and the query columns with its name.
_Matches = dict[int, tuple[str, list[int]]]


class _Finder:
    """Match query names with the genes of a reference; ``species`` is the reference's species, None for human."""

    def __init__(self, genes: GeneList) -> None:
        self.species = _species_of(list(genes.symbols))
        by_symbol = {symbol: gene for gene, symbol in enumerate(genes.symbols)}
        by_id = {gene_id: gene for gene, gene_id in enumerate(genes.ensembl_ids) if gene_id is not None}
        by_respelling: dict[str, int] = {}
        for gene, (symbol, looked_up) in enumerate(zip(genes.symbols, ensembl_ids_of(genes.symbols), strict=True)):
            by_respelling.setdefault(respelled(symbol), gene)
            if genes.ensembl_ids[gene] is None and looked_up is not None:
                by_id.setdefault(looked_up, gene)
        newer_ids = human_genes().ids
        self._tiers: tuple[tuple[str, Callable[[str], int | None]], ...] = (
            ("symbol", by_symbol.get),
            ("Ensembl id", lambda name: by_id.get(human_id(name) or "")),
            ("respelled symbol", lambda name: by_respelling.get(respelled(name))),
            ("Ensembl id", lambda name: by_id.get(newer_ids.get(name, ""))),
        )

    def match(self, names: list[str]) -> _Matches:
        """Return the reference genes that query names match; exact symbols come before Ensembl ids and respellings."""
        matches: _Matches = {}
        unmatched = [column for column, name in enumerate(names) if name]
        for kind, gene_of in self._tiers:
            new: _Matches = {}
            rest = []
            for column in unmatched:
                gene = gene_of(names[column])
                if gene is None or gene in matches:
                    rest.append(column)
                else:
                    new.setdefault(gene, (kind, []))[1].append(column)
            matches |= new
            unmatched = rest
        return matches


# Cached, because a reference labels one query after another.
@lru_cache(maxsize=4)
def _finder(genes: GeneList) -> _Finder:
    """Return the :class:`_Finder` that matches query names with a reference's genes."""
    return _Finder(genes)


def _namings(var: pd.DataFrame, gene_key: str | None = None) -> list[tuple[str, list[str]]]:
    """Return gene names with their source: those in the index and columns of ``var``, or in the column ``gene_key``.

    The index comes first. A missing name is an empty text. After each list of names follow other readings of the list,
    such as the symbols of names that join a symbol and an id. If neither the index nor a column of ``NAME_COLUMNS``
    holds genes, any other column of genes is read.
    """
    if gene_key is not None:
        columns_with_names: list[tuple[str, Any]] = [(f"var[{gene_key!r}]", var[gene_key])]
    else:
        columns = {str(column).lower(): column for column in reversed(list(var.columns))}
        columns_with_names = [("var_names", var.index)]
        columns_with_names += [(f"var[{columns[key]!r}]", var[columns[key]]) for key in NAME_COLUMNS if key in columns]
    lists = [(label, list(map(_name, names))) for label, names in columns_with_names]
    if gene_key is None and not any(gene_share(names) > LEAST_GENE_SHARE for _, names in lists):
        other_columns = [(f"var[{column!r}]", list(map(_name, var[column]))) for column in var.columns]
        lists += [(label, names) for label, names in other_columns if gene_share(names) > LEAST_GENE_SHARE]
    return [(label, some) for label, names in lists for some in (without_suffixes(names), *spellings(names))]


def _note_on_column(var: pd.DataFrame, label: str) -> Iterator[str]:
    """Yield a note if gene names were read from a column that is not in ``NAME_COLUMNS``."""
    if label not in ("var_names", *(f"var[{key!r}]" for key in var.columns if str(key).lower() in NAME_COLUMNS)):
        yield (
            f"var_names holds no genes, so {label} was read. Pass gene_key='COLUMN' (--gene-key COLUMN) for another "
            "column."
        )


def symbols_of(var: pd.DataFrame) -> list[str]:
    """Return a name of each gene for display: a symbol from the index or a column, else an id, else the index."""
    own = list(map(str, var.index))
    lists = [names for _, names in _namings(var) if gene_share(names) > LEAST_GENE_SHARE]
    best = next((names for names in lists if not _human_ids(names)), lists[0] if lists else own)
    return [name or other for name, other in zip(best, own, strict=True)]


def _name(value: object) -> str:
    """Return a gene name as text; the text is empty for None, NaN and pandas.NA."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return plain(value)
    text = str(value)
    return "" if text in MISSING else text


def species_of(genes: pd.DataFrame | GeneList, gene_key: str | None = None) -> str | None:
    """Return the species of a ``var`` table or of a reference's genes; None for human or unknown names.

    ``gene_key`` names the column of the table with the genes; None for all columns that may hold genes.
    """
    if isinstance(genes, GeneList):
        return _finder(genes).species
    return next(filter(None, (_species_of(names) for _, names in _namings(genes, gene_key))), None)


def _species_of(names: list[str]) -> str | None:
    """Return the species that gene names point to; None for human or unknown names."""
    prefixes = Counter(match[0].upper() for name in names if (match := ID_PREFIX.match(name)))
    if prefixes:
        prefix, count = prefixes.most_common(1)[0]
        if count > len(names) / 2:
            return SPECIES_PREFIXES.get(prefix, f"another species ({prefix} ids)")
    capitalised = sum(name[:1].isupper() and name[1:].islower() for name in names)
    return "mouse" if capitalised > len(names) / 2 or _mouse_symbols(names) else None


def _mouse_symbols(names: list[str]) -> list[str]:
    """Return the names that only mouse genes have, in upper or lower case; an empty list if there are too few."""
    # A test of the last character excludes nearly all other names quickly.
    symbols = [name for name in names if name[-1:] in "0123456789kK" and MOUSE_SYMBOL.fullmatch(name)]
    return symbols if len(symbols) >= max(LEAST_MOUSE_SYMBOLS, SHARE_OF_MOUSE_SYMBOLS * len(names)) else []


def _selection(matches: _Matches, n_query_genes: int, n_genes: int) -> sparse.csc_matrix:
    pairs = [(column, gene) for gene, (_, columns) in matches.items() for column in columns]
    rows, genes = (np.array(pairs, dtype=np.int64).reshape(-1, 2)).T
    selection = sparse.csc_matrix((np.ones(len(pairs)), (rows, genes)), shape=(n_query_genes, n_genes))
    selection.sort_indices()
    return selection


def _notes(
    matches: _Matches, how: Counter[str], species: str | None, of_reference: str | None, names: list[str]
) -> Iterable[str]:
    """Yield sentences on suspicious gene names of a query that has enough genes of the reference.

    ``species`` is the species of the query; None for human, or for the species of the reference. ``of_reference`` is
    the species of the reference; None for human.
    """
    several = sum(len(columns) > 1 for _, columns in matches.values())
    if several:
        yield f"The query has several columns for {several} of the genes; their values were summed."
    if of_reference != "mouse" and (symbols := _mouse_symbols(names)):
        yield (
            f"The query looks like mouse: {len(symbols)} of its genes are mouse genes, like {_examples(symbols)}. "
            f"Labels may be wrong. {_map_first('mouse', of_reference or 'human')}"
        )
    elif species is not None and how["respelled symbol"] > len(matches) / 2:
        yield (
            f"The query looks like {species}: {how['respelled symbol']} of its {len(matches)} matched genes share only "
            f"the letters of a human symbol. Labels may be wrong. {_map_first(species, of_reference or 'human')}"
        )
    if as_dates := dates(names):
        yield (
            f"{with_noun(len(as_dates), 'gene name is a date', 'gene names are dates')}, like {as_dates[0]}. Excel "
            "makes dates of names such as MARCHF1 or SEPTIN2. Genes with such names are not found."
        )


def _too_few(n_matched: int, needed: int, genes: GeneList, label: str, names: list[str]) -> str:
    ids = [gene_id for gene_id in genes.ensembl_ids if gene_id is not None]
    expected = f"{_examples(genes.symbols)}" + (f", or {_examples(ids)}" if ids else "")
    return (
        f"Found {n_matched} of the reference's {len(genes)} genes in the query; at least {needed} are needed. The "
        f"query names {with_noun(len(names), 'gene')} like {_examples(names)} ({label}), the reference like {expected}."
    )


def _remedy(names: list[str], species: str | None, of_reference: str, cells: list[str]) -> str:
    """Return the remedy for a query with too few of the reference's genes."""
    if gene_share(cells) > max(0.5, gene_share(names)):
        return f"The names of the cells, like {_examples(cells)}, are genes: transpose the AnnData with adata.T."
    if species is not None:
        return f"The query looks like {species}; this reference is {of_reference}. {_map_first(species, of_reference)}"
    if names == [str(number) for number in range(len(names))]:
        return "The names are row numbers: put gene symbols or Ensembl gene ids into var_names."
    if sum(name.isdigit() for name in names) > len(names) / 2:
        return "The names are numbers, such as Entrez ids: map Entrez ids to symbols or Ensembl gene ids first."
    return "Put human gene symbols or Ensembl gene ids into var_names, or into a column such as var['gene_ids']."


def _map_first(species: str, of_reference: str) -> str:
    """Return the remedy for a query of another species than the reference."""
    if {species, of_reference} == set(SPECIES):
        return f"To map genes to one-to-one orthologues: species={species!r} (--species {species})."
    return f"Map the genes to {of_reference} orthologues first."


def _examples(names: Iterable[str]) -> str:
    few = [name or "''" for name, _ in zip(names, range(3), strict=False)]
    return ", ".join(few) or "none"
