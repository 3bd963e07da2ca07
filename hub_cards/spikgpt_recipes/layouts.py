"""Layouts of the files of a study: the part of a recipe that describes how cells are read."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from spikgpt_recipes.paths import LONGEST_NAME, check_file_name

try:
    import re2
except ImportError:  # the extra ``train`` is not installed
    re2 = None
# Errors that the libraries raise for an invalid regular expression.
_ERRORS = (re.error, RecursionError, OverflowError, *((re2.error,) if re2 else ()))

Delimiter = Literal[",", "\t", ";", " "]
FileName = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, lt=2**53)]
Column = Annotated[str, Meta(min_length=1)]
# New columns of obs, and for each the column of the file to read.
Columns = dict[Column, Column]

# Unreadable kinds of files by their endings, and how to convert them.
UNREADABLE = {
    (".rds", ".rdata", ".rda", ".robj"): "in R, with zellkonverter::writeH5AD(sce, 'cells.h5ad') after "
    "Seurat::as.SingleCellExperiment() if it holds a Seurat object",
    (".loom",): "with scanpy.read_loom('cells.loom').write_h5ad('cells.h5ad')",
}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the compiled regular expression of a recipe.

    RE2 takes time linear in the text for any expression, so that an untrusted recipe cannot hang a build.

    Raises
    ------
    ValueError
        When RE2 refuses the expression. RE2 has no lookaround and no backreferences.
    """
    try:
        return _compile(pattern)
    except _ERRORS as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error
        msg = f"{pattern!r} is no regular expression of RE2: {reason}"
        raise ValueError(msg) from None


@lru_cache
def _compile(pattern: str) -> re.Pattern[str]:
    if re2 is None:
        return re.compile(pattern)
    options = re2.Options()
    options.log_errors = False
    expression: re.Pattern[str] = re2.compile(pattern, options)
    return expression


class _Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format"):
    """Base class of all layouts of files."""


class StudyGeneTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A second file of the study, which gives the names of genes, such as symbols for Entrez ids.

    Genes that are not in the second file keep their names.
    """

    file: FileName
    id: Column
    name: Column
    delimiter: Delimiter = ","

    def __post_init__(self) -> None:
        check_file_name("file", self.file)


class _Cells(_Layout, frozen=True, kw_only=True):
    r"""Base class of the layouts of files with expression values.

    Parameters
    ----------
    values
        ``counts`` are whole numbers. ``linear`` is for normalised values without logarithm, such as RPKM. ``log``
        is for values ln(1 + x), which are converted back to x. ``log_counts`` is for values ln(1 + s x) of counts x,
        with a factor s for each cell, as Seurat normalises them. They are converted back to the counts: the least
        value of a cell stands for one count.
    name_pattern
        Regular expression for the start of every cell name. Each named group becomes a column of obs:
        ``(?P<donor>D\d+)-`` gives donors.
    cut
        Text that ends the name of a gene, such as ``__chr``. The text and all characters after it are removed.
    genes
        Another file of the study with the names of the genes.
    """

    values: Literal["counts", "linear", "log", "log_counts"] = "counts"
    name_pattern: str = ""
    cut: str = ""
    genes: StudyGeneTable | None = None

    def __post_init__(self) -> None:
        compile_pattern(self.name_pattern)


class Csv(_Cells, frozen=True, kw_only=True, tag="csv"):
    """A text table, plain or gzipped, with a cell or a gene in each row.

    Parameters
    ----------
    cells
        Position of the cells: in ``rows`` or in ``columns``.
    names
        Number of columns before the values. The first of these columns has the names of the rows. The header may lack
        the names of these columns, as in tables written by R.
    obs
        For tables with cells in rows: new columns of obs, and for each the column of the table to read.
    blocks
        Number of blocks of values side by side, such as counts and RPKM. Each block has a column for every cell.
    block
        Number of the block to read, from 0.
    """

    cells: Literal["rows", "columns"]
    delimiter: Delimiter = ","
    names: Annotated[int, Meta(ge=1, le=100)] = 1
    obs: Columns = {}
    blocks: Annotated[int, Meta(ge=1, le=10)] = 1
    block: Annotated[int, Meta(ge=0, lt=10)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block >= self.blocks:
            msg = f"block is {self.block}; expected 0 to {self.blocks - 1}"
            raise ValueError(msg)
        if self.obs and self.cells == "columns":
            msg = "obs names columns of a table with cells in columns; describe its cells by an annotation"
            raise ValueError(msg)


class Mtx(_Cells, frozen=True, kw_only=True, tag="mtx"):
    """Output of Cell Ranger: a Matrix Market file with lists of barcodes and features.

    The lists are members of the same archive as the matrix, or other files of the study with the layout ``part``. The
    names of matrix and lists differ only in their endings: the fields ``matrix``, ``barcodes`` and ``features``. Each
    file may be gzipped.
    """

    matrix: FileName = "matrix.mtx"
    barcodes: FileName = "barcodes.tsv"
    features: FileName = "features.tsv"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("matrix", "barcodes", "features"):
            check_file_name(field, getattr(self, field))


class H5(_Cells, frozen=True, kw_only=True, tag="h5"):
    """An HDF5 file of Cell Ranger."""


class H5ad(_Cells, frozen=True, kw_only=True, tag="h5ad"):
    """An AnnData file.

    Parameters
    ----------
    layer
        Layer with the values; by default the counts in X, a layer or raw.
    obs
        New columns of obs, and for each the column of the file to read.
    """

    layer: str | None = None
    obs: Columns = {}


class _Archive(_Layout, frozen=True, kw_only=True):
    r"""Base class of the layouts of archives.

    Parameters
    ----------
    members
        Regular expression for the whole name of a member, with its folders. Each named group becomes a column of obs,
        such as ``GSM\d+_(?P<donor>human\d)_umifm_counts\.csv\.gz``. A group ``sample`` becomes a prefix of the cell
        names too, followed by ``_``.
    reader
        Layout of the members.
    """

    members: Annotated[str, Meta(min_length=1)]
    reader: Csv | Mtx | H5 | H5ad

    def __post_init__(self) -> None:
        compile_pattern(self.members)


class Tar(_Archive, frozen=True, kw_only=True, tag="tar"):
    """A tar archive, such as ``GSE84133_RAW.tar``; plain or compressed."""


class Zip(_Archive, frozen=True, kw_only=True, tag="zip"):
    """A zip archive, as in ArrayExpress."""


class _Description(_Layout, frozen=True, kw_only=True):
    """Base class of the layouts that describe the cells of the study's other files."""

    obs: Columns
    rename: dict[str, str] = {}

    def __post_init__(self) -> None:
        for pattern in self.rename:
            compile_pattern(pattern)


