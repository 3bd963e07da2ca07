"""References by name: found, pulled, pushed, verified, and refused when something is wrong with them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from anndata import AnnData
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.errors import (
    CheckpointError,
    ConfigError,
    DamagedReference,
    HubError,
    ReferenceNotFound,
)
from spikgpt.pipeline import annotate
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import FILES, GRAPH, GRAPHS, MANIFEST, PARITY, PICTURE, graph_sources
from spikgpt.reference.registry import find, shipped_references
from spikgpt.testing.hub import Fault, LoopbackHub
from spikgpt.training.reference import Reference, load, save
from spikgpt.training.sharing import open_reference, pull, push, verify
from spikgpt_onnx.annotator import Annotator

REPO = "islets/small"
FORMAT_1 = Path(__file__).parent / "data" / "format_1" / "counts"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def listed(files: dict[str, bytes]) -> dict[str, bytes]:
    """List the files anew, as a careful forger would."""
    entries = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
        if name != MANIFEST
    }
    return files | {MANIFEST: json.dumps({"files": entries}).encode()}


# Where references are found


def test_every_shipped_reference_is_whole() -> None:
    assert "pancreas" in shipped_references()
    for name, folder in shipped_references().items():
        found = verify(folder)
        assert found.reference.name == name
        assert found.checks[0] == "13 files have the size and sha256 that manifest.json lists"
        assert len(found.checks) == 3 + len(GRAPHS)


@pytest.mark.parametrize("name", ["pancreaz", "Pancreas", "pancras"])
def test_a_name_that_is_nearly_right_is_suggested(name: str, client: Hub) -> None:
    expected = (
        f"^There is no reference or folder '{name}'. Did you mean 'pancreas'\\? Shipped references: pancreas. "
        f"Tried spikgpt/{name} on the Hub too: There is no repository spikgpt/{name} on the Hub"
    )
    with pytest.raises(ReferenceNotFound, match=expected):
        find(name, hub=client)


def test_an_unknown_name_is_said_to_be_unknown_offline_too() -> None:
    with pytest.raises(HubError, match=r"^There is no reference or folder 'xyz'\. Shipped references: pancreas. Tried"):
        SpikGPT.from_pretrained("xyz")
    with pytest.raises(ReferenceNotFound, match="There is no folder '/no/such/folder'; give the name of a reference"):
        SpikGPT.from_pretrained("/no/such/folder")


def test_a_folder_is_found_by_path_and_a_name_means_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pancreas").mkdir()
    assert find("pancreas").folder == shipped_references()["pancreas"]
    assert find("./pancreas").folder.resolve() == (tmp_path / "pancreas").resolve()
    assert find(tmp_path / "pancreas").folder == tmp_path / "pancreas"
    with pytest.raises(ConfigError, match="is a folder, which has no revisions"):
        find(tmp_path / "pancreas", "v1")


def test_short_names_mean_a_namespace_that_can_be_chosen(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("spikgpt/islets", files_of(FORMAT_1))
    hub.put("islets/small", files_of(FORMAT_1), ref="v1")
    assert str(find("islets", hub=client).origin).startswith("spikgpt/islets@")
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "islets")
    assert find("small@v1", hub=client) == find("small", "v1", hub=client) == find(REPO, "v1", hub=client)
    # With a revision even the name of a shipped reference means the Hub.
    with pytest.raises(ReferenceNotFound, match="Tried islets/pancreas on the Hub too"):
        find("pancreas", "v1", hub=client)
    with pytest.raises(ConfigError, match="names the revision v1, and revision='v2' was given too"):
        find("small@v1", "v2", hub=client)


# Push and pull


def test_a_reference_goes_up_and_comes_down_to_the_last_bit(
    small: Reference, few: AnnData, hub: LoopbackHub, tmp_path: Path
) -> None:
    pushed = SpikGPT(small).push_to_hub(REPO, endpoint=hub.endpoint)
    again = SpikGPT.from_pretrained(REPO, endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    assert again.reference.origin == f"{REPO}@{pushed.commit}"
    query = few.copy()
    expected, found = annotate(small, few), again.annotate(query)
    assert found.probabilities.tobytes() == expected.probabilities.tobytes()
    assert query.uns["spikgpt"]["reference_origin"] == again.reference.origin


def test_a_pulled_folder_is_the_pushed_one_but_for_its_address(
    graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    push(graph_folder, REPO, hub=client)
    found = pull(REPO, tmp_path / "pulled", hub=client)
    before, after = files_of(graph_folder), files_of(found.folder)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"README.md", "config.json", MANIFEST}
    assert f'from_pretrained("{REPO}")' in after["README.md"].decode()
    assert not any(path.is_symlink() for path in found.folder.rglob("*"))
    assert len(verify(found.folder).checks) == 4
    with pytest.raises(ConfigError, match="already holds a reference; choose another folder"):
        pull(REPO, tmp_path / "pulled", hub=client)
    # Pulled and pushed again, nothing differs.
    assert {change.kind for change in push(found.folder, REPO, hub=client).changes} == {"unchanged"}


def test_a_graph_of_older_weights_does_not_stay_on_the_hub(
    graph_folder: Path, small_folder: Path, hub: LoopbackHub, client: Hub
) -> None:
    push(graph_folder, REPO, hub=client)
    changes = {change.path: change.kind for change in push(small_folder, REPO, hub=client).changes}
    assert (changes[GRAPH], changes[PARITY]) == ("removed", "removed")
    assert not (find(REPO, hub=client).folder / GRAPH).exists()


def test_only_the_files_of_a_reference_are_pushed(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(FORMAT_1, folder)
    (folder / "passwords.txt").write_text("secret")
    pushed = push(folder, REPO, hub=client)
    assert {change.path for change in pushed.changes} == {*FILES, PICTURE, MANIFEST}


def test_a_reference_that_is_not_whole_is_not_pushed(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(FORMAT_1, folder)
    (folder / "labels.json").write_text("[]")
    with pytest.raises(DamagedReference, match=r"labels.json differs from what manifest.json lists"):
        push(folder, REPO, hub=client)
    assert hub.repositories == {}


def test_an_old_revision_stays_the_old_one(
    small: Reference, small_folder: Path, graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    first = push(graph_folder, REPO, hub=client, tag="v1")
    old = files_of(find(REPO, hub=client).folder)
    model = SpikGPT.from_pretrained(small_folder)
    thresholds = replace(small.thresholds, unknown_rate=0.2)
    stricter = replace(model.reference, thresholds=thresholds)
    second = push(save(stricter, tmp_path / "stricter"), REPO, hub=client)
    assert first.commit != second.commit
    for revision in ("v1", str(first.commit)):
        found = find(REPO, revision, hub=client)
        assert files_of(found.folder) == old
        assert found.origin == f"{REPO}@{first.commit}"
        assert load(found.folder).thresholds == small.thresholds
        assert Annotator(found.folder).stored.thresholds == small.thresholds
        assert "at most 20% of cells" not in (found.folder / "README.md").read_text()
    newest = open_reference(REPO, hub=client)
    assert newest.thresholds.unknown_rate == 0.2
    assert "at most 20% of cells" in (find(REPO, hub=client).folder / "README.md").read_text()


def test_a_reference_on_scgpt_says_what_it_needs(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(FORMAT_1, folder)
    config = json.loads((folder / "config.json").read_text())
    config["embedder"] = {
        "kind": "scgpt",
        "source": "human",
        "revision": None,
        "sha256": "0" * 64,
        "max_length": 1200,
        "bundled": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in listed(files_of(folder)).items():
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="needs the scGPT checkpoint 'human'; give its folder"):
        push(folder, REPO, hub=client)


# Offline


PROGRAM = """
import json, socket, sys
def denied(*_arguments, **_options):
    raise OSError("networking is denied")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = denied
