"""Matrices of Cell Ranger are read with their lists of genes and barcodes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.errors import DataError
from spikgpt_recipes.layouts import Mtx
from spikgpt_recipes.readers.bounded import BoundedFile
from spikgpt_recipes.readers.mtx import read_mtx
from tests.spikgpt_recipes.study_files import packed, triplets, values


def read(contents: dict[str, bytes], folder: Path, size: int = 100, **layout: Any) -> list[Any]:
    for name, content in contents.items():
        (folder / f"H1_{name}").write_bytes(content)
    beside = {path.name: BoundedFile.from_path(path) for path in folder.iterdir()}
    matrix = next(item for name, item in beside.items() if "matrix" in name)
    return list(read_mtx(matrix, Mtx(**layout), beside, size))


def matrix(*lines: str) -> bytes:
    return packed("\n".join(["%%MatrixMarket matrix coordinate real general", "%", *lines, ""]).encode())


@pytest.mark.parametrize("plain", [True, False])
def test_a_sample_is_read_in_parts(cells: AnnData, plain: bool, tmp_path: Path) -> None:
    contents = triplets(cells, genes="features.tsv.gz")
    if plain:
        contents = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in contents.items()}
    parts = read(contents, tmp_path, 7)
    np.testing.assert_array_equal(np.vstack([part.values.toarray() for part in parts]), values(cells))
    assert [name for part in parts for name in part.names] == [f"AAAC{index}-1" for index in range(cells.n_obs)]
    assert list(parts[0].var["gene_symbol"]) == list(cells.var_names)
    assert list(parts[0].var.index[:2]) == ["ENSG00000000000", "ENSG00000000001"]


def test_empty_droplets_are_excluded(cells: AnnData, tmp_path: Path) -> None:
    contents = triplets(cells) | {"matrix.mtx.gz": matrix("60 40 2", "1 3 5", "2 7 1")}
    parts = read(contents, tmp_path, 1, features="genes.tsv")
    assert [part.names for part in parts] == [["AAAC2-1"], ["AAAC6-1"]]
    assert [part.values.sum() for part in parts] == [5, 1]


def test_proteins_are_excluded(cells: AnnData, tmp_path: Path) -> None:
    (part,) = read(triplets(cells, types=True), tmp_path, features="genes.tsv")
    np.testing.assert_array_equal(part.values.toarray(), values(cells)[:, :-1])
    assert list(part.var["gene_symbol"]) == list(cells.var_names[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"barcodes.tsv.gz": packed(b"one\ntwo\n")},
            "has 60 genes and 40 cells; its lists have 60 and 2",
        ),
        ({"matrix.mtx.gz": matrix("60 40 1", "1 1 -1")}, r"holds -1; expected counts\. Check the recipe's values"),
        ({"matrix.mtx.gz": matrix("60 40 1", "1 1 0.5")}, r"holds 0\.5; expected counts"),
        ({"matrix.mtx.gz": matrix("60 40 1", "1 1 nan")}, r"holds nan; expected counts"),
        ({"matrix.mtx.gz": matrix("60 40 2", "1 1 1", "1 x 1")}, r"matrix\.mtx\.gz cannot be read: Line 5: "),
        ({"matrix.mtx.gz": matrix("60 40 1", "61 1 1")}, r"matrix\.mtx\.gz cannot be read: Line 4: Row index out of"),
        ({"matrix.mtx.gz": matrix("60 40 2", "1 1 1")}, r"matrix\.mtx\.gz cannot be read: Truncated file"),
        ({"matrix.mtx.gz": matrix("60 40 9999999999", "1 1 1")}, r"states '60 40 9999999999'; expected genes, cells"),
        ({"matrix.mtx.gz": b"<html>"}, r"has 6 bytes and states '<html>'; expected genes, cells and values"),
    ],
)
def test_inconsistent_matrices_are_refused(
    change: dict[str, bytes], message: str, cells: AnnData, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read(triplets(cells) | change, tmp_path, features="genes.tsv")


def test_a_missing_list_is_named(cells: AnnData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"H1_features\.tsv is not beside .*; there is H1_barcodes\.tsv\.gz, H1_genes"):
        read(triplets(cells), tmp_path)
    with pytest.raises(DataError, match=r"H1_matrix\.mtx\.gz does not end with counts\.mtx; name the ending"):
        read(triplets(cells), tmp_path, matrix="counts.mtx")
