"""Files of a reference: exact bytes, strict reading and complete writing, without torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors
from safetensors.torch import load as load_torch
from safetensors.torch import save as save_torch

from spikgpt.cells.genes import GeneList
from spikgpt.errors import ConfigError, DamagedReference, FormatError
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.files import (
    CLASSIFIER,
    FAMILIARITY,
    Reference,
    Tensors,
    build_files,
    build_reference,
    read_reference,
    save,
    with_graphs,
    with_repository,
)
from spikgpt.reference.format import FILES, GRAPH, MANIFEST, PARITY, PICTURE, RELIABILITY
from spikgpt.reference.registry import shipped_references
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.ood_scorer import LabelGeometry
from spikgpt.scoring.thresholds import Calibration, Thresholds
from tests.damage import MALICIOUS

PANCREAS = shipped_references()["pancreas"]
DATA = Path(__file__).parents[1] / "data"


def tiny() -> Reference:
    config = SpikGPTConfig(input_dim=3, n_labels=2, width=4, heads=2, copies=5)
    random = np.random.default_rng(0)
    weights = {name: random.random(shape).astype(np.float32) for name, shape in config.shapes().items()}
    weights |= {name: np.array(0) for name in weights if name.endswith("num_batches_tracked")}
    return Reference(
        name="tiny",
        config=config,
        embedder={"kind": "obsm", "key": "X_test", "dim": 3},
        tensors={CLASSIFIER + name: weights[name] for name in weights},
        genes=GeneList((), ()),
        labels=LabelMap(("T cell", "β"), ("CL:0000084", None)),
        thresholds=Thresholds("maximum probability", 0.5, 0.05, 10, 0.95),
        familiarity=None,
        metrics={
            "cells": 20,
            "cells_per_label": {"T cell": 12, "β": 8},
            "held_out_by": "donor d1",
            "held_out": {
                "cells": 2,
                "accuracy": 0.5,
                "macro_f1": 0.667,
                "per_label": [{"label": "T cell", "precision": 1.0, "recall": 0.5, "f1": 0.667, "cells": 2}],
                "confusion": {"labels": ["T cell", "β"], "counts": [[1, 1], [0, 0]]},
            },
            "paper_threshold_rejects": 0.25,
        },
        provenance={"source": "nowhere", "licence": "MIT", "recipe": {"name": "default"}, "seed": 0},
    )


def written(parts: Reference, folder: Path) -> Path:
    return save(build_reference(parts), folder)


def rewrite(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file of a reference, and its entry in the manifest."""
    content = json.loads((folder / name).read_text())
    replace_file(folder, name, json.dumps(change(content)).encode())


def replace_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    if name == MANIFEST:
        return
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    replace_file(folder, "model.safetensors", save_tensors(tensors))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tiny(), tmp_path / "tiny")


# Content of the files


def test_a_reference_is_read_from_a_folder_and_from_memory(folder: Path) -> None:
    parts = tiny()
    for reference in (read_reference(folder, "org/tiny@1"), read_reference(files_of(folder), "org/tiny@1")):
        assert (reference.name, reference.config, reference.labels) == ("tiny", parts.config, parts.labels)
        assert (reference.genes, reference.thresholds, reference.origin) == (
            parts.genes,
            parts.thresholds,
            "org/tiny@1",
        )
        assert (reference.metrics, reference.provenance, reference.embedder) == (
            parts.metrics,
            parts.provenance,
            parts.embedder,
        )
        assert reference.files == {name: content for name, content in files_of(folder).items() if name != MANIFEST}
        assert reference.tensors.keys() == parts.tensors.keys()
        np.testing.assert_array_equal(reference.part(CLASSIFIER)["head.bias"], parts.tensors["classifier.head.bias"])


def test_the_shipped_reference_is_written_again_byte_for_byte() -> None:
    reference = read_reference(PANCREAS)
    again = build_files(reference)
    for name in (*FILES, PICTURE, RELIABILITY):
        if name not in ("README.md", "config.json"):  # both files state the version of this library
            assert again[name] == reference.files[name], name
    config = json.loads(again["config.json"])
    config["library"]["version"] = json.loads(reference.files["config.json"])["library"]["version"]
    assert json.dumps(config, indent=1, ensure_ascii=False) + "\n" == reference.files["config.json"].decode()


