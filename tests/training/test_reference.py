"""A trained reference, ready to run: written, read again, and asked for probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spikgpt.errors import ConfigError
from spikgpt.reference.layout import FILES, PICTURE, RELIABILITY
from spikgpt.training.reference import Reference, load, save


def tiny() -> Reference:
    torch.manual_seed(0)
    config = SpikGPTConfig(input_dim=3, n_labels=2, width=4, heads=2, copies=5)
    return Reference(
        name="tiny",
        embedder=PrecomputedEmbedder("X_test", 3),
        classifier=SpikingClassifier(config).eval(),
        labels=LabelMap(("T cell", "β"), ("CL:0000084", None)),
        thresholds=Thresholds("maximum probability", 0.5, 0.05, 10, 0.95),
        metrics={
            "cells": 20,
            "cells_per_label": {"T cell": 12, "β": 8},
            "held_out_by": "donor d1",
            "held_out": measure(["T cell", "T cell"], ["T cell", "β"]).to_dict(),
            "paper_threshold_rejects": 0.25,
        },
        provenance={"source": "nowhere", "licence": "MIT", "recipe": {"name": "default"}, "seed": 0},
    )


def rewrite(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file of a reference and list it anew, as a careful forger would."""
    content = json.loads((folder / name).read_text())
    replace_file(folder, name, json.dumps(change(content)).encode())


def replace_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "forged")
    replace_file(folder, "model.safetensors", (folder / "forged").read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tiny(), tmp_path / "tiny")


def test_a_reference_loads_as_it_was_saved(small: Reference, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, small.embedder.dim))
    again = load(save(small, tmp_path / "small"))
    np.testing.assert_array_equal(again.probabilities(vectors), small.probabilities(vectors))
    assert (again.labels, again.thresholds, again.name) == (small.labels, small.thresholds, small.name)
    assert again.metrics == small.metrics
    assert again.provenance == json.loads(json.dumps(small.provenance))
    assert again.embedder.genes == small.embedder.genes


def test_saving_gives_the_same_bytes_again(small: Reference, tmp_path: Path) -> None:
    first, second = save(small, tmp_path / "a"), save(load(tmp_path / "a"), tmp_path / "b")
    assert sorted(file.name for file in first.iterdir()) == sorted((*FILES, PICTURE, RELIABILITY, "manifest.json"))
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


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
    assert config["format_version"] == 2


def test_golden_bytes_of_familiarity(tmp_path: Path) -> None:
    calibration = Calibration.of(np.array([0.25, -1.5]), np.array(["β", "β"]), 1.5)
    thresholds = Thresholds("familiarity", 0.5, 0.05, 2, 0.95, calibration, calibration)
    where = Familiarity(np.zeros((2, 3), dtype=np.float32), np.eye(3, dtype=np.float32))
    folder = save(replace(tiny(), thresholds=thresholds, familiarity=where), tmp_path / "tiny")
    scores = b'{\n   "cells": 2,\n   "ranks": [\n    1,\n    2\n   ],\n   "values": [\n    -1.5,\n    0.25\n   ]\n  }'
    mode = b'{\n  "everything": ' + scores + b',\n  "labels": {},\n  "temperature": 1.5\n }'
    assert (folder / "thresholds.json").read_bytes() == (
        b'{\n "method": "familiarity",\n "threshold": 0.5,\n "unknown_rate": 0.05,\n "calibration_cells": 2,\n'
        b' "paper_threshold": 0.95,\n "alone": ' + mode + b',\n "together": ' + mode + b"\n}\n"
    )
    again = load(folder)
    assert again.thresholds == thresholds
    assert again.familiarity is not None
    np.testing.assert_array_equal(again.familiarity.whitening, where.whitening)
    replace_tensors(folder, lambda tensors: tensors.update({"familiarity.whitening": torch.eye(4)}))
    with pytest.raises(DamagedReference, match="familiarity tensors of model.safetensors are"):
        load(folder)


def test_the_card_states_what_was_measured(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "accuracy is 0.500" in card
    assert "| T cell | CL:0000084 | 12 | 2 | 1.000 | 0.500 | 0.667 |" in card
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DamagedReference, match=f"has no {name}, which every reference has"):
        load(folder)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DamagedReference):
        load(folder)
    if name != "config.json":
        with pytest.raises(DamagedReference, match=f"{name} differs from what manifest.json lists"):
            load(folder)


