"""The ONNX engine gives real cells the labels of the torch engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT
from spikgpt.cells.genes import GeneList
from spikgpt.cells.reading import read_cells
from spikgpt.engines.onnx import OnnxEngine
from spikgpt.engines.opening import torch_engine
from spikgpt.errors import DamagedReference, GraphError
from spikgpt.options import EngineOptions, Precision
from spikgpt.reference.files import read_reference
from spikgpt.reference.format import GRAPH, GRAPH_SOURCES, PARITY, graph_sources, with_manifest
from spikgpt.reference.hub import Hub
from spikgpt.reference.json_files import dumped
from spikgpt.sharing import push
from tests.conftest import QUERY_FILE, aligned, labelled
from tests.hub_server import LoopbackHub


@pytest.fixture(scope="module")
def pancreas() -> SpikGPT:
    return SpikGPT.from_pretrained("pancreas", engine="onnx")


@pytest.fixture(scope="module")
def expected(shipped: SpikGPT) -> Annotation:
    return labelled(shipped.reference, read_cells(QUERY_FILE))


def opened(folder: Path, **options: Any) -> OnnxEngine:
    return OnnxEngine(read_reference(folder), EngineOptions(**options))


def assert_same(actual: Annotation, expected: Annotation) -> None:
    np.testing.assert_array_equal(actual.labels, expected.labels)
    np.testing.assert_array_equal(actual.best_labels, expected.best_labels)
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(actual.rejected, expected.rejected)
    np.testing.assert_array_equal(actual.broad_labels, expected.broad_labels)
    assert actual.typicality is not None
    assert expected.typicality is not None
    np.testing.assert_allclose(actual.typicality, expected.typicality, atol=1e-4)
    assert actual.rule.rule == expected.rule.rule
    assert (actual.input_report.scaling, actual.input_report.source) == (
        expected.input_report.scaling,
        expected.input_report.source,
    )


def test_a_file_gets_the_labels_of_torch(pancreas: SpikGPT, expected: Annotation) -> None:
    annotation = pancreas.annotate(QUERY_FILE)
    assert_same(annotation, expected)
    assert list(annotation.obs_names) == read_cells(QUERY_FILE).obs_names.tolist()
    assert annotation.input_report == expected.input_report
    assert annotation.uns().keys() == expected.uns().keys()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_change_hardly_any_label(precision: Precision, expected: Annotation) -> None:
    annotation = SpikGPT.from_pretrained("pancreas", engine="onnx", precision=precision).annotate(QUERY_FILE)
    assert (annotation.labels == expected.labels).mean() >= 0.995


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 300, 10_000])
def test_the_batch_size_does_not_matter(pancreas: SpikGPT, expected: Annotation, batch_size: int) -> None:
    assert_same(pancreas.annotate(QUERY_FILE, batch_size=batch_size), expected)


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_threads_does_not_matter(expected: Annotation, threads: int) -> None:
    annotation = SpikGPT.from_pretrained("pancreas", engine="onnx", threads=threads).annotate(QUERY_FILE)
    assert_same(annotation, expected)


def test_empty_cells_are_unknown(pancreas: SpikGPT, shipped: SpikGPT) -> None:
    adata = read_cells(QUERY_FILE)[:150].copy()
    counts = adata.X.tolil()
    counts[[0, 77, 149]] = 0
    adata.X = counts.tocsr()
    assert_same(pancreas.annotate(adata.copy()), labelled(shipped.reference, adata))
    annotation = pancreas.annotate(adata)
    assert np.flatnonzero(annotation.empty).tolist() == [0, 77, 149]
    assert annotation.labels[[0, 77, 149]].tolist() == ["Unknown"] * 3
    assert annotation.probabilities[77].max() == 0


def test_a_reference_without_the_graph_is_refused(small_folder: Path, graph_folder: Path) -> None:
    with pytest.raises(GraphError, match=r"has no onnx/model.onnx; make it with"):
        opened(small_folder)
    with pytest.raises(GraphError, match=r"has no onnx/model_int8.onnx; make it with"):
        opened(graph_folder, precision="int8")


def test_damaged_folders_are_refused_with_the_reason(graph_folder: Path, tmp_path: Path) -> None:
    def altered(name: str) -> Path:
        return Path(shutil.copytree(graph_folder, tmp_path / name))

    folder = altered("truncated")
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:-100])
    with pytest.raises(DamagedReference, match=r"model\.onnx differs from what manifest\.json lists"):
        opened(folder)
    folder = altered("missing")
    (folder / "onnx" / "parity.json").unlink()
    with pytest.raises(DamagedReference, match=r"has no onnx/parity\.json, which every reference has"):
        opened(folder)
    folder = altered("edited threshold")
    (folder / "thresholds.json").write_text((folder / "thresholds.json").read_text().replace("0.95", "0.10"))
    with pytest.raises(DamagedReference, match=r"thresholds\.json differs from what manifest\.json lists"):
        opened(folder)
    folder = altered("other labels")
    labels = (folder / "labels.json").read_text()
    (folder / "labels.json").write_text(labels.replace("alpha", "omega"))
    with pytest.raises(DamagedReference, match=r"labels\.json differs from what manifest\.json lists"):
        opened(folder)


def with_changed_file(source: Path, folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Return a copy of a reference with one file changed, and a manifest that matches the change."""
    shutil.copytree(source, folder)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files[name] = dumped(change(json.loads(files[name])))
    del files["manifest.json"]
    for path, content in with_manifest(files).items():
        (folder / path).write_bytes(content)
    return folder


