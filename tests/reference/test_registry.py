"""The references that can be named."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikgpt.errors import DamagedReference
from spikgpt.reference import registry
from spikgpt.reference.files import read_reference
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import FILES, LAYOUT, MANIFEST
from spikgpt.reference.registry import find, namespace, shipped_references
from spikgpt.reference.transfer import cache
from spikgpt.testing.hub import LoopbackHub

FORMAT_1 = Path(__file__).parents[1] / "data" / "format_1" / "counts"


def test_shipped_references_are_named_by_their_folders() -> None:
    assert "pancreas" in shipped_references()
    assert all((folder / "manifest.json").is_file() for folder in shipped_references().values())


def test_the_namespace_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIKGPT_NAMESPACE", raising=False)
    assert namespace() == "spikgpt"
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "my-lab")
    assert namespace() == "my-lab"


def test_only_references_are_listed_from_the_cache(hub: LoopbackHub, client: Hub) -> None:
    files = {path.name: path.read_bytes() for path in FORMAT_1.iterdir()}
    commit = hub.put("islets/small", files)
    hub.put("cats/large", {"config.json": b"{}", "pytorch_model.bin": b"0"})
    wanted = (*FILES, MANIFEST)
    assert client.cached(wanted) == []
    for name in ("islets/small", "cats/large"):
        client.snapshot(name, None, LAYOUT, required=())
    assert [(found.repository, found.commit, found.refs) for found in client.cached(wanted)] == [
        ("islets/small", commit, ("main",))
    ]


def test_what_was_checked_is_what_is_read(hub: LoopbackHub, client: Hub) -> None:
    files = {path.name: path.read_bytes() for path in FORMAT_1.iterdir()}
    hub.put("islets/small", files)
    found = find("islets/small", hub=client)
    assert found.source == found.files == files
    # The cache may be written by others meanwhile.
    for path in found.folder.iterdir():
        path.resolve().write_bytes(b"spoilt")
    assert read_reference(found.source, found.origin).name == "islets"


def test_a_disk_that_keeps_nothing_is_named(hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in FORMAT_1.iterdir()}
    hub.put("islets/small", files)

    def spoilt(folder: Path, limits: dict[str, int]) -> tuple[dict[str, bytes], list[str]]:
        read, _ = cache.read(folder, limits)
        return {name: read[name] for name in read if name != "labels.json"}, ["labels.json"]

    monkeypatch.setattr(registry, "read", spoilt)
    with pytest.raises(
        DamagedReference, match="labels.json of islets/small arrives whole and is damaged in .* at once"
    ):
        find("islets/small", hub=client)
