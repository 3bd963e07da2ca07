"""The client of the Hub over real HTTP, with a small Hub on this machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from msgspec import structs

from spikgpt.engines.scgpt.checkpoint import load_checkpoint
from spikgpt.engines.scgpt.source import open_scgpt
from spikgpt.errors import CheckpointError, ConfigError, DamagedReference, HubError, ReferenceNotFound
from spikgpt.options import HubOptions, PushOptions
from spikgpt.reference import hub as module
from spikgpt.reference.format import LARGEST
from spikgpt.reference.hub import Hub, parse
from spikgpt.reference.hub_cache import git_oid
from spikgpt.reference.hub_metadata import TAGS
from tests.hub_server import Fault, LoopbackHub
from tests.hub_server.answers import HubAnswer

CHECKPOINT = Path(__file__).parents[1] / "data" / "scgpt_baron"
REPO = "islets/small"
CARD = f"---\ntags:\n- {TAGS[0]}\n---\n# small\n".encode()
FILES = {"README.md": CARD, "a.json": b"{}\n", "model.safetensors": bytes(range(256)) * 8}
SECRET = "hf_secretsecretsecret"


def push(client: Hub, files: dict[str, bytes] = FILES, **options: Any) -> module.Push:
    return client.push(REPO, files, PushOptions(message="A push", **options), removable=("old.json",))


def pulled(client: Hub, revision: str | None = None) -> dict[str, bytes]:
    folder = client.snapshot(REPO, revision, tuple(FILES), required=tuple(FILES))
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


def kinds(pushed: module.Push) -> dict[str, str]:
    return {change.path: change.kind for change in pushed.changes}


def test_pushed_files_can_be_pulled(hub: LoopbackHub, client: Hub) -> None:
    pushed = push(client)
    assert set(kinds(pushed).values()) == {"new"}
    assert hub.repositories[REPO].refs["main"] == pushed.commit
    assert pushed.url == f"{hub.endpoint}/{REPO}/tree/main"
    assert pulled(client) == FILES
    assert client.names(REPO, None) == [".gitattributes", *sorted(FILES)]


def test_a_push_sends_changed_files_and_deletes_removable_files(hub: LoopbackHub, client: Hub) -> None:
    first = hub.put(REPO, {**FILES, "old.json": b"{}", "notes.txt": b"mine", ".gitattributes": b""})
    pushed = push(client, {**FILES, "a.json": b"[]\n"})
    assert kinds(pushed) == {
        "README.md": "unchanged",
        "a.json": "changed",
        "model.safetensors": "unchanged",
        "old.json": "removed",
    }
    repository = hub.repositories[REPO]
    assert set(repository.commits[str(pushed.commit)].files) == {*FILES, "notes.txt", ".gitattributes"}
    assert repository.commits[str(pushed.commit)].parent == first
    assert not [request for request in hub.requests if request.method == "PUT"]
    again = push(client, {**FILES, "a.json": b"[]\n"})
    assert again.commit == pushed.commit
    assert len(repository.commits) == 2


def test_a_dry_run_changes_nothing(hub: LoopbackHub, client: Hub) -> None:
    pushed = push(client, dry_run=True, private=True)
    assert (pushed.commit, pushed.url) == (None, None)
    assert set(kinds(pushed).values()) == {"new"}
    assert hub.repositories == {}
    hub.put(REPO, {"old.json": b"{}", "a.json": b"{}\n"})
    assert kinds(push(client, dry_run=True)) == {
        "README.md": "new",
        "a.json": "unchanged",
        "model.safetensors": "new",
        "old.json": "removed",
    }
    assert len(hub.repositories[REPO].commits) == 1
    assert {request.method for request in hub.requests} == {"GET"}


def test_files_are_pushed_to_branches_tags_and_pull_requests(hub: LoopbackHub, client: Hub) -> None:
    first = push(client, tag="v1")
    second = push(client, {**FILES, "a.json": b"[2]"}, branch="next")
    third = push(client, {**FILES, "a.json": b"[3]"}, pull_request=True)
    assert hub.repositories[REPO].refs == {
        "main": first.commit,
        "v1": first.commit,
        "next": second.commit,
        "refs/pr/1": third.commit,
    }
    assert third.url == f"{hub.endpoint}/{REPO}/discussions/1"
    assert [pulled(client, revision)["a.json"] for revision in (None, "v1", "next")] == [b"{}\n", b"{}\n", b"[2]"]
    with pytest.raises(ConfigError, match="pull_request .--pull-request. goes to main"):
        push(client, branch="next", pull_request=True)
    with pytest.raises(ConfigError, match="'small' is no name of a repository; expected ORG/NAME"):
        client.push("small", FILES, PushOptions())


def test_an_existing_tag_stops_a_push_before_any_change(hub: LoopbackHub, client: Hub) -> None:
    first = push(client, tag="v1")
    # The same files have the tag already, so there is nothing to push.
    again = push(client, tag="v1")
    assert (again.commit, set(kinds(again).values())) == (first.commit, {"unchanged"})
    each: tuple[dict[str, Any], ...] = ({}, {"branch": "next"}, {"dry_run": True})
    for options in each:
        with pytest.raises(HubError, match=f"has the tag v1 at commit {first.commit}, so nothing was pushed. Choose"):
            push(client, {**FILES, "a.json": b"[]"}, tag="v1", **options)
    assert hub.repositories[REPO].refs == {"main": first.commit, "v1": first.commit}
    second = push(client, {**FILES, "a.json": b"[]"}, tag="v2")
    with pytest.raises(HubError, match="has the tag v1 at commit"):
        push(client, {**FILES, "a.json": b"[]"}, tag="v1")
    assert hub.repositories[REPO].refs == {"main": second.commit, "v1": first.commit, "v2": second.commit}


def test_the_error_on_a_failed_tag_names_the_pushed_commit(hub: LoopbackHub, client: Hub) -> None:
    hub.fail(Fault("error", "POST .*/tag/", 9))
    with pytest.raises(
        HubError, match=r"islets/small is at commit \w{40}, but has no tag v1 there.*Push again with that tag"
    ):
        push(client, tag="v1")
    hub.clear_faults()
    commit = push(client, tag="v1").commit

    def meanwhile(request: str, answer: HubAnswer) -> HubAnswer:
        if "/commit/" in request:
            hub.repositories[REPO].refs["v2"] = str(commit)
            hub.repositories[REPO].tags.add("v2")
        return answer

    hub.forge = meanwhile
    with pytest.raises(HubError, match=r"is at commit \w{40}, but has no tag v2 there.*another tag"):
        push(client, {**FILES, "a.json": b"[]"}, tag="v2")


def test_a_tag_that_names_this_commit_already_is_a_success(hub: LoopbackHub, client: Hub) -> None:
    def tagged(request: str, answer: HubAnswer) -> HubAnswer:
        if "/commit/" in request:
            hub.repositories[REPO].refs["v1"] = hub.repositories[REPO].refs["main"]
            hub.repositories[REPO].tags.add("v1")
        return answer

    hub.forge = tagged
    assert push(client, tag="v1").commit == hub.repositories[REPO].refs["v1"]
    assert [request.path for request in hub.requests if "/tag/" in request.path]


@pytest.mark.parametrize("name", ["../x", "a b", "", "a\x1b", "-x", "x" * 300])
def test_names_of_tags_and_branches_that_git_does_not_allow_are_refused(
    hub: LoopbackHub, client: Hub, name: str
) -> None:
    for option in ("tag", "branch"):
        with pytest.raises(ConfigError, match="is no name of a branch or a tag"):
            client.push(REPO, FILES, structs.replace(PushOptions(), **{option: name}))
    assert hub.requests == []


def test_a_slow_push_ends_with_an_error(hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUSH_PATIENCE", 0.5)
    hub.forge = lambda request, answer: replace(answer, pause=0.05) if "/commit/" in request else answer
    with pytest.raises(HubError, match=r"The Hub is too slow: \d+ bytes in \d s of a push, which may have arrived"):
        client.push(REPO, {"a.json": b"{}"}, PushOptions())


@pytest.mark.parametrize("body", [b"null", b"[]", b"{}", b"<html>", b'{"commitOid": 7}'])
def test_an_invalid_answer_to_a_push_gives_an_error_of_one_line(hub: LoopbackHub, client: Hub, body: bytes) -> None:
    hub.forge = lambda request, answer: replace(answer, body=body, headers={}) if "/commit/" in request else answer
    with pytest.raises(HubError) as refused:
        client.push(REPO, {"a.json": b"{}"}, PushOptions())
    assert str(refused.value).isprintable()


def test_an_answer_with_another_commit_is_refused(hub: LoopbackHub, client: Hub) -> None:
    commit = hub.put(REPO, FILES)
    other = commit[::-1].encode()
    hub.forge = lambda request, answer: replace(answer, body=answer.body.replace(commit.encode(), other))
    with pytest.raises(HubError, match="The Hub answered with the commit .* of islets/small; expected"):
        pulled(client, commit)


def test_files_above_their_size_limit_are_refused(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, {**FILES, "README.md": b"x" * (LARGEST["README.md"] + 1)})
    with pytest.raises(
        DamagedReference, match=r"islets/small lists 1048577 bytes of README.md; expected at most 1048576"
    ):
        pulled(client)
    assert not any("/resolve/" in request.path for request in hub.requests)


def test_nothing_private_goes_to_a_public_repository(hub: LoopbackHub, client: Hub) -> None:
    push(client)
    with pytest.raises(HubError, match="exists and is public, so nothing private goes there"):
        push(client, {**FILES, "a.json": b"[secret]"}, private=True)
    assert len(hub.repositories[REPO].commits) == 2
    client.push("islets/hidden", FILES, PushOptions(private=True))
    assert hub.repositories["islets/hidden"].private


def test_a_concurrent_commit_is_not_overwritten(hub: LoopbackHub, client: Hub) -> None:
    push(client)
    hub.fail(Fault("race", "POST .*/commit/"))
    with pytest.raises(HubError, match="Somebody else has committed to islets/small meanwhile, so nothing was pushed"):
        push(client, {**FILES, "a.json": b"[]"})
    files = hub.repositories[REPO].at("main")
    assert files is not None
    assert files.files["a.json"] == b"{}\n"
    push(client, {**FILES, "a.json": b"[]"})
    assert pulled(client)["a.json"] == b"[]"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("error", "POST .*/commit/", 9), "it answered 500"),
        (Fault("cut", "POST .*/commit/", 9), "cannot be reached"),
        (Fault("rate limit", "POST .*/commit/", 9), "asks for fewer requests, so islets/small was not written"),
        (Fault("error", "POST .*/validate-yaml", 9), "it answered 500"),
        (Fault("error", "PUT /lfs"), None),
        (Fault("error", "GET /api/models/islets/small"), None),
        (Fault("error", "GET .*/refs", 2), None),
    ],
    ids=lambda value: f"{value.kind} {value.request}" if isinstance(value, Fault) else None,
)
def test_a_push_is_whole_or_nothing_and_can_be_repeated(
    hub: LoopbackHub, client: Hub, fault: Fault, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fail(fault)
    if message is None:
        push(client, branch="main" if "refs" in fault.request else None)
    else:
        with pytest.raises(HubError, match=message):
            push(client)
    hub.clear_faults()
    push(client)
    assert pulled(client) == FILES
    # The Hub makes the first commit, and the push the second. A push is not committed again if its answer was lost.
    assert len(hub.repositories[REPO].commits) == 2


def test_tokens_are_sent_to_the_hub_alone_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with LoopbackHub(tokens={SECRET: "islets"}) as hub:
        client = Hub(hub.endpoint, SECRET, tmp_path / "cache")
        push(client, private=True)
        assert pulled(client) == FILES
        hub.fail(Fault("error", "GET /api/models", 9))
        with pytest.raises(HubError) as raised:
            client.references("islets")
        sent = {request.host: set[str | None]() for request in hub.requests}
        for request in hub.requests:
            sent[request.host].add(request.authorization)
    # Large files come from another host, at an address that the Hub gave; that host must not get the token.
    assert sent == {"127.0.0.1": {f"Bearer {SECRET}"}, "localhost": {None}}
    out, err = capfd.readouterr()
    for text in (caplog.text, out, err, repr(client), str(raised.value)):
        assert SECRET not in text


def test_the_stored_token_goes_to_the_default_endpoint_only(tmp_path: Path) -> None:
    program = (
        "import sys; from spikgpt.reference.hub import Hub\n"
        f"Hub(sys.argv[1] or None, cache_dir=sys.argv[2]).snapshot('{REPO}', None, ['a.json'], required=[])"
    )
    for endpoint_variable, expected in ((False, {None}), (True, {f"Bearer {SECRET}"})):
        with LoopbackHub() as hub:
            hub.put(REPO, FILES)
            environment = os.environ | {"HF_TOKEN": SECRET}
            if endpoint_variable:
                environment["HF_ENDPOINT"] = hub.endpoint
            arguments = ["" if endpoint_variable else hub.endpoint, str(tmp_path / str(endpoint_variable))]
            subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True)
            assert {request.authorization for request in hub.requests} == expected


@pytest.mark.parametrize(
    "name", ["../evil.json", "onnx/../../evil.json", "/etc/evil.json", "..\\evil.json", "a\x1b.json"]
)
def test_names_that_leave_the_folder_are_refused(hub: LoopbackHub, client: Hub, name: str, tmp_path: Path) -> None:
    hub.put(REPO, {**FILES, name: b"evil"})
    with pytest.raises(DamagedReference, match=r"has a file called .*, which leaves its folder. Do not use"):
        pulled(client)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_slow_download_succeeds(hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.put(REPO, FILES)
    hub.fail(Fault("slow", "GET /cdn", 1, 1.0))
    assert pulled(client) == FILES


def test_the_cache_is_used_without_a_connection(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    commit = hub.put(REPO, FILES)
    assert pulled(client) == FILES
    away = Hub("http://127.0.0.1:9", cache_dir=tmp_path / "cache")
    local = Hub(cache_dir=tmp_path / "cache", local_files_only=True)
    for revision in (None, "main", commit):
        assert pulled(away, revision) == pulled(local, revision) == FILES
    with pytest.raises(
        HubError, match="islets/small@v2 is not in the local cache. The Hub cannot be reached .ConnectErr"
    ):
        pulled(away, "v2")
    with pytest.raises(
        ReferenceNotFound, match=r"small@v2 is not in the local cache. Once online, spikgpt pull islets"
    ):
        pulled(local, "v2")
    assert local.references("islets") == []
    assert [(entry.repository, entry.commit) for entry in local.cached(tuple(FILES))] == [(REPO, commit)]
    assert Hub(cache_dir=tmp_path / "none").cached(()) == []


def test_a_pinned_commit_that_is_cached_needs_no_request(hub: LoopbackHub, client: Hub) -> None:
    commit = hub.put(REPO, FILES)
    pulled(client)
    hub.put(REPO, {**FILES, "a.json": b"[]"})
    hub.requests.clear()
    assert pulled(client, commit) == FILES
    assert hub.requests == []
    assert pulled(client)["a.json"] == b"[]"


def test_cached_files_are_named_by_their_content(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, FILES)
    folder = client.snapshot(REPO, None, tuple(FILES), required=())
    assert not client.repair(REPO, folder.name, FILES)
    (folder / "a.json").resolve().write_bytes(b"{ }")
    (folder / "model.safetensors").resolve().write_bytes(FILES["model.safetensors"][::-1])
    (folder / "README.md").resolve().unlink()
    assert client.repair(REPO, folder.name, FILES)
    assert pulled(client) == FILES
    # Result of ``git hash-object`` for this content.
    assert git_oid(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_references_are_listed_by_their_tag(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, FILES)
    hub.put("islets/other", {"README.md": b"---\ntags:\n- cats\n---\n"})
    hub.put("lungs/small", FILES)
    (reference,) = client.references("islets")
    assert (reference.id, reference.tags[0]) == (REPO, "spikgpt")


def test_checkpoints_are_pulled_and_kept(hub: LoopbackHub, client: Hub) -> None:
    files = {file.name: file.read_bytes() for file in CHECKPOINT.iterdir()} | {"large.bin": b"0" * 1000}
    commit = hub.put("islets/scgpt", files)
    scgpt = open_scgpt("islets/scgpt", hub=client)
    assert (scgpt.source, scgpt.revision) == ("islets/scgpt", commit)
    assert scgpt.checkpoint.sha256 == load_checkpoint(CHECKPOINT).sha256
    bodies = {r.path for r in hub.requests if r.method == "GET" and ("/resolve/" in r.path or "/cdn/" in r.path)}
    assert {path.rsplit("/", 1)[1] for path in bodies} == {"args.json", "model.safetensors", "vocab.json"}
    with pytest.raises(ReferenceNotFound, match=r"There is no repository nobody/nothing on the Hub, or it is private"):
        open_scgpt("nobody/nothing", hub=client)
    with pytest.raises(ReferenceNotFound, match="islets/scgpt@v9 is no revision of islets/scgpt; name a branch"):
        open_scgpt("islets/scgpt@v9", hub=client)
    with pytest.raises(ReferenceNotFound, match="is no name of a repository"):
        open_scgpt("islets/..scgpt--", hub=client)
    with pytest.raises(CheckpointError, match="no-such-folder is no folder"):
        open_scgpt("no-such-folder", hub=client)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/repo", ("org/repo", None)),
        ("org/repo@v1.2", ("org/repo", "v1.2")),
        ("repo", None),
        ("/tmp/a/b", None),
        ("a/b/c", None),
        ("org/repo@", None),
    ],
)
def test_names_of_repositories_are_parsed(name: str, expected: tuple[str, str | None] | None) -> None:
    assert parse(name) == expected


def test_a_hub_is_made_from_options() -> None:
    options = HubOptions(endpoint="http://127.0.0.1:9", token=False, cache_dir=Path("cache"), local_files_only=True)
    assert Hub.from_options(options) == Hub("http://127.0.0.1:9", False, Path("cache"), True)
    assert Hub.from_options(HubOptions()) == Hub()


def test_importing_the_hub_does_not_load_the_http_client() -> None:
    program = "import sys, spikgpt.reference.hub; print([name for name in sys.modules if name.startswith('httpx')])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip() == b"[]"
