"""The cache: nothing of it is deleted, and no link leads out of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError, HubError, ReferenceNotFound
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_cache import RepositoryCache, cached_file, hashed
from tests.hub_server import LoopbackHub
from tests.reference.test_hub import FILES, REPO, pulled


def read(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return the files of a cached commit, and the names of those that are missing."""
    files = {name: path.read_bytes() for name in FILES if (path := cached_file(folder, name))}
    return files, sorted(set(FILES) - set(files))


@pytest.fixture
def folder(hub: LoopbackHub, client: Hub) -> Path:
    """Pull the files into the cache."""
    hub.put(REPO, FILES)
    return client.snapshot(REPO, None, tuple(FILES), required=())


def test_links_that_lead_elsewhere_are_as_good_as_none(
    folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    blob = (folder / "a.json").resolve()
    aside = blob.with_name("aside")
    for target in (outside, Path("../../../../outside"), aside, tmp_path, Path("nowhere"), Path("a.json")):
        (folder / "a.json").unlink()
        (folder / "a.json").symlink_to(target)
        aside.write_bytes(FILES["a.json"])
        assert cached_file(folder, "a.json") is None
        assert read(folder) == ({name: FILES[name] for name in FILES if name != "a.json"}, ["a.json"])
        # Replaced in place, and what it led to stays.
        assert pulled(client) == FILES
        assert outside.read_bytes() == b"mine"
        assert read(folder) == (FILES, [])
    # A blob that is itself a link is none either.
    blob.unlink()
    blob.symlink_to(outside)
    assert cached_file(folder, "a.json") is None
    assert pulled(client) == FILES
    assert (outside.read_bytes(), blob.is_symlink()) == (b"mine", False)


def test_only_regular_files_are_read(folder: Path) -> None:
    blob = (folder / "a.json").resolve()
    blob.unlink()
    os.mkfifo(blob)
    assert read(folder)[1] == ["a.json"]


def test_a_commit_that_is_a_link_or_no_commit_is_not_there(folder: Path, tmp_path: Path) -> None:
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
def test_revisions_that_git_has_none_of_are_refused(hub: LoopbackHub, client: Hub, revision: str) -> None:
    hub.put(REPO, FILES)
    with pytest.raises(ReferenceNotFound, match="is no revision; name a branch, a tag or a commit") as told:
        pulled(client, revision)
    assert str(told.value).isprintable()
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
def test_a_hostile_header_is_refused_before_anything_is_written(
    hub: LoopbackHub, client: Hub, tmp_path: Path, headers: dict[str, str]
) -> None:
    hub.put(REPO, FILES)
    hub.forge = lambda request, answer: replace(answer, headers={**answer.headers, **headers})
    with pytest.raises(HubError, match=r"The Hub answered with the (ETag|X-Repo-Commit) .*; expected [0-9a-f]{40}"):
        pulled(client)
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_a_hostile_hash_in_the_listing_is_refused(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, FILES)
    hub.forge = lambda request, answer: replace(
        answer, body=answer.body.replace(b'"blobId": "', b'"blobId": "../../../x')
    )
    with pytest.raises(HubError, match="The Hub answered models/islets/small with "):
        pulled(client)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told_as_that(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.put(REPO, FILES)
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/nothing")):
        with pytest.raises(ConfigError, match=r"The cache cannot be written \(.*\). Free some space, or name a folder"):
            pulled(Hub(hub.endpoint, cache_dir=cache))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_of_somebody_else_can_be_read(folder: Path, hub: LoopbackHub, client: Hub) -> None:
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


def test_hashes_are_those_of_git_and_lfs() -> None:
    assert hashed(b"hello\n", large=False) == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hashed(b"", large=True) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
