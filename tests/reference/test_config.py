"""A network config is checked when it is made, and must be complete when it is read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikgpt.engines.model import SpikingClassifier
from spikgpt.errors import ConfigError
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.json_files import dumped

VALUES: dict[str, Any] = json.loads(dumped(SpikGPTConfig(input_dim=8, n_labels=3)))


def test_a_config_round_trips_through_json() -> None:
    config = SpikGPTConfig(input_dim=64, n_labels=14, attention_scale=0.5, tau=3)
    assert SpikGPTConfig.from_dict(json.loads(dumped(config))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_dim": 0}, "input_dim of the network is 0: Expected `int` >= 1."),
        ({"n_labels": 1}, "n_labels of the network is 1: Expected `int` >= 2."),
        ({"width": 30, "heads": 8}, "width 30 is not a multiple of heads 8"),
        ({"width": 10**12, "heads": 1}, "Expected `int` <= 100000"),
        ({"dropout": 1.0}, "dropout of the network is 1.0: Expected `float` < 1.0"),
        ({"tau": 1.0}, "tau of the network is 1.0: Expected `float` >= 1.001"),
        ({"tau": float("inf")}, "tau of the network is inf"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio of the network is nan"),
        ({"v_threshold": 0.0}, "Expected `float` >= 1e-06"),
        ({"attention_scale": -1.0}, "attention_scale of the network is -1.0"),
        ({"surrogate": "step"}, "surrogate of the network is 'step'"),
        ({"time_steps": 0}, "time_steps of the network is 0"),
        ({"n_labels": "3"}, "n_labels of the network is '3': Expected `int`, got `str`."),
        ({"residual": 1}, "residual of the network is 1: Expected `bool`, got `int`."),
        ({"copies": True}, "copies of the network is True: Expected `int`, got `bool`."),
        ({"tau": None}, "tau of the network is None: Expected `float`, got `null`."),
    ],
)
def test_values_of_another_type_or_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    for make in (SpikGPTConfig.from_dict, lambda values: SpikGPTConfig(**values)):
        with pytest.raises(ConfigError, match=re.escape(message)):
            make(VALUES | values)


def test_missing_and_unknown_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match="lacks copies and has colour that is unknown"):
        SpikGPTConfig.from_dict({name: value for name, value in VALUES.items() if name != "copies"} | {"colour": "red"})


def test_the_scale_defaults_to_one_copy() -> None:
    assert SpikGPTConfig(input_dim=8, n_labels=3, copies=50).scale == 0.02
    assert SpikGPTConfig(input_dim=8, n_labels=3, attention_scale=0.125).scale == 0.125


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(2, 5), st.integers(1, 4), st.integers(1, 3), st.floats(0.1, 3))
def test_the_shapes_of_weights_equal_those_of_the_network(
    input_dim: int, n_labels: int, size: int, depth: int, mlp_ratio: float
) -> None:
    config = SpikGPTConfig(input_dim, n_labels, 3 * size, 3, depth=depth, mlp_ratio=mlp_ratio)
    weights = SpikingClassifier(config).state_dict()
    assert config.shapes() == {name: tuple(weight.shape) for name, weight in weights.items()}