def reverse_genes(genes: dict[str, Any]) -> dict[str, Any]:
    """Return the genes in reverse order, with the sha256 of that order."""
    return genes | GeneList(tuple(genes["symbols"][::-1]), tuple(genes["ensembl_ids"][::-1])).to_dict()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels.json", lambda rows: [row | {"cell_ontology_id": "CL:0000000"} for row in rows]),
        ("genes.json", reverse_genes),
        ("thresholds.json", lambda thresholds: thresholds | {"threshold": 0.1}),
    ],
    ids=["other terms for the labels", "another order of genes", "an edited threshold"],
)
def test_files_other_than_the_sources_of_the_graph_are_refused(
    name: str, change: Callable[[Any], Any], graph_folder: Path, tmp_path: Path
) -> None:
    folder = with_changed_file(graph_folder, tmp_path / "out", name, change)
    with pytest.raises(DamagedReference, match=rf"onnx/model\.onnx was made from another {name} than this"):
        opened(folder)
    # A parity report with matching hashes does not help, because the graph itself names its source files.
    sources = graph_sources({path: (folder / path).read_bytes() for path in GRAPH_SOURCES})
    again = with_changed_file(folder, tmp_path / "again", PARITY, lambda report: report | {"made_from": sources})
    with pytest.raises(DamagedReference, match=r"onnx/model\.onnx (has other|has other weights)"):
        opened(again)


@pytest.mark.slow
def test_a_reference_is_pulled_by_name(
    graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push(graph_folder, "islets/small", hub=client)
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "islets")
    pulled = SpikGPT.from_pretrained("small", endpoint=hub.endpoint, cache_dir=tmp_path)
    assert pulled.reference.origin == f"islets/small@{pushed.commit}"
    assert repr(pulled) == "SpikGPT('small', 6 labels, embedding pca, onnx on cpu)"
    local = SpikGPT.from_pretrained(graph_folder).annotate(QUERY_FILE)
    annotation = pulled.annotate(QUERY_FILE)
    assert annotation.probabilities.tobytes() == local.probabilities.tobytes()
    assert annotation.reference_origin == pulled.reference.origin


WITHOUT = """
import sys
for name in ("torch", "scanpy", "sklearn", "matplotlib", "numba"):
    sys.modules[name] = None
from spikgpt.cli.main import main
sys.argv[:1] = ["spikgpt", "annotate"]
main()
"""


@pytest.mark.slow
def test_without_torch_and_scanpy_the_files_are_the_same(expected: Annotation, tmp_path: Path) -> None:
    out, table = tmp_path / "out.h5ad", tmp_path / "out.csv"
    arguments: list[str | Path] = [QUERY_FILE, "--model", "pancreas", "--out", out, "--table", table]
    subprocess.run([sys.executable, "-c", WITHOUT, *arguments], check=True)
    adata = read_cells(QUERY_FILE)
    expected.write_to(adata)
    written = anndata.read_h5ad(out)
    pd.testing.assert_frame_equal(written.obs, adata.obs, check_exact=False, rtol=1e-4)
    assert written.uns["spikgpt"].keys() == adata.uns["spikgpt"].keys()
    assert pd.read_csv(table, index_col=0)["spikgpt_label"].tolist() == expected.labels.tolist()


def test_outputs_equal_those_of_torch(shipped: SpikGPT, few: AnnData) -> None:
    torch, onnx = torch_engine(shipped.reference), OnnxEngine(shipped.reference)
    cells = aligned(shipped.reference, few)
    scale, done = torch.embedding.fit_scale(cells, "query", torch.run).scale, list[int]()
    expected, outputs = torch.run(cells, scale), onnx.run(cells, scale, batch_size=50, on_cells=done.append)
    np.testing.assert_allclose(outputs.vectors, expected.vectors, atol=1e-5)
    np.testing.assert_allclose(outputs.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(outputs.energies, expected.energies, atol=1e-4)
    assert sorted(done) == [20, 50, 50]
    without_cells = onnx.run(cells.part(slice(0, 0)), scale)
    assert without_cells.vectors.shape == (0, torch.embedding.dim)
    assert without_cells.probabilities.shape == (0, len(shipped.reference.labels.names))
