"""Real cells through the graph get the labels of the library, however they come."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT, sampling
from spikgpt.cells import spool
from spikgpt.cells.genes import GeneList
from spikgpt.cells.reading import read_cells
from spikgpt.errors import ConfigError, DamagedReference, DataError, GenesError, GraphError
from spikgpt.labels.annotation import Annotation
from spikgpt.pipeline import annotate
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import GRAPH, GRAPH_SOURCES, PARITY, dumped, graph_sources, with_manifest
from spikgpt.testing.hub import LoopbackHub
from spikgpt.training.reference import Reference
from spikgpt.training.sharing import push
from spikgpt_onnx import annotator
from spikgpt_onnx.annotator import Annotator
from spikgpt_onnx.exporter import export
from tests.conftest import QUERY_FILE


@pytest.fixture(scope="module")
def pancreas() -> Annotator:
    return Annotator.from_pretrained("pancreas")


@pytest.fixture(scope="module")
def expected(shipped: SpikGPT) -> Annotation:
    return annotate(shipped.reference, read_cells(QUERY_FILE))


def assert_same(found: Annotation, expected: Annotation) -> None:
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.best_labels, expected.best_labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.rejected, expected.rejected)
    np.testing.assert_array_equal(found.broad_labels, expected.broad_labels)
    assert found.familiarity is not None
    assert expected.familiarity is not None
    np.testing.assert_allclose(found.familiarity, expected.familiarity, atol=1e-4)
    assert found.decision.rule == expected.decision.rule
    assert (found.report.scaling, found.report.source) == (expected.report.scaling, expected.report.source)


def test_a_file_gets_the_labels_of_the_library(pancreas: Annotator, expected: Annotation) -> None:
    found = pancreas.annotate(QUERY_FILE)
    assert_same(found, expected)
    assert list(found.cells[:]) == read_cells(QUERY_FILE).obs_names.tolist()
    assert found.report == expected.report
    assert found.provenance().keys() == expected.provenance().keys()


@pytest.mark.parametrize(
    "options",
    [
        {"neighbours": False},
        {"scaling": "reference"},
        {"threshold": 0.95},
        {"unknown_rate": 0.02},
        {"unknown_rate": 0.3},
        {"unknown_rate": 0},
        {"recalibrate": True},
        {"recalibrate": True, "neighbours": False, "unknown_rate": 0.1},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_in_the_library(
    pancreas: Annotator, shipped: SpikGPT, options: dict[str, float]
) -> None:
    found = pancreas.annotate(QUERY_FILE, **options)  # type: ignore[arg-type]
    assert_same(found, annotate(shipped.reference, read_cells(QUERY_FILE), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_change_next_to_no_label(precision: str, expected: Annotation) -> None:
    found = Annotator.from_pretrained("pancreas", precision=precision).annotate(QUERY_FILE)
    assert (found.labels == expected.labels).mean() >= 0.995


def test_an_anndata_gets_the_labels_written_into_it(pancreas: Annotator, expected: Annotation) -> None:
    adata = read_cells(QUERY_FILE)
    found = pancreas.annotate(adata)
    assert_same(found, expected)
    assert adata.obs["spikgpt_label"].tolist() == found.labels.tolist()
    assert adata.uns["spikgpt"]["reference"] == "pancreas"
    backed = anndata.read_h5ad(QUERY_FILE, backed="r")
    assert_same(pancreas.annotate(backed), expected)
    backed.file.close()


def test_matrices_with_gene_names_do_too(pancreas: Annotator, expected: Annotation) -> None:
    adata = read_cells(QUERY_FILE)
    genes = adata.var_names.tolist()
    for matrix in (adata.X, adata.X.toarray(), adata.X.tocsc(), adata.X.astype(np.int64)):
        assert_same(pancreas.annotate(matrix, genes=genes), expected)
    order = np.random.default_rng(0).permutation(len(genes))
    assert_same(pancreas.annotate(adata.X[:, order], genes=[genes[index] for index in order]), expected)


@pytest.mark.parametrize("batch_size", [1, 7, 300, 10_000])
def test_the_batch_size_does_not_matter(pancreas: Annotator, expected: Annotation, batch_size: int) -> None:
    assert_same(pancreas.annotate(QUERY_FILE, batch_size=batch_size), expected)


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_threads_does_not_matter(expected: Annotation, threads: int) -> None:
    found = Annotator.from_pretrained("pancreas", threads=threads).annotate(QUERY_FILE)
    assert_same(found, expected)


def test_many_cells_are_learned_from_a_sample_and_spooled_to_disk(
    shipped: SpikGPT, pancreas: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling.sample_of, "__defaults__", (200,))
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)
    monkeypatch.setattr(annotator, "CHUNK", 100)
    adata = read_cells(QUERY_FILE)
    sampled = annotate(shipped.reference, adata)
    found = pancreas.annotate(QUERY_FILE)
    assert_same(found, sampled)
    shuffled = np.random.default_rng(0).permutation(adata.n_obs)
    again = pancreas.annotate(adata[shuffled].copy())
    np.testing.assert_array_equal(again.labels, found.labels[shuffled])


def test_empty_cells_are_unknown(pancreas: Annotator, shipped: SpikGPT) -> None:
    adata = read_cells(QUERY_FILE)[:150].copy()
    counts = adata.X.tolil()
    counts[[0, 77, 149]] = 0
    adata.X = counts.tocsr()
    assert_same(pancreas.annotate(adata.copy()), annotate(shipped.reference, adata))
    found = pancreas.annotate(adata)
    assert np.flatnonzero(found.empty).tolist() == [0, 77, 149]
    assert found.labels[[0, 77, 149]].tolist() == ["Unknown"] * 3
    assert found.probabilities[77].max() == 0


def test_few_cells_are_labelled_alone_and_in_the_references_scale(pancreas: Annotator) -> None:
    adata = read_cells(QUERY_FILE)[:3].copy()
    found = pancreas.annotate(adata)
    assert found.report.scaling == "reference"
    one = pancreas.annotate(adata[:1].copy())
    np.testing.assert_allclose(one.probabilities, found.probabilities[:1], atol=1e-6)


def test_what_cannot_be_annotated_is_refused_with_the_reason(pancreas: Annotator, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"matrix of shape \(2, 3\) with no genes; expected cells as rows"):
        pancreas.annotate(np.ones((2, 3)))
    with pytest.raises(DataError, match=r"matrix of shape \(2, 3\) with 2 genes"):
        pancreas.annotate(np.ones((2, 3)), genes=["a", "b"])
    with pytest.raises(DataError, match=r"no\.h5ad is not there"):
        pancreas.annotate(tmp_path / "no.h5ad")
    with pytest.raises(GenesError, match="Found 0 of the reference's 1000 genes"):
        pancreas.annotate(sparse.csr_matrix(np.ones((2, 3))), genes=["a", "b", "c"])
    with pytest.raises(ConfigError, match="An AnnData names its genes itself"):
        pancreas.annotate(QUERY_FILE, genes=["a"])
    with pytest.raises(ConfigError, match="batch_size is 0; it must be at least 1"):
        pancreas.annotate(QUERY_FILE, batch_size=0)
    with pytest.raises(ConfigError, match="The threshold is 2; expected a probability"):
        pancreas.annotate(QUERY_FILE, threshold=2)
    with pytest.raises(ConfigError, match="There is no scaling 'own'; choose one of auto"):
        pancreas.annotate(QUERY_FILE, scaling="own")
    with pytest.raises(ConfigError, match="There is no precision 'fp8'; choose fp32, fp16, int8"):
        Annotator.from_pretrained("pancreas", precision="fp8")


def test_a_reference_without_that_graph_is_refused(small_folder: Path, graph_folder: Path) -> None:
    with pytest.raises(GraphError, match=r"has no onnx/model.onnx; make it with"):
        Annotator(small_folder)
    with pytest.raises(GraphError, match=r"has no onnx/model_int8.onnx; make it with"):
        Annotator(graph_folder, precision="int8")


def test_damaged_folders_are_refused_each_for_its_reason(small: Reference, graph_folder: Path, tmp_path: Path) -> None:
    def altered(name: str) -> Path:
        return Path(shutil.copytree(graph_folder, tmp_path / name))

    folder = altered("truncated")
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:-100])
    with pytest.raises(DamagedReference, match=r"model\.onnx differs from what manifest\.json lists"):
        Annotator(folder)
    folder = altered("missing")
    (folder / "onnx" / "parity.json").unlink()
    with pytest.raises(DamagedReference, match=r"has no onnx/parity\.json, which every reference has"):
        Annotator(folder)
    folder = altered("edited threshold")
    (folder / "thresholds.json").write_text((folder / "thresholds.json").read_text().replace("0.95", "0.10"))
    with pytest.raises(DamagedReference, match=r"thresholds\.json differs from what manifest\.json lists"):
        Annotator(folder)
    folder = altered("other labels")
    labels = (folder / "labels.json").read_text()
    (folder / "labels.json").write_text(labels.replace("alpha", "omega"))
    with pytest.raises(DamagedReference, match=r"labels\.json differs from what manifest\.json lists"):
        Annotator(folder)


def forged(source: Path, folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Copy a reference with one file changed, and a manifest that lists it as if it had always been so."""
    shutil.copytree(source, folder)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files[name] = dumped(change(json.loads(files[name])))
    del files["manifest.json"]
    for path, content in with_manifest(files).items():
        (folder / path).write_bytes(content)
    return folder