def test_a_manifest_must_list_every_file(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["genes.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedReference, match=r"manifest.json does not list genes.json"):
        load(folder)


def test_a_newer_format_says_what_to_install(folder: Path) -> None:
    rewrite(folder, "config.json", lambda c: c | {"format_version": 3, "library": {"requires": ">=3"}})
    expected = r"is in format 3 and needs spikgpt >=3; .*up to format 2. Install .*: pip install --upgrade 'spikgpt>=3'"
    with pytest.raises(FormatError, match=expected):
        load(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda c: c | {"format_version": 0}, "states format 0; formats start at 1"),
        ("config.json", lambda c: c | {"format_version": "1"}, "no valid 'format_version'"),
        ("config.json", lambda c: {k: v for k, v in c.items() if k != "model"}, "no valid 'model'"),
        ("config.json", lambda c: c | {"model": c["model"] | {"heads": 3}}, "not a multiple of heads 3"),
        ("config.json", lambda c: c | {"model": c["model"] | {"n_labels": 3}}, "names 2 labels; the network has 3"),
        ("config.json", lambda c: c | {"model": c["model"] | {"depth": 2}}, "The weights do not fit the network"),
        ("config.json", lambda c: c | {"embedder": {"kind": "umap"}}, "names the embedder 'umap'"),
        (
            "config.json",
            lambda c: c | {"embedder": c["embedder"] | {"dim": 4}},
            "vectors of 4 values",
        ),
        ("labels.json", lambda rows: rows[::-1], "Row 0 of labels.json"),
        ("labels.json", lambda rows: [r | {"name": "x"} for r in rows], "x occurs more than once"),
        ("labels.json", lambda rows: [rows[0], rows[1] | {"name": "Unknown"}], "'Unknown' is what rejected cells"),
        ("labels.json", lambda rows: {"a": rows}, "labels.json .* Expected `array`, got `object`"),
        ("genes.json", lambda g: g | {"symbols": ["INS"], "ensembl_ids": [None]}, "genes.json states sha256"),
        ("genes.json", lambda g: g | {"symbols": "INS"}, "no valid 'symbols'"),
        ("thresholds.json", lambda t: t | {"threshold": -1}, r"thresholds.json .* `float` >= 0.0 - at `\$.threshold`"),
    ],
)
def test_inconsistent_files_are_refused(folder: Path, name: str, change: Callable[[Any], Any], message: str) -> None:
    rewrite(folder, name, change)
    with pytest.raises(DamagedReference, match=message):
        load(folder)


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.head.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poison, "classifier.head.weight in model.safetensors holds NaN"),
        (lambda t: t.pop("classifier.head.bias"), r"1 tensors differ, such as head.bias \(expected \(2,\), found None"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "unexpected tensors: extra"),
        (lambda t: t.update({"classifier.extra": torch.zeros(1)}), "such as extra"),
        (lambda t: t.update({"classifier.head.bias": torch.zeros(3)}), r"found \(3,\)"),
    ],
)
def test_bad_tensors_are_refused(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str) -> None:
    replace_tensors(folder, change)
    with pytest.raises(DamagedReference, match=message):
        load(folder)


def test_weights_that_are_not_safetensors_are_refused(folder: Path) -> None:
    replace_file(folder, "model.safetensors", b"\x80\x04pickle")
    with pytest.raises(DamagedReference, match="is not a safetensors file"):
        load(folder)


def test_bad_json_is_refused(folder: Path) -> None:
    replace_file(folder, "metrics.json", b"{")
    with pytest.raises(DamagedReference, match=r"metrics.json is not valid JSON"):
        load(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedReference, match="There is no folder"):
        load(tmp_path / "nowhere")


def test_labels_and_ids_are_one_to_one() -> None:
    with pytest.raises(LabelsError, match="2 label names and 1 Cell Ontology ids"):
        LabelMap(("a", "b"), (None,))


def test_a_reference_is_replaced_only_when_asked(folder: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a reference"):
        save(tiny(), folder)
    save(tiny(), folder, overwrite=True)
    assert load(folder).name == "tiny"


def test_anything_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not a reference"):
        save(tiny(), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.docx").read_text() == "precious"


def test_nothing_is_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    write = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if path.name == "metrics.json":
            msg = "disk full"
            raise OSError(msg)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tiny(), folder, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        save(tiny(), folder.parent / "other")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_probabilities_do_not_depend_on_the_batch_size(small: Reference, batch_size: int) -> None:
    vectors = np.random.default_rng(1).standard_normal((64, small.embedder.dim))
    whole = small.probabilities(vectors).astype(np.float32)
    np.testing.assert_array_equal(small.probabilities(vectors, batch_size=batch_size).astype(np.float32), whole)


def test_a_batch_has_a_cell(small: Reference) -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        small.probabilities(np.zeros((2, small.embedder.dim)), batch_size=0)
