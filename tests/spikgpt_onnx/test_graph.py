"""Graphs in a real ONNX Runtime session against torch, over random architectures and at the edge of firing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from spikingjelly.activation_based import neuron

from spikgpt.embedding.vocabulary import Encoder
from spikgpt.engines.model import SpikingClassifier
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.scgpt.checkpoint import load_checkpoint
from spikgpt_onnx import contract
from spikgpt_onnx.graph import IR_VERSION, OPSET, Builder, Network, Neurons, encoder_graph, labelling_graph
from spikgpt_onnx.session import Session
from tests.conftest import DATA

Array = npt.NDArray[Any]

# Potentials this near to the threshold may fall on either side of it in float32.
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


def classifier_for(config: SpikGPTConfig, seed: int) -> SpikingClassifier:
    """Return a network with random weights, large enough that its neurons fire, and BatchNorms that have seen data."""
    torch.manual_seed(seed)
    classifier = SpikingClassifier(config)
    with torch.no_grad():
        for module in classifier.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                for tensor in (module.running_mean, module.bias):
                    assert tensor is not None
                    tensor.normal_()
                assert module.running_var is not None
                module.running_var.uniform_(0.2, 2)
                module.weight.uniform_(0.5, 2)
            elif isinstance(module, torch.nn.Linear):
                module.weight.mul_(3)
    return classifier.eval()


def vectors_of(cells: int, config: SpikGPTConfig, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((cells, config.input_dim)).astype(np.float32)


def network_of(classifier: SpikingClassifier, threshold: float = 0.5) -> Network:
    weights = {name: tensor.numpy() for name, tensor in classifier.state_dict().items()}
    return Network(classifier.config, weights, threshold)


def expected(classifier: SpikingClassifier, vectors: Array) -> tuple[Array, Array]:
    """Return probabilities in float64, and how near each cell's potentials come to the threshold without meeting it."""
    nearest = np.full(len(vectors), np.inf)

    def measure(node: neuron.LIFNode, inputs: tuple[torch.Tensor], _output: object) -> None:
        v = np.zeros(inputs[0].shape[1:])
        for current in inputs[0].numpy():
            h = v + (current - v) / node.tau
            distance = np.abs(h - node.v_threshold)
            # Whole currents meet it exactly, in every precision.
            distance[distance < 1e-12] = np.inf
            np.minimum(nearest, distance.reshape(len(vectors), -1).min(axis=1), out=nearest)
            v = np.where(h >= node.v_threshold, 0.0, h)

    folded = SpikingClassifier.from_weights(classifier.config, classifier.state_dict()).double().folded()
    for module in folded.modules():
        if isinstance(module, neuron.LIFNode):
            module.register_forward_hook(measure)
    with torch.inference_mode():
        return folded(torch.as_tensor(vectors, dtype=torch.float64)).softmax(dim=1).numpy(), nearest


@settings(max_examples=60, deadline=None, derandomize=True)
@given(config=configs, cells=batches, seed=st.integers(0, 1000))
def test_any_architecture_gives_the_labels_of_torch(config: SpikGPTConfig, cells: int, seed: int) -> None:
    classifier, vectors = classifier_for(config, seed), vectors_of(cells, config, seed)
    probabilities, distance = expected(classifier, vectors)
    confidence = probabilities.max(axis=1)
    # Between two cells, so that none lies on the threshold itself.
    ordered = np.unique(np.append(confidence, [0.0, 1.0]))
    threshold = float(ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1].mean())

    found = Session(labelling_graph(network_of(classifier, threshold)).SerializeToString()).run({"embedding": vectors})

    # A cell with a potential within rounding of the threshold may get a spike more or less, and anything may follow.
    clear = distance > NEAR
    difference = np.abs(found[contract.PROBABILITIES] - probabilities).max(axis=1)
    assert (difference[clear] <= 1e-5).all()
    twice = np.sort(probabilities, axis=1)
    decided = clear & (twice[:, -1] - twice[:, -2] > 2e-6) & (np.abs(confidence - threshold) > 2e-6)
    best = probabilities.argmax(axis=1)
    label = np.where(confidence < threshold, -1, best)
    np.testing.assert_array_equal(found[contract.BEST_LABEL][decided], best[decided])
    np.testing.assert_array_equal(found[contract.LABEL][decided], label[decided])


def test_nearly_every_cell_of_the_random_networks_is_clear_of_the_threshold() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=64)
    _, distance = expected(classifier_for(config, 0), vectors_of(4096, config))
    assert 0 < (distance <= NEAR).mean() < 0.1


