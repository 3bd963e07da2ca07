"""Read text tables with cells or genes in rows.

The first lines decide the delimiter, the axis of the genes, and the columns and lines without counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.formats.fields import DELIMITERS, MISSING_VALUE, WORD, Splitter, is_missing, kind_of, number
from spikgpt.cells.formats.notes import with_notes
from spikgpt.cells.formats.streams import text_lines
from spikgpt.cells.formats.unreadable import is_text
from spikgpt.cells.naming.spellings import gene_share, is_gene, plain
from spikgpt.errors import DataError, listed, with_noun

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".gct", ".dat", ".counts")
OTHER_SUFFIXES = (".h5ad", ".h5", ".hdf5", ".h5mu", ".loom", ".zarr")
# Number of lines, and of fields in these lines, from which the layout is detected; at least LEAST_LINES lines are used.
SAMPLE_LINES, SAMPLE_FIELDS, LEAST_LINES = 60, 200_000, 8
# Rows are taken for genes if at least this share of their names are gene names.
LEAST_GENE_SHARE = 0.1
# Titles of a column of names, in lower case.
NAME_TITLES = re.compile(
    r"|(unnamed: 0|index|id|names?|(cell|barcode|gene|symbol|feature|sample)s?([ _.]?(ids?|names?))?)"
)
# Names of columns or rows that are not genes: descriptions of cells, and summaries of counting programs.
NO_GENES = re.compile(
    r"n_?(counts?|genes?|umis?|features?)(_by_counts)?|n(count|feature)_\w+|total(_\w+)?|sum|lib(rary)?[_.]?size|"
    r"size_?factors?|log1p_\w+|pct_\w+|percent[._]?\w*|(\w+[_.])?clusters?([_.]?id)?|louvain\w*|leiden\w*|"
    r"\w*res\.[\d.]+|batch\w*|donor\w*|patient\w*|sample\w*|replicate|plate\w*|well|lane|age|sex|day|time\w*|"
    r"orig\.ident|cell_?types?|labels?|annotation|doublet\w*|scrublet\w*|(x_)?(umap|tsne|pca|pc)[._]?\d+|index|"
    r"row_?id|unnamed: \d+|__(no_feature|ambiguous|too_low_aqual|not_aligned|alignment_not_unique)|"
    r"n_(unmapped|multimapping|nofeature|ambiguous)",
    re.IGNORECASE,
)
# Names of columns that are not cells: descriptions of genes.
NO_CELLS = re.compile(
    r"chr|chrom(osome)?(_name)?|start|end|stop|strand|(gene_?)?length|width|entrez\w*|ncbi\w*|gc\w*|description|biotype",
    re.IGNORECASE,
)
# Titles in tables of differential expression by scanpy, Seurat, DESeq2, edgeR and limma.
STATISTICS = re.compile(
    r"p[._ ]?val(ue)?s?|p_?vals?_adj|(avg_)?log(2|f|_?2)?[._]?(fc|fold_?changes?)|padj|adj[._]p[._]val|fdr|"
    r"q[._]?val(ue)?",
    re.IGNORECASE,
)
# Largest number of comments before a table, largest number of lines without names, and number of lines after which
# repeated names are refused.
MOST_COMMENTS, MOST_UNNAMED, CHECKED_LINES = 10_000, 1_000_000, 100_000
AGAIN = "The file may be cut off or damaged: copy it, download it or write it again."


def looks_like_table(path: Path, head: bytes) -> bool:
    """Return True if a file looks like a text table by its name and its first unpacked bytes."""
    name = path.name.lower().removesuffix(".gz")
    if not is_text(head) or name.endswith(OTHER_SUFFIXES):
        return False
    first, *rest = head.decode(errors="replace").splitlines()[:3] or [""]
    # The header may be longer than the first bytes.
    return name.endswith(SUFFIXES) or any(
        delimiter in first and delimiter in "".join(rest or [first]) for delimiter in DELIMITERS
    )


def read_table(path: Path) -> AnnData:
    """Read a table of cells and genes, with notes on its interpretation.

    Raises
    ------
    DataError
        When the lines are no table, differ in length, or hold other values than numbers.
    """
    table = _Table(path)
    parts = list(table.rows())
    matrix = sparse.csr_matrix(
        (
            np.concatenate([row.values for row in parts]),
            np.concatenate([row.columns for row in parts]),
            np.cumsum([0, *(len(row.values) for row in parts)]),
        ),
        shape=(len(parts), len(table.numbers)),
        dtype=np.float32,
    )
    in_rows = _Axis([row.name for row in parts], table.described_rows(parts))
    in_columns = _Axis([plain(table.titles[at]) for at in table.numbers], table.described_columns())
    table.note_missing(in_rows.names)
    if table.genes_in_rows:
        table.notes.append("The table has genes in rows; it was transposed.")
        empty = np.array([row.missing == len(table.numbers) for row in parts])
        return _assemble(sparse.csr_matrix(matrix.T), in_columns, in_rows, empty, table.notes)
    return _assemble(matrix, in_rows, in_columns, table.missing == len(parts), table.notes)


@dataclass(frozen=True)
class _Axis:
    """The names of cells or of genes, and further columns that describe these cells or genes."""

    names: list[str]
    described: dict[str, Sequence[object]]


@dataclass(frozen=True)
class _Row:
    """A line of a table: name, texts, values other than 0 with their columns, and number of missing values."""

    name: str
    texts: list[str]
    columns: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    missing: int


class _Table:
    """A text table that is being read; the layout is detected from its first lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        lines = _without_comments(text_lines(path), path)
        sample = list(islice(lines, SAMPLE_LINES))
        self.split = Splitter.from_lines([line for _, line in sample], path)
        self._lines = chain(sample, lines)
        first = next(self._lines, (1, ""))
        header = self.split(first[1])
        some = sample[1 : 1 + max(LEAST_LINES, SAMPLE_FIELDS // max(1, len(header)))]
        rows = [self.split(line) for _, line in some]
        width = Counter(map(len, rows)).most_common(1)[0][0]
        rows = [row for row in rows if len(row) == width]
        # Some programs end every line with a delimiter.
        self.width = width
        if width > 2 and len(header) in (width, width - 1) and not any(row[-1] for row in rows):
            if len(header) == width - 1 or not header[-1]:
                header, rows = header[: width - 1], [row[:-1] for row in rows]
        self.titles = self._titles(header, len(rows[0]), first[0])
        self._lay_out(rows)
        self.missing = np.zeros(len(self.numbers), dtype=np.int64)
        self._first_missing: tuple[int, int] | None = None

    def _titles(self, header: list[str], width: int, line: int) -> list[str]:
        """Return a title for each column; the title of the names, which R does not write, may be empty."""
        if len(header) == width + 1 and not header[-1]:
            header = header[:-1]
        if len(header) == width - 1:
            header = ["", *header]
        if len(header) != width:
            msg = (
                f"{self.path}, line {line}, has {with_noun(len(header), 'column')}, and the lines below have "
                f"{width}. {AGAIN}"
            )
            raise DataError(msg)
        return header

    def _lay_out(self, rows: list[list[str]]) -> None:
        """Detect the columns of numbers, text and names, the lines of text, and the axis of the genes."""
        kinds = np.array([[kind_of(value, self.split.comma) for value in row] for row in rows])
        wordy = (kinds[:, 1:] == WORD).sum(axis=1) > max(1, len(self.titles) - 1) / 2
        self.above = rows[: int(wordy.argmin())]
        below, kinds = rows[len(self.above) :], kinds[len(self.above) :]
        is_text_at = 2 * (kinds == WORD).sum(axis=0) > (kinds != MISSING_VALUE).sum(axis=0)
        for at in np.flatnonzero((kinds == MISSING_VALUE).all(axis=0)):
            is_text_at[at] = NO_CELLS.fullmatch(self.titles[at]) or NO_GENES.fullmatch(self.titles[at])
        texts = np.flatnonzero(is_text_at).tolist()
        if 0 not in texts and self._names_numbered([row[0] for row in below]):
            texts = [0, *texts]
        words = set(texts)
        self.numbers = [at for at in range(len(self.titles)) if at not in words]
        columns = {at: [row[at] for row in below] for at in texts}
        self._check(texts, columns)
        shares = {at: gene_share(column) for at, column in columns.items()}
        of_titles = gene_share([self.titles[at] for at in self.numbers])
        best = max(shares, key=lambda at: shares[at], default=None)
        self.genes_in_rows = best is not None and shares[best] >= LEAST_GENE_SHARE and shares[best] > of_titles
        unique = [at for at in texts if len(set(columns[at])) == len(columns[at])]
        self.names_at = best if self.genes_in_rows else next(iter(unique or texts), None)
        self.texts = [at for at in texts if at != self.names_at]
        if self.above:
            self.notes.append(f"Lines of text below the header were read as descriptions: {len(self.above)}.")

    def _names_numbered(self, column: list[str]) -> bool:
        """Return True if the numbers in the first column are names of cells or genes."""
        title = plain(self.titles[0]).lower()
        if NAME_TITLES.fullmatch(title):
            return True
        return not is_gene(title) and all(value.isdigit() for value in column) and len(set(column)) == len(column) > 2

    def _check(self, texts: list[int], columns: dict[int, list[str]]) -> None:
        """Raise DataError if the table does not hold the counts of cells and genes."""
        if not self.numbers:
            msg = f"{self.path} holds no column of numbers; expected counts. Pass the file with the count matrix."
            raise DataError(msg)
        statistics = [title for title in map(plain, self.titles) if STATISTICS.fullmatch(title)]
        if len(statistics) > 1:
            msg = (
                f"{self.path} is a table of differential expression ({listed(statistics)}); expected the counts of "
                "cells and genes. Pass the file with the count matrix."
            )
            raise DataError(msg)
        if len(self.numbers) == 1 and len(texts) > 1 and any(gene_share(column) > 0.3 for column in columns.values()):
            titles = [self.titles[at] or f"column {at + 1}" for at in [*texts[:2], *self.numbers]]
            msg = (
                f"{self.path} is a long table with one line for each cell and gene ({listed(titles)}); expected a "
                "column for each gene. Write it again with pandas.DataFrame.pivot_table(), missing values 0."
            )
            raise DataError(msg)

    def rows(self) -> Iterator[_Row]:
        """Yield the lines of the table with values, below the header and the lines of text."""
        start, stop = self.numbers[0], self.numbers[-1] + 1
        together = len(self.numbers) == stop - start
        names = set[str]()
        for _ in self.above:
            next(self._lines)
        for count, (line, text) in enumerate(self._lines):
            fields = self.split(text)
            if len(fields) != self.width:
                msg = (
                    f"{self.path}, line {line}, has {with_noun(len(fields), 'column')}; expected {self.width}. {AGAIN}"
                )
                raise DataError(msg)
            some = fields[start:stop] if together else [fields[at] for at in self.numbers]
            try:
                values = np.array(list(map(float, some)))
            except ValueError:
                values = self._values(some, line, fields)
            columns = np.flatnonzero(values).astype(np.int32)
            kept = values[columns]
            lost = np.isnan(kept)
            if lost.any():
                self.missing[columns[lost]] += 1
                self._first_missing = self._first_missing or (count, int(columns[lost][0]))
                columns, kept = columns[~lost], kept[~lost]
            name = str(count) if self.names_at is None else plain(fields[self.names_at])
            names.add(name if self.names_at is not None else "")
            if count > MOST_UNNAMED * (self.names_at is None) + CHECKED_LINES and 2 * len(names) < count:
                title = self.titles[self.names_at] if self.names_at is not None else "no column"
                msg = (
                    f"{self.path} repeats its names: {len(names)} different ones (column {title!r}) in {count} lines. "
                    "Expected one line for each cell or gene. Pass the file with the count matrix."
                )
                raise DataError(msg)
            texts = [plain(fields[at]) for at in self.texts]
            with np.errstate(over="ignore"):
                yield _Row(name, texts, columns, kept.astype(np.float32), int(lost.sum()))

    def _values(self, some: list[str], line: int, fields: list[str]) -> npt.NDArray[np.float64]:
        """Return the values of a line that has missing values or decimal commas; a missing value is NaN."""
        values = np.empty(len(some))
        for at, text in enumerate(some):
            try:
                values[at] = np.nan if is_missing(text) else number(text, self.split.comma)
            except ValueError:
                name = f" ({plain(fields[self.names_at])!r})" if self.names_at is not None else ""
                title = plain(self.titles[self.numbers[at]])
                msg = f"{self.path}, line {line}{name}, holds {text[:40]!r} for {title!r}; expected a number."
                raise DataError(msg) from None
        return values

    def described_rows(self, rows: list[_Row]) -> dict[str, Sequence[object]]:
        """Return the columns of text by title; each column holds one text per line."""
        columns: dict[str, Sequence[object]] = {}
        for index, at in enumerate(self.texts):
            column = [row.texts[index] for row in rows]
            title = plain(self.titles[at]) or f"column {at + 1}"
            symbols = self.genes_in_rows and "gene_names" not in columns and gene_share(column) > LEAST_GENE_SHARE
            columns["gene_names" if symbols else title] = column
        if columns and not self.genes_in_rows:
            self.notes.append(f"Columns of text were kept in obs: {_shown(list(columns))}.")
        return columns

    def described_columns(self) -> dict[str, Sequence[object]]:
        """Return the lines of text below the header by title; each line holds one text per column of numbers."""
        columns: dict[str, Sequence[object]] = {}
        for count, row in enumerate(self.above):
            values = [plain(row[at]) for at in self.numbers]
            title = plain(row[self.names_at]) if self.names_at is not None else ""
            genes = not self.genes_in_rows and "gene_names" not in columns and gene_share(values) > LEAST_GENE_SHARE
            columns["gene_names" if genes else title or f"line {count + 2}"] = values
        return columns

    def note_missing(self, names: list[str]) -> None:
        """Add a note with the number of missing values; ``names`` are the names of the lines."""
        if self._first_missing is None:
            return
        row, column = names[self._first_missing[0]], plain(self.titles[self.numbers[self._first_missing[1]]])
        count = int(self.missing.sum())
        self.notes.append(
            f"{with_noun(count, 'missing value (NA or empty) was', 'missing values (NA or empty) were')} read as 0, "
            f"the first of {row!r} for {column!r}."
        )


def _assemble(
    matrix: sparse.csr_matrix, cells: _Axis, genes: _Axis, unmeasured: npt.NDArray[np.bool_], notes: list[str]
) -> AnnData:
    """Return an AnnData without rows that are not cells, columns that are not genes, and genes without values."""
    no_gene = np.array([bool(NO_GENES.fullmatch(name)) and not is_gene(name) for name in genes.names])
    # If cells are in columns, some columns may describe genes.
    no_cell = np.array([bool(NO_CELLS.fullmatch(name)) for name in cells.names])
    obs, var = dict(cells.described), dict(genes.described)
    for at in np.flatnonzero(no_gene):
        obs.setdefault(genes.names[at], matrix[:, [at]].toarray().ravel())
    if no_gene.any():
        notes.append(f"Not genes and kept in obs: {_shown([genes.names[at] for at in np.flatnonzero(no_gene)])}.")
    if no_cell.any():
        notes.append(f"Not cells and left out: {_shown([cells.names[at] for at in np.flatnonzero(no_cell)])}.")
    if (unmeasured & ~no_gene).any():
        notes.append(f"Genes without a value in any cell were left out: {int((unmeasured & ~no_gene).sum())}.")
    kept_cells, kept_genes = np.flatnonzero(~no_cell), np.flatnonzero(~no_gene & ~unmeasured)
    if no_gene.all():
        msg = f"The table describes cells ({_shown(genes.names)}) and has no column of a gene. Give the counts instead."
        raise DataError(msg)
    some = sparse.csr_matrix(matrix[kept_cells][:, kept_genes])
    adata = AnnData(some, obs=_frame(cells.names, obs, kept_cells), var=_frame(genes.names, var, kept_genes))
    return with_notes(adata, notes)


def _frame(names: list[str], columns: dict[str, Sequence[object]], kept: npt.NDArray[np.int64]) -> pd.DataFrame:
    index = pd.Index([names[at] for at in kept], dtype=object)
    return pd.DataFrame({name: [values[at] for at in kept] for name, values in columns.items()}, index=index)


def _shown(names: list[str]) -> str:
    return listed(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _without_comments(lines: Iterator[tuple[int, str]], name: object) -> Iterator[tuple[int, str]]:
    """Yield the lines of a table without comments, metadata lines of GEO, and the line of sizes of a GCT file."""
    comment: tuple[int, str] | None = None
    in_table, comments = False, 0
    for line, text in lines:
        comments = 0 if in_table else comments + 1
        if comments > MOST_COMMENTS:
            msg = f"{name} has more than {MOST_COMMENTS} lines of comments; expected a table."
            raise DataError(msg)
        if text.startswith("!") or (not in_table and re.fullmatch(r"sep=.", text)):
            continue
        if in_table or not text.startswith("#"):
            if not in_table and comment and comment[1].startswith("#1."):
                comment = None  # the sizes of a GCT file
                continue
            # The last comment may be the header.
            if (
                not in_table
                and comment
                and any(comment[1].count(delimiter) == text.count(delimiter) > 0 for delimiter in DELIMITERS)
            ):
                yield comment[0], comment[1].lstrip("# ")
            in_table = True
            yield line, text
        else:
            comment = line, text
