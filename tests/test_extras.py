"""A missing package is one line that names the extra."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError
from spikgpt.extras import EXTRAS, needs


def test_every_extra_exists_and_brings_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRAS.items():
        brought = [line.partition(">")[0] for line in project["optional-dependencies"][extra]]
        assert package.replace("sklearn", "scikit-learn") in brought


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ConfigError, match=r"needs numba, .*: pip install 'spikgpt\[scgpt\]'$"), needs():
        importlib.import_module("numba")
    with pytest.raises(ConfigError, match=r"needs torch, .*: pip install 'spikgpt\[train\]'$"), needs("torch"):
        importlib.import_module("numba")


def test_another_missing_package_is_no_users_mistake() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), needs():
        importlib.import_module("no_such_package")