def test_the_random_networks_tell_cells_apart() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=64, residual=False, attention_scale=0.125)
    probabilities, _ = expected(classifier_for(config, 0), vectors_of(500, config))
    assert len(np.unique(probabilities.argmax(axis=1))) >= 3
    assert len(np.unique(probabilities.round(6), axis=0)) > 100


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
@pytest.mark.parametrize("scale", [None, 0.125], ids=["one over m", "0.125"])
def test_the_literal_graph_gives_the_same(residual: bool, scale: float | None) -> None:
    config = SpikGPTConfig(16, 5, 32, 4, copies=11, depth=2, residual=residual, attention_scale=scale)
    classifier, vectors = classifier_for(config, 1), vectors_of(40, config)
    with torch.inference_mode():
        literal = classifier(torch.as_tensor(vectors), literal=True).softmax(dim=1).numpy()
    graphs = [labelling_graph(network_of(classifier), literal=form) for form in (True, False)]
    found, collapsed = (Session(graph.SerializeToString()).run({"embedding": vectors}) for graph in graphs)
    np.testing.assert_allclose(found["probabilities"], literal, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], collapsed["probabilities"], atol=1e-5)
    assert {"Tile", "ReduceMean"} <= operators(graphs[0]).keys() - operators(graphs[1]).keys()


def spikes_of(currents: Array, steps: int, tau: float, *, constant: bool) -> Array:
    """Run neurons alone, in ONNX Runtime: currents, shape (n,), divided by tau, to spikes, shape (steps, n)."""
    builder = Builder()
    neurons = Neurons(builder, SpikGPTConfig(8, 2, time_steps=steps, tau=tau))
    if constant:
        spikes = neurons.of_constant("current")
    else:
        negative = [builder.add("Mul", "current", builder.number(-factor)) for factor in neurons.factors]
        spikes = neurons.of(negative)
    names = [builder.add("Identity", spike, name=f"step {step}") for step, spike in enumerate(spikes)]
    graph = helper.make_graph(
        builder.nodes,
        "neurons",
        [helper.make_tensor_value_info("current", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.BOOL, ["n"]) for name in names],
        list(builder.constants.values()),
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    found = Session(model.SerializeToString()).run({"current": currents})
    return np.stack([found[name] for name in names])


def loop(currents: Array, steps: int, tau: float, dtype: Any) -> Array:
    """Leaky integrate-and-fire as the textbook has it: charge, fire at 1, reset to 0."""
    v, spikes = np.zeros(len(currents), dtype), []
    for _ in range(steps):
        h = (dtype(1 - 1 / tau) * v + currents.astype(dtype)).astype(dtype)
        spikes.append(h >= 1)
        v = np.where(h >= 1, dtype(0), h)
    return np.stack(spikes)


@pytest.mark.parametrize("tau", [1.25, 2.0, 3.7])
@pytest.mark.parametrize("steps", [1, 2, 4, 12, 40])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "stepwise"])
def test_neurons_fire_as_the_loop_does_but_within_rounding_of_the_threshold(
    tau: float, steps: int, constant: bool
) -> None:
    leak = 1 - 1 / tau
    edges = np.array([1 / sum(leak**i for i in range(d)) for d in range(1, steps + 1)])
    around = edges[:, None] * (1 + np.arange(-64, 65) * 2.0**-24)
    currents = np.concatenate([np.linspace(-2, 3, 4001), around.ravel()]).astype(np.float32)

    found = spikes_of(currents, steps, tau, constant=constant)

    differ = (found != loop(currents, steps, tau, np.float64)).any(axis=0)
    distance = np.abs(currents[:, None].astype(np.float64) / edges - 1).min(axis=1)
    # Every step may round once more.
    assert (distance[differ] < (8 + steps) * 2.0**-24).all()
    assert found.any()
    assert not found.all()


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "stepwise"])
def test_a_potential_that_meets_the_threshold_exactly_fires(constant: bool) -> None:
    # With tau 2: the first step meets it with 1, the second with 0.5 + 0.5; 0.25 + ... never does.
    currents = np.array([1.0, np.nextafter(np.float32(1), np.float32(0)), 0.5], dtype=np.float32)
    found = spikes_of(currents, 4, 2.0, constant=constant)
    assert found[:, 0].all()
    assert found[:, 1].tolist() == [False, True, False, True]
    assert not found[:, 2].any()


def test_a_neighbouring_float_may_fire_a_step_later() -> None:
    # 2/3 charges a neuron to exactly 1 in two steps; as a float32 it is a little more, and the loop in float32 rounds.
    current = np.array([2 / 3], dtype=np.float32)
    assert np.float64(current[0]) > 2 / 3
    assert loop(current, 2, 2.0, np.float64)[1, 0]
    assert spikes_of(current, 2, 2.0, constant=True)[1, 0]


