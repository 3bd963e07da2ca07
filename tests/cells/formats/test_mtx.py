"""Matrix Market files with lists of cells and genes, in the layouts of several programs and of GEO."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import align
from spikgpt.cells.expression import find_expression
from spikgpt.cells.formats.notes import reading_notes
from spikgpt.cells.genes import GeneList, ensembl_ids_of, genes_of
from spikgpt.cells.reading import read_cells
from spikgpt.errors import DataError
from tests.cells.conftest import assert_identical

Write = Callable[[AnnData, Path], Path | None]


def put(path: Path, content: str | bytes) -> None:
    """Write a file, compressed with gzip if the name ends with .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def put_matrix(path: Path, matrix: sparse.spmatrix) -> None:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    plain.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.mmwrite(plain, sparse.coo_matrix(matrix.astype(np.int32)))
    if plain != path:
        put(path, plain.read_bytes())
        plain.unlink()


def put_set(
    cells: AnnData, folder: Path, matrix: str, barcodes: str, genes: str, *, columns: int = 3, by_cell: bool = False
) -> None:
    """Write a matrix, its barcodes and its genes under the given file names; the gene list has 1 to 3 columns."""
    put_matrix(folder / matrix, cells.X if by_cell else cells.X.T)
    put(folder / barcodes, "".join(f"{name}\n" for name in cells.obs_names))
    ids = ensembl_ids_of(cells.var_names)
    parts = [(gene_id, name, "Gene Expression") for gene_id, name in zip(ids, cells.var_names, strict=True)]
    lines = ["\t".join(map(str, part[1:2] if columns == 1 else part[:columns])) for part in parts]
    put(folder / genes, "".join(f"{line}\n" for line in lines))


def named(
    matrix: str, barcodes: str, genes: str, *, given: str = "", columns: int = 3, by_cell: bool = False
) -> Callable[[AnnData, Path], Path]:
    """Return a function that writes the three files and returns the path to open: ``given``, or the folder if empty."""

    def write(cells: AnnData, folder: Path) -> Path:
        put_set(cells, folder, matrix, barcodes, genes, columns=columns, by_cell=by_cell)
        return folder / given

    return write


def write_kallisto(cells: AnnData, folder: Path) -> Path:
    put_set(cells, folder, "cells_x_genes.mtx", "cells_x_genes.barcodes.txt", "a", columns=1, by_cell=True)
    (folder / "a").unlink()
    put(folder / "cells_x_genes.genes.txt", "".join(f"{gene_id}.5\n" for gene_id in ensembl_ids_of(cells.var_names)))
    put(folder / "cells_x_genes.genes.names.txt", "".join(f"{name}\n" for name in cells.var_names))
    return folder


def write_fry(cells: AnnData, folder: Path) -> Path:
    """Write counts as alevin-fry does, with columns for spliced, unspliced and ambiguous counts of each gene."""
    third = sparse.csr_matrix(cells.X.multiply(np.arange(cells.n_vars) % 3 == 0))
    put_matrix(folder / "quants_mat.mtx", sparse.hstack([cells.X - third, cells.X, third]))
    put(folder / "quants_mat_rows.txt", "".join(f"{name}\n" for name in cells.obs_names))
    names = [f"{name}{suffix}" for suffix in ("", "-U", "-A") for name in cells.var_names]
    put(folder / "quants_mat_cols.txt", "".join(f"{name}\n" for name in names))
    return folder


def write_starsolo(cells: AnnData, folder: Path) -> Path:
    for part in ("Gene/filtered", "Gene/raw", "Velocyto/filtered", "SJ/raw"):
        put_set(cells, folder / "Solo.out" / part, "matrix.mtx", "barcodes.tsv", "features.tsv")
    put_matrix(folder / "Solo.out" / "Gene" / "filtered" / "UniqueAndMult-EM.mtx", cells.X.T)
    return folder


def write_outs(cells: AnnData, folder: Path) -> Path:
    for part in ("raw_feature_bc_matrix", "filtered_feature_bc_matrix"):
        put_set(cells, folder / "outs" / part, "matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz")
    return folder / "outs"


def write_several(cells: AnnData, folder: Path) -> Path:
    """Write two samples of a study into one folder, and return the path of one sample's matrix."""
    put_set(cells, folder, "GSM2_b_matrix.mtx.gz", "GSM2_b_barcodes.tsv.gz", "GSM2_b_features.tsv.gz")
    put_set(cells[:9], folder, "GSM1_a_matrix.mtx.gz", "GSM1_a_barcodes.tsv.gz", "GSM1_a_features.tsv.gz")
    return folder / "GSM2_b_matrix.mtx.gz"


def write_csv_lists(cells: AnnData, folder: Path) -> Path:
    """Write the lists of cells and genes as R's write.csv does, with a header, quotes and line numbers."""
    put_matrix(folder / "counts.mtx", cells.X.T)
    for name, texts in (("barcodes.csv", cells.obs_names), ("genes.csv", cells.var_names)):
        pd.DataFrame({"x": list(texts)}, index=range(1, len(texts) + 1)).to_csv(folder / name, quoting=2)
    return folder


def write_parse(cells: AnnData, folder: Path) -> Path:
    """Write a matrix, shape (cells, genes), and tables with headers, as the software of Parse Biosciences does."""
    put_matrix(folder / "count_matrix.mtx", cells.X)
    genes = {"gene_id": ensembl_ids_of(cells.var_names), "gene_name": list(cells.var_names), "genome": "hg38"}
    pd.DataFrame(genes).to_csv(folder / "all_genes.csv", index=False)
    pd.DataFrame({"bc_wells": list(cells.obs_names), "sample": "s1"}).to_csv(folder / "cell_metadata.csv", index=False)
    return folder


