"""Written files hold everything the input held, and are written whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import Annotation
from spikgpt.errors import DataError
from spikgpt.files import replacing

N_CELLS, N_GENES = 12, 7
ADDED = ("obs", "obsm/spikgpt_probabilities", "uns/spikgpt")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a file with something in every place an AnnData has."""
    random = np.random.default_rng(0)
    counts = random.poisson(2, (N_CELLS, N_GENES))
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(["b", "a"] * (N_CELLS // 2), categories=["b", "a"], ordered=True),
            "depth": random.random(N_CELLS),
            "note": ["text"] * N_CELLS,
            "flag": pd.array([True, None] * (N_CELLS // 2), dtype="boolean"),
        },
        index=[f"cell {row}" for row in range(N_CELLS)],
    )
    full = AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))
    adata = full[:, :5].copy()
    adata.raw = full
    adata.layers["dense"] = adata.X.toarray().astype(np.float64)
    adata.layers["columns"] = sparse.csc_matrix(adata.X).astype(np.float32)
    adata.obsm["X_umap"] = random.random((N_CELLS, 2))
    adata.varm["PCs"] = random.random((5, 3))
    adata.obsp["distances"] = sparse.csr_matrix(random.random((N_CELLS, N_CELLS)))
    adata.uns["type_colors"] = np.array(["#000000", "#ffffff"], dtype=object)
    adata.uns["nested"] = {"deeper": {"number": 3.5, "name": "x"}}
    path = tmp_path / "query.h5ad"
    adata.write_h5ad(path, compression="gzip")
    return path


def write(annotation: Annotation, source: Path, target: Path) -> None:
    annotation.write_h5ad(source, target)


def contents(path: Path) -> dict[str, Any]:
    """Return every dataset and group of a file but those that are added: attributes, storage and bytes."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if any(name == added or name.startswith(f"{added}/") for added in ADDED):
            return
        attributes = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            value = item[()]
            data = (
                value.tobytes()
                if isinstance(value, np.ndarray) and value.dtype != object
                else np.asarray(value).tolist()
            )
            found[name] = (attributes, item.dtype.str, item.shape, item.chunks, item.compression, data)
        else:
            found[name] = (attributes,)

    with h5py.File(path) as file:
        file.visititems(visit)
        found["/"] = {key: str(value) for key, value in file.attrs.items()}
    return found


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_else_is_kept_to_the_byte(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deeper" / "out.h5ad"
    before = source.read_bytes()
    write(annotation, source, target)
    assert contents(target) == contents(source)
    assert {"raw/X/data", "layers/columns/indptr", "obsp/distances/data", "uns/nested/deeper/name"} <= contents(
        target
    ).keys()
    assert contents(target)["X/data"][4] == "gzip"
    assert source.read_bytes() == before
    assert leftovers(target.parent) == ["out.h5ad"]


def test_columns_of_obs_are_kept_and_ours_are_added(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    write(annotation, source, tmp_path / "out.h5ad")
    before, after = anndata.read_h5ad(source), anndata.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    added = ["spikgpt_label", "spikgpt_best_label", "spikgpt_label_broad", "spikgpt_confidence", "spikgpt_familiarity"]
    assert after.obs.columns.tolist() == [*before.obs.columns, *added]
    np.testing.assert_array_equal(after.obs["spikgpt_label"].astype(str), annotation.labels)
    np.testing.assert_array_equal(after.obs["spikgpt_best_label"].astype(str), annotation.best_labels)
    np.testing.assert_array_equal(after.obs["spikgpt_label_broad"].astype(str), annotation.broad_labels)
    np.testing.assert_array_equal(after.obs["spikgpt_confidence"], annotation.confidence)
    np.testing.assert_array_equal(after.obs["spikgpt_familiarity"], annotation.familiarity)
    np.testing.assert_array_equal(after.obsm["spikgpt_probabilities"], annotation.probabilities)
    assert after.uns["spikgpt"].keys() == annotation.provenance().keys()
    assert after.uns["spikgpt"]["reference"] == "hand-made"
    assert after.uns["spikgpt"]["labels"].tolist() == ["alpha", "beta"]
    assert after.uns["spikgpt"]["values"] == "counts from X"


def test_more_columns_of_labels_are_written(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    clusters = np.array(["b", "a", "a"] * 4)
    annotation.write_h5ad(source, tmp_path / "out.h5ad", {"spikgpt_cluster_label": clusters})
    after = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(after.obs["spikgpt_cluster_label"].astype(str), clusters)


def test_a_query_that_lies_far_away_is_told(annotation: Annotation) -> None:
    assert not any("farther" in note for note in annotation.notes())
    far = dataclasses.replace(annotation.decision, expected=0.31)
    said = dataclasses.replace(annotation, decision=far).notes()
    assert any("about 31% of the cells of known types are Unknown, not at most 5%" in note for note in said)
    done = dataclasses.replace(annotation, decision=dataclasses.replace(far, recalibrated=True))
    assert not any("farther" in note for note in done.notes())


def test_an_annotated_file_can_be_annotated_again(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    write(annotation, source, tmp_path / "once.h5ad")
    write(annotation, tmp_path / "once.h5ad", tmp_path / "twice.h5ad")
    once, twice = anndata.read_h5ad(tmp_path / "once.h5ad"), anndata.read_h5ad(tmp_path / "twice.h5ad")
    pd.testing.assert_frame_equal(twice.obs, once.obs)
    assert contents(tmp_path / "twice.h5ad") == contents(tmp_path / "once.h5ad")


def test_a_file_without_obsm_and_uns_gets_them(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "r+") as file:
        del file["obsm"], file["uns"]
    write(annotation, source, tmp_path / "out.h5ad")
    after = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(after.obsm) == ["spikgpt_probabilities"]
    assert list(after.uns) == ["spikgpt"]


def test_nothing_is_written_on_failure(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.h5ad"
    damaged.write_bytes(source.read_bytes()[:1000])
    target = tmp_path / "out.h5ad"
    with pytest.raises(DataError, match="truncated"):
        annotation.write_h5ad(damaged, target)
    assert leftovers(tmp_path) == ["damaged.h5ad", "query.h5ad"]
    target.write_text("older")
    with pytest.raises(DataError, match="truncated"):
        annotation.write_h5ad(damaged, target)
    assert target.read_text() == "older"
    assert leftovers(tmp_path) == ["damaged.h5ad", "out.h5ad", "query.h5ad"]


def test_a_file_is_replaced_only_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("older")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "older"
    with replacing(path) as temporary:
        temporary.write_text("newer")
    assert path.read_text() == "newer"
    assert leftovers(tmp_path) == ["a.txt"]


def test_a_write_protected_source_gives_a_writable_copy(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    source.chmod(0o444)
    write(annotation, source, tmp_path / "out.h5ad")
    assert (tmp_path / "out.h5ad").stat().st_mode & 0o777 == 0o644
