"""Options: the same names, defaults and ranges as objects, keywords and flags."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from spikgpt import SpikGPT, annotate, annotate_shards, options
from spikgpt.errors import ConfigError
from spikgpt.options import (
    AnnotateOptions,
    EngineOptions,
    ExplainOptions,
    HubOptions,
    PushOptions,
    TrainOptions,
    limits,
    options_of,
)

KINDS = ("Annotate", "Engine", "Hub", "Train", "Push")
# The option classes of each method.
METHODS = {
    SpikGPT.annotate: (AnnotateOptions,),
    annotate: (AnnotateOptions,),
    annotate_shards: (AnnotateOptions,),
    SpikGPT.evaluate: (AnnotateOptions,),
    SpikGPT.from_pretrained: (HubOptions, EngineOptions),
    SpikGPT.train: (TrainOptions,),
    SpikGPT.push_to_hub: (PushOptions,),
    SpikGPT.explain: (ExplainOptions,),
}
METHOD_IDS = [method.__qualname__ for method in METHODS]
# Options that a method does not have. An evaluation compares labels of single cells, and writes no columns.
WITHOUT = {
    SpikGPT.evaluate: {"key_added", "certainty", "cluster_key", "majority_vote"},
    # The majority over all shards is unknown when a single shard is labelled.
    annotate_shards: {"cluster_key", "majority_vote"},
}


@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
def test_methods_have_the_keywords_and_defaults_of_their_options(method: Any) -> None:
    fields = {field.name: field.default for kind in METHODS[method] for field in msgspec.structs.fields(kind)}
    parameters = inspect.signature(method).parameters
    assert all(parameters[name].kind == inspect.Parameter.KEYWORD_ONLY for name in fields.keys() & parameters.keys())
    defaults = {name: parameters[name].default for name in fields if name in parameters}
    assert defaults == {name: value for name, value in fields.items() if name not in WITHOUT.get(method, ())}


@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
def test_methods_document_all_parameters(method: Any) -> None:
    documented = re.findall(r"^        (\w+(?:, \w+)*)$", str(inspect.getdoc(method)).replace("\n", "\n        "), re.M)
    names = {name for names in documented for name in names.split(", ")}
    assert set(inspect.signature(method).parameters) - {"self", "cls"} <= names


# Program for a separate process, because an IPython shell changes the interpreter.
SHELL = """
import warnings
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from spikgpt import SpikGPT
warnings.simplefilter("ignore")
shell = InteractiveShell(colors="nocolor")
shell.push({"model": object.__new__(SpikGPT)})
line = "model.annotate(adata, unk"
with provisionalcompleter():
    print(*[completion.text for completion in shell.Completer.completions(line, len(line))])
