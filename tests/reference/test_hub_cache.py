"""Files in the cache are not deleted, and links out of the cache are not followed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError, DamagedReference, HubError, ReferenceNotFound
from spikgpt.reference.format import MANIFEST, with_manifest
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_cache import RepositoryCache, cached_file, hash_of_file, hashed
from spikgpt.reference.registry import resolve
from tests.hub_server import LoopbackHub
from tests.reference.test_hub import FILES, REPO, pulled
from tests.reference.test_registry import FORMAT_1

REFERENCE = {path.name: path.read_bytes() for path in FORMAT_1.iterdir()}


@pytest.fixture
def folder(hub: LoopbackHub, client: Hub) -> Path:
    """Pull the files into the cache, and return their folder."""
    hub.put(REPO, FILES)
    return client.snapshot(REPO, None, tuple(FILES), required=())


def test_links_to_other_files_are_replaced(folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    blob = (folder / "a.json").resolve()
    aside = blob.with_name("aside")
    for target in (outside, Path("../../../../outside"), aside, tmp_path, Path("nowhere"), Path("a.json")):
        (folder / "a.json").unlink()
        (folder / "a.json").symlink_to(target)
        aside.write_bytes(FILES["a.json"])
        assert cached_file(folder, "a.json") is None
        # The link is replaced, and its target stays.
        assert pulled(client) == FILES
        assert outside.read_bytes() == b"mine"
        assert cached_file(folder, "a.json") == blob
    # A blob that is a link is replaced too.
    blob.unlink()
    blob.symlink_to(outside)
    assert cached_file(folder, "a.json") is None
    assert pulled(client) == FILES
    assert (outside.read_bytes(), blob.is_symlink()) == (b"mine", False)


def test_only_regular_files_are_read(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, REFERENCE)
    blob = (resolve(REPO, hub=client).folder / "labels.json").resolve()
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(DamagedReference, match="labels.json is no regular file"):
        resolve(REPO, hub=replace(client, local_files_only=True))
    assert resolve(REPO, hub=client).files == REFERENCE


@pytest.mark.parametrize("name", ["metrics.json", "config.json"])
def test_files_that_were_changed_with_their_manifest_are_repaired_or_refused(
    hub: LoopbackHub, client: Hub, name: str
) -> None:
    commit = hub.put(REPO, REFERENCE)
    folder = resolve(REPO, hub=client).folder
    changed = json.loads(REFERENCE[name]) | {"format_version": 99}
    altered = with_manifest({**REFERENCE, name: json.dumps(changed).encode()})
    for revision in (None, commit):
        for part in (name, MANIFEST):
            (folder / part).resolve().write_bytes(altered[part])
        with pytest.raises(DamagedReference, match=f"{name}, {MANIFEST} differs from what the Hub listed"):
            resolve(REPO, revision, hub=replace(client, local_files_only=True))
        away = Hub("http://127.0.0.1:9", cache_dir=client.cache_dir)
        with pytest.raises(HubError, match="is not whole in the local cache. The Hub cannot be reached"):
            resolve(f"{REPO}@{commit}", hub=away)
        assert (folder / name).read_bytes() == altered[name]
        assert resolve(REPO, revision, hub=client).files == REFERENCE
        assert (folder / name).read_bytes() == REFERENCE[name]


def test_a_cache_without_links_is_checked_by_the_manifest(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, REFERENCE)
    folder = resolve(REPO, hub=client).folder
    for name in REFERENCE:
        (folder / name).resolve().replace(folder / name)
    assert resolve(REPO, hub=replace(client, local_files_only=True)).files == REFERENCE
    (folder / "labels.json").write_bytes(b"{}")
    with pytest.raises(DamagedReference, match="labels.json differs"):
        resolve(REPO, hub=replace(client, local_files_only=True))
    assert resolve(REPO, hub=client).files == REFERENCE


def test_a_commit_that_is_a_link_or_has_an_invalid_name_is_ignored(folder: Path, tmp_path: Path) -> None:
    cache = RepositoryCache(folder.parents[1])
    assert cache.folder(None) == cache.folder(folder.name) == folder
    ref = cache.storage / "refs" / "main"
    for text in ("../../../outside", "x", "", "0" * 41, folder.name + "/..", "\x00"):
        ref.write_text(text)
        assert cache.folder(None) is None
    ref.write_text(folder.name)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert cache.folder(None) is None


@pytest.mark.parametrize(
    "revision",
    [
        "/etc/passwd",
        "../main",
        "a//b",
        "a/../b",
        "-x",
        "a\n",
        "a\x1b[2J",
        "main.lock",
        "a/",
        "x" * 201,
        ".",
        "é",
        "a@{b}",
    ],
)
def test_revisions_that_git_does_not_allow_are_refused(hub: LoopbackHub, client: Hub, revision: str) -> None:
    hub.put(REPO, FILES)
    with pytest.raises(ReferenceNotFound, match="is no revision; name a branch, a tag or a commit") as refused:
        pulled(client, revision)
    assert str(refused.value).isprintable()
    assert hub.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"../../../x"', "X-Linked-Etag": '"../../../x"'},
        {"X-Repo-Commit": "../../../x"},
        {"ETag": f'W/"{"0" * 40}"', "X-Linked-Etag": "0" * 64},
        {"ETag": '"' + "0" * 300, "X-Linked-Etag": "/etc/x"},
        {"X-Repo-Commit": "0" * 40},
    ],
    ids=str,
)
def test_a_malicious_header_is_refused_before_anything_is_written(
    hub: LoopbackHub, client: Hub, tmp_path: Path, headers: dict[str, str]
) -> None:
    hub.put(REPO, FILES)
    hub.forge = lambda request, answer: replace(answer, headers={**answer.headers, **headers})
    with pytest.raises(HubError, match=r"The Hub answered with the (ETag|X-Repo-Commit) .*; expected [0-9a-f]{40}"):
        pulled(client)
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_a_malicious_hash_in_the_listing_is_refused(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, FILES)
    hub.forge = lambda request, answer: replace(
        answer, body=answer.body.replace(b'"blobId": "', b'"blobId": "../../../x')
    )
    with pytest.raises(HubError, match="The Hub answered models/islets/small with "):
        pulled(client)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_cache_is_named_in_the_error(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.put(REPO, FILES)
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/nothing")):
        with pytest.raises(ConfigError, match=r"The cache cannot be written \(.*\). Free some space, or name a folder"):
            pulled(Hub(hub.endpoint, cache_dir=cache))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_can_be_read(folder: Path, hub: LoopbackHub, client: Hub) -> None:
    storage = folder.parents[1]
    parts = [storage, *storage.rglob("*")]
    for part in (part for part in parts if part.is_dir() and not part.is_symlink()):
        part.chmod(0o555)
    try:
        assert pulled(client) == FILES
        hub.put(REPO, {**FILES, "a.json": b"[]"})
        with pytest.raises(ConfigError, match="The cache cannot be written"):
            pulled(client)
    finally:
        for part in (part for part in parts if part.is_dir() and not part.is_symlink()):
            part.chmod(0o755)


def test_hashes_are_those_of_git_and_lfs(tmp_path: Path) -> None:
    assert hashed(b"hello\n", large=False) == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hashed(b"", large=True) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "file").write_bytes(b"hello\n")
    for large in (False, True):
        assert hash_of_file(tmp_path / "file", large=large) == hashed(b"hello\n", large=large)
