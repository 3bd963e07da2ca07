"""Guarantees on shared references, one test for each guarantee."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.onnx import OnnxEngine
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.engines.torch import TorchEngine
from spikgpt.errors import ConfigError, DamagedReference, FormatError, GraphError, ParityError
from spikgpt.options import EngineOptions, Provider
from spikgpt.reference.card import card_figures
from spikgpt.reference.files import Reference, build_reference, read_reference, save
from spikgpt.reference.format import GRAPH, MANIFEST, with_manifest
from spikgpt.reference.hub import Hub
from spikgpt.reference.registry import resolve
from spikgpt.scoring.thresholds import Thresholds
from spikgpt.sharing import open_reference, push
from spikgpt_onnx import exporter
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.rebuild_graph import network_from_reference
from tests.conftest import exportable, labelled
from tests.hub_server import Fault, LoopbackHub

REPO = "islets/small"
FORMAT_1 = Path(__file__).parent / "data" / "format_1" / "counts"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_safetensors_only_refuses_pickle(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(DamagedReference, match=r"holds pytorch_model.bin, and pickled weights are never opened"):
        open_reference(REPO, hub=client)
    assert not any("pytorch_model.bin" in request.path for request in hub.requests)


def test_label_map_in_the_config_and_inside_the_onnx_metadata_props_checked_equal(
    graph_folder: Path, small: Reference, tmp_path: Path
) -> None:
    session = onnxruntime.InferenceSession(graph_folder / GRAPH, providers=["CPUExecutionProvider"])
    inside = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    assert inside == json.loads((graph_folder / "labels.json").read_text()) == small.labels.to_list()
    files = files_of(graph_folder)
    assert Session.from_files(files, GRAPH).provider == "cpu"
    with pytest.raises(DamagedReference, match=r"has other labels than labels.json"):
        Session.from_files(files | {"labels.json": json.dumps(inside[::-1]).encode()}, GRAPH)


def test_thresholds_stored_with_the_weights_applied_identically_in_torch_and_onnx_runtime(
    small: Reference, few: AnnData, tmp_path: Path
) -> None:
    thresholds = msgspec.structs.replace(small.thresholds, unknown_rate=0.2)
    exporter.export(exportable(build_reference(dataclasses.replace(small, thresholds=thresholds))), tmp_path / "out")
    reference = read_reference(tmp_path / "out")
    engine = open_engine(reference, EngineOptions(engine="onnx"))
    inside = Session(reference.files[GRAPH]).metadata["thresholds"]
    assert msgspec.json.decode(inside, type=Thresholds) == thresholds
    assert reference.thresholds == thresholds
    expected = labelled(reference, few, smoothing=False)
    annotation = labelled(reference, few, engine, smoothing=False)
    np.testing.assert_array_equal(annotation.rejected, expected.rejected)
    assert 0 < annotation.rejected.sum() < len(few)
    assert annotation.typicality is not None
    assert (annotation.typicality[annotation.rejected] < 0.2).all()


def test_gene_vocabulary_with_sha256(small_folder: Path, small: Reference) -> None:
    genes = json.loads((small_folder / "genes.json").read_text())
    canonical = {"symbols": genes["symbols"], "ensembl_ids": genes["ensembl_ids"]}
    digest = hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert genes["sha256"] == digest
    assert genes["symbols"] == list(small.genes.symbols)


def test_format_version_library_version_range_migration_of_old_files(tmp_path: Path) -> None:
    # Migrations are tested in test_format.py. Every version reads the stored files of format 1.
    assert read_reference(FORMAT_1).name == "islets"
    files = files_of(FORMAT_1)
    config = json.loads(files["config.json"])
    assert config["format_version"] == 1
    assert config["library"]["requires"] == ">=0.1,<1"
    config["format_version"] = 4
    for name, content in with_manifest(files | {"config.json": json.dumps(config).encode()}).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match="reads up to format 3. Install spikgpt"):
        read_reference(tmp_path)


def test_per_file_sha256_manifest_verified_on_read_reference(graph_folder: Path, tmp_path: Path) -> None:
    files = files_of(graph_folder)
    entries = json.loads(files[MANIFEST])["files"]
    assert entries.keys() == files.keys() - {MANIFEST}
    for name in entries:
        folder = shutil.copytree(graph_folder, tmp_path / name.replace("/", "_"))
        content = files[name]
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DamagedReference, match="differs from what manifest.json lists|is not valid JSON"):
            read_reference(folder)


def test_strict_load_no_silent_defaults(tmp_path: Path) -> None:
    for part in ("model", "embedder"):
        fields = json.loads((FORMAT_1 / "config.json").read_text())[part]
        for field in fields:
            files = files_of(FORMAT_1)
            config = json.loads(files["config.json"])
            del config[part][field]
            for name, content in with_manifest(files | {"config.json": json.dumps(config).encode()}).items():
                (tmp_path / name).write_bytes(content)
            with pytest.raises(DamagedReference):
                read_reference(tmp_path)


def test_card_weights_config_from_one_resolved_commit(hub: LoopbackHub, client: Hub, small_folder: Path) -> None:
    before = hub.put(REPO, files_of(FORMAT_1))
    # The branch gets a new commit during the download.
    hub.fail(Fault("slow", "GET .*/resolve/.*model.safetensors", 1, 1.0))
    with ThreadPoolExecutor() as pool:
        pulling = pool.submit(resolve, REPO, hub=client)
        while not any("/resolve/" in request.path for request in hub.requests) and not pulling.done():
            time.sleep(0.01)
        moved = hub.put(REPO, files_of(small_folder))
        folder = pulling.result().folder
    assert folder.name == before != moved
    revisions = {r.path.split("/resolve/")[1].split("/")[0] for r in hub.requests if "/resolve/" in r.path}
    assert revisions == {folder.name}
    assert files_of(folder) == files_of(FORMAT_1)
    again = resolve(REPO, hub=client).folder
    assert again.name == moved
    assert files_of(again) == files_of(small_folder)


def test_one_atomic_commit_with_parent_commit(hub: LoopbackHub, client: Hub, small_folder: Path) -> None:
    parent = hub.put(REPO, {".gitattributes": b""})
    push(small_folder, REPO, hub=client)
    commits = hub.repositories[REPO].commits
    assert [commit.parent for commit in commits.values()] == [None, parent]
    assert len([request for request in hub.requests if "/commit/" in request.path]) == 1


def test_model_index_generated_from_the_metrics_file(small_folder: Path) -> None:
    held_out = json.loads((small_folder / "metrics.json").read_text())["held_out"]
    figures = card_figures((small_folder / "README.md").read_text())
    assert figures == {"accuracy": held_out["accuracy"], "f1": held_out["macro_f1"]}


def test_fully_offline_onnx_included(graph_folder: Path, hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    # A process without network access is tested in test_sharing.py.
    push(graph_folder, REPO, hub=client)
    resolve(REPO, hub=client)
    hub.requests.clear()
    local = Hub(hub.endpoint, cache_dir=tmp_path / "cache", local_files_only=True)
    reference = open_reference(REPO, hub=local)
    assert open_engine(reference, hub=local).name == "onnx on cpu"
    assert hub.requests == []


def test_endpoint_argument(hub: LoopbackHub, small: Reference, tmp_path: Path) -> None:
    pushed = SpikGPT(small).push_to_hub(REPO, endpoint=hub.endpoint)
    model = SpikGPT.from_pretrained(REPO, endpoint=hub.endpoint, cache_dir=tmp_path)
    assert model.reference.origin == f"{REPO}@{pushed.commit}"


def test_parity_gate_that_fails_the_export(small: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = torch_engine(small)
    untrained = TorchEngine(trained.embedding, SpikingClassifier(small.config).eval(), trained.temperature)
    untrained_graph = labelling_graph(dataclasses.replace(network_from_reference(small), weights=untrained.weights()))
    monkeypatch.setattr(exporter, "build_graph", lambda network, name: untrained_graph)
    with pytest.raises(ParityError, match="disagrees with the trained model"):
        exporter.export(exportable(small), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_strict_gpu_provider(graph_folder: Path) -> None:
    assert provider_of(graph_folder, "cpu") == "cpu"
    with pytest.raises(ConfigError, match="provider is 'tpu'"):
        SpikGPT.from_pretrained(graph_folder, provider="tpu")  # type: ignore[arg-type]
    # Without a GPU, the error states the reason; the CPU is never used instead.
    assert re.search("^cuda$|has no cuda|cannot be run on cuda|instead of cuda", provider_of(graph_folder, "cuda"))


def provider_of(folder: Path, provider: Provider) -> str:
    """Return the provider on which a graph runs for the requested provider, or the error message."""
    try:
        return OnnxEngine(read_reference(folder), EngineOptions(provider=provider)).session.provider
    except GraphError as error:
        return str(error)


def test_real_http_push_and_pull_in_ci(
    graph_folder: Path, hub: LoopbackHub, client: Hub, few: AnnData, tmp_path: Path
) -> None:
    push(graph_folder, REPO, hub=client)
    pulled, local = open_reference(REPO, hub=client), read_reference(graph_folder)
    assert labelled(pulled, few).probabilities.tobytes() == labelled(local, few).probabilities.tobytes()
    methods = {request.method for request in hub.requests}
    assert methods == {"GET", "HEAD", "POST", "PUT"}
    assert save(pulled, tmp_path / "again").is_dir()
