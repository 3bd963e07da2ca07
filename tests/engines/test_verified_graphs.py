"""A graph is compared with its weights once, before its first use."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from spikgpt.engines.onnx_session import Session
from spikgpt.engines.verified_graphs import is_verified, mark_verified, open_graph
from spikgpt.errors import DamagedReference, GraphError, SpikGPTWarning
from spikgpt.reference.files import Reference, read_reference
from spikgpt.reference.format import GRAPH
from spikgpt_onnx import rebuild_graph
from tests.spikgpt_onnx.altered_graphs import backdoor, changed, metadata


@pytest.fixture
def reference(graph_folder: Path) -> Reference:
    return read_reference(graph_folder)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPIKGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_verified_graph_is_not_rebuilt(reference: Reference, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_graph(reference, GRAPH).metadata
    (kept,) = (cache / "graphs").iterdir()
    assert len(kept.name) == 64
    monkeypatch.setattr(rebuild_graph, "rebuild_graph", None)
    assert open_graph(reference, GRAPH).metadata == first


@pytest.mark.slow
def test_a_verified_graph_opens_without_onnx(graph_folder: Path) -> None:
    code = (
        "import sys\nfrom spikgpt.reference.files import read_reference\nfrom spikgpt.engines.onnx import OnnxEngine\n"
        f"OnnxEngine(read_reference({str(graph_folder)!r}))\nprint('onnx' in sys.modules)"
    )
    outputs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout]
    outputs.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert [text.strip() for text in outputs] == ["True", "False"]


def test_an_altered_graph_or_file_is_not_verified(reference: Reference) -> None:
    mark_verified(reference, GRAPH)
    assert is_verified(reference, GRAPH)
    assert not is_verified(read_reference(changed(reference.files, backdoor)), GRAPH)
    renamed = read_reference(changed(reference.files, metadata(spikgpt_version="0.4.0")))
    assert not is_verified(renamed, GRAPH)
    with pytest.raises(DamagedReference, match="is not the graph that"):
        open_graph(read_reference(changed(reference.files, backdoor)), GRAPH)
    assert not is_verified(read_reference(changed(reference.files, backdoor)), GRAPH)


def test_graphs_are_rebuilt_each_time_without_a_writable_cache(
    reference: Reference, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    assert open_graph(reference, GRAPH).provider == "cpu"
    assert not is_verified(reference, GRAPH)
    monkeypatch.delenv("SPIKGPT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert open_graph(reference, GRAPH).provider == "cpu"


def test_a_graph_that_another_version_built_differently_is_replaced(reference: Reference) -> None:
    altered = read_reference(changed(changed(reference.files, backdoor), metadata(spikgpt_version="0.4.0")))
    with pytest.warns(SpikGPTWarning, match=r"onnx/model\.onnx was made by spikgpt 0\.4\.0, .* is run instead"):
        session = open_graph(altered, GRAPH)
    assert len(session.metadata["labels"]) > 2
    assert not is_verified(altered, GRAPH)


def test_a_missing_graph_is_refused(reference: Reference, small_folder: Path) -> None:
    with pytest.raises(GraphError, match="make it with: spikgpt export"):
        open_graph(read_reference(small_folder), GRAPH)


def test_an_unchanged_graph_opens_without_a_warning(reference: Reference) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(open_graph(reference, GRAPH), Session)
