"""Finding, pulling, pushing and verifying references; refusal of damaged and malicious references."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from anndata import AnnData
from msgspec import structs

from spikgpt import Annotation, SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.errors import (
    CheckpointError,
    ConfigError,
    DamagedReference,
    HubError,
    ReferenceNotFound,
    install_command,
)
from spikgpt.options import EngineName, PushOptions
from spikgpt.reference.files import CLASSIFIER, Reference, build_reference, read_reference, save
from spikgpt.reference.format import FILES, GRAPH, GRAPHS, MANIFEST, PARITY, PICTURE
from spikgpt.reference.hub import Hub
from spikgpt.reference.registry import resolve, shipped_references
from spikgpt.sharing import open_reference, pull, push, verify
from tests.conftest import QUERY_FILE, labelled
from tests.damage import MALICIOUS, PICKLE, listed
from tests.hub_server import Fault, LoopbackHub

REPO = "islets/small"
FORMAT_1 = Path(__file__).parent / "data" / "format_1" / "counts"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Names and folders


def test_verify_lists_the_checks_of_a_shipped_reference() -> None:
    verification = verify(shipped_references()["pancreas"])
    assert verification.checks[0] == "13 files have the size and sha256 that manifest.json lists"
    assert len(verification.checks) == 3 + len(GRAPHS)


@pytest.mark.parametrize("name", ["pancreaz", "Pancreas", "pancras"])
def test_similar_names_are_suggested(name: str, client: Hub) -> None:
    names = ", ".join(shipped_references())
    expected = (
        f"^There is no reference or folder '{name}'. Did you mean 'pancreas'\\? Shipped references: {names}. "
        f"Tried spikgpt/{name} on the Hub too: There is no repository spikgpt/{name} on the Hub"
    )
    with pytest.raises(ReferenceNotFound, match=expected):
        resolve(name, hub=client)


def test_unknown_names_and_folders_are_errors_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        HubError, match=r"^There is no reference or folder 'xyz'\. Shipped references: .*pancreas.*\. Tried"
    ):
        SpikGPT.from_pretrained("xyz")
    with pytest.raises(ReferenceNotFound, match="There is no folder 'nowhere'; give a folder that `spikgpt train`"):
        push("nowhere", "me/x")
    with pytest.raises(ReferenceNotFound, match="There is no folder '/no/such/folder'; give the name of a reference"):
        SpikGPT.from_pretrained("/no/such/folder")
    for name in ("./pancreas", "../pancreas", "./pancreas/"):
        with pytest.raises(ReferenceNotFound, match=f"^There is no folder '{name}'; give the name of a reference"):
            SpikGPT.from_pretrained(name)
    with pytest.raises(ReferenceNotFound, match=r"test_sharing.py is a file; expected a reference"):
        SpikGPT.from_pretrained(__file__)


def test_names_mean_shipped_references_and_paths_mean_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pancreas").mkdir()
    assert resolve("pancreas").folder == shipped_references()["pancreas"]
    assert resolve("./pancreas").folder.resolve() == (tmp_path / "pancreas").resolve()
    assert resolve(tmp_path / "pancreas").folder == tmp_path / "pancreas"
    with pytest.raises(ConfigError, match="is a folder, which has no revisions"):
        resolve(tmp_path / "pancreas", "v1")


def test_short_names_use_a_configurable_namespace(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("spikgpt/islets", files_of(FORMAT_1))
    hub.put("islets/small", files_of(FORMAT_1), ref="v1")
    assert str(resolve("islets", hub=client).origin).startswith("spikgpt/islets@")
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "islets")
    assert resolve("small@v1", hub=client) == resolve("small", "v1", hub=client) == resolve(REPO, "v1", hub=client)
    # With a revision, the name of a shipped reference is resolved on the Hub.
    with pytest.raises(ReferenceNotFound, match="Tried islets/pancreas on the Hub too"):
        resolve("pancreas", "v1", hub=client)
    with pytest.raises(ConfigError, match="names the revision v1, and revision='v2' was given too"):
        resolve("small@v1", "v2", hub=client)


# Push and pull


def test_a_pulled_reference_gives_the_same_probabilities(
    small: Reference, few: AnnData, hub: LoopbackHub, tmp_path: Path
) -> None:
    pushed = SpikGPT(small).push_to_hub(REPO, endpoint=hub.endpoint)
    again = SpikGPT.from_pretrained(REPO, endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    assert again.reference.origin == f"{REPO}@{pushed.commit}"
    query = few.copy()
    expected, annotation = labelled(small, few, again.engine), again.annotate(query)
    assert annotation.probabilities.tobytes() == expected.probabilities.tobytes()
    assert query.uns["spikgpt"]["reference_origin"] == again.reference.origin


def test_pulled_and_pushed_folders_differ_only_by_the_address(
    graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    push(graph_folder, REPO, hub=client)
    pulled = pull(REPO, tmp_path / "pulled", hub=client)
    before, after = files_of(graph_folder), files_of(pulled.folder)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"README.md", "config.json", MANIFEST}
    assert f'from_pretrained("{REPO}")' in after["README.md"].decode()
    assert not any(path.is_symlink() for path in pulled.folder.rglob("*"))
    assert len(verify(pulled.folder).checks) == 4
    with pytest.raises(ConfigError, match="already holds a reference; choose another folder"):
        pull(REPO, tmp_path / "pulled", hub=client)
    # Pushing the pulled reference again changes nothing.
    assert {change.kind for change in push(pulled.folder, REPO, hub=client).changes} == {"unchanged"}


def test_a_graph_of_older_weights_is_removed_from_the_hub(
    graph_folder: Path, small_folder: Path, hub: LoopbackHub, client: Hub
) -> None:
    push(graph_folder, REPO, hub=client)
    changes = {change.path: change.kind for change in push(small_folder, REPO, hub=client).changes}
    assert (changes[GRAPH], changes[PARITY]) == ("removed", "removed")
    assert not (resolve(REPO, hub=client).folder / GRAPH).exists()


def test_only_the_files_of_a_reference_are_pushed(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(FORMAT_1, folder)
    (folder / "passwords.txt").write_text("secret")
    pushed = push(folder, REPO, hub=client)
    assert {change.path for change in pushed.changes} == {*FILES, PICTURE, MANIFEST}


def test_an_incomplete_reference_is_not_pushed(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(FORMAT_1, folder)
    (folder / "labels.json").write_text("[]")
    with pytest.raises(DamagedReference, match=r"labels.json differs from what manifest.json lists"):
        push(folder, REPO, hub=client)
    assert hub.repositories == {}


def test_an_old_revision_does_not_change(
    small: Reference, small_folder: Path, graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    first = push(graph_folder, REPO, PushOptions(tag="v1"), hub=client)
    old = files_of(resolve(REPO, hub=client).folder)
    stricter = replace(read_reference(small_folder), thresholds=structs.replace(small.thresholds, unknown_rate=0.2))
    second = push(save(build_reference(stricter), tmp_path / "stricter"), REPO, hub=client)
    assert first.commit != second.commit
    for revision in ("v1", str(first.commit)):
        resolved = resolve(REPO, revision, hub=client)
        assert files_of(resolved.folder) == old
        assert resolved.origin == f"{REPO}@{first.commit}"
        assert read_reference(resolved.folder).thresholds == small.thresholds
        assert "at most 20% of cells" not in (resolved.folder / "README.md").read_text()
    newest = open_reference(REPO, hub=client)
    assert newest.thresholds.unknown_rate == 0.2
    assert "at most 20% of cells" in (resolve(REPO, hub=client).folder / "README.md").read_text()


def test_pushing_a_reference_on_scgpt_needs_the_checkpoint(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    settings = {"kind": "scgpt", "source": "human", "revision": None, "sha256": "0" * 64, "max_length": 1200}
    stored = read_reference(FORMAT_1)
    weights = {name: array for name, array in stored.tensors.items() if name.startswith(CLASSIFIER)}
    stored = replace(stored, embedder=settings | {"bundled": False}, tensors=weights)
    folder = save(build_reference(stored), tmp_path / "mine")
    with pytest.raises(CheckpointError, match="needs the scGPT checkpoint 'human'; give its folder"):
        push(folder, REPO, hub=client)
    assert pull(str(folder), tmp_path / "copy").origin is None


# Offline


PROGRAM = """
import socket, sys
def denied(*_arguments, **_options):
    raise OSError("networking is denied")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = denied
