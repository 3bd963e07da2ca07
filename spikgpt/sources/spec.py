"""What the files of a study are, and how each is laid out: the part of a recipe that says where cells come from."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from spikgpt.sources.paths import LONGEST_NAME, check_file_name

try:
    import re2
except ImportError:  # without the extra that builds references
    re2 = None
# What is raised for a text that is no regular expression.
_ERRORS = (re.error, RecursionError, OverflowError, *((re2.error,) if re2 else ()))

Delimiter = Literal[",", "\t", ";", " "]
FileName = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, lt=2**53)]
Column = Annotated[str, Meta(min_length=1)]
# Names of the columns of obs, and where each comes from.
Columns = dict[Column, Column]

# What nothing here can read, by the ending of a file's name, and how to make something of it that can be.
UNREADABLE = {
    (".rds", ".rdata", ".rda", ".robj"): "in R, with zellkonverter::writeH5AD(sce, 'cells.h5ad') after "
    "Seurat::as.SingleCellExperiment() if it holds a Seurat object",
    (".loom",): "with scanpy.read_loom('cells.loom').write_h5ad('cells.h5ad')",
}


class _Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format"):
    """Base of all layouts."""


class GeneTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another file of the study that says how its genes are called, such as symbols of Entrez ids.

    A gene that is not in it keeps its name.
    """

    file: FileName
    id: Column
    name: Column
    delimiter: Delimiter = ","

    def __post_init__(self) -> None:
        check_file_name("file", self.file)


class _Cells(_Layout, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""Base of the layouts that hold expression values.

    ``values`` says what they are: ``counts`` are whole numbers; ``linear`` are counts up to a factor a cell, such as
    RPKM; ``log`` are ln(1 + linear), and are brought back to linear. ``name_pattern`` is a regular expression for the
    begin of every cell's name, and each named group of it becomes a column of obs: ``(?P<donor>D\d+)-`` gives donors.
    Names of genes end before ``cut``, such as ``__chr``.
    """

    values: Literal["counts", "linear", "log"] = "counts"
    name_pattern: str = ""
    cut: str = ""
    genes: GeneTable | None = None

    def __post_init__(self) -> None:
        compiled(self.name_pattern)


class Csv(_Cells, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="csv"):
    """A table of text, also with gzip, with a cell or a gene in each row.

    In each row, ``names`` columns come before the values, and the first of them names the row. The header may leave
    names of these out, as R does. Of tables with cells in rows, ``obs`` says which of these columns describe the cells.
    Tables may hold several values of each cell, as columns side by side in ``blocks``; ``block`` is the one to read,
    from 0: the header names the cells once.
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
            msg = f"block is {self.block}, counted from 0, of {self.blocks} blocks"
            raise ValueError(msg)
        if self.obs and self.cells == "columns":
            msg = "obs names columns of a table with cells in columns; describe its cells by an annotation"
            raise ValueError(msg)


class Mtx(_Cells, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mtx"):
    """Genes and cells as Cell Ranger writes them: a Matrix Market file with two lists beside it.

    The file's name ends with ``matrix``; the lists have the same name with ``barcodes`` and ``features`` in its place.
    They are other files of the study, with the layout ``part``, or of the same archive. Any of them may end with .gz.
    """

    matrix: FileName = "matrix.mtx"
    barcodes: FileName = "barcodes.tsv"
    features: FileName = "features.tsv"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("matrix", "barcodes", "features"):
            check_file_name(field, getattr(self, field))


class H5(_Cells, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="h5"):
    """An HDF5 file of Cell Ranger."""


class H5ad(_Cells, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="h5ad"):
    """An AnnData file: counts are looked for in X, layers and raw, or taken from ``layer``.

    ``obs`` says which of its columns describe the cells.
    """

    layer: str | None = None
    obs: Columns = {}


class _Archive(_Layout, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""Base of archives: each member whose name matches ``members`` is read by ``reader``.

    ``members`` is a regular expression for the whole name, with its folders. Each named group of it becomes a column of
    obs, such as ``GSM\d+_(?P<donor>human\d)_umifm_counts\.csv\.gz``. A group ``sample`` is also put before the names
    of cells, with ``_`` between.
    """

    members: Annotated[str, Meta(min_length=1)]
    reader: Csv | Mtx | H5 | H5ad

    def __post_init__(self) -> None:
        compiled(self.members)


class Tar(_Archive, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tar"):
    """A tar archive, such as ``GSE84133_RAW.tar``; also with gzip."""


class Zip(_Archive, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="zip"):
    """A zip archive, as ArrayExpress has them."""


class Annotation(_Layout, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="annotation"):
    r"""A table of text that describes the cells of the study's other files; those that it lacks are left out.

    The column ``cell`` names the cells, by default the first; ``obs`` says what comes from which column. ``skip`` lines
    come before the header, and ``units`` lines after it that describe no cell. ``rename`` turns names of cells into
    those of the other files: regular expressions and what takes their place, in order.
    """

    obs: Columns
    cell: str = ""
    delimiter: Delimiter = "\t"
    skip: Annotated[int, Meta(ge=0, le=1000)] = 0
    units: Annotated[int, Meta(ge=0, le=10)] = 0
    rename: dict[str, str] = {}

    def __post_init__(self) -> None:
        for pattern in self.rename:
            compiled(pattern)


class SeriesMatrix(_Layout, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="series_matrix"):
    """The series matrix of GEO, where every cell is a sample; cells that it lacks are left out.

    ``obs`` says what comes from which of the characteristics, such as ``cell subtype``, or which other line of the
    samples, such as ``!Sample_source_name_ch1``. ``cell`` is the line that names the cells, and ``rename`` is as
    :class:`Annotation` has it.
    """

    obs: Columns
    cell: str = "!Sample_title"
    rename: dict[str, str] = {}

    def __post_init__(self) -> None:
        for pattern in self.rename:
            compiled(pattern)


class Part(_Layout, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="part"):
    """A file that is read with another: barcodes or genes of a matrix, or a table of genes."""


CellReader = Csv | Mtx | H5 | H5ad
Reader = Csv | Mtx | H5 | H5ad | Tar | Zip | Annotation | SeriesMatrix | Part


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a study: its name, where it is, how large it is and its hash, once known, and how it is laid out."""

    name: FileName
    url: Annotated[str, Meta(pattern=r"\A(https?|ftp)://\S+\Z", max_length=2000)]
    reader: Reader
    size: Size | None = None
    sha256: Sha256 | None = None

    def __post_init__(self) -> None:
        check_file_name("name", self.name)
        plain = self.name.lower().removesuffix(".gz")
        for endings, remedy in UNREADABLE.items():
            if plain.endswith(endings):
                msg = f"{self.name} cannot be read here; convert it to .h5ad {remedy}, and name that file"
                raise ValueError(msg)
        if self.url.startswith("ftp://"):
            msg = f"{self.url} is an FTP address; GEO and EBI have the same files at https://{self.url[6:]}"
            raise ValueError(msg)


def compiled(pattern: str) -> re.Pattern[str]:
    """Return a regular expression of a recipe.

    RE2 takes time linear in the text for any expression, so that none of a stranger can hang a build.

    Raises
    ------
    ValueError
        When the text is no regular expression of RE2, which has no lookaround and no backreferences.
    """
    try:
        return _compiled(pattern)
    except _ERRORS as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error
        msg = f"{pattern!r} is no regular expression of RE2: {reason}"
        raise ValueError(msg) from None


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    if re2 is None:
        return re.compile(pattern)
    options = re2.Options()
    options.log_errors = False
    found: re.Pattern[str] = re2.compile(pattern, options)
    return found
