"""Options: one meaning as objects, keywords and flags, and messages in the user's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from spikgpt import options
from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions, EngineOptions, HubOptions, TrainOptions, limits, options_of

KINDS = ("Annotate", "Engine", "Hub", "Train", "Push")


@pytest.mark.parametrize("name", KINDS)
def test_keywords_have_the_fields_and_types_of_the_options(name: str) -> None:
    fields = get_type_hints(getattr(options, f"{name}Options"))
    # Paths may be given as text.
    expected = {field: str | kind if Path in getattr(kind, "__args__", ()) else kind for field, kind in fields.items()}
    assert get_type_hints(getattr(options, f"{name}Keywords")) == expected


def test_loading_takes_the_keywords_of_both() -> None:
    both = get_type_hints(options.HubKeywords) | get_type_hints(options.EngineKeywords)
    assert get_type_hints(options.LoadKeywords) == both


@pytest.mark.parametrize("name", KINDS)
def test_every_field_has_a_default_and_can_be_described(name: str) -> None:
    kind = getattr(options, f"{name}Options")
    assert options_of(kind, {}) == kind()
    for field in kind.__struct_fields__:
        assert options.expected(kind, field)


def test_values_are_taken_as_what_they_are_meant_to_be() -> None:
    assert options_of(EngineOptions, {"engine_cache": "here"}) == EngineOptions(engine_cache=Path("here"))
    assert options_of(EngineOptions, {"engine_cache": Path("here")}) == EngineOptions(engine_cache=Path("here"))
    assert options_of(AnnotateOptions, {"threshold": np.float64(0.5), "batch_size": np.int64(3)}) == AnnotateOptions(
        threshold=0.5, batch_size=3
    )
    assert options_of(HubOptions, {"token": True}).token is True
    assert options_of(AnnotateOptions, {"unknown_rate": 0}).unknown_rate == 0.0


@pytest.mark.parametrize(
    ("kind", "keywords", "message"),
    [
        (EngineOptions, {"engine": "tensorflow"}, "engine is 'tensorflow'; expected auto, onnx or torch."),
        (AnnotateOptions, {"threshold": "x"}, "threshold is 'x'; expected a number of at least 0 and at most 1."),
        (AnnotateOptions, {"unknown_rate": 1}, "unknown_rate is 1; expected a number of at least 0 and below 1."),
        (AnnotateOptions, {"batch_size": 0}, "batch_size is 0; expected a whole number of at least 1."),
        (AnnotateOptions, {"batch_size": 2.5}, "batch_size is 2.5; expected a whole number of at least 1."),
        (AnnotateOptions, {"neighbours": "no"}, "neighbours is 'no'; expected True or False."),
        (HubOptions, {"token": 3}, "token is 3; expected text or True or False."),
        (HubOptions, {"cache_dir": 3}, "cache_dir is 3; expected a path."),
        (TrainOptions, {"name": ""}, "name is ''; expected text of length at least 1."),
        (TrainOptions, {"provenance": {3: 1}}, "provenance is {3: 1}; expected a dict with text as keys."),
        (
            TrainOptions,
            {"seeds": 3},
            "There is no option 'seeds'; the options are batch_key, layer, recipe, name, seed,",
        ),
        (TrainOptions, {"seeds": 3}, "Did you mean 'seed'?"),
        (AnnotateOptions, {"recalibrate": True}, "There is no option 'recalibrate'; the options are layer, scaling,"),
        (EngineOptions, {"strict": True}, "There is no option 'strict'; the options are engine, precision, provider,"),
        (AnnotateOptions, {"threshold": 0.5, "same_study": True}, "threshold goes with neither unknown_rate nor"),
    ],
)
def test_messages(kind: type[Any], keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        options_of(kind, keywords)
    assert message in str(error.value)


def test_an_option_is_called_as_the_user_calls_it() -> None:
    with pytest.raises(ConfigError, match=r"^--seed is -1; expected a whole number of at least 0\.$"):
        options_of(TrainOptions, {"seed": -1}, {"seed": "--seed"})


def test_limits() -> None:
    assert limits(AnnotateOptions, "unknown_rate") == "at least 0 and below 1"
    assert limits(AnnotateOptions, "layer") == ""


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        AnnotateOptions().layer = "counts"  # type: ignore[misc]
