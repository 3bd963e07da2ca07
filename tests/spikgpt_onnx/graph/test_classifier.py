"""Graphs of random architectures give the same labels in ONNX Runtime as in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikgpt.engines import contract
from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx.graph import labelling_graph
from tests.spikgpt_onnx.graph.networks import classifier_for, expected, network_of, operators, run, vectors_of

# In float32, potentials within this distance of the threshold may round to either side.
NEAR = 1e-5
configs = st.builds(
    lambda heads, size, **fields: SpikGPTConfig(width=heads * size, heads=heads, **fields),
    heads=st.sampled_from([1, 2, 4, 8]),
    size=st.sampled_from([1, 4, 8]),
    input_dim=st.sampled_from([8, 16, 33]),
    n_labels=st.integers(2, 40),
    copies=st.sampled_from([1, 2, 7, 49, 300]),
    time_steps=st.integers(1, 9),
    depth=st.integers(1, 3),
    mlp_ratio=st.sampled_from([0.5, 1.0, 2.0]),
    residual=st.booleans(),
    attention_scale=st.sampled_from([None, 0.125, 0.01]),
    tau=st.sampled_from([1.25, 2.0, 3.7]),
    v_threshold=st.sampled_from([0.5, 1.0, 1.3]),
)
batches = st.one_of(st.sampled_from([1, 2, 4096]), st.integers(3, 300))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(config=configs, cells=batches, seed=st.integers(0, 1000))
def test_any_architecture_gives_the_labels_of_torch(config: SpikGPTConfig, cells: int, seed: int) -> None:
    classifier, vectors = classifier_for(config, seed), vectors_of(cells, config, seed)
    probabilities, distance = expected(classifier, vectors)
    confidence = probabilities.max(axis=1)
    # Set the threshold between the confidences of two cells, so that no cell lies exactly on the threshold.
    ordered = np.unique(np.append(confidence, [0.0, 1.0]))
    threshold = float(ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1].mean())

    outputs = run(labelling_graph(network_of(classifier, threshold)), {"embedding": vectors})

    # Near the threshold, rounding can add or remove a spike, and the outputs can differ by any amount.
    clear = distance > NEAR
    difference = np.abs(outputs[contract.PROBABILITIES] - probabilities).max(axis=1)
    assert (difference[clear] <= 1e-5).all()
    ordered_probabilities = np.sort(probabilities, axis=1)
    decided = (
        clear
        & (ordered_probabilities[:, -1] - ordered_probabilities[:, -2] > 2e-6)
        & (np.abs(confidence - threshold) > 2e-6)
    )
    best = probabilities.argmax(axis=1)
    label = np.where(confidence < threshold, -1, best)
    np.testing.assert_array_equal(outputs[contract.BEST_LABEL][decided], best[decided])
    np.testing.assert_array_equal(outputs[contract.LABEL][decided], label[decided])


def test_few_cells_of_the_random_networks_are_near_the_threshold() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=64)
    _, distance = expected(classifier_for(config, 0), vectors_of(4096, config))
    assert 0 < (distance <= NEAR).mean() < 0.1


def test_the_random_networks_give_different_labels_to_cells() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=64, residual=False, attention_scale=0.125)
    probabilities, _ = expected(classifier_for(config, 0), vectors_of(500, config))
    assert len(np.unique(probabilities.argmax(axis=1))) >= 3
    assert len(np.unique(probabilities.round(6), axis=0)) > 100


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
@pytest.mark.parametrize("scale", [None, 0.125], ids=["one over m", "0.125"])
def test_the_literal_graph_gives_the_same_probabilities(residual: bool, scale: float | None) -> None:
    config = SpikGPTConfig(16, 5, 32, 4, copies=11, depth=2, residual=residual, attention_scale=scale)
    classifier, vectors = classifier_for(config, 1), vectors_of(40, config)
    with torch.inference_mode():
        literal = classifier(torch.as_tensor(vectors), literal=True).softmax(dim=1).numpy()
    graphs = [labelling_graph(network_of(classifier), literal=form) for form in (True, False)]
    outputs, collapsed = (run(graph, {"embedding": vectors}) for graph in graphs)
    np.testing.assert_allclose(outputs["probabilities"], literal, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"], collapsed["probabilities"], atol=1e-5)
    assert {"Tile", "ReduceMean"} <= operators(graphs[0]).keys() - operators(graphs[1]).keys()


def test_the_graph_has_only_the_necessary_matrix_products() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=32, time_steps=4)
    counted = operators(labelling_graph(network_of(classifier_for(config, 0))))
    # Linear layers: stem, queries-keys-values, hidden layer at each of 4 steps, output of the block, and head.
    assert counted["Gemm"] + counted["MatMul"] == 1 + 1 + 4 + 1 + 1
    assert counted["Slice"] == counted["Squeeze"] == counted["Not"] == counted["Where"] - 1 == 0
    assert sum(counted.values()) < 120