def test_tensors_are_written_as_by_torch() -> None:
    content = read_reference(PANCREAS).files["model.safetensors"]
    assert save_torch(load_torch(content)) == content


def test_a_reference_that_is_saved_again_is_the_same(tmp_path: Path) -> None:
    for source in (PANCREAS, DATA / "format_1" / "counts", DATA / "format_2" / "embedded"):
        assert files_of(save(read_reference(source), tmp_path / source.name)) == files_of(source)


def test_golden_bytes(folder: Path) -> None:
    assert (folder / "labels.json").read_bytes() == (
        b'[\n {\n  "index": 0,\n  "name": "T cell",\n  "cell_ontology_id": "CL:0000084"\n },\n'
        b' {\n  "index": 1,\n  "name": "\xce\xb2",\n  "cell_ontology_id": null\n }\n]\n'
    )
    assert (folder / "thresholds.json").read_bytes() == (
        b'{\n "method": "maximum probability",\n "threshold": 0.5,\n "unknown_rate": 0.05,\n'
        b' "calibration_cells": 10,\n "paper_threshold": 0.95\n}\n'
    )
    manifest = (folder / "manifest.json").read_text()
    content = (folder / "labels.json").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert f'  "labels.json": {{\n   "size": {len(content)},\n   "sha256": "{digest}"\n  }},\n' in manifest
    assert list(json.loads(manifest)["files"]) == [*FILES, PICTURE]
    config = json.loads((folder / "config.json").read_text())
    assert list(config) == ["format_version", "library", "name", "model", "embedder", "provenance"]
    assert config["format_version"] == 3


def test_golden_bytes_of_familiarity(tmp_path: Path) -> None:
    calibration = Calibration.fit(np.array([0.25, -1.5]), np.array(["β", "β"]), 1.5)
    thresholds = Thresholds("familiarity", 0.5, 0.05, 2, 0.95, calibration, calibration)
    geometry = LabelGeometry(np.zeros((2, 3), dtype=np.float32), np.eye(3, dtype=np.float32))
    folder = written(replace(tiny(), thresholds=thresholds, familiarity=geometry), tmp_path / "tiny")
    scores = b'{\n   "cells": 2,\n   "ranks": [\n    1,\n    2\n   ],\n   "values": [\n    -1.5,\n    0.25\n   ]\n  }'
    mode = b'{\n  "everything": ' + scores + b',\n  "labels": {},\n  "temperature": 1.5\n }'
    assert (folder / "thresholds.json").read_bytes() == (
        b'{\n "method": "familiarity",\n "threshold": 0.5,\n "unknown_rate": 0.05,\n "calibration_cells": 2,\n'
        b' "paper_threshold": 0.95,\n "alone": ' + mode + b',\n "together": ' + mode + b"\n}\n"
    )
    again = read_reference(folder)
    assert again.thresholds == thresholds
    assert again.familiarity is not None
    np.testing.assert_array_equal(again.familiarity.whitening, geometry.whitening)
    replace_tensors(folder, lambda tensors: tensors.update({FAMILIARITY + "whitening": np.eye(4, dtype=np.float32)}))
    with pytest.raises(DamagedReference, match=r"tensors familiarity\.\* of model.safetensors have the shapes"):
        read_reference(folder)


def test_the_card_states_the_measured_figures(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "accuracy is 0.500" in card
    assert "| T cell | CL:0000084 | 12 | 2 | 1.000 | 0.500 | 0.667 |" in card
    assert (folder / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_a_card_names_its_repository() -> None:
    reference = read_reference(PANCREAS)
    files = with_repository(reference, "org/islets")
    assert 'from_pretrained("org/islets")' in files["README.md"].decode()
    assert read_reference(files).provenance == reference.provenance | {"repository": "org/islets"}
    changed = {name for name in reference.files if files[name] != reference.files[name]}
    assert changed == {"README.md", "config.json"}


def test_graphs_are_replaced_together() -> None:
    reference = read_reference(PANCREAS)
    report = json.loads(reference.files[PARITY])
    report["graphs"] = {GRAPH: report["graphs"][GRAPH]}
    files = with_graphs(reference, {GRAPH: reference.files[GRAPH], PARITY: json.dumps(report).encode()})
    assert {name for name in files if name.startswith("onnx/")} == {GRAPH, PARITY}
    assert read_reference(files).metrics == reference.metrics


# Refused files


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DamagedReference, match=f"has no {name}, which every reference has"):
        read_reference(folder)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DamagedReference):
        read_reference(folder)
    if name != "config.json":
        with pytest.raises(DamagedReference, match=f"{name} differs from what manifest.json lists"):
            read_reference(folder)


