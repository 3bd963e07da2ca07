"""Error classes, and messages on missing packages and system errors."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from spikgpt import errors
from spikgpt.errors import FAULTS, OPTIONAL, TRAINING, ConfigError, DataError, fault, install_command, needs, with_noun


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def test_the_module_docstring_shows_the_class_hierarchy() -> None:
    documented: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(match[1]) // 4
            above[depth] = match[2]
            documented[match[2]] = above[depth - 1] if depth else "Exception"
    classes = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SpikGPTError)
    }
    assert documented == classes
    assert len(classes) == 14


def test_every_error_has_a_docstring() -> None:
    for name, kind in inspect.getmembers(errors, is_error):
        assert (kind.__doc__ or "").endswith("."), name


def test_every_optional_package_is_in_an_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    brought = {Requirement(line).name for lines in project["optional-dependencies"].values() for line in lines}
    assert {name.replace("sklearn", "scikit-learn") for name in OPTIONAL} <= brought
    assert set(TRAINING) <= set(OPTIONAL)


def test_a_missing_package_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ConfigError, match=r"needs numba, which .*\. Run: pip install 'numba>=0\.60'$"), needs():
        importlib.import_module("numba")
    with (
        pytest.raises(ConfigError, match=r"needs scanpy, which .*\. Run: pip install 'scanpy>=1\.10'$"),
        needs("scanpy"),
    ):
        importlib.import_module("numba")
    # Training needs several packages; installed packages are not listed.
    for module in ("sklearn", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"Run: pip install 'scikit-learn>=1\.5' 'torch>=2\.5'( \(README|$)"), needs():
        importlib.import_module("sklearn")


def test_without_installed_metadata_packages_have_no_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    assert install_command("sklearn", "pyarrow") == "pip install scikit-learn pyarrow"


def test_an_unknown_missing_package_is_not_a_config_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), needs():
        importlib.import_module("no_such_package")


@pytest.mark.parametrize("number", FAULTS)
def test_system_errors_are_found_behind_other_errors(number: int) -> None:
    error = DataError("cannot be written")
    error.__cause__ = RuntimeError("wrapped")
    error.__cause__.__context__ = OSError(number, os.strerror(number))
    assert fault(error) == FAULTS[number]


def test_system_errors_are_recognised_by_the_number_in_their_text() -> None:
    message = "Can't write data (file write failed: errno = 28, error message = 'No space left on device')"
    assert fault(OSError(message)) == FAULTS[errno.ENOSPC]
    assert fault(OSError("something else")) is None
    assert fault(ValueError("No space left on device")) is None


def test_untrusted_text_in_messages_is_one_printable_line() -> None:
    text = str(ConfigError("\x1b[2Ja\nb\u202e" + "c" * 10**6 + " do this."))
    assert text.isprintable()
    assert text.startswith(r"\x1b[2Ja\nb\u202ecc")
    assert text.endswith("c do this.")
    assert len(text) < 3100


def test_noun_and_verb_agree_with_the_number() -> None:
    assert [with_noun(count, "line") for count in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]
    assert with_noun(1, "batch is", "batches are") == "1 batch is"
    assert with_noun(1200, "batch is", "batches are", form=",") == "1,200 batches are"