def turned(genes: dict[str, Any]) -> dict[str, Any]:
    """Return the same genes in another order, with their own sha256."""
    return GeneList(tuple(genes["symbols"][::-1]), tuple(genes["ensembl_ids"][::-1])).to_dict()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels.json", lambda rows: [row | {"name": f"other {row['name']}"} for row in rows]),
        ("genes.json", turned),
        ("thresholds.json", lambda thresholds: thresholds | {"threshold": 0.1}),
    ],
    ids=["labels of another reference", "another order of genes", "an edited threshold"],
)
def test_files_that_the_graph_was_not_made_from_are_refused_though_the_manifest_lists_them(
    name: str, change: Callable[[Any], Any], graph_folder: Path, tmp_path: Path
) -> None:
    folder = forged(graph_folder, tmp_path / "out", name, change)
    with pytest.raises(DamagedReference, match=rf"onnx/model\.onnx was made from another {name} than this"):
        Annotator(folder)
    # And though the report lists them too: the graph itself carries what it was made for.
    sources = graph_sources({path: (folder / path).read_bytes() for path in GRAPH_SOURCES})
    again = forged(folder, tmp_path / "again", PARITY, lambda report: report | {"made_from": sources})
    with pytest.raises(DamagedReference, match=r"onnx/model\.onnx (carries other|was made for other genes)"):
        Annotator(again)