from spikgpt import SpikGPT, SpikGPTError
from spikgpt.cells.reading import read_cells
cells = read_cells(sys.argv[1])[:120]
for argument in sys.argv[2:]:
    engine, name = argument.split(":")
    try:
        model = SpikGPT.from_pretrained(name, engine=engine)
        print(model.annotate(cells.copy()).probabilities.tobytes().hex()[:64], model.reference.origin)
    except SpikGPTError as error:
        print(type(error).__name__, error)
"""


def offline(cache: Path, *models: str, **environment: str) -> list[str]:
    """Annotate in a process without network access; return one printed line per ``engine:name``."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(QUERY_FILE), *models],
        env=os.environ | {"HF_HUB_CACHE": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_a_pulled_reference_annotates_offline_with_both_engines(
    graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path
) -> None:
    commit = push(graph_folder, REPO, hub=client).commit
    expected: dict[EngineName, Annotation] = {}
    engine: EngineName
    for engine in ("torch", "onnx"):
        model = SpikGPT.from_pretrained(REPO, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", engine=engine)
        expected[engine] = model.annotate(read_cells(QUERY_FILE)[:120].copy())
    assert expected["torch"].labels.tolist() == expected["onnx"].labels.tolist()
    torch, onnx = (
        f"{annotation.probabilities.tobytes().hex()[:64]} {REPO}@{commit}" for annotation in expected.values()
    )
    *lines, missing = offline(tmp_path / "cache", f"torch:{REPO}", f"onnx:{REPO}", "onnx:islets/other")
    assert lines == [torch, onnx]
    assert missing.startswith("HubError islets/other is not in the local cache. The Hub cannot be reached")
    assert "Check the connection and HF_ENDPOINT" in missing
    assert offline(tmp_path / "cache", "onnx:small", SPIKGPT_NAMESPACE="islets", HF_HUB_OFFLINE="1") == [onnx]


# Damaged downloads and caches


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "labels.json", "config.json", MANIFEST, GRAPH])
def test_damaged_downloads_are_repeated_once_then_refused(
    graph_folder: Path, hub: LoopbackHub, client: Hub, name: str, tmp_path: Path
) -> None:
    push(graph_folder, REPO, hub=client)
    hub.fail(Fault("damage", f"GET .*{name}"))
    folder = resolve(REPO, hub=client).folder
    assert hub.faults == ()
    assert read_reference(folder).name == "small"
    (folder / name).resolve().write_bytes(b"cosmic ray")
    assert read_reference(resolve(REPO, hub=client).folder).name == "small"
    (folder / name).resolve().write_bytes(b"cosmic ray")
    hub.fail(Fault("damage", f"GET .*{name}", 9))
    with pytest.raises(DamagedReference, match=f"does not hold what it lists, downloaded twice: .*{name}"):
        resolve(REPO, hub=client)
    hub.clear_faults()
    assert read_reference(resolve(REPO, hub=client).folder).name == "small"


