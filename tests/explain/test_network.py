"""Gradients of the spiking classifier: the same as those of PyTorch with the same surrogate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spikgpt.engines.numpy import NumpyClassifier
from spikgpt.explain.network import DifferentiableClassifier
from spikgpt.reference.config import SpikGPTConfig

SMALL: dict[str, Any] = {"input_dim": 6, "n_labels": 4, "width": 8, "heads": 2, "copies": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "deep": {"depth": 2},
    "paper": {"input_dim": 8, "residual": False, "v_threshold": 0.5},
    "sigmoid": {"surrogate": "sigmoid", "surrogate_alpha": 4.0, "tau": 3.0},
    "scaled attention": {"attention_scale": 0.125, "copies": 20},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_equals_that_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from spikgpt.engines.model import SpikingClassifier

    torch.manual_seed(0)
    config = SpikGPTConfig(**SMALL | CONFIGS[name])
    model = SpikingClassifier(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    model = model.double().eval()
    vectors = torch.randn(12, config.input_dim, dtype=torch.float64, requires_grad=True)
    logits = model(vectors)
    of_logits = torch.randn_like(logits)
    (expected,) = torch.autograd.grad(logits, vectors, of_logits)

    computed, pull = DifferentiableClassifier(config, weights).forward(vectors.detach().numpy())
    np.testing.assert_allclose(computed, logits.detach().numpy(), atol=1e-9)
    np.testing.assert_allclose(pull(of_logits.numpy()), expected.numpy(), atol=1e-9)
    assert np.abs(expected.numpy()).max() > 1e-3


def test_logits_are_those_of_the_engine() -> None:
    config, random = SpikGPTConfig(**SMALL), np.random.default_rng(0)
    weights = {name: random.standard_normal(shape) for name, shape in config.shapes().items()}
    weights |= {name: np.abs(array) for name, array in weights.items() if name.endswith("running_var")}
    vectors = random.standard_normal((5, 6))
    computed, _ = DifferentiableClassifier(config, weights).forward(vectors)
    np.testing.assert_allclose(computed, NumpyClassifier(config, weights).logits(vectors), atol=1e-12)
