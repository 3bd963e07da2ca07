"""The exported graph in a real ONNX Runtime session against the trained model in torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import onnx
import pytest

from spikgpt import SpikGPT
from spikgpt.data import align, find_expression, read_h5ad
from spikgpt.embedders.pca import PCAEmbedder
from spikgpt.embedders.precomputed import PrecomputedEmbedder
from spikgpt.errors import ConfigError, ParityError
from spikgpt.metrics import measure
from spikgpt.reference import LabelMap, Reference, load, save
from spikgpt.thresholds import UNKNOWN, Thresholds
from spikgpt.training import DEFAULT, PAPER, fit, network_config
from spikgpt_onnx import Graph, contract, exporter
from spikgpt_onnx.exporter import Parity, check_parity, export

QUERY = Path(__file__).resolve().parents[1] / "data" / "pancreas_baron_human2_human4.h5ad"


@pytest.fixture(scope="module")
def model() -> SpikGPT:
    return SpikGPT.from_pretrained("pancreas")


@pytest.fixture(scope="module")
def folder(model: SpikGPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "pancreas-onnx"
    export(model.reference, out)
    return out


@pytest.fixture(scope="module")
def query() -> anndata.AnnData:
    return read_h5ad(QUERY)


def pca_of(model: SpikGPT) -> PCAEmbedder:
    assert isinstance(model.reference.embedder, PCAEmbedder)
    return model.reference.embedder


def test_real_cells_get_the_same_labels(model: SpikGPT, folder: Path, query: anndata.AnnData) -> None:
    annotation = model.annotate(query.copy(), neighbours=False)
    aligned = align(find_expression(query), pca_of(model).genes)
    (mean, std), scaling, _ = pca_of(model).query_scale(aligned, "auto", model.reference.probabilities)
    assert scaling == annotation.report.scaling == "composition"
    graph = Graph(folder)
    inputs: dict[str, Any] = {contract.COUNTS: aligned.values.toarray(), contract.TOTAL: aligned.totals}
    found = graph.probabilities(inputs | {contract.GENE_MEAN: mean, contract.GENE_STD: std})
    best = np.array(graph.labels)[found.argmax(axis=1)]
    np.testing.assert_array_equal(best, annotation.best_labels)
    np.testing.assert_array_equal(np.where(found.max(axis=1) < graph.threshold, UNKNOWN, best), annotation.labels)
    close = np.abs(found - annotation.probabilities).max(axis=1) <= 1e-5
    assert close.mean() > 0.99
    assert len(np.unique(best)) > 8


def test_scaling_inputs_default_to_the_reference(model: SpikGPT, folder: Path, query: anndata.AnnData) -> None:
    annotation = model.annotate(query.copy(), scaling="reference", neighbours=False)
    aligned = align(find_expression(query), pca_of(model).genes)
    inputs = {contract.COUNTS: aligned.values.toarray(), contract.TOTAL: aligned.totals}
    found = Graph(folder).probabilities(inputs)
    np.testing.assert_array_equal(np.array(annotation.label_names)[found.argmax(axis=1)], annotation.best_labels)


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_any_batch_size_gives_the_same_labels(
    model: SpikGPT, folder: Path, query: anndata.AnnData, batch_size: int
) -> None:
    aligned = align(find_expression(query[:300]), pca_of(model).genes)
    inputs = {contract.COUNTS: aligned.values.toarray(), contract.TOTAL: aligned.totals}
    whole = Graph(folder).probabilities(inputs)
    batches = Graph(folder).probabilities(inputs, batch_size=batch_size)
    np.testing.assert_array_equal(batches.argmax(axis=1), whole.argmax(axis=1))
    assert batches.shape == (300, len(model.reference.labels.names))


def test_the_graph_carries_labels_thresholds_and_genes(model: SpikGPT, folder: Path) -> None:
    metadata = Graph(folder).metadata
    assert json.loads(metadata["labels"]) == model.reference.labels.to_list()
    assert json.loads(metadata["thresholds"]) == model.reference.thresholds.to_dict()
    assert metadata["genes_sha256"] == pca_of(model).genes.sha256
    assert metadata["reference"] == "pancreas"
    genes = json.loads((folder / contract.GENES).read_text())
    assert tuple(genes["symbols"]) == pca_of(model).genes.symbols


def test_the_parity_report_is_written(folder: Path) -> None:
    parity = json.loads((folder / contract.PARITY).read_text())
    assert parity["labels_equal"] == parity["unknown_equal"] == parity["cells"] == exporter.PARITY_CELLS
    assert parity["within_tolerance"] >= 0.99 * parity["cells"]


def test_parity_cells_cover_many_labels_and_both_decisions(model: SpikGPT) -> None:
    _, vectors = exporter._random_cells(model.reference)
    probabilities = model.reference.probabilities(vectors)
    assert len(np.unique(probabilities.argmax(axis=1))) >= 5
    unknown = probabilities.max(axis=1) < model.reference.thresholds.threshold
    assert 0 < unknown.mean() < 1


def test_a_graph_of_other_weights_fails_the_parity_check(model: SpikGPT, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    graph = onnx.load(tmp_path / contract.GRAPH)
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("head.weight"))
    array = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), weights.name))
    onnx.save(graph, tmp_path / contract.GRAPH)
    with pytest.raises(ParityError, match="disagrees with the trained model: of 1024 cells"):
        check_parity(model.reference, Graph(tmp_path))


def test_nothing_is_written_when_the_parity_check_fails(
    model: SpikGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_reference: Reference, _graph: Graph) -> Parity:
        msg = "disagrees"
        raise ParityError(msg)

    monkeypatch.setattr(exporter, "check_parity", fail)
    with pytest.raises(ParityError):
        export(model.reference, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_an_export_and_nothing_else(model: SpikGPT, folder: Path, tmp_path: Path) -> None:
    first = (folder / contract.GRAPH).read_bytes()
    export(model.reference, folder)
    assert (folder / contract.GRAPH).read_bytes() == first
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(ConfigError, match="is not a reference; choose another folder"):
        export(model.reference, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("recipe", [DEFAULT, PAPER], ids=lambda recipe: recipe.name)
def test_a_reference_on_an_embedding_exports_too(tmp_path: Path, recipe: Any) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(200) % 3
    vectors = random.standard_normal((200, 12)) + 3 * np.eye(12)[labels]
    reference = Reference(
        name="embedded",
        embedder=PrecomputedEmbedder("X_test", 12),
        classifier=fit(network_config(recipe, 12, 3), recipe, vectors, labels),
        labels=LabelMap(("a", "b", "c"), (None, None, None)),
        thresholds=Thresholds(0.5, 0.05, 100),
        metrics={
            "cells": 200,
            "cells_per_label": {"a": 67, "b": 67, "c": 66},
            "held_out_by": "nothing",
            "held_out": measure(["a", "b"], ["a", "b"]).to_dict(),
            "paper_threshold_rejects": 0.0,
        },
        provenance={"recipe": {"name": recipe.name}, "seed": 0},
    )
    parity = export(reference, tmp_path / "out")
    assert parity.labels_equal == parity.cells
    graph = Graph(tmp_path / "out")
    found = graph.probabilities({contract.EMBEDDING: vectors})
    np.testing.assert_allclose(found, reference.probabilities(vectors), atol=1e-5)
    assert load(tmp_path / "out").labels == reference.labels


def test_the_graph_joins_the_reference_in_its_own_folder(model: SpikGPT, folder: Path, tmp_path: Path) -> None:
    own = save(model.reference, tmp_path / "own")
    export(model.reference, own)
    assert load(own).name == "pancreas"
    for file in (contract.GRAPH, contract.PARITY, "manifest.json"):
        assert (own / file).read_bytes() == (folder / file).read_bytes()
    other = save(dataclasses.replace(model.reference, thresholds=Thresholds(0.1, 0.05, 10)), tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="already holds a reference"):
        export(model.reference, other)