def test_a_damaged_cache_is_refused_offline_and_kept(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    folder = resolve(REPO, hub=client).folder
    (folder / "model.safetensors").resolve().write_bytes(b"cosmic ray")
    local = Hub(cache_dir=tmp_path / "cache", local_files_only=True)
    with pytest.raises(DamagedReference, match=r"islets/small is damaged; .*model.safetensors differs"):
        resolve(REPO, hub=local)
    assert (folder / "model.safetensors").exists()


def test_an_incomplete_cache_is_an_error_without_the_hub(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    folder = resolve(REPO, hub=client).folder
    (folder / "labels.json").unlink()
    with pytest.raises(HubError, match=f"{folder.name} is not whole in the local cache. The Hub cannot be reached"):
        resolve(REPO, hub=Hub("http://127.0.0.1:9", cache_dir=tmp_path / "cache"))
    assert read_reference(resolve(REPO, hub=client).folder).name == "islets"


def test_a_revision_with_a_path_out_of_the_cache_is_refused(tmp_path: Path, client: Hub, hub: LoopbackHub) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    resolve(REPO, hub=client)
    shutil.copytree(FORMAT_1, tmp_path / "outside")
    local = Hub(cache_dir=tmp_path / "cache", local_files_only=True)
    with pytest.raises(ReferenceNotFound, match="is no revision; name a branch"):
        resolve(REPO, "../../../outside", hub=local)


def test_an_interrupted_pull_is_completed(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, files_of(FORMAT_1))
    folder = resolve(REPO, hub=client).folder
    (folder / "model.safetensors").unlink()
    hub.requests.clear()
    assert read_reference(resolve(REPO, hub=client).folder).name == "islets"
    (folder / "model.safetensors").resolve().unlink()
    commit = folder.name
    assert read_reference(resolve(REPO, commit, hub=client).folder).name == "islets"


# Malicious and damaged repositories


@pytest.mark.slow
@pytest.mark.parametrize("kind", MALICIOUS)
def test_malicious_and_damaged_repositories_are_refused(hub: LoopbackHub, client: Hub, kind: str) -> None:
    change, message = MALICIOUS[kind]
    good = files_of(FORMAT_1)
    hub.put(REPO, change(good))
    with pytest.raises(DamagedReference, match=message):
        open_reference(REPO, hub=client)
    # The original files are accepted, so the change is the only reason for the refusal.
    hub.put(REPO, good)
    assert open_reference(REPO, hub=client).name == "islets"


def test_at_least_thirty_malicious_references_are_tested() -> None:
    assert len(MALICIOUS) >= 30


def test_pickles_beside_a_reference_are_not_downloaded(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, files_of(FORMAT_1) | {"pytorch_model.bin": PICKLE})
    resolved = resolve(REPO, hub=client)
    assert read_reference(resolved.folder).name == "islets"
    assert not (resolved.folder / "pytorch_model.bin").exists()
    assert not any("pytorch_model.bin" in request.path for request in hub.requests)


@pytest.mark.parametrize("name", ["model.safetensors", "labels.json", MANIFEST, "config.json"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "references" / "linked"
    shutil.copytree(FORMAT_1, folder)
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedReference, match="is a link that leaves its folder"):
        read_reference(folder)
    (folder / name).unlink()
    (tmp_path / "outside").rename(folder / "inside")
    (folder / name).symlink_to("inside")
    assert read_reference(folder).name == "islets"


# Verify


def test_verify_compares_and_runs_the_graph(graph_folder: Path, tmp_path: Path) -> None:
    checks = verify(graph_folder).checks
    assert checks[-1].startswith(
        "onnx/model.onnx equals the graph of the weights, byte for byte; fp32: of 2048 cells 2048 have the same label"
    )
    folder = tmp_path / "altered"
    shutil.copytree(graph_folder, folder)
    graph = onnx.load(folder / GRAPH)
    head = next(tensor for tensor in graph.graph.initializer if tensor.name == "head.weight")
    head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head)[::-1].copy(), head.name))
    replace_graph(folder, graph)
    with pytest.raises(DamagedReference, match=r"has other weights than model\.safetensors, such as 'head\.weight'"):
        verify(folder)
    for key, message in (
        ("thresholds", "has other thresholds than the other files of the reference"),
        ("labels", "has other labels than the other files of the reference"),
        ("genes_sha256", "has other genes_sha256 than the other files of the reference"),
    ):
        graph = onnx.load(graph_folder / GRAPH)
        next(entry for entry in graph.metadata_props if entry.key == key).value = "{}"
        replace_graph(folder, graph)
        with pytest.raises(DamagedReference, match=message):
            verify(folder)


