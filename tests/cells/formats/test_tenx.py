"""The .h5 files of Cell Ranger, of both versions of the format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import align
from spikgpt.cells.expression import find_expression
from spikgpt.cells.formats.notes import reading_notes
from spikgpt.cells.formats.tenx import is_tenx, read_tenx
from spikgpt.cells.genes import GeneList, ensembl_ids_of
from spikgpt.cells.matrices import MatrixOnDisk
from spikgpt.cells.reading import open_cells, read_cells
from spikgpt.errors import DataError
from tests.cells.conftest import assert_identical


def put_group(file: h5py.File, name: str, cells: AnnData) -> h5py.Group:
    group = file.create_group(name)
    counts = sparse.csr_matrix(cells.X).astype(np.int32)
    for key, values in (("data", counts.data), ("indices", counts.indices), ("indptr", counts.indptr)):
        group[key] = values
    group["shape"] = cells.shape[::-1]
    group["barcodes"] = cells.obs_names.to_numpy().astype("S")
    return group


def write_3(cells: AnnData, path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = put_group(file, "matrix", cells)
        ids = ensembl_ids_of(cells.var_names)
        for key, texts in (("id", ids), ("name", cells.var_names), ("genome", ["GRCh38"] * len(ids))):
            group[f"features/{key}"] = np.array(list(texts), dtype="S")
        group["features/feature_type"] = np.array(["Gene Expression"] * len(ids), dtype="S")
        group["features/_all_tag_keys"] = np.array(["genome"], dtype="S")


def write_2(cells: AnnData, path: Path, *genomes: str) -> None:
    with h5py.File(path, "w") as file:
        for genome in genomes or ("hg19",):
            group = put_group(file, genome, cells)
            group["gene_names"] = cells.var_names.to_numpy().astype("S")
            group["genes"] = np.array(ensembl_ids_of(cells.var_names), dtype="S")


def write_cellbender(cells: AnnData, path: Path) -> None:
    write_3(cells, path)
    with h5py.File(path, "r+") as file:
        file["metadata/barcodes_analyzed"] = np.arange(3)
        file["droplet_latents/cell_probability"] = np.ones(3)


def write_two_genomes(cells: AnnData, path: Path) -> None:
    write_2(cells, path, "hg19", "mm10")


WRITERS: dict[str, Callable[[AnnData, Path], None]] = {
    "version 3": write_3,
    "version 2": write_2,
    "CellBender": write_cellbender,
    "two genomes": write_two_genomes,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_files_are_read_to_the_bit(writer: str, real: AnnData, genes: GeneList, tmp_path: Path) -> None:
    cells = real[:20].copy()
    WRITERS[writer](cells, tmp_path / "a.h5")
    with open_cells(tmp_path / "a.h5") as opened:
        assert opened.obs_names.tolist() == cells.obs_names.tolist()
        assert opened.var["gene_ids"].tolist() == ensembl_ids_of(cells.var_names)
        assert_identical(align(find_expression(opened), genes), align(find_expression(cells), genes))
        expected = ["The file holds several genomes. hg19 was read, mm10 was left out."] * (writer == "two genomes")
        assert list(reading_notes(opened)) == expected


def test_several_genomes_without_a_human_genome_are_refused(real: AnnData, tmp_path: Path) -> None:
    write_2(real[:9].copy(), tmp_path / "a.h5", "mm10", "rn6")
    with pytest.raises(DataError, match=r"a\.h5 holds the genomes mm10, rn6; expected one human genome"):
        read_tenx(tmp_path / "a.h5", tmp_path / "a.h5")


def longer_lists(group: h5py.Group) -> None:
    del group["barcodes"]
    group["barcodes"] = np.array(["a"] * 99, dtype="S")


DAMAGES: dict[str, tuple[Callable[[h5py.Group], object], str]] = {
    "columns too large": (
        lambda group: group["indices"].write_direct(np.full(1, 10**6, np.int32), dest_sel=0),
        "X holds",
    ),
    "starts out of order": (
        lambda group: group["indptr"].write_direct(np.array([99]), dest_sel=0),
        "cannot be read: index pointer",
    ),
    "other lists": (longer_lists, "cannot be read"),
    "no names": (lambda group: group.__delitem__("features/name"), "cannot be read"),
    "another shape": (
        lambda group: group["shape"].write_direct(np.array([7, 7])),
        "index pointer size 10 should be 8",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damage: str, real: AnnData, tmp_path: Path) -> None:
    write_3(real[:9].copy(), tmp_path / "a.h5")
    change, match = DAMAGES[damage]
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        assert is_tenx(file)
        change(file["matrix"])
    with pytest.raises(DataError, match=match) as caught:
        read_cells(tmp_path / "a.h5")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"a\.h5|X holds") as caught, open_cells(tmp_path / "a.h5") as cells:
        find_expression(cells)
    assert "\n" not in str(caught.value)


def test_the_counts_stay_on_disk(real: AnnData, tmp_path: Path) -> None:
    write_3(real[:9].copy(), tmp_path / "a.h5")
    with open_cells(tmp_path / "a.h5") as cells:
        assert isinstance(find_expression(cells).matrix, MatrixOnDisk)
