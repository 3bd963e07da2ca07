"""The literal and the collapsed network equal an independent NumPy loop."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from spikingjelly.activation_based import neuron

from spikgpt.engines.model import CopyDropout, SpikingClassifier
from spikgpt.errors import DamagedReference
from spikgpt.reference.config import SpikGPTConfig

Array = npt.NDArray[Any]

ARCHITECTURES = {
    "default": {},
    "paper": {"width": 24, "residual": False, "shared_dropout": False, "attention_scale": 0.125},
    "paper_with_residual": {"width": 24, "attention_scale": 0.125},
    "deep": {"depth": 3, "width": 32, "heads": 2},
    "one_head": {"heads": 1, "width": 40},
    "slow_neurons": {"tau": 5.0, "v_threshold": 0.3, "time_steps": 7, "width": 16},
    "one_step": {"time_steps": 1, "copies": 17, "v_threshold": 0.25},
}
INPUT_DIM, LABELS, CELLS = 24, 5, 6


def classifier_for(overrides: dict[str, Any], *, seed: int = 0, trained: bool = False) -> SpikingClassifier:
    """Return a classifier whose BatchNorm statistics come from random vectors; train for 40 steps if ``trained``."""
    classifier = untrained(overrides)
    classifier.load_state_dict(weights_for(tuple(overrides.items()), seed, trained))
    return classifier.double().eval()


def untrained(overrides: dict[str, Any]) -> SpikingClassifier:
    settings = {"copies": 300, "mlp_ratio": 1.5} | overrides
    return SpikingClassifier(SpikGPTConfig(input_dim=INPUT_DIM, n_labels=LABELS, **settings))


@cache
def weights_for(overrides: tuple[tuple[str, Any], ...], seed: int, trained: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a classifier, cached for several tests."""
    torch.manual_seed(seed)
    classifier = untrained(dict(overrides))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2)
    classifier.train()
    labels = torch.arange(64) % LABELS
    for _ in range(40):
        batch = embeddings(64, seed=seed) + torch.nn.functional.one_hot(labels, INPUT_DIM) * 0.5
        with torch.set_grad_enabled(trained):
            loss = torch.nn.functional.cross_entropy(classifier(batch.float()), labels)
        if trained:
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return classifier.state_dict()