def test_verify_compares_the_card_with_the_metrics(small_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(small_folder, folder)
    card = (folder / "README.md").read_text()
    accuracy = json.loads((folder / "metrics.json").read_text())["held_out"]["accuracy"]
    for altered in (
        card.replace(f"value: {accuracy}", "value: 0.999"),
        card.replace("## Unknown", "## Cited 99 times"),
    ):
        assert altered != card
        write_altered(folder, {"README.md": altered.encode()})
        with pytest.raises(DamagedReference, match=r"The card differs from metrics.json"):
            verify(folder)


def write_altered(folder: Path, changed: dict[str, bytes]) -> None:
    for name, content in listed(files_of(folder) | changed).items():
        (folder / name).write_bytes(content)


def replace_graph(folder: Path, graph: onnx.ModelProto) -> None:
    """Put another graph into a reference, with a matching report and manifest."""
    content = graph.SerializeToString()
    report = json.loads((folder / PARITY).read_text())
    report["graphs"][GRAPH]["sha256"] = hashlib.sha256(content).hexdigest()
    write_altered(folder, {GRAPH: content, PARITY: json.dumps(report).encode()})


# Program that verifies a folder once for each argument, without the packages that the argument lists.
VERIFY_WITHOUT = """
import json, sys
for missing in sys.argv[2:]:
    packages = dict.fromkeys(missing.split())
    sys.modules |= packages
    from spikgpt.sharing import verify
    print(json.dumps(verify(sys.argv[1]).checks))
    for name in packages:
        del sys.modules[name]
"""


def test_verify_lists_skipped_checks_and_missing_packages(graph_folder: Path) -> None:
    missing = ("torch spikingjelly sklearn scanpy matplotlib onnx numba", "torch onnxruntime")
    command: list[str | Path] = [sys.executable, "-c", VERIFY_WITHOUT, graph_folder, *missing]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    little, more = map(json.loads, ran.stdout.splitlines())
    assert little[:3] == more[:3] == list(verify(graph_folder).checks[:3])
    assert little[3:] == [
        "onnx/model.onnx was made from these files; not read, without torch and onnx: "
        f"{install_command('torch', 'onnx')}"
    ]
    assert more[3:] == [
        "onnx/model.onnx equals the graph of the weights, byte for byte; not run, without onnxruntime and torch: "
        f"{install_command('onnxruntime', 'torch')}"
    ]
