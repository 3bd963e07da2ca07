"""Only graphs with the weights and labels of the trained model are exported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from anndata import AnnData

from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.onnx import OnnxEngine
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.scgpt.source import open_scgpt
from spikgpt.engines.torch import TorchEngine
from spikgpt.errors import ConfigError, DamagedReference, ParityError
from spikgpt.options import TrainOptions
from spikgpt.reference.files import Reference, read_reference, save
from spikgpt.reference.format import COMBINED, ENCODER, GRAPH, GRAPHS, PARITY
from spikgpt.reference.json_files import converted, parsed
from spikgpt.scoring.thresholds import Thresholds
from spikgpt.training.train import train
from spikgpt_onnx import exporter
from spikgpt_onnx.exporter import export, export_literal, verify_graphs
from spikgpt_onnx.parity import ExportableReference, golden_cells
from spikgpt_onnx.rebuild_graph import build_graph, network_from_reference
from tests.conftest import DATA, exportable, labelled
from tests.spikgpt_onnx.test_parity import with_weight


def test_every_precision_passes_the_parity_check_and_is_reported(small: Reference, tmp_path: Path) -> None:
    reports = export(exportable(small), tmp_path / "out", precisions=tuple(GRAPHS))
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
    assert read_reference(tmp_path / "out").labels == small.labels
    exported = read_reference(tmp_path / "out")
    checks = {name: f"equals the graph of the weights, byte for byte; {report}" for name, report in reports.items()}
    assert verify_graphs(exported, torch_engine(exported)) == checks


def test_graph_metadata_match_the_reference(small: Reference, graph_folder: Path) -> None:
    metadata = Session((graph_folder / GRAPH).read_bytes()).metadata
    assert json.loads(metadata["labels"]) == small.labels.to_list()
    assert converted(json.loads(metadata["thresholds"]), "thresholds", Thresholds) == small.thresholds
    assert metadata["genes_sha256"] == parsed((graph_folder / "genes.json").read_bytes(), "genes.json")["sha256"]
    assert (metadata["reference"], metadata["revision"], metadata["format_version"]) == ("small", "", "3")
    pulled = dataclasses.replace(small, origin="me/small@0123")
    assert network_from_reference(pulled).metadata["revision"] == "me/small@0123"


def test_nothing_is_written_if_a_parity_check_fails(
    small: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = build_graph

    def altered_graph(network: Any, name: str) -> onnx.ModelProto:
        graph = original(network, name)
        return with_weight(graph, "head.weight", lambda weight: weight[:, ::-1]) if name == GRAPHS["int8"] else graph

    monkeypatch.setattr(exporter, "build_graph", altered_graph)
    with pytest.raises(ParityError, match=r"int8: of 2048 cells .* Nothing was written\."):
        export(exportable(small), tmp_path / "out", precisions=["fp32", "int8"])
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_only_an_earlier_export(small: Reference, tmp_path: Path) -> None:
    export(exportable(small), tmp_path / "out", precisions=["fp32", "int8"])
    first = (tmp_path / "out" / GRAPH).read_bytes()
    export(exportable(small), tmp_path / "out")
    assert (tmp_path / "out" / GRAPH).read_bytes() == first
    assert not (tmp_path / "out" / GRAPHS["int8"]).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("precious")
    with pytest.raises(ConfigError, match="is not a reference; choose another folder"):
        export(exportable(small), tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.docx"]
    with pytest.raises(ConfigError, match="Found the precisions fp8; choose from fp32, fp16, int8"):
        export(exportable(small), tmp_path / "new", precisions=["fp8"])
    with pytest.raises(ConfigError, match="Found the precisions none; choose from"):
        export(exportable(small), tmp_path / "new", precisions=())


def test_a_reference_can_be_exported_into_its_own_folder(small: Reference, graph_folder: Path, tmp_path: Path) -> None:
    own = save(small, tmp_path / "own")
    export(exportable(small), own)
    for file in (GRAPH, PARITY, "manifest.json"):
        assert (own / file).read_bytes() == (graph_folder / file).read_bytes()
    other = save(small, tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="already holds a reference"):
        export(exportable(small), other)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_reference_on_an_embedding_is_exported(tmp_path: Path, recipe: Literal["default", "paper"]) -> None:
    labels = np.arange(200) % 3
    vectors = np.random.default_rng(0).standard_normal((200, 12)) + 3 * np.eye(12)[labels]
    cells = AnnData(np.ones((200, 1), dtype=np.float32), obsm={"X_test": vectors})
    cells.obs["type"] = np.array(["a", "b", "c"])[labels]
    reference = train(cells, "type", embedder="obsm:X_test", options=TrainOptions(name="embedded", recipe=recipe))
    export(exportable(reference), tmp_path / "out")
    again = read_reference(tmp_path / "out")
    expected, annotation = labelled(reference, cells), labelled(again, cells, OnnxEngine(again))
    np.testing.assert_array_equal(annotation.labels, expected.labels)
    np.testing.assert_allclose(annotation.probabilities, expected.probabilities, atol=1e-5)
    assert (expected.labels != "Unknown").any()


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_a_reference_on_scgpt_has_an_encoder_graph_and_a_combined_graph(
    cells: AnnData, query: AnnData, tmp_path: Path
) -> None:
    source = open_scgpt(DATA / "scgpt_baron", max_length=100)
    reference = train(cells, "cell_type", embedder=source, options=TrainOptions(name="scgpt"))
    reports = export(ExportableReference(reference, torch_engine(reference, source=source)), tmp_path / "out")
    assert reports.keys() == {GRAPH, COMBINED}
    assert (tmp_path / "out" / ENCODER).is_file()
    assert reports[COMBINED].labels_equal == reports[COMBINED].cells == 64
    again = read_reference(tmp_path / "out")
    assert again.labels == reference.labels
    engine = OnnxEngine(again)
    expected = labelled(again, query, torch_engine(again, scgpt=DATA / "scgpt_baron"))
    annotation = labelled(again, query, engine)
    np.testing.assert_array_equal(annotation.labels, expected.labels)
    np.testing.assert_allclose(annotation.probabilities, expected.probabilities, atol=1e-4)
    assert annotation.input_report == expected.input_report
    with pytest.raises(ConfigError, match="scaling is 'query', but scGPT"):
        labelled(again, query, engine, scaling="query")
    other = dataclasses.replace(again, embedder=again.embedder | {"sha256": "0" * 64})
    with pytest.raises(DamagedReference, match=r"encoder.onnx is another scGPT than the reference was trained on"):
        OnnxEngine(other)
    graph = (tmp_path / "out" / ENCODER).read_bytes()
    (tmp_path / "out" / ENCODER).write_bytes(graph[:-1] + b"x")
    with pytest.raises(DamagedReference, match=r"encoder.onnx differs from what manifest.json lists"):
        read_reference(tmp_path / "out")


def test_the_literal_graph_is_a_separate_file(small: Reference, tmp_path: Path) -> None:
    trained = torch_engine(small)
    config = dataclasses.replace(small.config, copies=10)
    classifier = SpikingClassifier.from_weights(config, trained.classifier.state_dict())
    reference = ExportableReference(
        dataclasses.replace(small, config=config), TorchEngine(trained.embedding, classifier, trained.temperature)
    )
    export_literal(reference, tmp_path / "literal.onnx")
    golden = golden_cells(reference, 40)
    outputs = Session((tmp_path / "literal.onnx").read_bytes(), trusted=True).run(golden.inputs)
    np.testing.assert_allclose(outputs["probabilities"], reference.engine.classify(golden.vectors)[0], atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["literal.onnx"]