print(shell.object_inspect_text("model.annotate"))
"""


def test_ipython_completes_and_describes_the_options(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    ran = subprocess.run(
        [sys.executable, "-c", SHELL],
        env=os.environ | {"IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    completed, _, colored = ran.stdout.partition("\n")
    description = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert "unknown_rate=" in completed.split()
    for name, parameter in inspect.signature(SpikGPT.annotate).parameters.items():
        if parameter.kind == inspect.Parameter.KEYWORD_ONLY:
            default = re.escape(repr(parameter.default))
            assert re.search(rf"{name}: .* = {default},", description), name
            assert re.search(rf"^{name}$", description, re.M), name


def test_old_names_of_options_are_accepted_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="same_study is now called reference_cutoff"):
        assert options_of(AnnotateOptions, {"same_study": True}) == AnnotateOptions(reference_cutoff=True)
    with pytest.warns(DeprecationWarning, match="neighbours is now called smoothing"):
        assert options_of(AnnotateOptions, {"neighbours": False}) == AnnotateOptions(smoothing=False)
    with pytest.raises(ConfigError, match="two names of one option"):
        options_of(AnnotateOptions, {"neighbours": False, "smoothing": True})


@pytest.mark.parametrize("name", KINDS)
def test_every_field_has_a_default_and_can_be_described(name: str) -> None:
    kind = getattr(options, f"{name}Options")
    assert options_of(kind, {}) == kind()
    for field in kind.__struct_fields__:
        assert options.expected(kind, field)


def test_option_values_are_converted() -> None:
    assert options_of(EngineOptions, {"engine_cache": "here"}) == EngineOptions(engine_cache=Path("here"))
    assert options_of(EngineOptions, {"engine_cache": Path("here")}) == EngineOptions(engine_cache=Path("here"))
    assert options_of(AnnotateOptions, {"threshold": np.float64(0.5), "batch_size": np.int64(3)}) == AnnotateOptions(
        threshold=0.5, batch_size=3
    )
    assert options_of(HubOptions, {"token": True}).token is True
    for labels in ("alpha", ["alpha"], ("alpha",), np.array(["alpha"]), pd.Index(["alpha"])):
        assert options_of(AnnotateOptions, {"labels": labels}).labels == ["alpha"]
    assert options_of(AnnotateOptions, {"unknown_rate": 0}).unknown_rate == 0.0


@pytest.mark.parametrize(
    ("kind", "keywords", "message"),
    [
        (EngineOptions, {"engine": "tensorflow"}, "engine is 'tensorflow'; expected auto, onnx, numpy or torch."),
        (AnnotateOptions, {"threshold": "x"}, "threshold is 'x'; expected a number of at least 0 and at most 1."),
        (AnnotateOptions, {"unknown_rate": 1}, "unknown_rate is 1; expected a number of at least 0 and below 1."),
        (AnnotateOptions, {"batch_size": 0}, "batch_size is 0; expected a whole number of at least 1."),
        (AnnotateOptions, {"batch_size": 2.5}, "batch_size is 2.5; expected a whole number of at least 1."),
        (AnnotateOptions, {"smoothing": "no"}, "smoothing is 'no'; expected True or False."),
        (HubOptions, {"token": 3}, "token is 3; expected text or True or False."),
        (HubOptions, {"cache_dir": 3}, "cache_dir is 3; expected a path."),
        (AnnotateOptions, {"labels": 3}, "labels is 3; expected a list of texts."),
        (AnnotateOptions, {"labels": ["a", 3]}, "labels is ['a', 3]; expected a list of texts."),
        (AnnotateOptions, {"species": "rat"}, "species is 'rat'; expected human or mouse."),
        (AnnotateOptions, {"majority_vote": True, "smoothing": False}, "the neighbours that smoothing searches"),
        (TrainOptions, {"name": ""}, "name is ''; expected text of length at least 1."),
        (TrainOptions, {"provenance": {3: 1}}, "provenance is {3: 1}; expected a dict with text as keys."),
        (
            TrainOptions,
            {"seeds": 3},
            "There is no option 'seeds'; the options are batch_key, cross_validate, layer, gene_key, recipe, name,",
        ),
        (TrainOptions, {"seeds": 3}, "Did you mean 'seed'?"),
        (AnnotateOptions, {"recalibrate": True}, "There is no option 'recalibrate'; the options are layer, gene_key,"),
        (EngineOptions, {"strict": True}, "There is no option 'strict'; the options are engine, precision, provider,"),
        (
            AnnotateOptions,
            {"threshold": 0.5, "reference_cutoff": True},
            "threshold cannot be combined with unknown_rate or reference_cutoff",
        ),
    ],
)
def test_invalid_options_are_refused_with_a_message(kind: type[Any], keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        options_of(kind, keywords)
    assert message in str(error.value)


def test_errors_use_the_command_line_name_of_an_option() -> None:
    with pytest.raises(ConfigError, match=r"^--seed is -1; expected a whole number of at least 0\.$"):
        options_of(TrainOptions, {"seed": -1}, {"seed": "--seed"})


def test_limits_of_an_option_are_described() -> None:
    assert limits(AnnotateOptions, "unknown_rate") == "at least 0 and below 1"
    assert limits(AnnotateOptions, "layer") == ""


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        AnnotateOptions().layer = "counts"  # type: ignore[misc]