def test_a_manifest_must_list_every_file(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["genes.json"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedReference, match=r"manifest.json does not list genes.json"):
        read_reference(folder)


def test_the_error_on_a_newer_format_names_the_version_to_install(folder: Path) -> None:
    rewrite(folder, "config.json", lambda c: c | {"format_version": 4, "library": {"requires": ">=3"}})
    expected = r"is in format 4 and needs spikgpt >=3; .*up to format 3. Install spikgpt >=3"
    with pytest.raises(FormatError, match=expected):
        read_reference(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda c: c | {"format_version": 0}, "Expected `int` >= 1, in format_version: found 0"),
        ("config.json", lambda c: c | {"format_version": "1"}, "Expected `int`, got `str`, in format_version"),
        ("config.json", lambda c: {k: v for k, v in c.items() if k != "model"}, "missing required field `model`"),
        ("config.json", lambda c: c | {"model": c["model"] | {"heads": 3}}, "not a multiple of heads 3"),
        ("config.json", lambda c: c | {"model": c["model"] | {"n_labels": 3}}, "names 2 labels; the network has 3"),
        ("config.json", lambda c: c | {"model": c["model"] | {"depth": 2}}, "The weights do not fit the network"),
        (
            "config.json",
            lambda c: c | {"embedder": {"kind": "umap"}},
            "'umap'}; expected pca, scgpt, obsm",
        ),
        ("config.json", lambda c: c | {"embedder": c["embedder"] | {"dim": 4}}, "has 4 dimensions"),
        (
            "config.json",
            lambda c: c | {"embedder": {"kind": "pca", "clip": 5.0, "target_sum": 1e4}},
            "The pca embedder has the tensor components of shape None",
        ),
        ("config.json", lambda c: c | {"name": "\x1b"}, r"name is '\\x1b'; expected a line of text"),
        ("config.json", lambda c: c | {"name": ""}, "Expected `str` of length >= 1"),
        ("config.json", lambda c: c | {"model": {}}, "is inconsistent: The model config lacks"),
        ("config.json", lambda c: c | {"weights": "elsewhere"}, "unknown field `weights`"),
        ("manifest.json", lambda m: m | {"signature": ""}, "unknown field `signature`"),
        ("genes.json", lambda g: g | {"species": "human"}, "unknown field `species`"),
        ("labels.json", lambda rows: rows[::-1], "Row 0 of labels.json"),
        ("labels.json", lambda rows: [r | {"name": "x"} for r in rows], "x occurs more than once"),
        ("labels.json", lambda rows: [rows[0], rows[1] | {"name": "Unknown"}], "Unknown"),
        ("labels.json", lambda rows: {"a": rows}, "labels.json"),
        ("genes.json", lambda g: g | {"symbols": ["INS"], "ensembl_ids": [None]}, "genes.json states sha256"),
        ("genes.json", lambda g: g | {"symbols": "INS"}, "Expected `array`, got `str`, in symbols"),
        ("thresholds.json", lambda t: t | {"threshold": -1}, "thresholds.json"),
    ],
)
def test_inconsistent_files_are_refused(folder: Path, name: str, change: Callable[[Any], Any], message: str) -> None:
    rewrite(folder, name, change)
    with pytest.raises(DamagedReference, match=message):
        read_reference(folder)


