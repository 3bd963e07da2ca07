"""Networks with random weights, in torch and as the input of the graph builder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from spikingjelly.activation_based import neuron

from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.onnx_session import Session
from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx.graph import Network

Array = npt.NDArray[Any]


def classifier_for(config: SpikGPTConfig, seed: int) -> SpikingClassifier:
    """Return a network with random BatchNorm statistics, and random weights large enough for neurons to fire."""
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


def run(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    # The graph is trusted, because the literal form has an operator that references must not use.
    return Session(model.SerializeToString(), trusted=True).run(inputs)


def vectors_of(cells: int, config: SpikGPTConfig, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((cells, config.input_dim)).astype(np.float32)


def network_of(classifier: SpikingClassifier, threshold: float = 0.5) -> Network:
    weights = {name: tensor.numpy() for name, tensor in classifier.state_dict().items()}
    return Network(classifier.config, weights, threshold)


def expected(classifier: SpikingClassifier, vectors: Array) -> tuple[Array, Array]:
    """Return probabilities in float64, and each cell's smallest nonzero distance of a potential to the threshold."""
    nearest = np.full(len(vectors), np.inf)

    def measure(node: neuron.LIFNode, inputs: tuple[torch.Tensor], _output: object) -> None:
        v = np.zeros(inputs[0].shape[1:])
        for current in inputs[0].numpy():
            h = v + (current - v) / node.tau
            distance = np.abs(h - node.v_threshold)
            # Exact hits are left out: currents that are whole numbers reach the threshold exactly in every precision.
            distance[distance < 1e-12] = np.inf
            np.minimum(nearest, distance.reshape(len(vectors), -1).min(axis=1), out=nearest)
            v = np.where(h >= node.v_threshold, 0.0, h)

    folded = SpikingClassifier.from_weights(classifier.config, classifier.state_dict()).double().folded()
    for module in folded.modules():
        if isinstance(module, neuron.LIFNode):
            module.register_forward_hook(measure)
    with torch.inference_mode():
        return folded(torch.as_tensor(vectors, dtype=torch.float64)).softmax(dim=1).numpy(), nearest


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)
