"""Limits for the time, size and form of the Hub's answers."""

from __future__ import annotations

import gzip
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from huggingface_hub import constants, utils

from spikgpt.errors import HubError, ReferenceNotFound
from spikgpt.reference import hub_requests as requests
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_cache import git_oid, hashed
from spikgpt.reference.hub_errors import Unreachable
from spikgpt.reference.hub_requests import Meter, run_concurrently, with_timeout
from tests.hub_server import LoopbackHub
from tests.reference.test_hub import FILES, REPO, pulled, push


def change_answers(hub: LoopbackHub, where: str, **changes: Any) -> None:
    """Change the Hub's answers to requests whose method and path contain ``where``."""
    hub.forge = lambda request, answer: replace(answer, **changes) if where in request else answer


@pytest.mark.parametrize("body", [b"x" * 1000, b""], ids=["body", "headers"])
@pytest.mark.slow
def test_an_answer_that_is_too_slow_is_ended(
    hub: LoopbackHub, client: Hub, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.5)
    monkeypatch.setattr(requests, "SPEED", 10_000)
    hub.put(REPO, FILES)
    change_answers(hub, "/api/models", pause=0.02, body=body)
    start = time.monotonic()
    with pytest.raises(HubError, match=r"The Hub is too slow: \d+ bytes in \d s of models/islets/small. Check"):
        pulled(client)
    assert time.monotonic() - start < 5
    # Fast downloads beside a slow file do not give the slow file more time.
    change_answers(hub, "/a.json", pause=0.02)
    with pytest.raises(HubError, match="The Hub is too slow"):
        pulled(client)
    hub.forge = lambda request, answer: answer
    assert pulled(client) == FILES


def test_a_slow_download_within_the_limit_succeeds(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.5)
    monkeypatch.setattr(requests, "SPEED", 200)
    hub.put(REPO, FILES)
    change_answers(hub, "/cdn/", pause=0.0005)
    start = time.monotonic()
    assert pulled(client) == FILES
    assert time.monotonic() - start > 1


def test_a_compressed_answer_is_refused(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, FILES)
    bomb = gzip.compress(bytes(2**26))
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}
    for where in ("/api/models", "/resolve/", "/cdn/"):
        change_answers(hub, where, body=bomb, headers=headers, status=200)
        with pytest.raises(HubError, match="The Hub answered with a compressed body"):
            pulled(client)


def test_an_endless_answer_is_ended(hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LARGEST_ANSWER", 2**20)
    hub.put(REPO, FILES)
    change_answers(hub, "/api/models", body=bytes(2**20), repeat=10**6, headers={})
    with pytest.raises(HubError, match="The Hub answered with more than 1048576 bytes"):
        pulled(client)
    change_answers(hub, "/cdn/", body=bytes(2**20), repeat=10**6, headers={})
    with pytest.raises(HubError, match=r"The Hub answered with more than 2048 bytes\. Check HF_ENDPOINT"):
        pulled(client)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"sha": "../../x", "siblings": []}',
        b'{"sha": "' + b"0" * 40 + b'", "siblings": null}',
        b'{"sha": "' + b"0" * 40 + b'\\n", "siblings": []}',
        b'{"sha": "' + b"0" * 40 + b'", "siblings": [{"rfilename": "a.json", "blobId": "../../../x", "size": 3}]}',
        b'{"sha": "' + b"0" * 40 + b'", "siblings": [{"rfilename": "a.json", "blobId": null, "size": 3}]}',
        b'{"sha": "'
        + b"0" * 40
        + b'", "siblings": [{"rfilename": "a.json", "blobId": "'
        + b"0" * 40
        + b'", "size": -3}]}',
        b"\xff\xfe",
    ],
)
def test_an_invalid_answer_gives_an_error_of_one_line(hub: LoopbackHub, client: Hub, body: bytes) -> None:
    change_answers(hub, "/api/models", status=200, body=body, headers={})
    with pytest.raises(HubError, match="The Hub answered models/islets/small with ") as refused:
        pulled(client)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["none", "a/b/c", "../x", "a/b\n", "\x1b[2J/x", "a b/c", "", None, 7])
def test_invalid_repository_names_in_a_list_are_refused(hub: LoopbackHub, client: Hub, name: object) -> None:
    change_answers(hub, "/api/models", body=json.dumps([{"id": "islets/small"}, {"id": name}]).encode(), headers={})
    with pytest.raises(HubError, match="The Hub answered models with ") as refused:
        client.references("islets")
    assert str(refused.value).isprintable()


def test_control_characters_in_an_error_of_the_server_are_not_printed(hub: LoopbackHub, client: Hub) -> None:
    headers = {"X-Error-Message": "\x1b[2J\x1b]0;owned\x07", "X-Error-Code": "\x9b31m"}
    change_answers(hub, "/api/models", status=418, headers=headers, body=b'{"error": "\\u001b[2J"}')
    with pytest.raises(HubError, match="it answered 418") as refused:
        pulled(client)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "to", ["/", "file:///etc/passwd", "http://[", "http://127.0.0.1:99999/", "ftp://x/", "//:x@/", "x" * 60_000]
)
def test_invalid_and_endless_redirects_are_refused(hub: LoopbackHub, client: Hub, to: str) -> None:
    change_answers(hub, "/api/models", status=302, headers={"Location": to}, body=b"")
    with pytest.raises((HubError, ReferenceNotFound)) as refused:
        pulled(client)
    assert str(refused.value).isprintable()
    change_answers(hub, "/", status=302, headers={"Location": "/again"}, body=b"")
    with pytest.raises(HubError, match="TooManyRedirects"):
        pulled(client)


