"""What the doctor finds on this machine, and on machines that lack something."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from spikgpt.errors import install_command
from spikgpt.version import __version__
from spikgpt_onnx import doctor
from spikgpt_onnx.session import PROVIDERS


def test_the_doctor_tells_versions_and_where_graphs_run() -> None:
    found = {finding.what: finding for finding in doctor.findings()}
    assert found["spikgpt"].found == __version__
    assert found.keys() >= {"Python", "ONNX Runtime", *doctor.PACKAGES, *doctor.OPTIONAL, *PROVIDERS}
    assert all(found[what].works for what in found.keys() - {"cuda", "tensorrt"})
    assert found["cpu"].found == "works, strictly: every part of the graph runs there"
    assert "pip install 'onnxruntime-gpu>=" in found["cuda"].found or found["cuda"].works


def test_what_is_missing_is_a_problem_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("torch", "zarr"):
            raise metadata.PackageNotFoundError
        return metadata.version(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = {finding.what: finding for finding in doctor.findings()}
    assert found["torch"] == doctor.Finding("torch", f"not installed; optional: {install_command('torch')}")
    assert found["zarr"] == doctor.Finding("zarr", "not installed", works=False)
    assert not found["ONNX Runtime"].works
    assert "pip install 'onnxruntime>=1.20'" in found["ONNX Runtime"].found
