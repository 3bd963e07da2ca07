"""The list of references: shipped, cached and on the Hub."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import spikgpt
from spikgpt.errors import ConfigError, SpikGPTWarning
from spikgpt.reference.format import LAYOUT
from spikgpt.reference.hub import Hub
from spikgpt.reference.listing import list_references, reference_list
from spikgpt.reference.registry import shipped_references
from spikgpt.sharing import push
from tests.fuzz.alter_answers import REPO, reference_files
from tests.hub_server import Fault, LoopbackHub

NOT_NEEDED = ("numpy", "torch", "pandas", "anndata", "scipy", "onnxruntime")


def test_every_source_is_listed(
    small_folder: Path, hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "lab")
    commit = push(small_folder, "lab/islets", hub=client).commit
    client.snapshot("lab/islets", None, LAYOUT, required=())
    client.snapshot("lab/islets", commit, LAYOUT, required=())
    hub.put("lab/other", {"README.md": b"---\ntags:\n- cats\n---\n"})
    listed = {(summary.source, summary.name): summary for summary in reference_list(client)}
    assert {name for source, name in listed if source == "shipped"} == set(shipped_references())
    assert {key for key in listed if key[0] != "shipped"} == {("cached", "lab/islets"), ("Hub", "lab/islets")}
    cached, remote = listed["cached", "lab/islets"], listed["Hub", "lab/islets"]
    assert (cached.commit, cached.refs, cached.verified, cached.cells) == (commit, ("main",), True, 360)
    assert (remote.verified, remote.cells, remote.cell_types) == (None, None, 6)


def test_a_cached_commit_without_a_branch_has_its_name(hub: LoopbackHub, client: Hub) -> None:
    commit = hub.put(REPO, reference_files())
    client.snapshot(REPO, commit, LAYOUT, required=())
    names = [summary.name for summary in reference_list(client) if summary.source == "cached"]
    assert names == [f"{REPO}@{commit}"]


def test_a_damaged_reference_stays_in_the_list(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, reference_files())
    folder = client.snapshot(REPO, None, LAYOUT, required=())
    (folder / "labels.json").resolve().write_bytes(b"[]")
    with pytest.warns(SpikGPTWarning, match=f"{REPO} is damaged. labels.json differs from what manifest.json lists"):
        listed = reference_list(client)
    assert [summary.verified for summary in listed if summary.name == REPO] == [False]


def test_a_hub_that_cannot_be_reached_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(SpikGPTWarning, match="References on the Hub are not listed. The Hub cannot be reached"):
        listed = list_references(endpoint="http://127.0.0.1:9", cache_dir=tmp_path)
    assert {summary.name for summary in listed} == set(shipped_references())


def test_a_hub_that_does_not_answer_delays_the_list_by_seconds(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikgpt.reference.hub.LIST_TIMEOUT", 0.2)
    hub.fail(Fault("slow", "GET /api/models", times=9, seconds=3.0))
    with pytest.warns(SpikGPTWarning, match="References on the Hub are not listed"):
        assert reference_list(client)


def test_offline_there_is_no_request_and_no_warning(hub: LoopbackHub, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listed = spikgpt.list_references(endpoint=hub.endpoint, cache_dir=tmp_path / "none", local_files_only=True)
    assert hub.requests == []
    assert [summary.source for summary in listed] == ["shipped"] * len(shipped_references())


def test_a_wrong_keyword_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'endpoint'"):
        list_references(endpont="x")  # type: ignore[call-arg]


def test_the_list_needs_no_packages_for_arrays(tmp_path: Path) -> None:
    program = f"""
import sys
import spikgpt
print(spikgpt.list_references(local_files_only=True, cache_dir={str(tmp_path)!r}))
print([name for name in {NOT_NEEDED!r} if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("name")
    assert ran.stdout.endswith("[]\n")