from spikgpt import SpikGPT, SpikGPTError
from spikgpt.cells.reading import read_cells
from spikgpt_onnx.annotator import Annotator
for name in sys.argv[2:]:
    try:
        model = SpikGPT.from_pretrained(name)
        cells = read_cells(sys.argv[1])[:120].copy()
        annotation = model.annotate(cells)
        same = (Annotator.from_pretrained(name).annotate(cells).labels == annotation.labels).all()
        print(annotation.probabilities.tobytes().hex()[:64], same, model.reference.origin)
    except SpikGPTError as error:
        print(type(error).__name__, error)
"""


def offline(cache: Path, *names: str, **environment: str) -> list[str]:
    """Annotate in a process that is denied networking; return the line that it prints for each name."""
    query = Path(__file__).parent / "data" / "pancreas_baron_human2_human4.h5ad"
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(query), *names],
        env=os.environ | {"HF_HUB_CACHE": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()


def test_without_a_network_what_was_pulled_annotates_through_onnx_too(
    graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    commit = push(graph_folder, REPO, hub=client).commit
    model = SpikGPT.from_pretrained(REPO, endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    cells = read_cells(Path(__file__).parent / "data" / "pancreas_baron_human2_human4.h5ad")[:120].copy()
    expected = f"{model.annotate(cells).probabilities.tobytes().hex()[:64]} True {REPO}@{commit}"
    found, missing = offline(tmp_path / "cache", REPO, "islets/other")
    assert found == expected
    assert missing.startswith("HubError islets/other is not in the local cache. The Hub cannot be reached")
    assert "Check the connection and HF_ENDPOINT" in missing
    assert offline(tmp_path / "cache", "small", SPIKGPT_NAMESPACE="islets", HF_HUB_OFFLINE="1") == [expected]


# What arrives damaged


@pytest.mark.parametrize("name", ["model.safetensors", "labels.json", "config.json", MANIFEST, GRAPH])
def test_what_arrives_damaged_is_fetched_again_once_then_refused(
    graph_folder: Path, hub: LoopbackHub, client: Hub, name: str, tmp_path: Path
) -> None:
    push(graph_folder, REPO, hub=client)
    hub.fail(Fault("damage", f"GET .*{name}"))
    folder = find(REPO, hub=client).folder
    assert hub.faults == ()
    assert load(folder).name == "small"
    (folder / name).resolve().write_bytes(b"cosmic ray")
    assert load(find(REPO, hub=client).folder).name == "small"
    (folder / name).resolve().write_bytes(b"cosmic ray")
    hub.fail(Fault("damage", f"GET .*{name}", 9))
    with pytest.raises(DamagedReference, match=f"does not hold what it lists, fetched twice: .*{name}"):
        find(REPO, hub=client)
    hub.forgive()
    assert load(find(REPO, hub=client).folder).name == "small"


def test_a_damaged_cache_is_refused_offline_and_kept(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    folder = find(REPO, hub=client).folder
    (folder / "model.safetensors").resolve().write_bytes(b"cosmic ray")
    local = Hub(cache_dir=tmp_path / "cache", local_files_only=True)
    with pytest.raises(DamagedReference, match=r"cached copy of islets/small is damaged .model.safetensors.; pull it"):
        find(REPO, hub=local)
    assert (folder / "model.safetensors").exists()


def test_a_cache_that_is_not_whole_says_so_when_the_hub_is_away(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    folder = find(REPO, hub=client).folder
    (folder / "labels.json").unlink()
    with pytest.raises(HubError, match=f"{folder.name} is not whole in the local cache. The Hub cannot be reached"):
        find(REPO, hub=Hub("http://127.0.0.1:9", cache_dir=tmp_path / "cache"))
    assert load(find(REPO, hub=client).folder).name == "islets"


def test_a_revision_cannot_leave_the_cache(tmp_path: Path, client: Hub, hub: LoopbackHub) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    find(REPO, hub=client)
    shutil.copytree(FORMAT_1, tmp_path / "outside")
    local = Hub(cache_dir=tmp_path / "cache", local_files_only=True)
    with pytest.raises(ReferenceNotFound, match="is no revision, for git has none with"):
        find(REPO, "../../../outside", hub=local)


def test_an_interrupted_pull_goes_on(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    folder = find(REPO, hub=client).folder
    (folder / "model.safetensors").unlink()
    hub.requests.clear()
    assert load(find(REPO, hub=client).folder).name == "islets"
    (folder / "model.safetensors").resolve().unlink()
    commit = folder.name
    assert load(find(REPO, commit, hub=client).folder).name == "islets"


# Malicious and damaged repositories

Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def rewritten(name: str, change: Callable[[Any], Any]) -> Change:
    """Change a JSON file, and the manifest with it."""
    return lambda files: listed(files | {name: json.dumps(change(json.loads(files[name]))).encode()})


def replaced(name: str, content: bytes) -> Change:
    return lambda files: listed(files | {name: content})


def without(*names: str) -> Change:
    return lambda files: {name: content for name, content in files.items() if name not in names}


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def forged(files: dict[str, bytes]) -> dict[str, bytes]:
        weights = load_tensors(files["model.safetensors"])
        change(weights)
        return listed(files | {"model.safetensors": save_tensors(weights)})

    return forged


def manifest(change: Callable[[dict[str, Any]], object]) -> Change:
    def forged(files: dict[str, bytes]) -> dict[str, bytes]:
        values = json.loads(files[MANIFEST])
        change(values["files"])
        return files | {MANIFEST: json.dumps(values).encode()}

    return forged


def header(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the header of the safetensors file and leave its data."""

    def forged(files: dict[str, bytes]) -> dict[str, bytes]:
        content = files["model.safetensors"]
        (size,) = struct.unpack("<Q", content[:8])
        values = json.loads(content[8 : 8 + size])
        change(values)
        text = json.dumps(values).encode()
        return listed(files | {"model.safetensors": struct.pack("<Q", len(text)) + text + content[8 + size :]})

    return forged


