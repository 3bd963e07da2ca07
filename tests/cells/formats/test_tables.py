"""Tables of text, as GEO, R, pandas and spreadsheets write them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt.cells.align import align
from spikgpt.cells.expression import find_expression
from spikgpt.cells.formats.notes import reading_notes
from spikgpt.cells.genes import GeneList, ensembl_ids_of
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import DataError
from tests.cells.conftest import assert_identical

Frame = pd.DataFrame


def with_obs(frame: Frame, **columns: object) -> Frame:
    return pd.concat([pd.DataFrame(columns, index=frame.index), frame], axis=1)


def described(frame: Frame) -> Frame:
    types = ["alpha" if row % 2 else "beta, young" for row in range(len(frame))]
    return with_obs(frame, assigned_cluster=types, nCount_RNA=np.arange(len(frame)) + 0.5)


def with_missing(frame: Frame) -> Frame:
    table = frame.astype(object)
    for row, column in zip(*np.nonzero(frame.to_numpy()[:, :300] == 0), strict=True):
        if (row + column) % 50 == 0:
            table.iat[row, column] = "NA"
    return table


def of_ids(frame: Frame) -> Frame:
    """Return the table with genes in rows, named by Ensembl id, and columns of symbols and genomic positions."""
    table = frame.T
    described = {"gene_name": frame.columns, "chr": "chr1", "start": range(len(table)), "length": 1000}
    table = with_obs(table, **described)
    table.index = pd.Index(ensembl_ids_of(frame.columns), name="gene_id")
    return table


def by_r(frame: Frame) -> str:
    """Return the text that R's write.table writes: quoted names, spaces, and no header for the row names."""
    head = " ".join(f'"{name}"' for name in frame.columns)
    return "\n".join([head, *(f'"{row.name}" ' + " ".join(map(str, row)) for _, row in frame.iterrows())]) + "\n"


def two_headers(frame: Frame) -> str:
    """Return the text of a table with gene ids in the first line and gene symbols in the second line."""
    head, *lines = frame.set_axis(pd.Index(ensembl_ids_of(frame.columns)), axis=1).to_csv().splitlines()
    return "\n".join([head, ",".join(["symbol", *frame.columns]), *lines]) + "\n"


def types_above(frame: Frame) -> str:
    """Return the text of a table with genes in rows, and the cell types in the second line."""
    head, *lines = frame.T.to_csv(sep="\t").splitlines()
    return "\n".join([head, "\t".join(["cell_type", *["beta"] * len(frame)]), *lines]) + "\n"


def counted(frame: Frame) -> str:
    """Return the text of a table with genes in rows, and the additional lines of HTSeq and featureCounts."""
    lines = frame.T.to_csv(sep="\t").splitlines()
    lost = [f"__{name}\t" + "\t".join(["1000"] * len(frame)) for name in ("no_feature", "ambiguous")]
    return "\n".join(["# Program:featureCounts v2.0.1", *lines, *lost]) + "\n"


def series_matrix(frame: Frame) -> str:
    body = frame.T.to_csv(sep="\t", index_label="ID_REF", quoting=2)
    return f'!Series_title\t"A study"\n!series_matrix_table_begin\n{body}!series_matrix_table_end\n'


def gct(frame: Frame) -> str:
    table = with_obs(frame.T, Description="na")
    return f"#1.2\n{frame.shape[1]}\t{frame.shape[0]}\n" + table.to_csv(sep="\t", index_label="Name")


def decimals(frame: Frame) -> str:
    return frame.astype(float).to_csv(sep=";", decimal=",", float_format="%.2f")


# For each layout: a function that writes counts as the text of a table, a file name, and the expected notes.
TABLES: dict[str, tuple[Callable[[Frame], str], str, list[str]]] = {
    "plain": (lambda frame: frame.to_csv(), "a.csv", []),
    "tabs": (lambda frame: frame.to_csv(sep="\t"), "a.tsv", []),
    "semicolons": (lambda frame: frame.to_csv(sep=";"), "a.csv", []),
    "a name of its own": (lambda frame: frame.to_csv(sep="\t"), "GSM1_counts.dge", []),
    "all quoted": (lambda frame: frame.to_csv(quoting=1), "a.csv", []),
    "spaces, by R": (by_r, "a.txt", []),
    "Windows": (lambda frame: frame.to_csv(lineterminator="\r\n"), "a.csv", []),
    "a mark, and Excel's line": (lambda frame: "\ufeffsep=;\r\n" + frame.to_csv(sep=";"), "a.csv", []),
    "a delimiter at the end": (lambda frame: re.sub(r"\n", ",\n", frame.to_csv()), "a.csv", []),
    "packed": (lambda frame: frame.to_csv(), "a.csv.gz", []),
    "decimal commas": (decimals, "a.csv", []),
    "comments": (lambda frame: f"# a comment\n#another\n{frame.to_csv()}", "a.csv", []),
    "a header behind #": (lambda frame: f"#{frame.to_csv(sep=chr(9), index_label='cell')}", "a.tab", []),
    "described": (lambda frame: described(frame).to_csv(), "a.csv", ["assigned_cluster", "nCount_RNA"]),
    "missing": (lambda frame: with_missing(frame).to_csv(), "a.csv", ["read as 0, the first of"]),
    "two headers": (two_headers, "a.csv", ["read as descriptions: 1."]),
    "genes in rows": (lambda frame: frame.T.to_csv(), "a.csv", ["transposed"]),
    "ids and symbols in rows": (lambda frame: of_ids(frame).to_csv(), "a.csv", ["transposed", "start, length"]),
    "types above": (
        types_above,
        "a.tsv.gz",
        ["read as descriptions: 1.", "transposed"],
    ),
    "counted": (counted, "a.txt", ["transposed", "__no_feature, __ambiguous"]),
    "a series matrix": (series_matrix, "GSE1_series_matrix.txt.gz", ["transposed"]),
    "GCT": (gct, "a.gct", ["transposed"]),
}