def test_a_reference_is_pulled_by_name(
    graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push(graph_folder, "islets/small", hub=client)
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "islets")
    pulled = Annotator.from_pretrained("small", endpoint=hub.endpoint, cache_dir=tmp_path)
    assert pulled.origin == f"islets/small@{pushed.commit}"
    assert repr(pulled) == "Annotator('small', 6 labels, on cpu)"
    local = Annotator(graph_folder).annotate(QUERY_FILE)
    found = pulled.annotate(QUERY_FILE)
    assert found.probabilities.tobytes() == local.probabilities.tobytes()
    assert found.reference_origin == pulled.origin


WITHOUT = """
import sys
for name in ("torch", "scanpy", "sklearn", "matplotlib", "numba", "onnx"):
    sys.modules[name] = None
from pathlib import Path
from spikgpt.cells.output import write_table
from spikgpt_onnx.annotator import Annotator
found = Annotator.from_pretrained("pancreas").annotate(Path(sys.argv[1]))
found.write_h5ad(Path(sys.argv[1]), Path(sys.argv[2]))
write_table(found.tables(), Path(sys.argv[3]))
"""


def test_without_torch_and_scanpy_the_files_are_the_same(expected: Annotation, tmp_path: Path) -> None:
    out, table = tmp_path / "out.h5ad", tmp_path / "out.csv"
    subprocess.run([sys.executable, "-c", WITHOUT, QUERY_FILE, out, table], check=True)
    adata = read_cells(QUERY_FILE)
    expected.write_to(adata)
    written = anndata.read_h5ad(out)
    pd.testing.assert_frame_equal(written.obs, adata.obs, check_exact=False, rtol=1e-4)
    assert written.uns["spikgpt"].keys() == adata.uns["spikgpt"].keys()
    assert pd.read_csv(table, index_col=0)["spikgpt_label"].tolist() == expected.labels.tolist()
    with h5py.File(out) as file:
        assert file["obs/spikgpt_label"].attrs["encoding-type"] == "categorical"


def test_cells_of_another_kind_of_reference(pancreas: Annotator, tmp_path: Path, small: Reference) -> None:
    export(small, tmp_path / "out")
    adata = AnnData(np.ones((4, 3), dtype=np.float32))
    with pytest.raises(GenesError, match="Found 0 of the reference's"):
        Annotator(tmp_path / "out").annotate(adata)
