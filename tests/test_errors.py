"""Errors, and a missing package, which is one line that names the extra."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from spikgpt import errors
from spikgpt.errors import EXTRAS, FAULTS, ConfigError, DataError, fault, needs


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def test_the_family_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(found[1]) // 4
            above[depth] = found[2]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    family = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SpikGPTError)
    }
    assert drawn == family
    assert len(family) == 13


def test_every_error_says_when_it_is_raised() -> None:
    for name, kind in inspect.getmembers(errors, is_error):
        assert (kind.__doc__ or "").endswith("."), name


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


@pytest.mark.parametrize("number", FAULTS)
def test_faults_of_the_machine_are_found_behind_other_errors(number: int) -> None:
    error = DataError("cannot be written")
    error.__cause__ = RuntimeError("wrapped")
    error.__cause__.__context__ = OSError(number, os.strerror(number))
    assert fault(error) == FAULTS[number]


def test_the_number_of_a_fault_may_stand_in_the_text_alone() -> None:
    told = "Can't write data (file write failed: errno = 28, error message = 'No space left on device')"
    assert fault(OSError(told)) == FAULTS[errno.ENOSPC]
    assert fault(OSError("something else")) is None
    assert fault(ValueError("No space left on device")) is None


def test_what_strangers_wrote_is_one_line_that_a_terminal_can_show() -> None:
    text = str(ConfigError("\x1b[2Ja\nb\u202e" + "c" * 10**6 + " do this."))
    assert text.isprintable()
    assert text.startswith(r"\x1b[2Ja\nb\u202ecc")
    assert text.endswith("c do this.")
    assert len(text) < 3100