LAYOUTS: dict[str, Callable[[AnnData, Path], Path]] = {
    "Cell Ranger 3": named("matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"),
    "Cell Ranger 3, unpacked": named("matrix.mtx", "barcodes.tsv", "features.tsv"),
    "Cell Ranger 2": named("matrix.mtx", "barcodes.tsv", "genes.tsv", columns=2),
    "one column of genes": named("matrix.mtx", "barcodes.tsv", "features.tsv", columns=1),
    "the matrix itself": named("matrix.mtx", "barcodes.tsv", "genes.tsv", given="matrix.mtx"),
    "partly packed": named("matrix.mtx.gz", "barcodes.tsv", "features.tsv.gz"),
    "GEO": named("GSM1_x_matrix.mtx.gz", "GSM1_x_barcodes.tsv.gz", "GSM1_x_genes.tsv.gz", columns=2),
    "GEO, words last": named("GSM1_matrix_x.mtx.gz", "GSM1_barcodes_x.tsv.gz", "GSM1_features_x.tsv.gz"),
    "GEO, other names": named("GSM1_counts.mtx", "GSM1_cells.txt", "GSM1_gene_names.txt", columns=1),
    "cells in rows": named("counts.mtx", "cells.tsv", "genes.tsv", by_cell=True),
    "kallisto": write_kallisto,
    "alevin-fry": write_fry,
    "Parse Biosciences": write_parse,
    "STARsolo's folder": write_starsolo,
    "Cell Ranger's outs": write_outs,
    "one of several": write_several,
    "lists by R": write_csv_lists,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read_to_the_bit(layout: str, real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    cells = real[:20].copy()
    loaded = read_cells(LAYOUTS[layout](cells, tmp_path))
    assert loaded.obs_names.tolist() == cells.obs_names.tolist()
    assert_identical(align(find_expression(loaded), genes), align(find_expression(cells), genes))
    assert len(reading_notes(loaded)) == (layout in ("alevin-fry", "STARsolo's folder", "Cell Ranger's outs"))


def test_genes_are_named_as_scanpy_names_them(real: AnnData, tmp_path: Path) -> None:
    loaded = read_cells(LAYOUTS["Cell Ranger 3"](real[:5].copy(), tmp_path))
    assert loaded.var_names.tolist() == real.var_names.tolist()
    assert loaded.var["gene_ids"].tolist() == ensembl_ids_of(real.var_names)
    assert set(loaded.var["feature_types"]) == {"Gene Expression"}


def only(name: str) -> Write:
    def write(cells: AnnData, folder: Path) -> None:
        for path in list(folder.iterdir()):
            if name not in path.name:
                path.unlink()

    return write


def rewritten(name: str, text: str) -> Write:
    def write(cells: AnnData, folder: Path) -> None:
        put(folder / name, text)

    return write


HEAD = "%%MatrixMarket matrix coordinate integer general\n"
REFUSED: dict[str, tuple[Write, str]] = {
    "no lists": (only("matrix"), r"has no list of cells and none of genes beside it; put barcodes\.tsv"),
    "no genes": (lambda cells, folder: (folder / "genes.tsv").unlink(), "has no list of genes beside it"),
    "another list": (
        rewritten("genes.tsv", "INS\nGCG\n"),
        r"has 1200 rows and 20 columns; the lists beside it .*: genes\.tsv 2, barcodes\.tsv 20",
    ),
    "no Matrix Market": (rewritten("matrix.mtx", "gene,cell\n1,2\n"), "begins with 'gene,cell'; expected the line"),
    "dense": (
        rewritten("matrix.mtx", "%%MatrixMarket matrix array real general\n1 1\n1\n"),
        "is of the kind 'matrix array real general'; expected matrix coordinate",
    ),
    "too many stated": (rewritten("matrix.mtx", f"{HEAD}1200 20 99999999\n1 1 1\n"), "states '1200 20 99999999'"),
    "fewer than stated": (
        rewritten("matrix.mtx", f"{HEAD}1200 20 9\n1 1 1\n" + "%" * 99),
        "cannot be read: .*Copy or download",
    ),
    "beyond the shape": (rewritten("matrix.mtx", f"{HEAD}1200 20 1\n1201 1 1\n"), "cannot be read"),
    "no numbers": (rewritten("matrix.mtx", f"{HEAD}1200 20 1\na b c\n"), "cannot be read"),
    "empty": (rewritten("matrix.mtx", ""), "is empty: copy or download it again"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_inconsistent_files_are_refused(damage: str, real: AnnData, tmp_path: Path) -> None:
    LAYOUTS["Cell Ranger 2"](real[:20].copy(), tmp_path)
    change, match = REFUSED[damage]
    change(real, tmp_path)
    with pytest.raises(DataError, match=match) as caught:
        read_cells(tmp_path / "matrix.mtx")
    assert "\n" not in str(caught.value)
    assert "write_h5ad" not in str(caught.value)


def test_the_error_on_several_matrices_names_all_of_them(real: AnnData, tmp_path: Path) -> None:
    write_several(real[:20].copy(), tmp_path)
    with pytest.raises(DataError, match=r"holds 2 matrices: GSM1_a_matrix\.mtx\.gz, GSM2_b_matrix\.mtx\.gz\. Give the"):
        read_cells(tmp_path)


def test_genes_of_a_loaded_matrix_are_those_of_the_cells(real: AnnData, tmp_path: Path) -> None:
    loaded = read_cells(LAYOUTS["kallisto"](real[:5].copy(), tmp_path))
    assert genes_of(loaded.var) == genes_of(real.var)
