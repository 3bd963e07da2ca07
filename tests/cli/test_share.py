"""Commands that list, show, verify, pull, push and export references."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from spikgpt.reference.format import LAYOUT
from spikgpt.reference.hub import Hub
from spikgpt.reference.registry import shipped_references
from spikgpt.sharing import push
from tests.cli.conftest import Run, assert_refused
from tests.damage import listed
from tests.fuzz.alter_answers import REPO, reference_files
from tests.hub_server import LoopbackHub
from tests.reference.test_lockfile import DIGEST, OTHER


def test_list_shows_what_is_shipped_cached_and_on_the_hub(
    run: Run, small_folder: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "listed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    commit = push(small_folder, "listed/islets", hub=Hub(hub.endpoint)).commit
    hub.put("listed/other", {"README.md": b"---\ntags:\n- cats\n---\n"})
    folder = Hub(hub.endpoint).snapshot("listed/islets", None, LAYOUT, required=())
    ran = run("list", "--endpoint", hub.endpoint)
    rows = [line.split() for line in ran.out.splitlines()]
    assert ran.code == 0
    assert rows[0] == ["name", "cells", "of", "types", "cells", "acc.", "F1", "MB", "source"]
    assert [row[0] for row in rows if row[-1] == "shipped"] == list(shipped_references())
    (cached,) = [row for row in rows if row[-1] == "cached"]
    assert (cached[0], cached[-6:-4]) == ("listed/islets", ["6", "360"])
    assert [row[0] for row in rows if row[-1] == "Hub"] == ["listed/islets"]
    assert "listed/other" not in ran.out
    listed = json.loads(run("list", "--json", "--endpoint", hub.endpoint).out)
    assert [row["commit"] for row in listed if row["source"] == "cached"] == [commit]
    assert {row["verified"] for row in listed if row["source"] == "shipped"} == {True}
    (folder / "labels.json").resolve().write_bytes(b"[]")
    ran = run("list", "--offline")
    assert [line.split()[-1] for line in ran.out.splitlines() if line.startswith("listed/islets")] == ["damaged"]
    assert "labels.json differs from what manifest.json lists" in ran.err
    assert "Hub" not in ran.out
    ran = run("list", "--endpoint", "http://127.0.0.1:9")
    assert ran.code == 0
    assert "pancreas" in ran.out
    assert "The Hub cannot be reached (ConnectError" in ran.err


def test_the_card_of_a_reference_is_shown(run: Run, small_folder: Path) -> None:
    ran = run("card", small_folder)
    assert (ran.code, ran.err) == (0, "")
    content = (small_folder / "README.md").read_text()
    assert ran.out.startswith("# small\n")
    page = content.split("---\n", 2)[2].splitlines()
    assert [line for line in ran.out.splitlines() if line] == [line for line in page if line and line[0] != "!"]


def test_push_pull_and_verify(
    run: Run, small_folder: Path, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--endpoint", hub.endpoint)
    ran = run("push", small_folder, "shared/islets", "--dry-run", *where)
    assert ran.code == 0
    assert "Nothing was sent to shared/islets" in ran.err
    assert ran.out.count("│ new ") == 10
    assert hub.repositories == {}
    ran = run("push", small_folder, "shared/islets", "--tag", "v1", "--message", "Six types", *where)
    commit = hub.repositories["shared/islets"].refs["v1"]
    assert f"shared/islets is at commit {commit}: {hub.endpoint}/shared/islets/tree/main" in ran.err
    assert hub.repositories["shared/islets"].commits[commit].title == "Six types"
    ran = run("pull", "shared/islets@v1", "--out", tmp_path / "pulled", *where)
    assert f"Wrote {tmp_path}/pulled, shared/islets@{commit}." in ran.err
    digest = hashlib.sha256((tmp_path / "pulled" / "manifest.json").read_bytes()).hexdigest()
    assert ran.out == f"sha256:{digest}\n"
    ran = run("verify", tmp_path / "pulled")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "ok: 9 files have the size and sha256 that manifest.json lists",
        "ok: weights, 6 labels, thresholds, genes and metrics fit together",
        "ok: the card states the figures of metrics.json",
        f"{tmp_path}/pulled is complete, sha256 {digest}.",
    ]
    (tmp_path / "pulled" / "labels.json").write_text("[]")
    assert_refused(run("verify", tmp_path / "pulled"), "labels.json differs from what manifest.json lists")
    assert_refused(run("push", tmp_path / "pulled", "shared/islets", *where), "labels.json differs from what")
    assert_refused(
        run("push", small_folder, "islets", *where), "'islets' is no name of a repository; expected ORG/NAME"
    )
    assert_refused(run("pull", "shared/none", "--out", tmp_path / "none", *where), "There is no repository shared/none")
    assert_refused(run("pull", "shared/islets", "--out", tmp_path / "pulled", *where), "already holds a reference")
    assert_refused(
        run("push", small_folder, "shared/x", "--endpoint", "http://127.0.0.1:9"), "The Hub cannot be reached"
    )


def test_a_push_without_changes_says_so_and_a_moved_tag_is_refused(
    run: Run, small_folder: Path, hub: LoopbackHub
) -> None:
    where = ("--endpoint", hub.endpoint)
    run("push", small_folder, "shared/islets", "--tag", "v1", *where)
    ran = run("push", small_folder, "shared/islets", "--tag", "v1", *where)
    assert (ran.code, "Nothing changed, as every file is there already: shared/islets is at" in ran.err) == (0, True)
    hub.put("shared/islets", {"README.md": b""})
    assert_refused(run("push", small_folder, "shared/islets", "--tag", "v1", *where), "has the tag v1 at commit")


def test_pull_checks_a_digest_and_a_lock_file(
    run: Run, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--endpoint", hub.endpoint, "--cache-dir", tmp_path / "cache")
    hub.put(REPO, reference_files())
    ran = run("pull", REPO, "--out", "one", "--lock", *where)
    digest = ran.out.strip()
    assert (ran.code, digest, "Wrote islets/small to spikgpt.lock." in ran.err) == (0, f"sha256:{DIGEST}", True)
    ran = run("pull", REPO, "--out", "two", "--lock", "--expect", digest, *where)
    assert (ran.code, "to spikgpt.lock" in ran.err) == (0, False)
    hub.put(REPO, OTHER)
    assert_refused(run("pull", REPO, "--out", "three", "--expect", DIGEST, *where), f"; expected {DIGEST}. Nothing was")
    assert run("pull", REPO, "--out", "three", "--lock", *where).code == 0
    assert run("pull", REPO, "--out", "four", "--lock-file", "other.lock", *where).out != ran.out
    Path("spikgpt.lock").write_text(Path("spikgpt.lock").read_text().replace(DIGEST, "0" * 64))
    assert_refused(run("pull", REPO, "--out", "five", "--lock", *where), "spikgpt.lock has 0000")
    assert_refused(run("pull", REPO, "--out", "five", "--expect", "abc", *where), "give the 64 digits of a sha256")
    assert not Path("five").exists()


def test_info_refuses_a_damaged_reference(run: Run, tmp_path: Path) -> None:
    assert_refused(run("info", tmp_path), "has no config.json, which every reference has.")


def test_export_writes_the_named_precisions(run: Run, small_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = run("export", small_folder, "--out", out, "--precision", "int8", "--precision", "fp32")
    assert ran.code == 0
    assert sorted(path.name for path in (out / "onnx").iterdir()) == ["model.onnx", "model_int8.onnx", "parity.json"]
    assert "onnx/model_int8.onnx, int8: of 2048 cells" in ran.err
    assert f"spikgpt annotate QUERY.h5ad --model {out} --out OUT.h5ad" in ran.err
    ran = run("export", small_folder, "--out", tmp_path / "literal.onnx", "--literal")
    assert "literal.onnx, m = 300." in ran.err
    assert (tmp_path / "literal.onnx").stat().st_size > 100_000
    ran = run("export", small_folder, "--out", tmp_path / "new", "--precision", "fp8")
    assert_refused(ran, "Found the precisions fp8; choose from fp32, fp16, int8.")


def test_export_for_triton_writes_a_model_repository(run: Run, tmp_path: Path) -> None:
    ran = run("export", "pancreas", "--triton", tmp_path / "models")
    assert ran.code == 0
    assert (tmp_path / "models" / "pancreas" / "1" / "model.onnx").is_file()
    assert "fp32: of 2048 cells" in ran.err
    assert_refused(run("export", "pancreas", "--triton", tmp_path / "models"), "is there already")
    assert_refused(run("export", "pancreas"), "Pass --out FOLDER")
    assert_refused(run("export", "pancreas", "--triton", tmp_path / "a", "--literal"), "--triton writes one graph")


def test_an_interrupted_pull_leaves_no_files(
    run: Run, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Hub, "snapshot", interrupt)
    ran = run("pull", "shared/islets", "--out", tmp_path / "pulled", "--endpoint", hub.endpoint)
    assert ran.code == 130
    assert ran.err == "Interrupted. Nothing was written; finished downloads stay in the cache.\n"
    assert list(tmp_path.iterdir()) == []


def test_info_offline_sends_no_request_to_the_hub(run: Run, hub: LoopbackHub) -> None:
    assert_refused(run("info", "shared/islets", "--offline", "--endpoint", hub.endpoint), "is not in the local cache")
    assert hub.requests == []


def test_a_literal_graph_never_replaces_a_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    assert_refused(run("export", "pancreas", "--out", tmp_path, "--literal"), "is a folder; name a file to write.")
    assert (tmp_path / "thesis.docx").read_text() == "precious"


def test_list_names_a_reference_with_invalid_metrics(run: Run, hub: LoopbackHub, tmp_path: Path) -> None:
    hub.put(REPO, listed(reference_files() | {"metrics.json": b"{}"}))
    Hub(hub.endpoint, cache_dir=tmp_path).snapshot(REPO, None, LAYOUT, required=())
    ran = run("list", "--offline", "--cache-dir", tmp_path)
    assert ran.code == 0
    assert "metrics.json is not valid" in ran.err
