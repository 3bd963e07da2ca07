"""Nothing is exported that does not give the labels of the trained model, by the weights that were trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.embedding.obsm import PrecomputedEmbedder
from spikgpt.engines.model import SpikingClassifier
from spikgpt.errors import ConfigError, DamagedReference, ParityError
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.thresholds import Thresholds
from spikgpt.pipeline import annotate
from spikgpt.reference.layout import COMBINED, ENCODER, GRAPH, GRAPHS, PARITY, parsed, verified_files
from spikgpt.scgpt.source import open_scgpt
from spikgpt.training.fit import fit
from spikgpt.training.metrics import measure
from spikgpt.training.recipes import DEFAULT, PAPER, network_config
from spikgpt.training.reference import Reference, load, save
from spikgpt_onnx import exporter
from spikgpt_onnx.annotator import Annotator
from spikgpt_onnx.exporter import check_again, check_parity, export, export_literal, golden_cells, weight_difference
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.session import Session
from tests.conftest import DATA


def untrained(reference: Reference) -> Reference:
    return dataclasses.replace(reference, classifier=SpikingClassifier(reference.config).eval())


def with_weight(graph: onnx.ModelProto, name: str, change: Any) -> onnx.ModelProto:
    """Return a graph with one of its weights changed."""
    other = onnx.load_from_string(graph.SerializeToString())
    (tensor,) = [tensor for tensor in other.graph.initializer if tensor.name == name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
    return other


def weight_name(layer: str) -> str:
    return f"{layer}.weight.turned" if "query_key_value" in layer else f"{layer}.weight"


def test_every_precision_passes_its_gate_and_says_how(small: Reference, tmp_path: Path) -> None:
    reports = export(small, tmp_path / "out", precisions=tuple(GRAPHS))
    written = json.loads((tmp_path / "out" / PARITY).read_text())["graphs"]
    assert written.keys() == reports.keys() == set(GRAPHS.values())
    for name, report in reports.items():
        assert written[name].items() >= dataclasses.asdict(report).items()
        assert report.cells == 2048
    exact = reports[GRAPH]
    assert exact.labels_equal == exact.unknown_equal == exact.cells
    assert (exact.opset, exact.ir_version, exact.largest_flip) == (18, 8, 0)
    for name in GRAPHS.values():
        onnx.checker.check_model(onnx.load(tmp_path / "out" / name), full_check=True)
    assert load(tmp_path / "out").labels == small.labels
    assert check_again(small, verified_files(tmp_path / "out")) == reports


def test_what_the_graph_carries(small: Reference, graph_folder: Path) -> None:
    metadata = Session((graph_folder / GRAPH).read_bytes()).metadata
    assert json.loads(metadata["labels"]) == small.labels.to_list()
    assert Thresholds.from_dict(json.loads(metadata["thresholds"])) == small.thresholds
    assert metadata["genes_sha256"] == parsed((graph_folder / "genes.json").read_bytes(), "genes.json")["sha256"]
    assert (metadata["reference"], metadata["revision"], metadata["format_version"]) == ("small", "", "2")
    pulled = dataclasses.replace(small, origin="me/small@0123")
    assert exporter.network_of(pulled).metadata is not None
    assert (exporter.network_of(pulled).metadata or {})["revision"] == "me/small@0123"


def test_golden_cells_cover_every_label_and_both_decisions(small: Reference) -> None:
    probabilities = small.probabilities(golden_cells(small).vectors)
    assert set(probabilities.argmax(axis=1)) == set(range(len(small.labels.names)))
    unknown = probabilities.max(axis=1) < small.thresholds.threshold
    assert 0.02 < unknown.mean() < 0.9


@pytest.mark.parametrize("layer", ["stem", "blocks.0.attention.query_key_value", "blocks.0.mlp.output", "head"])
def test_a_weight_that_is_not_the_trained_one_fails(small: Reference, layer: str) -> None:
    graph = labelling_graph(exporter.network_of(small))
    assert weight_difference(small, graph) < 1e-6

    def nudge(weight: Any) -> Any:
        weight[0, 0] += 0.01 * np.abs(weight).max()
        return weight

    assert weight_difference(small, with_weight(graph, weight_name(layer), nudge)) > 1e-3
    with pytest.raises(ParityError, match=r"disagrees with the trained model .*weights by"):
        check_parity(small, with_weight(graph, weight_name(layer), nudge), "fp32", golden_cells(small))


def test_two_untrained_networks_do_not_pass_for_each_other(small: Reference) -> None:
    one, other = untrained(small), untrained(small)
    graph = labelling_graph(exporter.network_of(one))
    assert weight_difference(one, graph) < 1e-6
    # Their labels may well agree; their weights do not.
    with pytest.raises(ParityError, match="disagrees with the trained model"):
        check_parity(other, graph, "fp32", golden_cells(other))
    assert weight_difference(other, graph) > 0.1


def test_a_graph_without_a_layer_fails(small: Reference) -> None:
    graph = labelling_graph(exporter.network_of(small))
    for tensor in graph.graph.initializer:
        tensor.name = tensor.name.replace("head", "foot")
    with pytest.raises(ParityError, match="has no weights of the layer head"):
        weight_difference(small, graph)


def test_a_wrong_label_fails_and_a_flip_beyond_the_margin_too(small: Reference) -> None:
    golden = golden_cells(small)
    graph = labelling_graph(exporter.network_of(small))
    outputs = Session(graph.SerializeToString()).run(golden.inputs)
    expected = small.probabilities(golden.vectors)

    def report(precision: str, **changed: Any) -> exporter.Parity:
        return exporter._parity(small, expected, outputs | changed, precision, 0.0)

    assert report("fp32").passed
    unsure = int(np.argmin(np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2]))
    sure = int(expected.max(axis=1).argmax())
    for cell, passes in ((unsure, True), (sure, False)):
        best = outputs["best_label"].copy()
        best[cell] = expected[cell].argsort()[-2]
        assert not report("fp32", best_label=best).passed
        assert report("fp16", best_label=best).passed == passes
    label = outputs["label"].copy()
    label[sure] = -1
    assert report("int8", label=label).largest_flip > 0.05
    assert not report("int8", label=label).passed
    many = np.roll(outputs["best_label"], 1)
    assert not report("fp16", best_label=many).passed


def test_nothing_is_written_when_a_gate_fails(
    small: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = labelling_graph

    def wrong(network: Any, precision: str = "fp32", **options: Any) -> onnx.ModelProto:
        graph = right(network, precision, **options)
        return with_weight(graph, "head.weight", lambda weight: weight[:, ::-1]) if precision == "int8" else graph

    monkeypatch.setattr(exporter, "labelling_graph", wrong)
    with pytest.raises(ParityError, match=r"int8: of 2048 cells .* Nothing was written\."):
        export(small, tmp_path / "out", precisions=["fp32", "int8"])
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_an_export_and_nothing_else(small: Reference, tmp_path: Path) -> None:
    export(small, tmp_path / "out", precisions=["fp32", "int8"])
    first = (tmp_path / "out" / GRAPH).read_bytes()
    export(small, tmp_path / "out")
    assert (tmp_path / "out" / GRAPH).read_bytes() == first
    assert not (tmp_path / "out" / GRAPHS["int8"]).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("precious")
    with pytest.raises(ConfigError, match="is not a reference; choose another folder"):
        export(small, tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.docx"]
    with pytest.raises(ConfigError, match="Found the precisions fp8; choose from fp32, fp16, int8"):
        export(small, tmp_path / "new", precisions=["fp8"])
    with pytest.raises(ConfigError, match="Found the precisions none; choose from"):
        export(small, tmp_path / "new", precisions=())


def test_the_graph_joins_the_reference_in_its_own_folder(small: Reference, graph_folder: Path, tmp_path: Path) -> None:
    own = save(small, tmp_path / "own")
    export(small, own)
    for file in (GRAPH, PARITY, "manifest.json"):
        assert (own / file).read_bytes() == (graph_folder / file).read_bytes()
    other = save(dataclasses.replace(small, thresholds=Thresholds(0.1, 0.05, 10)), tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="already holds a reference"):
        export(small, other)


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
    export(reference, tmp_path / "out")
    query = AnnData(np.ones((200, 1), dtype=np.float32), obsm={"X_test": vectors})
    expected = annotate(reference, query)
    found = Annotator(tmp_path / "out").annotate(query)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert query.obs["spikgpt_label"].tolist() == found.labels.tolist()


def test_a_reference_on_scgpt_has_graphs_of_encoder_and_both(cells: AnnData, query: AnnData, tmp_path: Path) -> None:
    embedder = open_scgpt(DATA / "scgpt_baron", max_length=100)
    reference = SpikGPT.train(cells, "cell_type", embedder=embedder, name="scgpt").reference
    reports = export(reference, tmp_path / "out")
    assert reports.keys() == {GRAPH, COMBINED}
    assert (tmp_path / "out" / ENCODER).is_file()
    assert reports[COMBINED].labels_equal == reports[COMBINED].cells == 64
    again = load(tmp_path / "out", scgpt=DATA / "scgpt_baron")
    assert again.labels == reference.labels
    expected = annotate(again, query)
    annotator = Annotator(tmp_path / "out")
    found = annotator.annotate(query.copy())
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    assert found.report == expected.report
    with pytest.raises(ConfigError, match="scGPT reads the ranks of genes within a cell"):
        annotator.annotate(query, scaling="query")
    graph = (tmp_path / "out" / ENCODER).read_bytes()
    (tmp_path / "out" / ENCODER).write_bytes(graph[:-1] + b"x")
    with pytest.raises(DamagedReference, match=r"encoder.onnx differs from what manifest.json lists"):
        load(tmp_path / "out", scgpt=DATA / "scgpt_baron")


def test_the_literal_graph_is_a_file_of_its_own(small: Reference, tmp_path: Path) -> None:
    few = dataclasses.replace(
        small,
        classifier=SpikingClassifier.from_weights(
            dataclasses.replace(small.config, copies=10), small.classifier.state_dict()
        ),
    )
    export_literal(few, tmp_path / "literal.onnx")
    golden = golden_cells(few, 40)
    found = Session((tmp_path / "literal.onnx").read_bytes()).run(golden.inputs)
    np.testing.assert_allclose(found["probabilities"], few.probabilities(golden.vectors), atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["literal.onnx"]
