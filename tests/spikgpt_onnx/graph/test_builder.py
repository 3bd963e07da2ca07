"""Linear layers in other precisions than float32."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from spikgpt.engines.onnx_session import Session
from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.graph.builder import Builder
from tests.spikgpt_onnx.graph.networks import classifier_for, expected, network_of, run, vectors_of


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.2), ("int8", 0.3)])
def test_other_precisions_give_close_probabilities(precision: str, tolerance: float) -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=64)
    classifier, vectors = classifier_for(config, 0), vectors_of(500, config)
    probabilities, _ = expected(classifier, vectors)
    model = labelling_graph(network_of(classifier), precision)
    outputs = run(model, {"embedding": vectors})
    assert np.median(np.abs(outputs["probabilities"] - probabilities).max(axis=1)) < tolerance / 10
    assert (outputs["best_label"] == probabilities.argmax(axis=1)).mean() > 0.9
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert {"fp16": TensorProto.FLOAT16, "int8": TensorProto.INT8}[precision] in kinds


def test_eight_bit_labels_do_not_depend_on_the_batch() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=64)
    classifier, vectors = classifier_for(config, 0), vectors_of(300, config)
    vectors[0] *= 1000
    session = Session(labelling_graph(network_of(classifier), "int8").SerializeToString())
    whole = session.run({"embedding": vectors})["probabilities"]
    alone = np.concatenate([session.run({"embedding": vectors[i : i + 1]})["probabilities"] for i in range(300)])
    np.testing.assert_allclose(alone, whole, atol=1e-6)


@pytest.mark.slow
def test_spike_counts_above_eight_bits_are_not_multiplied_as_bytes() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=16, time_steps=300)
    classifier, vectors = classifier_for(config, 0), vectors_of(100, config)
    probabilities, _ = expected(classifier, vectors)
    outputs = run(labelling_graph(network_of(classifier), "int8"), {"embedding": vectors})
    assert (outputs["best_label"] == probabilities.argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize(
    ("value", "name"), [(1e-12, "1e-12"), (10000, "10000.0"), (1 / 1.5, "0.6666667"), (-np.inf, "-inf")]
)
def test_names_of_constants_do_not_depend_on_the_numpy_version(value: float, name: str) -> None:
    assert Builder().number(value) == f"number np.float32({name})"
