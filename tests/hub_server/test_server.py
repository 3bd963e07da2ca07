"""The protocol of the loopback Hub, tested with the real client and with single requests."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

from tests.hub_server.server import Fault, LoopbackHub

FILES = {"config.json": b"{}\n", "model.safetensors": b"weights"}


def send_request(
    hub: LoopbackHub, path: str, *, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(hub.endpoint + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_the_client_creates_reads_and_deletes_files(hub: LoopbackHub, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=False)
    assert str(api.create_repo("me/model")).endswith("/me/model")
    assert api.create_repo("me/model", exist_ok=True).repo_id == "me/model"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/model")
    made = api.create_commit(
        "me/model", [CommitOperationAdd(name, content) for name, content in FILES.items()], commit_message="first"
    )
    info = api.model_info("me/model", files_metadata=True)
    assert info.sha == made.oid
    sizes = {sibling.rfilename: (sibling.size, sibling.lfs is not None) for sibling in info.siblings or ()}
    assert sizes["config.json"] == (3, False)
    assert sizes["model.safetensors"] == (7, True)
    assert api.list_repo_files("me/model") == [".gitattributes", *FILES]
    assert [ref.name for ref in api.list_repo_refs("me/model").branches] == ["main"]
    assert api.whoami(token="hf_any")["name"] == "anyone"
    for name, content in FILES.items():
        path = hf_hub_download("me/model", name, endpoint=hub.endpoint, cache_dir=tmp_path, token=False)
        assert Path(path).read_bytes() == content
    assert api.verify_repo_checksums("me/model", cache_dir=tmp_path).mismatches == []
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("me/model", "none.json", endpoint=hub.endpoint, cache_dir=tmp_path, token=False)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/none")
    api.delete_file("config.json", "me/model")
    assert "config.json" not in api.list_repo_files("me/model")
    assert "config.json" in api.list_repo_files("me/model", revision=made.oid)


def test_large_files_come_from_another_host(hub: LoopbackHub) -> None:
    commit = hub.put("me/model", FILES)
    status, body, headers = send_request(hub, f"/me/model/resolve/{commit}/config.json")
    assert (status, body, headers["X-Repo-Commit"]) == (200, b"{}\n", commit)
    status, body, _ = send_request(hub, f"/me/model/resolve/{commit}/model.safetensors")
    assert (status, body) == (200, b"weights")
    assert [request.host for request in hub.requests] == ["127.0.0.1", "127.0.0.1", "localhost"]


def test_range_requests_give_parts_of_files(hub: LoopbackHub) -> None:
    hub.put("me/model", {"a.txt": b"0123456789"})
    for byte_range, expected in (("bytes=3-5", b"345"), ("bytes=7-", b"789"), ("bytes=8-99", b"89")):
        status, body, headers = send_request(hub, "/me/model/resolve/main/a.txt", Range=byte_range)
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith("/10")


def test_invalid_commits_and_uploads_are_refused(hub: LoopbackHub) -> None:
    hub.put("me/model", FILES)
    missing_oid = "0" * 64

    def commit(*lines: dict[str, Any]) -> tuple[int, str]:
        rows = [{"key": "header", "value": {"summary": "s"}}, *lines]
        body = "\n".join(map(json.dumps, rows)).encode()
        status, answer, _ = send_request(hub, "/api/models/me/model/commit/main", body=body)
        return status, str(json.loads(answer).get("error"))

    large = {"path": "b.onnx", "algo": "sha256", "oid": missing_oid, "size": 3}
    assert commit({"key": "lfsFile", "value": large}) == (400, "b.onnx was not uploaded")
    assert commit({"key": "file", "value": {"path": "a", "content": "%"}}) == (400, "Bad base64")
    assert commit({"key": "deletedFile", "value": {"path": "none"}})[0] == 404
    upload = urllib.request.Request(f"{hub.endpoint}/lfs/{missing_oid}", data=b"abc", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="400") as raised:
        urllib.request.urlopen(upload)
    raised.value.close()
    verify = json.dumps({"oid": missing_oid, "size": 3}).encode()
    assert send_request(hub, "/lfs/verify", body=verify)[0] == 404
    assert send_request(hub, "/api/repos/create", body=b"{")[0] == 400
    assert send_request(hub, "/nothing/here/at/all")[0] == 404
    assert len(hub.repositories["me/model"].commits) == 1


def test_faults_affect_matching_requests_the_given_number_of_times(hub: LoopbackHub) -> None:
    hub.put("me/model", {"a.txt": b"0123456789", "b.txt": b"b"})
    path = "/me/model/resolve/main/"
    hub.fail(Fault("damage", "GET .*a.txt"), Fault("error", "GET .*a.txt", 2), Fault("rate limit", "HEAD"))
    assert send_request(hub, f"{path}b.txt")[:2] == (200, b"b")
    status, body, _ = send_request(hub, f"{path}a.txt")
    assert (status, len(body)) == (200, 10)
    assert body != b"0123456789"
    assert [send_request(hub, f"{path}a.txt")[0] for _ in range(3)] == [500, 500, 200]
    assert [fault.kind for fault in hub.faults] == ["rate limit"]
    hub.clear_faults()
    hub.fail(Fault("rate limit", "GET"))
    status, _, headers = send_request(hub, f"{path}a.txt")
    assert (status, headers["Retry-After"]) == (429, "1")
    hub.fail(Fault("cut", "GET"))
    with socket.create_connection(("127.0.0.1", int(hub.endpoint.rsplit(":", 1)[1]))) as connection:
        connection.sendall(f"GET {path}a.txt HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert b"Content-Length: 10" in answer
    assert answer.endswith(b"\r\n\r\n01234")


def test_repositories_are_saved_in_a_folder(tmp_path: Path) -> None:
    with LoopbackHub(folder=tmp_path / "kept") as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        api.create_repo("me/model", private=True)
        operations = [CommitOperationAdd(name, content) for name, content in FILES.items()]
        api.create_commit("me/model", operations, commit_message="first")
        api.create_tag("me/model", tag="v1")
        before = hub.repositories
    with LoopbackHub(folder=tmp_path / "kept") as hub:
        assert hub.repositories == before
        assert hub.repositories["me/model"].private
        assert hub.repositories["me/model"].at("v1") == hub.repositories["me/model"].at("main")
