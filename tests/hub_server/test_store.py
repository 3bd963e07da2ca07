"""Storage of the loopback Hub, in memory and in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikgpt.reference.card import read_metadata
from tests.hub_server.store import ATTRIBUTES, LFS_SIZE, Store, is_large, sha256

FILES = {"README.md": b"---\ntags: [spikgpt]\nlibrary_name: spikgpt\n---\n# Islets\n", "model.safetensors": b"weights"}


def test_commits_have_their_parents() -> None:
    store = Store()
    first = store.put("me/model", FILES, private=True)
    second = store.put("me/model", {**FILES, ".gitattributes": ATTRIBUTES})
    repository = store.repositories["me/model"]
    assert repository.private
    assert (repository.commits[first].parent, repository.commits[second].parent) == (None, first)
    assert repository.at("main") == repository.at(second) != repository.at(first)
    assert repository.at("v1") is None
    # Equal content after equal commits has the same sha.
    assert Store().put("me/model", FILES) == first


def test_refs_are_listed_by_kind() -> None:
    store = Store()
    sha = store.put("me/model", FILES)
    repository = store.repositories["me/model"]
    repository.refs |= {"v1": sha, "refs/pr/1": sha}
    repository.tags.add("v1")
    refs = {kind: [ref["ref"] for ref in rows] for kind, rows in repository.grouped_refs().items()}
    assert refs == {
        "branches": ["refs/heads/main"],
        "tags": ["refs/tags/v1"],
        "pullRequests": ["refs/pr/1"],
        "converts": [],
    }


def test_large_files_are_listed_by_their_sha256() -> None:
    store = Store()
    sha = store.put("me/model", FILES)
    commit = store.repositories["me/model"].commits[sha]
    card, weights = commit.listing()
    assert "lfs" not in card
    # The result of git hash-object for the pointer file that git-lfs writes for these weights.
    assert weights["oid"] == "c6a67be4f3ef29ed4a07b4f2446625126a25cfda"
    assert weights["lfs"]["oid"] == sha256(b"weights")
    assert store.content(sha256(b"weights")) == b"weights"
    assert store.content(sha256(FILES["README.md"])) is None
    store.uploads["0" * 64] = b"uploaded"
    assert store.content("0" * 64) == b"uploaded"
    assert commit.tags() == ["spikgpt", "spikgpt"]
    assert is_large("a.onnx", 0)
    assert is_large("a.json", LFS_SIZE + 1)
    assert not is_large("a.json", 0)


@pytest.mark.parametrize("card", ["", "# No front matter", "---\n- a list\n---\n", "---\n{broken\n---\n"])
def test_cards_without_a_mapping_have_no_tags(card: str) -> None:
    assert read_metadata(card) is None
    store = Store()
    sha = store.put("me/model", {"README.md": card.encode()})
    assert not any(store.repositories["me/model"].commits[sha].tags())


def test_a_store_is_saved_in_a_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "kept")
    store.save()
    sha = store.put("me/model", FILES, private=True)
    store.repositories["me/model"].refs["v1"] = sha
    store.repositories["me/model"].tags.add("v1")
    store.put("me/model", {**FILES, "a.json": b"{}"})
    store.save()
    again = Store(tmp_path / "kept")
    assert again.repositories == store.repositories
    assert again.repositories["me/model"].at("v1") != again.repositories["me/model"].at("main")
    assert not list((tmp_path / "kept").glob(".*"))