def test_concurrent_requests_return_in_order_or_raise() -> None:
    def fails() -> int:
        raise ValueError("no")  # noqa: EM101

    assert run_concurrently("it", [lambda: 1, lambda: 2], [Meter(), Meter()]) == [1, 2]
    with pytest.raises(ValueError, match="no"):
        run_concurrently("it", [lambda: 1, fails], [Meter(), Meter()])
    with pytest.raises(ValueError, match="no"):
        with_timeout("it", fails)


def test_a_call_that_takes_too_long_is_abandoned() -> None:
    meter = Meter()
    with pytest.raises(Unreachable, match=r"The Hub is too slow: 0 bytes in \d s of it"):
        with_timeout("it", lambda: time.sleep(0.5), patience=0.05, meter=meter)
    with pytest.raises(InterruptedError):
        meter.add(1)


def test_requests_of_other_code_have_no_limits(hub: LoopbackHub, client: Hub) -> None:
    """Check that requests outside of run_concurrently have no limits, and that a new session gets the hooks again."""
    hub.put(REPO, FILES)
    assert pulled(client) == FILES
    utils.close_session()
    bomb = gzip.compress(bytes(2**20))
    change_answers(
        hub, "/api/models", body=bomb, headers={"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}
    )
    assert len(utils.get_session().get(f"{hub.endpoint}/api/models/{REPO}").content) == 2**20
    with pytest.raises(HubError, match="a compressed body"):
        client.names(REPO, None)


@pytest.mark.parametrize("where", ["/commit/", "/preupload/", "/repos/create"])
def test_answers_to_a_push_are_bounded_too(
    hub: LoopbackHub, client: Hub, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LARGEST_ANSWER", 2**20)
    change_answers(hub, where, body=bytes(2**20), repeat=10**6, headers={}, status=200)
    with pytest.raises(HubError, match="more than 1048576 bytes"):
        push(client)
    bomb = gzip.compress(bytes(2**26))
    change_answers(
        hub, where, body=bomb, headers={"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}, status=200
    )
    hub.repositories.clear()
    with pytest.raises(HubError, match="a compressed body"):
        push(client)
    hub.forge = lambda request, answer: answer
    push(client)
    assert pulled(client) == FILES


@pytest.mark.parametrize("packed", [False, True])
def test_answers_to_uploads_in_threads_of_the_client_are_bounded(
    hub: LoopbackHub, client: Hub, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LARGEST_ANSWER", 2**20)
    files = {f"{name}.safetensors": name.encode() for name in "abc"}
    bomb = gzip.compress(bytes(2**26))
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))} if packed else {}
    change_answers(
        hub, "PUT /lfs/", body=bomb if packed else bytes(2**20), repeat=1 if packed else 10**6, headers=headers
    )
    with pytest.raises(HubError, match="a compressed body" if packed else "more than 1048576 bytes"):
        push(client, files)
    hub.forge = lambda request, answer: answer
    assert push(client, files).commit
    # Answers to requests of other code have no limits.
    change_answers(hub, "/repos/create", body=bytes(2**21), headers={})
    assert len(utils.get_session().post(f"{hub.endpoint}/api/repos/create", json={"name": "x"}).content) == 2**21


def test_waiting_for_another_process_does_not_count_as_slow(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.5)
    hub.put(REPO, FILES)
    locks = Path(str(client.cache_dir)) / ".locks" / "models--islets--small"
    locks.mkdir(parents=True)
    # A timer in another thread releases the lock.
    lock = FileLock(locks / f"{git_oid(FILES['a.json'])}.lock", thread_local=False)
    lock.acquire()
    threading.Timer(1.5, lock.release).start()
    start = time.monotonic()
    assert pulled(client) == FILES
    assert time.monotonic() - start > 1.4
    monkeypatch.setattr(requests, "LOCK_PATIENCE", 0.5)
    hub.put(REPO, {**FILES, "a.json": b"[]"})
    with (
        FileLock(locks / f"{git_oid(b'[]')}.lock"),
        pytest.raises(Unreachable, match="Another process has been downloading islets/small for 1 s"),
    ):
        pulled(client)


def test_files_never_come_from_xet(hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    commit = hub.put(REPO, FILES)
    # With this listing, the client of Xet would read a file without any request to the Hub.
    content = FILES["model.safetensors"]
    sizes = {"size": len(content), "lfs_size": len(content)}
    listed = sizes | {"blob_id": "0" * 40, "lfs_sha256": hashed(content, large=True), "xet_hash": "0" * 64}
    trees = Path(str(client.cache_dir)) / "models--islets--small" / "trees"
    trees.mkdir(parents=True)
    listing = {"format_version": 1, "files": {"model.safetensors": listed}}
    (trees / f"{commit}.json").write_text(json.dumps(listing))
    change_answers(hub, "nowhere")
    assert pulled(client) == FILES
    assert {request.path.rsplit("/", 1)[1] for request in hub.requests if request.method == "HEAD"} == set(FILES)