@pytest.mark.parametrize("layout", TABLES)
def test_layouts_are_read_to_the_bit(layout: str, real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    cells = real[:20].copy()
    write, name, notes = TABLES[layout]
    content = write(cells.to_df().astype(int)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    with open_cells(tmp_path / name) as opened:
        assert opened.obs_names.tolist() == cells.obs_names.tolist()
        assert_identical(align(find_expression(opened), genes), align(find_expression(cells), genes))
        read = reading_notes(opened)
        assert len(read) == len(notes)
        assert all(any(part in note for note in read) for part in notes)
        if layout == "described":
            assert opened.obs["assigned_cluster"].tolist()[:2] == ["beta, young", "alpha"]
            assert opened.obs["nCount_RNA"].tolist()[:2] == [0.5, 1.5]
        if layout == "types above":
            assert set(opened.obs["cell_type"]) == {"beta"}


def test_numbered_cells_and_repeated_genes_are_read(real: AnnData, tmp_path: Path) -> None:
    frame = real[:20].to_df().astype(int).reset_index(drop=True)
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "b.csv", index=False)
    frame.set_axis([*frame.columns[:-1], "INS"], axis=1).set_axis(range(5, 25)).to_csv(tmp_path / "c.csv")
    assert read_cells(tmp_path / "a.csv").obs_names.tolist() == [str(row) for row in range(20)]
    assert read_cells(tmp_path / "b.csv").shape == frame.shape
    assert read_cells(tmp_path / "c.csv").obs_names[0] == "5"


def test_genes_without_any_value_are_left_out(real: AnnData, tmp_path: Path) -> None:
    frame = real[:20].to_df()
    frame.iloc[:, 3] = np.nan
    frame.to_csv(tmp_path / "a.csv")
    opened = read_cells(tmp_path / "a.csv")
    assert opened.var_names.tolist() == [name for column, name in enumerate(real.var_names) if column != 3]
    assert "Genes without a value in any cell were left out: 1." in reading_notes(opened)


REFUSED: dict[str, tuple[Callable[[Frame], str], str]] = {
    "a word": (lambda frame: frame.to_csv().replace(",7,", ",seven,"), r"line \d+ \('.*'\), holds 'seven' for '"),
    "cut off": (
        lambda frame: frame.to_csv()[:-500],
        r"line \d+, has \d+ columns; expected 1201\. The file may be cut off",
    ),
    "long": (
        lambda frame: frame.melt(var_name="gene", value_name="n", ignore_index=False).to_csv(index_label="cell"),
        r"is a long table with one line for each cell and gene \(cell, gene, n\)",
    ),
    "words alone": (lambda frame: frame.astype(str).replace(r"\d+", "x", regex=True).to_csv(), "no column of numbers"),
    "cells described": (
        lambda frame: frame.iloc[:, :0].assign(donor=1, n_genes=range(len(frame))).to_csv(),
        r"describes cells \(donor, n_genes\) and has no column of a gene\. Give the counts instead",
    ),
    "one line": (lambda frame: frame.iloc[:0].to_csv(), "has 1 line; expected a header"),
    "another header": (lambda frame: "a,b,c\n" + frame.to_csv().split("\n", 1)[1], "begins with 'a,b,c'|has 3 columns"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_unsuitable_tables_are_refused(damage: str, real: AnnData, tmp_path: Path) -> None:
    write, match = REFUSED[damage]
    (tmp_path / "a.csv").write_text(write(real[:20].to_df().astype(int)))
    with pytest.raises(DataError, match=match) as caught:
        read_cells(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)
    assert "write_h5ad" not in str(caught.value)


@pytest.mark.parametrize(
    "titles", [("logfoldchanges", "pvals"), ("avg_log2FC", "p_val_adj"), ("log2FoldChange", "padj"), ("logFC", "FDR")]
)
def test_a_list_of_markers_is_refused(titles: tuple[str, str], real: AnnData, tmp_path: Path) -> None:
    rows = [(count // 30, real.var_names[count % 30], count / 7, count / 300) for count in range(300)]
    pd.DataFrame(rows, columns=["group", "names", *titles]).to_csv(tmp_path / "markers.csv")
    with pytest.raises(DataError, match=rf"markers\.csv is a table of differential expression \({', '.join(titles)}\)"):
        read_cells(tmp_path / "markers.csv")


def test_names_that_repeat_are_refused(real: AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("spikgpt.cells.formats.tables.CHECKED_LINES", 100)
    rows = [(real.var_names[count % 30], count, count + 1) for count in range(300)]
    pd.DataFrame(rows, columns=["names", "a", "b"]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=r"a\.csv repeats its names: 30 different ones \(column 'names'\)"):
        read_cells(tmp_path / "a.csv")