def model(**values: Any) -> Change:
    return rewritten("config.json", lambda config: config | {"model": config["model"] | values})


def embedder(**values: Any) -> Change:
    return rewritten("config.json", lambda config: config | {"embedder": config["embedder"] | values})


def held_out(**values: Any) -> Change:
    return rewritten("metrics.json", lambda metrics: metrics | {"held_out": metrics["held_out"] | values})


def first(name: str, index: tuple[int, ...], value: float) -> Change:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[name][index] = value

    return tensors(change)


# os.system("true")
PICKLE = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
SHA_OF_ONNX = {"sha256": hashlib.sha256(b"onnx").hexdigest()}
MALICIOUS: dict[str, tuple[Change, str]] = {
    "only pickled weights": (
        lambda files: {"config.json": b"{}", "pytorch_model.bin": PICKLE, "model.pkl": PICKLE},
        "is no SpikGPT reference: .* holds model.pkl, pytorch_model.bin, and pickled weights are never opened",
    ),
    "an empty repository": (lambda files: {}, "is no SpikGPT reference: it has no manifest.json"),
    "a pickle called safetensors": (replaced("model.safetensors", PICKLE), "is not a safetensors file"),
    "a pickle in the manifest": (
        lambda files: listed(files | {"weights.bin": PICKLE}),
        "lists 'weights.bin', which no reference has",
    ),
    "a path out of the folder in the manifest": (
        manifest(lambda entries: entries.update({"../../../etc/passwd": {"size": 1, "sha256": "0" * 64}})),
        "lists '../../../etc/passwd', which no reference has",
    ),
    "an absolute path in the manifest": (
        manifest(lambda entries: entries.update({"/etc/passwd": {"size": 1, "sha256": "0" * 64}})),
        "lists '/etc/passwd', which no reference has",
    ),
    "a path out of the folder in the repository": (
        lambda files: files | {"../evil.json": b"{}"},
        "has a file called '../evil.json', which leaves its folder",
    ),
    "a manifest of other bytes": (
        manifest(lambda entries: entries["labels.json"].update(sha256="0" * 64)),
        "does not hold what it lists, fetched twice: labels.json",
    ),
    "a manifest of another size": (
        manifest(lambda entries: entries["labels.json"].update(size=10**15)),
        "does not hold what it lists, fetched twice: labels.json",
    ),
    "a manifest with a size that is no number": (
        manifest(lambda entries: entries["labels.json"].update(size="1")),
        "manifest.json says .* of labels.json; expected its size and sha256",
    ),
    "a manifest that leaves a file out": (
        manifest(lambda entries: entries.pop("thresholds.json")),
        "manifest.json does not list thresholds.json",
    ),
    "a manifest that is no JSON": (lambda files: files | {MANIFEST: b"{"}, "manifest.json is not valid JSON"),
    "a file that is not there": (without("genes.json"), "fetched twice: genes.json"),
    "endless nesting": (replaced("metrics.json", b"[" * 100_000), "metrics.json is not valid JSON"),
    "a threshold stated twice": (
        lambda files: listed(
            files
            | {
                "thresholds.json": files["thresholds.json"].replace(
                    b'"unknown_rate"', b'"threshold": 0.0, "unknown_rate"'
                )
            }
        ),
        "thresholds.json is not valid JSON .*stands there twice",
    ),
    "NaN in JSON": (
        lambda files: listed(files | {"thresholds.json": files["thresholds.json"].replace(b"0.95", b"NaN")}),
        "thresholds.json is not valid JSON .NaN is no number",
    ),
    "a threshold above 1": (
        rewritten("thresholds.json", lambda values: values | {"threshold": 7}),
        "threshold in thresholds.json is 7; expected a number from 0 to 1",
    ),
    "an unknown method": (
        rewritten("thresholds.json", lambda values: values | {"method": "magic"}),
        "expected .* method 'maximum probability'",
    ),
    "a label map that is too short": (
        rewritten("labels.json", lambda rows: rows[:-1]),
        "labels.json names 3 labels; the network has 4",
    ),
    "labels that are the same": (
        rewritten("labels.json", lambda rows: [row | {"name": "beta"} for row in rows]),
        "beta occurs more than once",
    ),
    "labels out of order": (rewritten("labels.json", lambda rows: rows[::-1]), "Row 0 of labels.json"),
    "a label with control characters": (
        rewritten("labels.json", lambda rows: [rows[0] | {"name": "\x1b[2Jalpha"}, *rows[1:]]),
        "Label names are printed, so",
    ),
    "a name with control characters": (
        rewritten("config.json", lambda config: config | {"name": "a\x1b]0;owned\x07"}),
        "The name of the reference, .* is empty or has control characters",
    ),
    "weights that are NaN": (first("classifier.head.weight", (0, 0), float("nan")), "head.weight .* holds NaN or inf"),
    "an embedder that is infinite": (first("embedder.mean", (0,), float("inf")), "embedder.mean .* holds NaN or inf"),
    "a deviation of zero": (first("embedder.std", (0,), 0.0), "negative, or a deviation of 0"),
    "negative shares": (first("embedder.label_shares", (0,), -1.0), "negative, or a deviation of 0"),
    "a tensor of another shape": (
        tensors(lambda weights: weights.update({"classifier.head.bias": torch.zeros(5)})),
        r"head.bias \(expected \(4,\), found \(5,\)\)",
    ),
    "a tensor too few": (tensors(lambda weights: weights.pop("classifier.head.bias")), "found None"),
    "a tensor too many": (tensors(lambda weights: weights.update(extra=torch.zeros(1))), "unexpected tensors: extra"),
    "a tensor of another type": (
        tensors(lambda weights: weights.update({"embedder.mean": weights["embedder.mean"].double()})),
        "is float64; expected float32",
    ),
    "an embedder of other dimensions": (
        tensors(lambda weights: weights.update({"embedder.components": torch.zeros(())})),
        "embedder.components has 0 dimensions; expected 2",
    ),
    "an embedder of other labels": (
        tensors(
            lambda weights: weights.update(
                {
                    f"embedder.{name}": weights[f"embedder.{name}"][:3].clone()
                    for name in ("label_means", "label_stds", "label_shares")
                }
            )
        ),
        "The embedder knows 3 labels; the network has 4",
    ),
    "a huge shape in the safetensors header": (
        header(lambda values: values["embedder.mean"].update(shape=[2**50])),
        "is not a safetensors file",
    ),
    "data that lies outside of the file": (
        header(lambda values: values["embedder.mean"].update(data_offsets=[10**12, 10**12 + 320])),
        "is not a safetensors file",
    ),
    "a huge safetensors header": (
        replaced("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "is not a safetensors file",
    ),
    "a huge network": (model(width=10**12, heads=1), "width is 1000000000000; this library runs at most"),
    "a wide network": (model(width=99_000, heads=1), "The weights do not fit the network"),
    "a deep network": (model(depth=900), "states 900 blocks"),
    "endless time": (model(time_steps=10**9), "time_steps is 1000000000; this library runs at most 1,000"),
    "a tau that overflows": (
        lambda files: listed(files | {"config.json": files["config.json"].replace(b'"tau": 2.0', b'"tau": 1e999')}),
        "all of these must be finite",
    ),
    "a setting that is missing": (
        rewritten("config.json", lambda config: config | {"model": {"width": 8}}),
        "The model config lacks",
    ),
    "a setting that is unknown": (model(backdoor=True), "unknown fields backdoor"),
    "an embedder that is unknown": (embedder(kind="eval"), "names the embedder 'eval'"),
    "an embedder with a bad number": (embedder(clip="10"), "expected .*clip and target_sum"),
    "genes that are not the hashed ones": (
        rewritten("genes.json", lambda genes: genes | {"symbols": [*genes["symbols"][1:], "EVIL"]}),
        "genes.json states sha256",
    ),
    "genes that are no text": (
        rewritten("genes.json", lambda genes: genes | {"symbols": [["INS"]] * len(genes["symbols"])}),
        "genes.json holds names that are no text",
    ),
    "an accuracy above 1": (held_out(accuracy=1.7), "accuracy in metrics.json is 1.7; expected a share"),
    "an accuracy that is text": (held_out(accuracy="[bold]"), "accuracy in metrics.json is '.bold.'"),
    "metrics of other labels": (
        rewritten("metrics.json", lambda metrics: metrics | {"cells_per_label": {"x": 1}}),
        "cells_per_label in metrics.json does not count the cells of each label",
    ),
    "a confusion matrix that is none": (
        held_out(confusion={"labels": ["a"], "counts": [[1, 2]]}),
        "is no square of counts",
    ),
    "a provenance without a recipe": (
        rewritten("config.json", lambda config: config | {"provenance": {"seed": 1}}),
        "provenance in config.json has no valid 'recipe'",
    ),
    "a source that moves the cursor": (
        rewritten("config.json", lambda config: config | {"provenance": config["provenance"] | {"source": "\x1b[9A"}}),
        "source in the provenance is .* expected a line of text",
    ),
    "datasets that are no list": (
        rewritten("config.json", lambda config: config | {"provenance": config["provenance"] | {"datasets": "GSE1"}}),
        "holds datasets or paper in another form",
    ),
    "an ontology id that moves the cursor": (
        rewritten("labels.json", lambda rows: [rows[0] | {"cell_ontology_id": "\x1b[9A"}, *rows[1:]]),
        "is no Cell Ontology id, such as",
    ),
    "a newer format": (
        rewritten("config.json", lambda config: config | {"format_version": 99}),
        "is in format 99 .* pip install --upgrade",
    ),
    "a library range that is code": (
        rewritten("config.json", lambda config: config | {"library": {"requires": "; rm -rf ~"}}),
        "requires spikgpt '; rm -rf ~'; expected a range",
    ),
    "a graph without a report": (
        lambda files: listed(files | {GRAPH: b"onnx"}),
        "has both graphs and onnx/parity.json or none",
    ),
    "a graph of other weights": (
        lambda files: listed(files | {GRAPH: b"onnx", PARITY: json.dumps({"made_from": {}, "graphs": {}}).encode()}),
        "was made from another model.safetensors and labels.json and thresholds.json and genes.json than this",
    ),
    "a report without a graph": (
        lambda files: listed(files | {PARITY: json.dumps({"made_from": graph_sources(files), "graphs": {}}).encode()}),
        "has both graphs and onnx/parity.json or none",
    ),
    "a graph that nobody checked": (
        lambda files: listed(
            files
            | {GRAPH: b"onnx", PARITY: json.dumps({"made_from": graph_sources(files), "graphs": {GRAPH: {}}}).encode()}
        ),
        "was written for another onnx/model.onnx than this",
    ),
    "a second graph that nobody checked": (
        lambda files: listed(
            files
            | {GRAPHS["int8"]: b"x", GRAPH: b"onnx"}
            | {PARITY: json.dumps({"made_from": graph_sources(files), "graphs": {GRAPH: SHA_OF_ONNX}}).encode()}
        ),
        "was written for another onnx/model_int8.onnx than this",
    ),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_malicious_and_damaged_repositories_are_refused(hub: LoopbackHub, client: Hub, kind: str) -> None:
    change, message = MALICIOUS[kind]
    good = files_of(FORMAT_1)
    hub.put(REPO, change(good))
    with pytest.raises(DamagedReference, match=message):
        open_reference(REPO, hub=client)
    # For that reason alone.
    hub.put(REPO, good)
    assert open_reference(REPO, hub=client).name == "islets"


def test_there_are_at_least_thirty_of_them() -> None:
    assert len(MALICIOUS) >= 30


def test_pickles_beside_a_reference_are_not_even_fetched(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, files_of(FORMAT_1) | {"pytorch_model.bin": PICKLE})
    found = find(REPO, hub=client)
    assert load(found.folder).name == "islets"
    assert not (found.folder / "pytorch_model.bin").exists()
    assert not any("pytorch_model.bin" in request.path for request in hub.requests)


@pytest.mark.parametrize("name", ["model.safetensors", "labels.json", MANIFEST, "config.json"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "references" / "linked"
    shutil.copytree(FORMAT_1, folder)
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedReference, match="is a link that leaves its folder"):
        load(folder)
    (folder / name).unlink()
    (tmp_path / "outside").rename(folder / "inside")
    (folder / name).symlink_to("inside")
    assert load(folder).name == "islets"


# Verify


def test_verify_runs_the_graph(graph_folder: Path, tmp_path: Path) -> None:
    checks = verify(graph_folder).checks
    assert checks[-1].startswith(
        "onnx/model.onnx carries the same labels and thresholds; fp32: of 2048 cells 2048 have the same label"
    )
    folder = tmp_path / "forged"
    shutil.copytree(graph_folder, folder)
    graph = onnx.load(folder / GRAPH)
    head = next(tensor for tensor in graph.graph.initializer if tensor.name == "head.weight")
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head)[::-1].copy(), head.name))
    forge_graph(folder, graph)
    with pytest.raises(DamagedReference, match="does not do what the weights do: The graph disagrees"):
        verify(folder)
    for key, message in (
        ("thresholds", "carries other thresholds than thresholds.json"),
        ("labels", "carries other labels than labels.json"),
        ("genes_sha256", "was made for other genes, or another order of them"),
    ):
        graph = onnx.load(graph_folder / GRAPH)
        next(entry for entry in graph.metadata_props if entry.key == key).value = "{}"
        forge_graph(folder, graph)
        with pytest.raises(DamagedReference, match=message):
            verify(folder)


def test_verify_reads_the_card(small_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "forged"
    shutil.copytree(small_folder, folder)
    card = (folder / "README.md").read_text()
    accuracy = json.loads((folder / "metrics.json").read_text())["held_out"]["accuracy"]
    for forged in (card.replace(f"value: {accuracy}", "value: 0.999"), card.replace("## Unknown", "## Cited 99 times")):
        assert forged != card
        forge(folder, {"README.md": forged.encode()})
        with pytest.raises(DamagedReference, match=r"The card states something else than metrics.json"):
            verify(folder)


def forge(folder: Path, changed: dict[str, bytes]) -> None:
    for name, content in listed(files_of(folder) | changed).items():
        (folder / name).write_bytes(content)


def forge_graph(folder: Path, graph: onnx.ModelProto) -> None:
    """Put another graph into a reference, with a report and a manifest that list it."""
    content = graph.SerializeToString()
    report = json.loads((folder / PARITY).read_text())
    report["graphs"][GRAPH]["sha256"] = hashlib.sha256(content).hexdigest()
    forge(folder, {GRAPH: content, PARITY: json.dumps(report).encode()})