class StudyAnnotation(_Description, frozen=True, kw_only=True, tag="annotation"):
    """A text table that describes the cells of the study's other files. Cells that are not in the table are left out.

    Parameters
    ----------
    obs
        New columns of obs, and for each the column of the table to read.
    cell
        Column with the names of the cells; by default the first one.
    skip
        Number of lines before the header.
    units
        Number of lines after the header that describe no cell.
    rename
        Regular expressions and their replacements, applied in order to the names of cells. The results are the names
        in the other files.
    """

    cell: str = ""
    delimiter: Delimiter = "\t"
    skip: Annotated[int, Meta(ge=0, le=1000)] = 0
    units: Annotated[int, Meta(ge=0, le=10)] = 0


class SeriesMatrix(_Description, frozen=True, kw_only=True, tag="series_matrix"):
    """The series matrix of GEO, with a sample for each cell. Cells that are not in the matrix are left out.

    Parameters
    ----------
    obs
        New columns of obs, and for each a characteristic of the samples, such as ``cell subtype``, or a line, such as
        ``!Sample_source_name_ch1``.
    cell
        Line with the names of the cells.
    rename
        As in :class:`StudyAnnotation`.
    """

    cell: str = "!Sample_title"


class Part(_Layout, frozen=True, kw_only=True, tag="part"):
    """A file that belongs to another file: the barcodes or features of a matrix, or a table of genes."""


CellLayout = Csv | Mtx | H5 | H5ad
FileLayout = Csv | Mtx | H5 | H5ad | Tar | Zip | StudyAnnotation | SeriesMatrix | Part


class StudyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a study: its name, address and layout, and its size and hash where they are known.

    A file without an address lies in the folder of the recipe.
    """

    name: FileName
    reader: FileLayout
    url: Annotated[str, Meta(pattern=r"\A(https?|ftp)://\S+\Z", max_length=2000)] | None = None
    size: Size | None = None
    sha256: Sha256 | None = None

    def __post_init__(self) -> None:
        check_file_name("name", self.name)
        plain = self.name.lower().removesuffix(".gz")
        for endings, remedy in UNREADABLE.items():
            if plain.endswith(endings):
                msg = f"{self.name} cannot be read here; convert it to .h5ad {remedy}, and name that file"
                raise ValueError(msg)
        if self.url and self.url.startswith("ftp://"):
            msg = f"{self.url} is an FTP address; GEO and EBI have the same files at https://{self.url[6:]}"
            raise ValueError(msg)
