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
from spikgpt.training.embedders import open_scgpt
from spikgpt.training.reference import Reference, load, save
from spikgpt_onnx.annotator import Annotator

from spikgpt import SpikGPT
from spikgpt.embedding.obsm import PrecomputedEmbedder
from spikgpt.engines.model import SpikingClassifier
from spikgpt.errors import ConfigError, DamagedReference, ParityError
from spikgpt.labels.label_map import LabelMap
from spikgpt.labels.thresholds import Thresholds
from spikgpt.pipeline import annotate
from spikgpt.reference.json_files import converted
from spikgpt.reference.layout import COMBINED, ENCODER, GRAPH, GRAPHS, PARITY, verified_files
from spikgpt.training.fit import DEFAULT, PAPER, fit, network_config
from spikgpt.training.metrics import measure
from spikgpt.training.recipes import DEFAULT, PAPER, network_config
from spikgpt_onnx import exporter
from spikgpt_onnx.exporter import check_again, export, export_literal
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.parity import golden_cells
from spikgpt_onnx.session import Session
from tests.conftest import DATA
from tests.spikgpt_onnx.test_parity import with_weight


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
    assert converted(json.loads(metadata["thresholds"]), "thresholds", Thresholds) == small.thresholds
    assert metadata["genes_sha256"] == parsed((graph_folder / "genes.json").read_bytes(), "genes.json")["sha256"]
    assert (metadata["reference"], metadata["revision"], metadata["format_version"]) == ("small", "", "2")
    pulled = dataclasses.replace(small, origin="me/small@0123")
    assert exporter.network_of(pulled).metadata is not None
    assert (exporter.network_of(pulled).metadata or {})["revision"] == "me/small@0123"


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
    other = save(
        dataclasses.replace(small, thresholds=Thresholds("maximum probability", 0.1, 0.05, 10, 0.95)),
        tmp_path / "other",
    )
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
        thresholds=Thresholds("maximum probability", 0.5, 0.05, 100, 0.95),
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
