"""Cells, genes, values and annotations are read from every study layout, over HTTP."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.errors import DataError
from spikgpt_recipes.download import download
from spikgpt_recipes.layouts import StudyFile
from spikgpt_recipes.readers import study as readers
from spikgpt_recipes.readers.study import read_study
from tests.spikgpt_recipes import study_files
from tests.spikgpt_recipes.file_server import FileServer
from tests.spikgpt_recipes.study_files import LAYOUTS, READERS, values


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHUNK", 7)


def files_of(described: dict[str, dict[str, Any]], address: str = "https://example.org") -> list[StudyFile]:
    rows = [{"name": name, "url": f"{address}/{name}", "reader": layout} for name, layout in described.items()]
    return msgspec.convert(rows, list[StudyFile])


def whole(parts: Sequence[AnnData]) -> AnnData:
    """Return the cells of all parts; check the size and format of each part."""
    for part in parts:
        assert part.n_obs <= readers.CHUNK
        assert (part.X.format, part.X.dtype) == ("csr", np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeated gene names
        joined = AnnData(sparse.vstack([part.X for part in parts]), obs=pd.concat([part.obs for part in parts]))
        joined.var = parts[0].var
    assert all(part.var.equals(joined.var) for part in parts)
    return joined


def stored(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def read_changed(study: str, folder: Path, contents: dict[str, bytes], **changed: Any) -> AnnData:
    """Read a study with changes to the reader of its first file."""
    described = {name: dict(layout) for name, layout in READERS[study].items()}
    first = next(iter(described))
    inner = described[first].get("reader")
    described[first] |= {"reader": inner | changed} if inner else changed
    return whole(list(read_study(files_of(described), stored(folder, contents))))


@pytest.mark.parametrize("study", LAYOUTS)
def test_every_study_layout_is_read_from_a_server(
    study: str, cells: AnnData, server: FileServer, tmp_path: Path
) -> None:
    contents = LAYOUTS[study](cells)
    server.files = {f"/{name}": content for name, content in contents.items()}
    files = files_of(READERS[study], server.url)
    loaded = whole(list(read_study(files, download(files, tmp_path, None, accession=study))))
    order = {
        "GSE130636": [*range(0, 40, 2), *range(1, 40, 2)],
        "GSE148077": [*range(0, 40, 2), *range(1, 40, 2)],
        "GSE128033": [*range(0, 40, 3), *range(1, 40, 3), *range(2, 40, 3)],
        "GSE85241": [*range(1, 40)],  # the first cell has no label
    }.get(study, [*range(40)])
    expected = values(cells).astype(np.float32)[order]
    if study == "GSE81608":
        expected = (values(cells)[order] / 7).round(3).astype(np.float32)
    elif study == "GSE86469":
        expected = expected * 1.25
    elif study == "GSE130636":
        expected = expected / expected.sum(axis=1, keepdims=True) * 1e4
    np.testing.assert_allclose(loaded.X.toarray(), expected, rtol=1e-6 if study != "GSE130636" else 1e-4)
    genes = loaded.var["gene_symbol"] if study == "GSE128033" else loaded.var_names
    first = list(cells.var_names[:1]) if study == "E-MTAB-5061" else []
    assert list(genes) == [*cells.var_names[:1], *(first or cells.var_names[1:2]), *cells.var_names[2:]]
    assert loaded.obs_names.is_unique
    donors = {
        "GSE84133": {"human1"},
        "GSE85241": {"D28", "D29", "D30", "D31"},
        "GSE81608": {"Non T2D 1"},
        "E-MTAB-5061": {"HP1502401"},
        "GSE86469": {"ACIW009"},
        "GSE130636": {"donor_1"},
        "GSE148077": {"H1", "H11"},
        "GSE128033": {"SC14", "SC249", "SC93"},
    }
    assert set(loaded.obs["donor"]) == donors[study]
    labels = cells.obs["cell_type"].astype(str).to_numpy()[order]
    if study == "GSE130636":
        assert set(loaded.obs["cell_type"]) == {"1", "8A"}
    elif study != "GSE128033":
        read_labels = (
            loaded.obs["cell_type"].str.removesuffix(" cell") if study == "E-MTAB-5061" else loaded.obs["cell_type"]
        )
        assert list(read_labels) == list(labels)


@pytest.mark.parametrize("study", ["GSE84133", "GSE81608", "E-MTAB-5061", "GSE128033"])
def test_truncated_files_are_refused_with_one_line(study: str, cells: AnnData, tmp_path: Path) -> None:
    contents = LAYOUTS[study](cells)
    name, content = next(iter(contents.items()))
    length = len(content.rstrip(b"\0"))  # some of the zeros at the end of an archive may be missing
    for size in (length // 3, length * 9 // 10):
        with pytest.raises(DataError, match=name) as caught:
            read_changed(study, tmp_path, contents | {name: content[:size]})
        assert "\n" not in str(caught.value)
        assert "delete it and download it again" in str(caught.value)


def test_an_archive_without_matching_members_is_refused_with_its_members(cells: AnnData, tmp_path: Path) -> None:
    contents = {"GSE84133_RAW.tar": study_files.tar({"a.csv": b"", "../b.csv": b""})}
    with pytest.raises(DataError, match=r"has no member like 'GSM.*; it has \.\./b\.csv, a\.csv\. Check"):
        read_changed("GSE84133", tmp_path, contents)
    assert not (tmp_path.parent / "b.csv").exists()


def test_cell_names_repeated_across_samples_are_refused(cells: AnnData, tmp_path: Path) -> None:
    described = {"GSE130636_RAW.tar": READERS["GSE130636"]["GSE130636_RAW.tar"] | {"members": ".*"}}
    paths = stored(tmp_path, LAYOUTS["GSE130636"](cells))
    with pytest.raises(DataError, match=r"The cell 'AAAC0-1' is in .*fovea.* and in .*peripheral.*called sample"):
        list(read_study(files_of(described), paths))


def test_cell_names_repeated_within_a_sample_are_refused(cells: AnnData, tmp_path: Path) -> None:
    contents = study_files.triplets(cells, genes="features.tsv.gz")
    names = [f"AAAC{index}-1" for index in (*range(39), 0)]
    contents["barcodes.tsv.gz"] = study_files.packed("\n".join(names).encode())
    files = files_of({name: {"format": "mtx" if "matrix" in name else "part"} for name in contents})
    with pytest.raises(DataError, match=r"The cell 'AAAC0-1' is in .*matrix.* and in .*matrix.*; expected unique"):
        list(read_study(files, stored(tmp_path, contents)))


def test_annotations_of_other_cells_are_refused(cells: AnnData, tmp_path: Path) -> None:
    contents = LAYOUTS["GSE85241"](cells)
    described = READERS["GSE85241"] | {
        "cell_type_annotation_Cels2016.csv": {"format": "annotation", "obs": {"cell_type": "x"}}
    }
    with pytest.raises(DataError, match=r"_Cels2016\.csv describes 'D29\.1_1', but the first cell is 'D28-0_1'"):
        list(read_study(files_of(described), stored(tmp_path, contents)))


def test_cell_names_that_do_not_match_the_pattern_are_refused(cells: AnnData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has the cell 'D28-0_1', unlike the recipe's name_pattern 'donor'"):
        read_changed("GSE85241", tmp_path, LAYOUTS["GSE85241"](cells), name_pattern="donor")


def test_a_gene_table_must_be_a_file_of_the_study(cells: AnnData, tmp_path: Path) -> None:
    genes = {"file": "other.csv", "id": "gene.id", "name": "symbol"}
    with pytest.raises(DataError, match=r"other\.csv, which names the genes of .*, is no file of the study"):
        read_changed("GSE81608", tmp_path, LAYOUTS["GSE81608"](cells), genes=genes)


@pytest.fixture
def atlas(cells: AnnData) -> AnnData:
    """Return cells in the layout of CELLxGENE: normalised X, counts in raw, Ensembl ids and symbols."""
    adata = AnnData(cells.X.astype(np.float32), obs=cells.obs[["cell_type", "donor"]].copy(), var=cells.var.copy())
    adata.var["feature_name"] = adata.var_names
    adata.var_names = [f"ENSG{index:011}" for index in range(adata.n_vars)]
    adata.raw = adata.copy()
    adata.X = adata.X.multiply(1e4 / adata.X.sum(axis=1)).log1p().tocsr()
    return adata


def test_an_atlas_is_read_in_parts(atlas: AnnData, cells: AnnData, tmp_path: Path) -> None:
    atlas.write_h5ad(tmp_path / "core.h5ad", compression="gzip")
    files = files_of({"core.h5ad": {"format": "h5ad", "obs": {"label": "cell_type"}}})
    loaded = whole(list(read_study(files, {"core.h5ad": tmp_path / "core.h5ad"})))
    np.testing.assert_array_equal(loaded.X.toarray(), values(cells))
    assert list(loaded.var["feature_name"]) == list(cells.var_names)
    assert list(loaded.obs["label"]) == list(cells.obs["cell_type"])


def test_an_atlas_that_does_not_fit_the_layout_is_refused(atlas: AnnData, tmp_path: Path) -> None:
    atlas.write_h5ad(tmp_path / "core.h5ad")
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"obs": {"label": "celltype"}}, r"obs has no column 'celltype'; it has cell_type, donor\. Check the recipe"),
        ({"layer": "counts"}, r"There is no layer 'counts'"),
        ({"values": "log"}, r"raw holds counts values; expected log\. Name the layer"),
    ]
    for layout, message in mistakes:
        files = files_of({"core.h5ad": {"format": "h5ad", **layout}})
        with pytest.raises(DataError, match=message):
            list(read_study(files, {"core.h5ad": tmp_path / "core.h5ad"}))


def test_counts_are_restored_from_log_values(cells: AnnData, tmp_path: Path) -> None:
    counts = values(cells)
    counts[:, 0] = 1
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log1p(1e4 * shares)
    files = files_of({"a.csv": {"format": "csv", "cells": "rows", "values": "log_counts"}})
    pd.DataFrame(logs, cells.obs_names, cells.var_names).to_csv(tmp_path / "a.csv", float_format="%.7g")
    loaded = whole(list(read_study(files, {"a.csv": tmp_path / "a.csv"})))
    np.testing.assert_array_equal(loaded.X.toarray(), counts)
    logs[3, logs[3] > 0] += 0.2
    pd.DataFrame(logs, cells.obs_names, cells.var_names).to_csv(tmp_path / "a.csv")
    with pytest.raises(DataError, match=rf"a value of the cell '{cells.obs_names[3]}' is .* expected a whole number"):
        list(read_study(files, {"a.csv": tmp_path / "a.csv"}))


def tenx(cells: AnnData, path: Path) -> bytes:
    """Write an .h5 file in the layout of Cell Ranger 3; return its bytes."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        matrix = cells.X.tocsr()
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name).astype(np.int32 if name == "data" else np.int64)
        group["shape"] = np.array(matrix.shape[::-1])
        group["barcodes"] = np.array([f"AAAC{index}-1" for index in range(cells.n_obs)], dtype="S")
        features = {"id": [f"ENSG{index:011}" for index in range(cells.n_vars)], "name": list(cells.var_names)}
        features |= {"feature_type": ["Gene Expression"] * cells.n_vars, "genome": ["GRCh38"] * cells.n_vars}
        for name, column in features.items():
            group[f"features/{name}"] = np.array(column, dtype="S")
    return path.read_bytes()


def test_h5_files_of_cell_ranger_are_read_from_an_archive(cells: AnnData, tmp_path: Path) -> None:
    pytest.importorskip("scanpy")
    content = tenx(cells, tmp_path / "one.h5")
    members = {f"GSM{number}_SC{number}.h5": content for number in (1, 2)}
    described = {"a.tar": {"format": "tar", "members": r"GSM\d_(?P<sample>\w+)\.h5", "reader": {"format": "h5"}}}
    paths = stored(tmp_path, {"a.tar": study_files.tar(members, "w:gz")})
    loaded = whole(list(read_study(files_of(described), paths)))
    np.testing.assert_array_equal(loaded.X.toarray(), np.tile(values(cells), (2, 1)))
    assert loaded.obs_names[0] == "SC1_AAAC0-1"
    assert list(loaded.var_names) == list(cells.var_names)
