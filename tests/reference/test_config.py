from __future__ import annotations

import json
from typing import Any

import pytest

from spikgpt.errors import ConfigError
from spikgpt.reference.config import SpikGPTConfig


def test_a_config_round_trips_through_json() -> None:
    config = SpikGPTConfig(input_dim=64, n_labels=14, attention_scale=0.5, tau=3)
    assert SpikGPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_dim": 0}, "input_dim is 0; it must be at least 1"),
        ({"n_labels": 1}, "needs at least 2 labels"),
        ({"width": 30, "heads": 8}, "width 30 is not a multiple of heads 8"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"tau": 1.0}, "tau is 1.0; a leaky neuron"),
        ({"v_threshold": 0.0}, "must be positive"),
        ({"attention_scale": -1.0}, "must be positive"),
        ({"surrogate": "step"}, "choose one of atan, sigmoid"),
        ({"time_steps": 0}, "time_steps is 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpikGPTConfig(**({"input_dim": 8, "n_labels": 3} | values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_labels": "3"}, 'n_labels in the model config is "3"; expected int'),
        ({"residual": 1}, "residual in the model config is 1; expected bool"),
        ({"copies": True}, "copies in the model config is true; expected int"),
        ({"tau": None}, "tau in the model config is null; expected float"),
        ({"colour": "red"}, "unknown fields colour"),
    ],
)
def test_a_config_of_wrong_types_is_refused(change: dict[str, Any], message: str) -> None:
    values = SpikGPTConfig(input_dim=8, n_labels=3).to_dict() | change
    with pytest.raises(ConfigError, match=message):
        SpikGPTConfig.from_dict(values)


def test_a_config_with_a_missing_field_is_refused() -> None:
    values = SpikGPTConfig(input_dim=8, n_labels=3).to_dict()
    del values["copies"]
    with pytest.raises(ConfigError, match="lacks copies"):
        SpikGPTConfig.from_dict(values)


def test_the_scale_defaults_to_one_copy() -> None:
    assert SpikGPTConfig(input_dim=8, n_labels=3, copies=50).scale == 0.02
    assert SpikGPTConfig(input_dim=8, n_labels=3, attention_scale=0.125).scale == 0.125
