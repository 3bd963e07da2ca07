"""Older formats of references are read, and newer formats are refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells.reading import read_cells
from spikgpt.engines.opening import torch_engine
from spikgpt.errors import ConfigError, DamagedReference, FormatError
from spikgpt.reference import format as reference_format
from spikgpt.reference.files import read_reference
from spikgpt.reference.format import (
    MANIFEST,
    digest_of,
    stored_files,
    verified_files,
    with_manifest,
    write_files,
)
from spikgpt.reference.json_files import parsed
from spikgpt.sharing import verify
from spikgpt.types import UNKNOWN
from tests.conftest import QUERY_FILE, aligned, labelled

DATA = Path(__file__).parents[1] / "data"
FORMAT_1, FORMAT_2 = DATA / "format_1", DATA / "format_2" / "embedded"
EXPECTED = json.loads((FORMAT_1 / "expected.json").read_text())


def test_format_1_on_an_embedding_is_read() -> None:
    reference = read_reference(FORMAT_1 / "embedded")
    vectors = np.array(EXPECTED["embedded"]["vectors"])
    cells = AnnData(np.zeros((len(vectors), 1), dtype=np.float32), obsm={"X_test": vectors})
    output = torch_engine(reference).run(aligned(reference, cells), None)
    np.testing.assert_allclose(output.probabilities, EXPECTED["embedded"]["probabilities"], atol=1e-9)
    assert reference.labels.names == ("T cell", "β")
    assert reference.thresholds.threshold == 0.5
    assert reference.familiarity is None


def test_format_1_on_counts_is_read() -> None:
    assert [check.split()[0] for check in verify(FORMAT_1 / "counts").checks] == ["7", "weights,", "the"]
    annotation = labelled(read_reference(FORMAT_1 / "counts"), read_cells(QUERY_FILE)[:40].copy())
    expected = EXPECTED["counts"]
    assert annotation.best_labels.tolist() == expected["best_labels"]
    assert annotation.labels.tolist() == expected["labels"]
    np.testing.assert_allclose(annotation.confidence, expected["confidence"], atol=1e-5)


def test_format_2_is_read() -> None:
    """Check that labels equal those of the version that wrote the reference. Unknown cells follow the current rule."""
    folder, expected = DATA / "format_2" / "embedded", json.loads((DATA / "format_2" / "expected.json").read_text())
    reference = read_reference(folder)
    cells = AnnData(np.zeros((120, 1), dtype=np.float32), obsm={"X_test": np.array(expected["vectors"])})
    annotation = labelled(reference, cells)
    known = np.array(expected["labels"]) != UNKNOWN
    assert annotation.best_labels[known].tolist() == np.array(expected["labels"])[known].tolist()
    np.testing.assert_allclose(annotation.confidence, expected["confidence"], atol=1e-6)
    np.testing.assert_allclose(annotation.typicality, expected["familiarity"], atol=1e-5)  # type: ignore[arg-type]
    alone = labelled(reference, cells, smoothing=False, reference_cutoff=True)
    assert alone.labels.tolist() == expected["alone"]


def predictions_of(name: str) -> dict[str, Any]:
    """Annotate stored cells by a reference of an old format; return the labels and probabilities."""
    reference = read_reference(DATA / name)
    if name == "format_1/counts":
        cells = read_cells(QUERY_FILE)[:40].copy()
    else:
        stored = json.loads((DATA / name).with_name("expected.json").read_text())
        vectors = np.array(stored.get("embedded", stored)["vectors"])
        cells = AnnData(np.zeros((len(vectors), 1), dtype=np.float32), obsm={"X_test": vectors})
    annotation = labelled(reference, cells)
    probabilities = [[round(float(value), 8) for value in row] for row in annotation.probabilities]
    return {"labels": annotation.labels.tolist(), "probabilities": probabilities}


@pytest.mark.parametrize("name", ["format_1/counts", "format_1/embedded", "format_2/embedded"])
def test_predictions_of_old_formats_are_frozen(name: str) -> None:
    """Update predictions.json from ``predictions_of`` only if a new rule is meant to change labels."""
    predictions, expected = predictions_of(name), json.loads((DATA / "predictions.json").read_text())[name]
    assert predictions["labels"] == expected["labels"]
    np.testing.assert_allclose(predictions["probabilities"], expected["probabilities"], rtol=0, atol=1e-6)


def changed(folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files[name] = json.dumps(change(json.loads(files[name]))).encode()
    for path, content in with_manifest(files).items():
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMAT_1 / "embedded", tmp_path / "reference"))


def test_an_older_format_is_migrated_step_by_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(files: dict[str, bytes]) -> dict[str, bytes]:
        thresholds = parsed(files["thresholds.json"], "thresholds.json")
        thresholds["threshold"] = thresholds.pop("cutoff")
        return files | {"thresholds.json": json.dumps(thresholds).encode()}

    def halved(files: dict[str, bytes]) -> dict[str, bytes]:
        thresholds = parsed(files["thresholds.json"], "thresholds.json")
        return files | {"thresholds.json": json.dumps(thresholds | {"threshold": thresholds["threshold"] / 2}).encode()}

    changed(folder, "thresholds.json", lambda values: {"cutoff": values.pop("threshold"), **values})
    with pytest.raises(DamagedReference, match=r"thresholds.json .*cutoff"):
        read_reference(folder)
    monkeypatch.setattr(reference_format, "FORMAT_VERSION", 3)
    monkeypatch.setattr(reference_format, "MIGRATIONS", {1: renamed, 2: halved})
    assert read_reference(folder).thresholds.threshold == 0.25
    changed(folder, "config.json", lambda config: config | {"format_version": 2})
    changed(folder, "thresholds.json", lambda values: {"threshold": values.pop("cutoff"), **values})
    assert read_reference(folder).thresholds.threshold == 0.25


@pytest.mark.parametrize("requires", [">=0.1,<1", ">=0.1", f"=={version('spikgpt')}", "", "<0.0.1"])
def test_a_required_range_that_no_newer_version_needs_is_read(folder: Path, requires: str) -> None:
    changed(folder, "config.json", lambda config: config | {"library": {"requires": requires}})
    assert read_reference(folder).name == "tiny"


@pytest.mark.parametrize(("format_version", "requires"), [(1, ">=7"), (1, ">7,<9"), (4, ">=0.1"), (4, ">=7")])
def test_the_error_on_a_newer_reference_names_the_library(folder: Path, format_version: int, requires: str) -> None:
    library = {"format_version": format_version, "library": {"requires": requires}}
    changed(folder, "config.json", lambda config: config | library)
    for read in (read_reference, verified_files):
        with pytest.raises(
            FormatError, match=rf"is in format {format_version} and needs spikgpt .* Install spikgpt [<>]"
        ):
            read(folder)


@pytest.mark.parametrize("format_version", [0, -1, True, "1", None, 1.5])
def test_invalid_format_versions_are_refused(folder: Path, format_version: object) -> None:
    changed(folder, "config.json", lambda config: config | {"format_version": format_version})
    with pytest.raises(DamagedReference, match="format_version"):
        read_reference(folder)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stored_files_are_those_of_the_folder_and_the_manifest_is_the_last(folder: Path) -> None:
    files = stored_files(folder)
    assert files == files_in(folder)
    assert list(files)[-1] == MANIFEST
    assert read_reference(folder).digest == digest_of(files[MANIFEST])


def test_files_are_replaced_all_or_none(folder: Path) -> None:
    write_files({"a": b"1", "onnx/b": b"2"}, folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["a", "onnx", "onnx/b"]
    assert [path.name for path in folder.parent.iterdir()] == ["reference"]


def test_other_files_in_the_folder_stay(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "today.txt").write_text("mine")
    write_files({MANIFEST: b"{}"}, folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [MANIFEST, "notes/today.txt"]


def test_only_references_are_overwritten(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(ConfigError, match="exists and is not a reference"):
        reference_format.check_writable(folder, overwrite=True)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.safetensors", "README.md"])
@pytest.mark.parametrize("kind", ["a pipe", "a link to a pipe", "a device", "a folder", "a huge file"])
def test_irregular_and_huge_files_are_refused_at_once(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(FORMAT_2, folder)
    (folder / name).unlink()
    if kind == "a pipe":
        os.mkfifo(folder / name)
    elif kind == "a link to a pipe":
        os.mkfifo(folder / "pipe")
        (folder / name).symlink_to(folder / "pipe")
    elif kind == "a device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "a folder":
        (folder / name).mkdir()
    else:
        with (folder / name).open("wb") as file:
            file.truncate(2**40)
    start = time.perf_counter()
    with pytest.raises(DamagedReference, match=r"no regular file|leaves its folder|has 1099511627776 bytes"):
        verified_files(folder)
    assert time.perf_counter() - start < 5


def test_a_file_above_its_size_limit_is_refused(tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in FORMAT_2.iterdir()}
    with pytest.raises(DamagedReference, match="config.json has 5000000 bytes; expected at most 4194304"):
        verified_files(files | {"config.json": b" " * 5_000_000})