def add_nan(tensors: Tensors) -> None:
    tensors["classifier.head.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_nan, "classifier.head.weight in model.safetensors holds NaN"),
        (lambda t: t.pop("classifier.head.bias"), r"1 tensors .* head.bias \(expected \(2,\), found None"),
        (lambda t: t.update({"extra": np.zeros(1, dtype=np.float32)}), "holds the tensor 'extra'; expected those of"),
        (lambda t: t.update({"classifier.extra": np.zeros(1, dtype=np.float32)}), "such as extra"),
        (lambda t: t.update({"embedder.mean": np.zeros(1, dtype=np.float32)}), "has the embedder {'kind': 'obsm'"),
        (lambda t: t.update({"classifier.head.bias": np.zeros(3, dtype=np.float32)}), r"found \(3,\)"),
        (lambda t: t.update({"classifier.head.bias": np.zeros(2, dtype=np.int64)}), "is int64; expected float32"),
    ],
)
def test_bad_tensors_are_refused(folder: Path, change: Callable[[Tensors], object], message: str) -> None:
    replace_tensors(folder, change)
    with pytest.raises(DamagedReference, match=message):
        read_reference(folder)


def test_weights_that_are_not_safetensors_are_refused(folder: Path) -> None:
    replace_file(folder, "model.safetensors", b"\x80\x04pickle")
    with pytest.raises(DamagedReference, match="is not a safetensors file"):
        read_reference(folder)


def test_bad_json_is_refused(folder: Path) -> None:
    replace_file(folder, "metrics.json", b"{")
    with pytest.raises(DamagedReference, match=r"metrics.json is not valid JSON"):
        read_reference(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedReference, match="There is no folder"):
        read_reference(tmp_path / "nowhere")


def test_metrics_and_provenance_keep_unknown_fields(folder: Path) -> None:
    rewrite(folder, "metrics.json", lambda metrics: metrics | {"entropy": {"mean": 2}})
    rewrite(folder, "config.json", lambda c: c | {"provenance": c["provenance"] | {"chemistry": "v3"}})
    again = build_reference(read_reference(folder))
    assert (again.metrics["entropy"], again.provenance["chemistry"]) == ({"mean": 2}, "v3")


@pytest.mark.parametrize(("name", "size"), [("labels.json", 2**27), ("README.md", 2**21), ("model.safetensors", 2**40)])
def test_a_file_of_absurd_size_is_refused_before_it_is_read(folder: Path, name: str, size: int) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name]["size"] = size
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedReference, match=f"lists {size} bytes of {name}; expected at most"):
        read_reference(folder)


def test_the_total_size_of_json_files_is_limited(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in ("thresholds.json", "genes.json", "metrics.json"):
        manifest["files"][name]["size"] = 2**25
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedReference, match="bytes of all JSON files; expected at most 67108864"):
        read_reference(folder)


@pytest.mark.parametrize("kind", MALICIOUS)
def test_malicious_and_damaged_files_are_refused_in_memory(kind: str) -> None:
    files = files_of(DATA / "format_1" / "counts")
    assert read_reference(files).name == "islets"
    if kind != "a path out of the folder in the repository":  # only listed files are read
        with pytest.raises(DamagedReference):
            read_reference(MALICIOUS[kind][0](files))


# Replacement of folders


def test_a_reference_is_replaced_only_on_request(folder: Path) -> None:
    reference = read_reference(folder)
    with pytest.raises(ConfigError, match="already holds a reference; .*overwrite=True .--overwrite"):
        save(reference, folder)
    save(reference, folder, overwrite=True)
    assert read_reference(folder).name == "tiny"


def test_a_folder_without_a_reference_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not a reference"):
        save(build_reference(tiny()), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.docx").read_text() == "precious"


def test_a_failed_save_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, reference = files_of(folder), read_reference(folder)
    write = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if path.name == "metrics.json":
            msg = "disk full"
            raise OSError(msg)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        save(reference, folder, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        save(reference, folder.parent / "other")
    assert files_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_reading_and_writing_needs_no_torch_and_no_matplotlib(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "matplotlib", "sklearn", "scanpy", "onnx", "numba"))
from spikgpt.reference.files import read_reference, save, with_repository
reference = read_reference({str(PANCREAS)!r})
with_repository(reference, "org/islets")
save(reference, {str(tmp_path / "out")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert files_of(tmp_path / "out") == files_of(PANCREAS)
