"""Downloads over HTTP on this machine are complete despite faults, or fail with a clear message."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spikgpt.errors import ConfigError, DownloadError
from spikgpt.files import hold_lock
from spikgpt.reference import hub_requests as requests
from spikgpt_recipes.download import TRIES, _key, download
from spikgpt_recipes.layouts import Part, StudyFile
from tests.spikgpt_recipes.file_server import FileServer

CONTENT = bytes(range(256)) * 1000
NAME, ACCESSION = "GSE1_RAW.tar", "GSE1"


def file_of(server: FileServer, *, known: bool = True, **changed: Any) -> StudyFile:
    """Put a file on the server, and return its entry in a recipe."""
    server.files[f"/{NAME}"] = CONTENT
    facts = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()} if known else {}
    return StudyFile(**{"name": NAME, "url": f"{server.url}/{NAME}", "reader": Part(), **facts, **changed})


def get(file: StudyFile, cache: Path, mirror: str | None = None) -> bytes:
    """Download a file, check that the folder holds no other file, and return its bytes."""
    path = download([file], cache, mirror, accession=ACCESSION)[file.name]
    assert (path.parents[1], path.name) == (cache / ACCESSION, NAME)
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]
    return path.read_bytes()


def folder_of(file: StudyFile, cache: Path) -> Path:
    """Create and return the cache folder of a file."""
    folder = cache / ACCESSION / _key(str(file.url), file)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remaining_files(cache: Path) -> set[str]:
    """Return the names of the files that remain in the cache after a failure."""
    return {path.name for path in (cache / ACCESSION).rglob("*") if path.is_file()}


def ranges(server: FileServer) -> list[str]:
    return [byte_range for _, byte_range in server.requests]


def test_a_file_is_downloaded_once(server: FileServer, tmp_path: Path) -> None:
    file = file_of(server)
    assert get(file, tmp_path) == get(file, tmp_path) == CONTENT
    assert ranges(server) == [""]


def test_two_processes_do_not_download_the_same_file(server: FileServer, tmp_path: Path) -> None:
    refusal = r"Another process is downloading to .*GSE1\. Wait until it is done, or name another folder: --cache"
    with hold_lock(tmp_path / ACCESSION / ".lock", ""), pytest.raises(ConfigError, match=refusal):
        get(file_of(server), tmp_path)
    assert server.requests == []
    assert get(file_of(server), tmp_path) == CONTENT
    with hold_lock(tmp_path / ACCESSION / ".lock", ""):
        assert get(file_of(server), tmp_path) == CONTENT


@pytest.mark.parametrize("known", [True, False])
def test_an_interrupted_download_continues_at_its_last_byte(server: FileServer, tmp_path: Path, known: bool) -> None:
    server.faults = ["cut", "cut"]
    assert get(file_of(server, known=known), tmp_path) == CONTENT
    half = len(CONTENT) // 2
    assert ranges(server) == ["", f"bytes={half}-", f"bytes={half + half // 2}-"]


@pytest.mark.parametrize("fault", [500, 503, 429, "short"])
def test_temporary_failures_are_retried(server: FileServer, tmp_path: Path, fault: int | str) -> None:
    server.faults = [fault, fault]
    assert get(file_of(server), tmp_path) == CONTENT
    assert len(server.requests) == 3


def test_a_server_without_range_requests_sends_the_whole_file_again(server: FileServer, tmp_path: Path) -> None:
    server.faults = ["cut", "whole"]
    assert get(file_of(server), tmp_path) == CONTENT


@pytest.mark.parametrize("version", ['"2"', ""])
def test_two_versions_of_a_file_are_never_mixed(server: FileServer, tmp_path: Path, version: str) -> None:
    file, other = file_of(server, known=False), CONTENT[::-1]
    server.faults = ["cut", 404]
    with pytest.raises(DownloadError):
        download([file], tmp_path, None, accession=ACCESSION)
    server.version, server.files[f"/{NAME}"] = version, other
    assert get(file, tmp_path) == other


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("version", "later", "size"),
    [('"1"', '"2"', 0), ('"1"', "", 0), ("Mon, 1", "Mon, 2", 0), ('"1"', '"1"', 1)],
    ids=["another ETag", "no ETag", "another time", "another size"],
)
def test_bytes_of_another_version_are_not_appended(
    server: FileServer, tmp_path: Path, known: bool, version: str, later: str, size: int
) -> None:
    server.version, server.faults = version, ["cut", 404]
    with pytest.raises(DownloadError):
        get(file_of(server, known=False), tmp_path)
    other = CONTENT[::-1] + bytes(size)
    facts = {"size": len(other), "sha256": hashlib.sha256(other).hexdigest()} if known else {}
    file = file_of(server, known=False, **facts)
    if known:  # a file with another hash has another cache folder, so begin its download too
        server.faults = ["cut", 404]
        with pytest.raises(DownloadError):
            get(file, tmp_path)
    server.version, server.files[f"/{NAME}"], server.faults = later, other, ["late"]
    server.requests = []
    assert get(file, tmp_path) == other
    assert ranges(server) == ["bytes=128000-", ""]


def test_files_from_different_addresses_are_cached_separately(server: FileServer, tmp_path: Path) -> None:
    file = file_of(server, known=False)
    server.files["/evil"], mirrored = b"evil", b"of a mirror"
    server.files[f"/mirror/{ACCESSION}/{NAME}"] = mirrored
    assert get(file_of(server, known=False, url=f"{server.url}/evil"), tmp_path) == b"evil"
    assert get(file, tmp_path, f"{server.url}/mirror") == mirrored
    assert get(file, tmp_path) == CONTENT
    assert get(file_of(server), tmp_path) == CONTENT
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "page", [b"\n<!DOCTYPE html><p>Sign in", b"\xef\xbb\xbf<html>", b"<?xml version='1.0'?><Error/>"]
)
@pytest.mark.parametrize("known", [True, False])
def test_a_web_page_instead_of_data_is_refused(server: FileServer, tmp_path: Path, page: bytes, known: bool) -> None:
    file = file_of(server, known=known)
    server.files[f"/{NAME}"] = page
    with pytest.raises(DownloadError, match=r"the server answered with a web page\. Some servers refuse programs"):
        get(file, tmp_path)
    assert NAME not in remaining_files(tmp_path)
    (tmp_path / "mirror" / ACCESSION).mkdir(parents=True)
    (tmp_path / "mirror" / ACCESSION / NAME).write_bytes(page)
    with pytest.raises(DownloadError, match=r"is a web page\. Copy it again|bytes; expected 256000"):
        download([file], tmp_path, str(tmp_path / "mirror"), accession=ACCESSION)


def test_a_git_lfs_pointer_is_refused(server: FileServer, tmp_path: Path) -> None:
    file = file_of(server, known=False)
    server.files[f"/{NAME}"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    with pytest.raises(DownloadError, match="the server answered with a Git LFS pointer"):
        get(file, tmp_path)


@pytest.mark.parametrize(("fault", "limit"), [("unsized", "LARGEST_UNSTATED"), ("", "LARGEST_FILE")])
def test_a_download_above_the_size_limit_is_stopped(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, limit: str
) -> None:
    monkeypatch.setattr(f"spikgpt_recipes.download.{limit}", 100_000)
    server.faults = [fault]
    with pytest.raises(
        DownloadError, match=r"(more than 100000 bytes\. State the size|256000 bytes; expected at most)"
    ):
        get(file_of(server, known=False), tmp_path)
    assert remaining_files(tmp_path) <= {".lock", f".{NAME}.version"}
    assert get(file_of(server), tmp_path) == CONTENT


@pytest.mark.parametrize("fault", ["unsized", ""])
def test_a_download_that_does_not_fit_on_the_disk_is_stopped(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("spikgpt_recipes.download.CHECK_EVERY", 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=50_000))
    server.faults = [fault]
    with pytest.raises(DownloadError, match=r"does not fit on the disk: it has \d+ bytes or more, and 50000 bytes are"):
        get(file_of(server, known=False), tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_to_other_schemes_are_refused(server: FileServer, tmp_path: Path, target: str) -> None:
    server.faults = [f"to {target}"] * TRIES
    with pytest.raises(DownloadError, match=r"neither http nor https\. It may have moved"):
        get(file_of(server, known=False), tmp_path)
    assert len(server.requests) == 1


def test_a_file_without_hash_and_version_is_downloaded_again_from_the_start(server: FileServer, tmp_path: Path) -> None:
    server.version, server.faults = "", ["cut"]
    assert get(file_of(server, known=False), tmp_path) == CONTENT
    assert ranges(server) == ["", ""]


def test_a_part_other_than_the_requested_one_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.faults = ["cut", "other"]
    with pytest.raises(DownloadError, match=r"the server answered with another part than from byte 128000\. The study"):
        download([file_of(server)], tmp_path, None, accession=ACCESSION)
    assert get(file_of(server), tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("faults", "message", "tries"),
    [
        ([404], r"the server answered 404\. It may have moved: check the page of the study, or name a mirror", 1),
        ([403], r"the server answered 403\. It may have moved", 1),
        (
            ["page"],
            r"the server answered with a web page\. Some servers refuse programs",
            1,
        ),
        ([500] * 9, r"the server answered 500\. Check the connection and run the same command again", TRIES),
    ],
)
def test_failures_state_file_address_status_and_advice(
    server: FileServer, tmp_path: Path, faults: list[int | str], message: str, tries: int
) -> None:
    file, server.faults = file_of(server), faults
    with pytest.raises(DownloadError, match=rf"^GSE1/{NAME} \({file.url}\) was not downloaded: {message}"):
        download([file], tmp_path, None, accession=ACCESSION)
    assert len(server.requests) == tries


def test_a_refused_connection_is_an_error_with_advice(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"ConnectError: .*Check the connection and run the same command again"):
        download([file_of(server, url="http://127.0.0.1:9/x")], tmp_path, None, accession=ACCESSION)


def test_a_slow_download_is_stopped_and_its_bytes_are_kept(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.2)
    monkeypatch.setattr(requests, "SPEED", 1e9)
    monkeypatch.setattr("spikgpt_recipes.download.TRIES", 1)
    server.faults = ["slow"]
    file = file_of(server)
    with pytest.raises(DownloadError, match=r"the server is too slow, \d+ bytes arrived\. Check the connection"):
        download([file], tmp_path, None, accession=ACCESSION)
    monkeypatch.undo()
    assert get(file, tmp_path) == CONTENT
    assert ranges(server)[1].startswith("bytes=")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"sha256": "0" * 64},
            f"has the sha256 {hashlib.sha256(CONTENT).hexdigest()}; expected {'0' * 64}, down",
        ),
        (
            {"size": 5},
            "the server answered with 256000 bytes; expected at most 5. The study may",
        ),
    ],
)
def test_a_file_with_another_size_or_hash_is_refused_and_deleted(
    server: FileServer, tmp_path: Path, facts: dict[str, Any], message: str
) -> None:
    with pytest.raises(DownloadError, match=message):
        download([file_of(server, **facts)], tmp_path, None, accession=ACCESSION)
    assert remaining_files(tmp_path) <= {".lock", f".{NAME}.version"}


def test_a_damaged_file_is_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    file = file_of(server)
    for damaged in (CONTENT[:-1] + b"\0", CONTENT[:-1]):
        (folder_of(file, tmp_path) / NAME).write_bytes(damaged)
        assert get(file, tmp_path) == CONTENT


@pytest.mark.parametrize("size", [1000, len(CONTENT)])
def test_a_damaged_part_is_detected(server: FileServer, tmp_path: Path, size: int) -> None:
    file = file_of(server)
    (folder_of(file, tmp_path) / f".{NAME}.part").write_bytes(bytes(size))
    assert get(file, tmp_path) == CONTENT


def test_a_mirror_replaces_the_address(server: FileServer, tmp_path: Path) -> None:
    file = file_of(server, url="https://127.0.0.1:9/not-asked")
    server.files[f"/mirror/{ACCESSION}/{NAME}"] = CONTENT
    assert get(file, tmp_path, f"{server.url}/mirror/") == CONTENT


def test_a_folder_can_be_a_mirror(server: FileServer, tmp_path: Path) -> None:
    file, path = file_of(server), tmp_path / "mirror" / ACCESSION / NAME

    def download_file() -> Path:
        return download([file], tmp_path / "cache", str(tmp_path / "mirror"), accession=ACCESSION)[NAME]

    with pytest.raises(DownloadError, match=rf"{path} does not exist\. Download it from {file.url}, or"):
        download_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[1:])
    with pytest.raises(DownloadError, match=rf"{path} has 255999 bytes; expected 256000\. Copy it again"):
        download_file()
    path.write_bytes(CONTENT)
    assert download_file() == path
    assert server.requests == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("accession", ["..", "/", "a/b"])
@pytest.mark.parametrize("mirror", [False, True])
def test_files_outside_the_cache_and_the_mirror_are_never_used(
    server: FileServer, tmp_path: Path, accession: str, mirror: bool
) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    folders = tmp_path / "cache", str(tmp_path / "mirror") if mirror else None
    for folder in ("cache", "mirror"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ConfigError, match="is not the name of a file in"):
        download([file_of(server, known=False)], *folders, accession=accession)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert server.requests == []


def test_free_disk_space_is_checked_first(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"The files need 9007199\.3 GB; .* has [\d.]+\. Name another folder"):
        download([file_of(server, size=2**53 - 1)], tmp_path, None, accession=ACCESSION)
    assert server.requests == []


def test_a_cache_folder_that_cannot_be_created_is_an_error(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot be made: .*A part of the path is a file, not a folder"):
        download([file_of(server)], tmp_path / "file", None, accession=ACCESSION)


def test_a_killed_download_leaves_only_hidden_files_and_continues(server: FileServer, tmp_path: Path) -> None:
    server.faults = ["slow"]
    file = file_of(server)
    script = (
        "import sys; from pathlib import Path; from spikgpt_recipes.download import download\n"
        "from spikgpt_recipes.layouts import Part, StudyFile\n"
        "file = StudyFile(name=sys.argv[1], url=sys.argv[2], sha256=sys.argv[3], reader=Part())\n"
        "download([file], Path(sys.argv[4]), None, accession='GSE1')"
    )
    part = folder_of(file, tmp_path) / f".{NAME}.part"
    with subprocess.Popen(
        [sys.executable, "-c", script, NAME, str(file.url), str(file.sha256), tmp_path], env=os.environ
    ) as process:
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert [path.name for path in part.parent.iterdir() if not path.name.startswith(".")] == []
    kept = part.stat().st_size
    assert get(file, tmp_path) == CONTENT
    assert ranges(server) == ["", f"bytes={kept}-"]
