"""The report of ``spikgpt doctor``, on this machine and without some packages."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from spikgpt.engines import doctor, onnx_session
from spikgpt.engines.onnx_session import PROVIDERS
from spikgpt.errors import install_command
from spikgpt.version import __version__


def report() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.findings()}


def test_the_report_names_versions_devices_and_the_default_engine() -> None:
    findings = report()
    assert findings["spikgpt"].state == __version__
    assert findings.keys() >= {"Python", "ONNX Runtime", *doctor.PACKAGES, *doctor.OPTIONAL, *PROVIDERS}
    assert all(findings[name].works for name in findings.keys() - {"cuda", "tensorrt"})
    assert "every part of the graph" in findings["cpu"].state
    assert "pip install 'onnxruntime-gpu>=" in findings["cuda"].state or findings["cuda"].works
    assert findings[doctor.DEFAULT_ENGINE].state.startswith("onnx on ")


def test_a_missing_package_is_a_problem_only_if_annotation_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("torch", "zarr"):
            raise metadata.PackageNotFoundError
        return metadata.version(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "installed_distributions", list)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    findings = report()
    assert findings["torch"] == doctor.Finding("torch", f"not installed; optional: {install_command('torch')}")
    assert findings["zarr"] == doctor.Finding("zarr", "not installed", works=False)
    assert findings["ONNX Runtime"].works
    assert "pip install 'onnxruntime>=1.20'" in findings["ONNX Runtime"].state
    assert "cpu" not in findings
    assert findings[doctor.DEFAULT_ENGINE] == doctor.Finding(doctor.DEFAULT_ENGINE, "numpy on cpu")


def test_a_broken_installation_of_onnx_runtime_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "version", lambda name: "1.32.0")
    findings = report()
    for name in ("ONNX Runtime", doctor.DEFAULT_ENGINE):
        assert not findings[name].works
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in findings[name].state
