"""Rounding of numbers before they are stored."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.numpy import fold_layer
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.training.rounding import WEIGHT_BITS, round_bits, round_steps, round_weights

FINITE = st.floats(-1e4, 1e4, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(st.lists(FINITE, min_size=1, max_size=20), st.integers(1, 7))
def test_few_bits_are_kept_and_the_error_is_bounded(values: list[float], bits: int) -> None:
    array = np.array(values, dtype=np.float32)
    rounded = round_bits(array, bits)
    assert rounded.dtype == array.dtype
    assert (np.abs(rounded - array) <= np.abs(array) * 2.0 ** -(bits + 1)).all()
    assert ((rounded == 0) == (array == 0)).all()
    assert not (rounded.view(np.uint32) & ((1 << (23 - bits)) - 1)).any()


def test_seven_bits_equal_bfloat16() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(round_bits(values, WEIGHT_BITS), expected)


def test_multiples_of_a_step_are_exact_in_half_precision() -> None:
    values = np.random.default_rng(0).uniform(-2, 2, 1000)
    rounded = round_steps(values, 2**-8)
    np.testing.assert_allclose(rounded, values, atol=2**-9)
    np.testing.assert_array_equal(rounded.astype(np.float16), rounded)


def test_the_weights_of_a_graph_are_rounded_and_give_nearly_the_same_logits() -> None:
    torch.manual_seed(0)
    classifier = SpikingClassifier(SpikGPTConfig(input_dim=32, n_labels=3, width=64))
    classifier(torch.randn(500, 32))  # moves the running statistics of each BatchNorm
    classifier.eval()
    before = classifier.state_dict()
    layers = [name.removesuffix(".linear.weight") for name in before if name.endswith(".linear.weight")]
    expected = {name: fold_layer({key: value.numpy() for key, value in before.items()}, name) for name in layers}
    round_weights(classifier)
    after = {key: value.numpy() for key, value in classifier.state_dict().items()}
    assert len(layers) == 3
    for name in layers:
        weight, bias = fold_layer(after, name)
        np.testing.assert_allclose(weight, expected[name][0], rtol=2**-8)
        np.testing.assert_allclose(bias, expected[name][1], rtol=1e-5, atol=1e-6)
        # A graph stores the folded weights in float32.
        stored = weight.astype(np.float32)
        np.testing.assert_array_equal(round_bits(stored), stored)
        assert len(zlib.compress(stored.tobytes())) < 0.6 * stored.nbytes
    np.testing.assert_array_equal(round_bits(after["head.weight"]), after["head.weight"])
