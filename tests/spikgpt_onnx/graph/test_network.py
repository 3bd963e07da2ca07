"""Versions, outputs and weights of whole graphs."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from spikgpt import SpikGPT
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.read_graph import IR_VERSION, OPSET
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.format import GRAPHS
from spikgpt.reference.registry import shipped_references
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.rebuild_graph import network_from_reference as network_of_reference
from tests.spikgpt_onnx.graph.networks import Array, classifier_for, network_of, vectors_of


def test_a_graph_is_valid_and_states_the_oldest_supported_versions() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=32)
    model = labelling_graph(network_of(classifier_for(config, 0)))
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION) == (18, 8)
    names = ["probabilities", "confidence", "energy", "best_label", "label"]
    assert [node.name for node in model.graph.output] == names
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "cells"


def test_the_threshold_can_be_set_at_each_run() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=32)
    classifier, vectors = classifier_for(config, 0), vectors_of(200, config)
    session = Session(labelling_graph(network_of(classifier, 0.0)).SerializeToString())
    by_default, strict = (
        session.run({"embedding": vectors}),
        session.run({"embedding": vectors, "threshold": np.array(0.9)}),
    )
    assert (by_default["label"] == by_default["best_label"]).all()
    np.testing.assert_array_equal(strict["label"] == -1, strict["confidence"] < 0.9)
    assert 0 < (strict["label"] == -1).sum() < 200


def operators_and_weights(model: onnx.ModelProto) -> tuple[bytes, dict[str, Array]]:
    """Return the bytes of a graph without the values of its weights, and the weights by name."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model.SerializeToString(), weights


@pytest.mark.parametrize("precision", GRAPHS)
def test_the_shipped_reference_still_gives_its_published_graphs(shipped: SpikGPT, precision: str) -> None:
    published = onnx.load(shipped_references()["pancreas"] / GRAPHS[precision])
    carried = {item.key: item.value for item in published.metadata_props}
    network = dataclasses.replace(network_of_reference(shipped.reference), metadata=carried)
    (made, weights), (expected, wanted) = map(operators_and_weights, (labelling_graph(network, precision), published))
    assert made == expected
    for name, values in wanted.items():
        np.testing.assert_allclose(weights[name], values, rtol=1e-6, err_msg=name)