def embeddings(cells: int = CELLS, *, seed: int = 1) -> torch.Tensor:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((cells, INPUT_DIM))
    return torch.as_tensor(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class Recorder:
    """Recorder of the spikes of every LIF layer in a forward pass."""

    def __init__(self, classifier: SpikingClassifier) -> None:
        self.spikes: dict[str, Array] = {}
        self.handles = [
            module.register_forward_hook(self._keep(name))
            for name, module in classifier.named_modules()
            if isinstance(module, neuron.LIFNode)
        ]

    def _keep(self, name: str) -> Any:
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            self.spikes[name] = output.detach().numpy().copy()

        return hook


def run(classifier: SpikingClassifier, x: torch.Tensor, *, literal: bool) -> tuple[Array, dict[str, Array]]:
    recorder = Recorder(classifier)
    with torch.inference_mode():
        logits = classifier(x, literal=literal).numpy()
    for handle in recorder.handles:
        handle.remove()
    return logits, recorder.spikes


def numpy_lif(currents: Array, tau: float, v_threshold: float) -> Array:
    """Return the spikes of leaky integrate-and-fire neurons over the first axis: charge, fire, hard reset to 0."""
    v = np.zeros_like(currents[0])
    spikes = np.zeros_like(currents)
    for t in range(len(currents)):
        h = v + (currents[t] - v) / tau
        spikes[t] = h >= v_threshold
        v = np.where(spikes[t] > 0, 0.0, h)
    return spikes


def numpy_classifier(
    config: SpikGPTConfig, weights: dict[str, Array], x: Array, copies: int, gain: float
) -> tuple[Array, dict[str, Array]]:
    """Return logits and spikes by loops over cells, heads and tokens; no code is shared with the model."""
    trains: dict[str, list[Array]] = {}

    def project(prefix: str, values: Array) -> Array:
        y = values @ weights[f"{prefix}.linear.weight"].T
        deviation = np.sqrt(weights[f"{prefix}.norm.running_var"] + 1e-5)
        normal = (y - weights[f"{prefix}.norm.running_mean"]) / deviation
        return np.asarray(normal * weights[f"{prefix}.norm.weight"] + weights[f"{prefix}.norm.bias"])

    def fire(name: str, currents: Array) -> Array:
        spikes = numpy_lif(currents, config.tau, config.v_threshold)
        trains.setdefault(name, []).append(spikes)
        return spikes

    logits = []
    for cell in x:
        start = project("stem", cell) if config.has_stem else cell
        tokens = np.broadcast_to(start, (config.time_steps, copies, config.width)).copy()
        for depth in range(config.depth):
            prefix = f"blocks.{depth}"
            spikes = fire(
                f"{prefix}.attention.projection_neurons", project(f"{prefix}.attention.query_key_value", tokens)
            )
            query, key, value = np.split(spikes, 3, axis=-1)
            attended = np.zeros_like(query)
            size = config.width // config.heads
            for head in range(config.heads):
                part = slice(head * size, (head + 1) * size)
                for t in range(config.time_steps):
                    attended[t, :, part] = query[t, :, part] @ key[t, :, part].T @ value[t, :, part]
            attended = fire(f"{prefix}.attention.output_neurons", attended * gain * config.scale)
            tokens = tokens + attended if config.residual else attended
            hidden = fire(f"{prefix}.mlp.hidden_neurons", project(f"{prefix}.mlp.hidden", tokens))
            out = hidden @ weights[f"{prefix}.mlp.output.weight"].T + weights[f"{prefix}.mlp.output.bias"]
            tokens = tokens + out if config.residual else out
        logits.append(weights["head.weight"] @ tokens.mean(axis=(0, 1)) + weights["head.bias"])
    return np.stack(logits), {name: np.stack(cells, axis=1) for name, cells in trains.items()}


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_both_forms_equal_the_numpy_loop_in_float64(overrides: dict[str, Any], trained: bool) -> None:
    classifier = classifier_for(overrides, trained=trained)
    weights = {name: tensor.numpy() for name, tensor in classifier.state_dict().items()}
    x = embeddings()
    config = classifier.config
    collapsed, collapsed_spikes = run(classifier, x, literal=False)
    literal, literal_spikes = run(classifier, x, literal=True)
    folded, folded_spikes = run(classifier.folded(), x, literal=False)
    oracle, oracle_spikes = numpy_classifier(config, weights, x.numpy(), config.copies, 1.0)
    oracle_one, _ = numpy_classifier(config, weights, x.numpy(), 1, float(config.copies))
    for logits in (collapsed, literal, folded, oracle_one):
        np.testing.assert_allclose(logits, oracle, rtol=0, atol=1e-10)
    assert collapsed_spikes.keys() == literal_spikes.keys() == folded_spikes.keys() == oracle_spikes.keys()
    for name, spikes in oracle_spikes.items():
        np.testing.assert_array_equal(literal_spikes[name], spikes)
        for one_token in (collapsed_spikes[name], folded_spikes[name]):
            np.testing.assert_array_equal(np.broadcast_to(one_token, spikes.shape), spikes)
    assert any(spikes.any() for spikes in oracle_spikes.values())


@pytest.mark.parametrize("trained", [pytest.param(False, marks=pytest.mark.slow), True], ids=["random", "trained"])
@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_collapsed_equals_literal_in_float32(overrides: dict[str, Any], trained: bool) -> None:
    classifier = classifier_for(overrides, seed=3, trained=trained).float()
    x = embeddings(12, seed=4).float()
    literal, literal_spikes = run(classifier, x, literal=True)
    for form in (classifier, classifier.folded()):
        logits, spikes = run(form, x, literal=False)
        np.testing.assert_allclose(logits, literal, rtol=0, atol=1e-5)
        for name, train in spikes.items():
            np.testing.assert_array_equal(np.broadcast_to(train, literal_spikes[name].shape), literal_spikes[name])


def test_every_layer_fires_and_none_is_saturated() -> None:
    classifier = classifier_for({}, trained=True)
    _, spikes = run(classifier, embeddings(200), literal=False)
    rates = {name: float(train.mean()) for name, train in spikes.items()}
    assert len(rates) == 3
    assert all(0.001 < rate < 0.9 for rate in rates.values()), rates


def test_spiking_outputs_are_binary() -> None:
    _, spikes = run(classifier_for({}), embeddings(), literal=True)
    for train in spikes.values():
        assert set(np.unique(train)) <= {0.0, 1.0}


def test_separate_dropout_masks_have_the_distribution_of_averaged_copies() -> None:
    torch.manual_seed(0)
    copies, p, units = 50, 0.3, 20_000
    literal = CopyDropout(p, copies, shared=False).train()
    masks = literal(torch.ones(copies, units), literal=True).mean(0)
    collapsed = literal(torch.ones(units), literal=False)
    assert float(collapsed.mean()) == pytest.approx(1, abs=0.005)
    assert float(collapsed.std()) == pytest.approx(float(masks.std()), rel=0.05)
    assert float(collapsed.std()) == pytest.approx((p / (1 - p) / copies) ** 0.5, rel=0.05)


def test_dropout_does_nothing_in_evaluation() -> None:
    x = torch.rand(10)
    for shared in (True, False):
        assert torch.equal(CopyDropout(0.5, 300, shared=shared).eval()(x, literal=False), x)


def test_the_result_does_not_depend_on_an_earlier_forward_pass() -> None:
    classifier = classifier_for({})
    first, _ = run(classifier, embeddings(), literal=False)
    run(classifier, embeddings(50, seed=9), literal=False)
    again, _ = run(classifier, embeddings(), literal=False)
    np.testing.assert_array_equal(first, again)


def test_folding_leaves_the_original_unchanged() -> None:
    classifier = classifier_for({})
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in classifier.folded().modules())
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gradients_reach_every_weight() -> None:
    classifier = classifier_for({}).train().requires_grad_(True)
    classifier(embeddings(64)).square().sum().backward()
    without = [name for name, p in classifier.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_weights_that_do_not_fit_are_refused_with_their_names() -> None:
    classifier = classifier_for({})
    weights = dict(classifier.state_dict())
    del weights["head.bias"]
    weights["head.weight"] = torch.zeros(2, 2)
    with pytest.raises(DamagedReference, match=r"2 tensors differ, such as head.bias .*head.weight .*found \(2, 2\)"):
        SpikingClassifier.from_weights(classifier.config, weights)