def test_many_steps_do_not_grow_without_bound() -> None:
    few, many = (Neurons(Builder(), SpikGPTConfig(8, 2, time_steps=steps)).factors for steps in (4, 40))
    assert few == [1, 2, 4, 8]
    assert set(many) == {1.0}


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_the_graph_has_no_more_products_than_the_network_needs() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=32, time_steps=4)
    counted = operators(labelling_graph(network_of(classifier_for(config, 0))))
    # Stem, queries-keys-values once, the hidden layer at each step, its output once, the head.
    assert counted["Gemm"] + counted["MatMul"] == 1 + 1 + 4 + 1 + 1
    assert counted["Slice"] == counted["Squeeze"] == counted["Not"] == counted["Where"] - 1 == 0
    assert sum(counted.values()) < 120


def test_what_the_graph_states_is_checked_and_old_enough() -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=32)
    model = labelling_graph(network_of(classifier_for(config, 0)))
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION) == (18, 8)
    names = ["probabilities", "confidence", "energy", "best_label", "label"]
    assert [node.name for node in model.graph.output] == names
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "cells"


def test_the_threshold_may_be_given_at_each_run() -> None:
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


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.2), ("int8", 0.3)])
def test_other_precisions_stay_close(precision: str, tolerance: float) -> None:
    config = SpikGPTConfig(input_dim=16, n_labels=6, width=64)
    classifier, vectors = classifier_for(config, 0), vectors_of(500, config)
    probabilities, _ = expected(classifier, vectors)
    model = labelling_graph(network_of(classifier), precision)
    found = Session(model.SerializeToString()).run({"embedding": vectors})
    assert np.median(np.abs(found["probabilities"] - probabilities).max(axis=1)) < tolerance / 10
    assert (found["best_label"] == probabilities.argmax(axis=1)).mean() > 0.9
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


@pytest.fixture(scope="module")
def scgpt() -> Encoder:
    checkpoint = load_checkpoint(DATA / "scgpt_baron")
    config = checkpoint.config
    weights = {name: weight.float().numpy() for name, weight in checkpoint.weights.items()}
    return Encoder(config.heads, config.layers, config.pad_value, checkpoint.described(1200), weights)


def tokens_of(cells: int, length: int) -> dict[str, Array]:
    checkpoint = load_checkpoint(DATA / "scgpt_baron")
    random = np.random.default_rng(0)
    ids = random.choice([token for token in range(100) if token != checkpoint.pad_id], (cells, length))
    values = random.integers(0, 51, (cells, length))
    ids[:, 0], values[:, 0] = checkpoint.cls_id, checkpoint.config.pad_value
    mask = np.arange(length) < random.integers(2, length + 1, (cells, 1))
    ids[~mask], values[~mask] = checkpoint.pad_id, checkpoint.config.pad_value
    return {"token_ids": ids, "values": values, "mask": mask}


def test_the_encoder_gives_the_vectors_of_torch(scgpt: Encoder) -> None:
    tokens = tokens_of(9, 40)
    config = SpikGPTConfig(input_dim=scgpt.dim, n_labels=3)
    network = Network(config, {}, 0.5, encoder=scgpt)
    found = Session(encoder_graph(network).SerializeToString()).run(tokens)["embedding"]
    genes, bins = torch.as_tensor(tokens["token_ids"]), torch.as_tensor(tokens["values"])
    vectors = load_checkpoint(DATA / "scgpt_baron").encoder().embed(genes, bins).numpy()
    np.testing.assert_allclose(found, vectors, atol=1e-6)


def test_padding_changes_nothing(scgpt: Encoder) -> None:
    tokens = tokens_of(5, 30)
    session = Session(encoder_graph(Network(SpikGPTConfig(scgpt.dim, 3), {}, 0.5, encoder=scgpt)).SerializeToString())
    longer = {
        "token_ids": np.pad(tokens["token_ids"], ((0, 0), (0, 12)), constant_values=7),
        "values": np.pad(tokens["values"], ((0, 0), (0, 12))),
        "mask": np.pad(tokens["mask"], ((0, 0), (0, 12))),
    }
    np.testing.assert_allclose(session.run(longer)["embedding"], session.run(tokens)["embedding"], atol=1e-6)


def test_one_graph_from_tokens_to_labels_is_both_in_a_row(scgpt: Encoder) -> None:
    config = SpikGPTConfig(input_dim=scgpt.dim, n_labels=4, width=32)
    classifier = classifier_for(config, 3)
    network = Network(config, network_of(classifier).weights, 0.5, encoder=scgpt)
    tokens = tokens_of(9, 40)
    vectors = Session(encoder_graph(network).SerializeToString()).run(tokens)["embedding"]
    apart = Session(labelling_graph(network).SerializeToString()).run({"embedding": vectors})
    together = Session(labelling_graph(network, tokens=True).SerializeToString()).run(tokens)
    np.testing.assert_allclose(together["probabilities"], apart["probabilities"], atol=1e-5)
