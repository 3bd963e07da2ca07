"""Files without cells or in unsupported forms are refused in one sentence, with the kind of file and a remedy."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from spikgpt.cells.formats.unreadable import absent, is_text, refusal
from spikgpt.cells.reading import open_cells
from spikgpt.errors import DataError


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "cell,INS\na,1\n")
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("cells.csv"))
    return content.getvalue()


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    content = io.BytesIO()
    write(content)
    return content.getvalue()


def parquet() -> bytes:
    pytest.importorskip("pyarrow")
    return written(lambda file: pd.DataFrame({"INS": [1]}).to_parquet(file))


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "login.h5ad": (lambda: b"\n<!DOCTYPE html>\n<html><title>Log in</title>", "is a web page, such as a login"),
    "error.csv": (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is XML, such as a server"),
    "pointer.h5ad": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "a.csv": (lambda: json.dumps({"cells": []}).encode(), "is JSON"),
    "seurat.rds": (lambda: gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04"), r'writeH5AD\(.*readRDS\("seurat\.rds"\)'),
    "packed_by_xz.rds": (lambda: lzma.compress(b"X\n"), "is packed with xz"),
    "all.RData": (lambda: gzip.compress(b"RDX3\nX\n\x00\x00"), r'load\("all\.RData"\)'),
    "sheet.xlsx": (lambda: zipped("[Content_Types].xml", "xl/workbook.xml"), "Excel workbook: save its sheet as CSV"),
    "old.xls": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "Excel workbook"),
    "a.npz": (lambda: written(lambda file: np.savez(file, a=np.ones(3))), "is a NumPy archive, which names no genes"),
    "a.npy": (lambda: written(lambda file: np.save(file, np.ones(3))), "is a NumPy array, which names no genes"),
    "a.pkl": (lambda: pickle.dumps(np.ones(3)), "is a Python pickle, which can run any code"),
    "a.parquet": (parquet, r'pandas\.read_parquet\("a\.parquet"\)\.to_csv'),
    "a.tar": (tarred, "is a tar archive: unpack it with tar -xf a.tar"),
    "a.tar.gz": (lambda: gzip.compress(tarred()), "is a tar archive: unpack it with tar -xf a.tar.gz"),
    "a.zip": (lambda: zipped("cells.csv"), "is a zip archive: unpack it"),
    "twice.csv.gz": (lambda: gzip.compress(gzip.compress(b"cell,INS\na,1\n")), "is packed twice with gzip"),
    "reads.fastq.gz": (lambda: gzip.compress(b"@read\nACGT\n+\nFFFF\n"), "holds sequences: count them first"),
    "reads.bam": (lambda: gzip.compress(b"BAM\x01" + bytes(99)), "holds aligned reads"),
    "empty.h5ad": (lambda: b"", "is empty: copy or download it again"),
    "zeros.h5ad": (lambda: bytes(5000), "begins with zero bytes alone"),
    "text.h5ad": (lambda: b"cell,INS\na,1\n", r"is no HDF5 file, which every \.h5ad file is"),
    "noise.csv": (lambda: bytes(range(1, 256)) * 9, "is no HDF5 file"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_error_names_the_kind_of_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, match = FILES[name]
    (tmp_path / name).write_bytes(content())
    # The suggested command names the file by the path that the user gave.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=match) as caught, open_cells(name):
        pass
    assert "damaged" not in str(caught.value)
    assert "write_h5ad()" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("https://example.org/cells.h5ad", "is an address: download the file"),
        ("s3://bucket/cells.h5ad", "is an address: download the file"),
        ("~/cells.h5ad", "begins with ~"),
        ("none.h5ad", r"none\.h5ad is not there"),
    ],
)
def test_missing_files_and_addresses_are_refused(path: str, match: str) -> None:
    with pytest.raises(DataError, match=match), open_cells(path):
        pass
    assert absent(Path("none")) == "is not there"


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        (["matrix", "row_attrs", "col_attrs", "layers"], r'is a loom file.*anndata\.io\.read_loom\("a\.h5"\)'),
        (["assays", "cell.names", "reductions"], r"is an h5Seurat file\. Convert it in R"),
        (["barcodes", "barcode_idx", "umi", "features"], "is a 10x molecule file"),
        (["mod"], "is a MuData file"),
        (["matrix"], "is HDF5 but neither AnnData nor 10x: it has matrix and lacks obs, var"),
    ],
)
def test_other_hdf5_files_are_refused(
    groups: list[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        for name in groups:
            file.create_group(name)
    with pytest.raises(DataError, match=match), open_cells("a.h5"):
        pass


def test_a_table_is_not_refused() -> None:
    assert refusal(Path("a.csv"), b",INS,GCG\na,1,0\n") is None
    assert is_text("naïve,INS\n".encode("latin-1"))
    assert is_text("cell\tINS\n".encode("utf-16"))
    assert not is_text(b"\x89HDF\r\n\x1a\n")
