"""Describe files of unsupported formats, with a remedy for each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spikgpt.errors import listed

UNPACK = "unpack it, and give the file or the folder that was in it"
IN_R = 'zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment(readRDS("{name}")), "cells.h5ad")'
IN_R_DATA = 'load("{name}"), and zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment(OBJECT), "cells.h5ad")'
TO_CSV = 'pandas.read_{what}("{name}").to_csv("cells.csv")'
COUNT = "count them first, for example with Cell Ranger, STARsolo or kallisto"
AGAIN = "download the file itself again"

# First bytes of a file after unpacking gzip, with the format and the remedy.
BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, which stands for the file: run git lfs pull"),
    (b"\x1f\x8b", f"is packed twice with gzip: {UNPACK}"),
    (b"PAR1", f"is a Parquet file: write it as a table, with {TO_CSV.format(what='parquet', name='{name}')}"),
    (b"ARROW1", f"is a Feather file: write it as a table, with {TO_CSV.format(what='feather', name='{name}')}"),
    (b"FEA1", f"is a Feather file: write it as a table, with {TO_CSV.format(what='feather', name='{name}')}"),
    (b"\x93NUMPY", "is a NumPy array, which names no genes: make an AnnData with names of cells and genes of it"),
    (b"X\n\x00\x00", f"is an R object: convert it in R, with {IN_R}"),
    (b"A\n2\n", f"is an R object: convert it in R, with {IN_R}"),
    (b"A\n3\n", f"is an R object: convert it in R, with {IN_R}"),
    (b"RDX2\n", f"is R data: convert it in R, with {IN_R_DATA}"),
    (b"RDX3\n", f"is R data: convert it in R, with {IN_R_DATA}"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook: save its sheet as CSV, and check that no gene became a date"),
    (b"BZh", f"is packed with bzip2: {UNPACK}"),
    (b"\xfd7zXZ\x00", f"is packed with xz: {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"is packed with zstd: {UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7z archive: {UNPACK}"),
    (b"Rar!", f"is a RAR archive: {UNPACK}"),
    (b"%PDF", "is a PDF: give the file with the counts"),
    (b"BAM\x01", f"holds aligned reads (BAM): {COUNT}"),
    (b"CRAM", f"holds aligned reads (CRAM): {COUNT}"),
    (b"NCBI.sra", f"holds reads (SRA): {COUNT}"),
    (b"SQLite format 3", "is an SQLite database: write its counts as a table"),
)
PICKLE = "is a Python pickle, which can run any code when it is read: if you trust it, load it and write an .h5ad file"
# Ending of a file name, with the format and the remedy, for formats without distinct first bytes.
ENDINGS = {
    **dict.fromkeys((".rds",), f"is an R object: convert it in R, with {IN_R}"),
    **dict.fromkeys((".rdata", ".rda"), f"is R data: convert it in R, with {IN_R_DATA}"),
    ".qs": 'is an R object of the package qs: convert it in R, with saveRDS(qs::qread("{name}"), "cells.rds") first',
    **dict.fromkeys((".fastq", ".fq", ".fasta", ".fa"), f"holds sequences: {COUNT}"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), PICKLE),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), "holds the weights of a network: give a file of cells"),
}
# Start of a web or cloud address.
ADDRESS = re.compile(r"(https?|ftp|s3|gs|hf|file):/", re.IGNORECASE)


def refusal(path: Path, head: bytes) -> str | None:
    """Return a phrase with the format of an unsupported file and the remedy; None for a table or an unknown format.

    Parameters
    ----------
    head
        First bytes of the file after unpacking gzip.
    """
    for kind in (_by_beginning, _archive, _markup, _by_ending):
        if sentence := kind(path, head):
            return sentence.format(name=path.as_posix())
    return None


def other_store(root: Any, path: object) -> str | None:
    """Return a phrase with the format of a store that is neither AnnData nor 10x, and the remedy; None if unknown.

    Parameters
    ----------
    path
        Name of the store in the phrase.
    """
    names = set(root)
    if "mod" in names and not {"X", "raw"} & names:
        modalities = sorted(root["mod"])
        rna = next((name for name in modalities if name.lower() in ("rna", "gex")), "rna")
        return (
            f"is a MuData file with the modalities {listed(modalities)}. Write one of them as a file of its own: "
            f'mudata.read("{path}").mod["{rna}"].write_h5ad("{rna}.h5ad")'
        )
    if {"row_attrs", "col_attrs"} <= names:
        return (
            "is a loom file. Install loompy, and write the file as h5ad: "
            f'anndata.io.read_loom("{path}").write_h5ad("cells.h5ad")'
        )
    if "assays" in names and {"meta.data", "cell.names"} & names:
        return f'is an h5Seurat file. Convert it in R: SeuratDisk::Convert("{path}", dest = "h5ad")'
    if {"barcode_idx", "molecule_info"} & names and "matrix" not in names:
        return "is a 10x molecule file. Give filtered_feature_bc_matrix.h5 of the same run"
    if "spatialdata_attrs" in root.attrs or {"tables", "shapes"} <= names:
        tables = listed(sorted(root["tables"])) if "tables" in names else "none"
        return f"is a SpatialData store. Give one of its tables, such as {path}/tables/NAME; it has {tables}"
    if "PYTABLES_FORMAT_VERSION" in root.attrs:
        return (
            f'is a pandas table. Write it as CSV: pandas.read_hdf("{path}", "{min(names, default="")}").to_csv("c.csv")'
        )
    return None


def absent(path: Path) -> str:
    """Return the phrase that tells the user why there is no file at ``path``."""
    if ADDRESS.match(str(path)):
        return "is an address: download the file, and give its path"
    if str(path).startswith("~"):
        return "begins with ~, which only a shell expands: give the whole path"
    return "is not there"


def is_text(head: bytes) -> bool:
    """Return True if the first bytes of a file may be text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    return b"\x00" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) == 0


def _by_beginning(path: Path, head: bytes) -> str | None:
    if not head:
        return "is empty: copy or download it again"
    if not head.strip(b"\x00"):
        return "begins with zero bytes alone: copy or download it again"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    return next((sentence for begin, sentence in BEGINNINGS if head.startswith(begin)), None)


def _archive(path: Path, head: bytes) -> str | None:
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it with tar -xf {name}, and give the file or the folder that was in it"
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None
    if path.suffix.lower() in (".xlsx", ".xlsm") or b"[Content_Types].xml" in head or b"xl/" in head[:2000]:
        return "is an Excel workbook: save its sheet as CSV, and check that no gene became a date"
    if path.suffix.lower() == ".npz" or b".npy" in head[:200]:
        return "is a NumPy archive, which names no genes: make an AnnData with names of cells and genes of it"
    if b"data.pkl" in head[:200]:
        return ENDINGS[".pt"]
    return f"is a zip archive: {UNPACK}"


def _markup(path: Path, head: bytes) -> str | None:
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if begin.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return f"is a web page, such as a login or an error page: {AGAIN}"
    if begin.startswith((b"<?xml", b"<error")):
        return f"is XML, such as a server's error message: {AGAIN}"
    if begin.startswith((b"{", b"[")):
        return "is JSON: give the file with the counts"
    return None


def _by_ending(path: Path, head: bytes) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return ENDINGS.get(suffixes[-1]) if suffixes else None
