"""The files of a reference, read without torch, say what the library reads from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from spikgpt.errors import DamagedReference
from spikgpt.reference.layout import with_manifest
from spikgpt.reference.stored import CLASSIFIER, EMBEDDER, read_stored
from spikgpt.training.embedders import PCAEmbedder
from spikgpt.training.reference import Reference


def test_everything_is_there(small: Reference, small_folder: Path) -> None:
    stored = read_stored(small_folder)
    assert (stored.name, stored.config, stored.labels) == (small.name, small.config, small.labels)
    assert (stored.thresholds, stored.genes) == (small.thresholds, small.embedder.genes)
    assert (stored.metrics, stored.provenance) == (small.metrics, small.provenance)
    assert stored.embedder == small.embedder.settings()
    weights, tensors = stored.part(CLASSIFIER), stored.part(EMBEDDER)
    assert weights.keys() == small.classifier.state_dict().keys()
    assert isinstance(small.embedder, PCAEmbedder)
    np.testing.assert_array_equal(tensors["components"], small.embedder.components)
    where = {"familiarity.centroids", "familiarity.whitening"}
    assert stored.tensors.keys() == {f"classifier.{n}" for n in weights} | {f"embedder.{n}" for n in tensors} | where
    assert stored.familiarity is not None
    assert small.familiarity is not None
    np.testing.assert_array_equal(stored.familiarity.whitening, small.familiarity.whitening)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("labels.json", lambda rows: rows[:-1], "labels.json names 5 labels; the network has 6"),
        ("genes.json", lambda genes: genes | {"symbols": genes["symbols"][::-1]}, "genes.json states sha256"),
        ("config.json", lambda config: config | {"name": "\x1b"}, "is empty or has control characters"),
        ("config.json", lambda config: config | {"model": {}}, "is inconsistent: The model config lacks"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    name: str, change: object, message: str, small_folder: Path, tmp_path: Path
) -> None:
    assert callable(change)
    folder = Path(shutil.copytree(small_folder, tmp_path / "out"))
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files[name] = json.dumps(change(json.loads(files[name]))).encode()
    del files["manifest.json"]
    for path, content in with_manifest(files).items():
        (folder / path).write_bytes(content)
    with pytest.raises(DamagedReference, match=message):
        read_stored(folder)
