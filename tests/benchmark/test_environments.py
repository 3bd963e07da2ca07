from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from spikgpt_benchmark import environments
from spikgpt_benchmark.environments import MethodUnavailable, installed, interpreter_of, python_path
from tests.benchmark.fake_methods import method


def wheel(folder: Path, name: str) -> Path:
    """Write a minimal wheel, and return its path."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "VALUE = 7\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Use an empty cache, no package index, and environments without the worker's packages."""
    monkeypatch.setenv("SPIKGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(environments, "BASE", ())
    return tmp_path


def test_the_usual_environment_is_this_one() -> None:
    assert interpreter_of(method("here", "nearest", packages=("numpy",))) == Path(sys.executable)
    assert python_path(method("here", "nearest"), Path("unused")) is None


def test_an_environment_is_made_once_and_reaches_this_package_alone(empty_cache: Path) -> None:
    own = method("own", "nearest", environment=(str(wheel(empty_cache, "tiny")),))
    python = interpreter_of(own)
    assert python.is_relative_to(empty_cache / "cache")
    folder = empty_cache / "run"
    folder.mkdir()
    code = "import tiny, spikgpt_benchmark.methods as methods; print(tiny.VALUE, methods.__file__)"
    # ``import spikgpt`` needs lazy_loader, which this environment lacks.
    (folder / "lazy_loader.py").write_text("def attach_stub(*_): return None, None, []\n")
    path = f"{python_path(own, folder)}:{folder}"
    done = subprocess.run(
        [python, "-P", "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    value, module_path = done.stdout.split()
    assert value == "7"
    assert Path(module_path).is_relative_to(folder)
    before = (python.parents[1] / "ready.json").stat().st_mtime_ns
    assert interpreter_of(own) == python
    assert (python.parents[1] / "ready.json").stat().st_mtime_ns == before


def test_an_environment_that_cannot_be_made_is_reported_in_one_line(empty_cache: Path) -> None:
    with pytest.raises(MethodUnavailable, match=r"^no environment: ERROR: No matching distribution .*no-such-thing"):
        interpreter_of(method("own", "nearest", environment=("no-such-thing==1",)))


def test_the_version_of_this_package_includes_a_hash_of_its_sources() -> None:
    assert installed("no-such-distribution") is None
    assert installed("numpy") == __import__("numpy").__version__
    version, _, sources = str(installed("spikgpt")).rpartition("+")
    assert version == __import__("spikgpt").__version__
    assert len(sources) == 8
