"""A folder of labels belongs to one set of arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from spikgpt.errors import ConfigError
from spikgpt.shards.files import ShardFile
from spikgpt.shards.manifest import MANIFEST, Arguments, Shard, open_manifest

ARGUMENTS = Arguments(
    spikgpt_version="1.0",
    reference="pancreas",
    reference_digest="abc",
    engine={"engine": "onnx"},
    options={"threshold": None},
    shard_size=10,
    files=[ShardFile("a.h5ad", 1, "1"), ShardFile("b.h5ad", 2, "1")],
)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = open_manifest(tmp_path, ARGUMENTS)
    manifest.shards, manifest.query_model = [Shard(0, 0, 5, [0, 1])], "123"
    manifest.save(tmp_path)
    assert open_manifest(tmp_path, ARGUMENTS) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spikgpt_version": "2.0"}, "spikgpt version was 1.0, is 2.0"),
        ({"reference_digest": "def"}, "reference digest was abc, is def"),
        ({"engine": {"engine": "numpy"}}, "engine was 'onnx', is 'numpy'"),
        ({"options": {"threshold": 0.5}}, "threshold was None, is 0.5"),
        ({"files": ARGUMENTS.files[:1]}, "the shard b.h5ad is missing"),
        ({"files": [*ARGUMENTS.files, ShardFile("c.h5ad", 1, "1")]}, "the shard c.h5ad is new"),
        ({"files": [ARGUMENTS.files[0], ShardFile("b.h5ad", 2, "2")]}, "the shard b.h5ad has changed"),
        ({"files": ARGUMENTS.files[::-1]}, "the shards are in another order"),
        (
            {"spikgpt_version": "2", "reference": "x", "shard_size": 1, "options": {"threshold": 1}},
            "is x; .* and 1 more",
        ),
    ],
)
def test_other_arguments_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    open_manifest(tmp_path, ARGUMENTS)
    other = msgspec.structs.replace(ARGUMENTS, **changes)
    assert other.digest != ARGUMENTS.digest
    with pytest.raises(ConfigError, match=message):
        open_manifest(tmp_path, other)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"arguments": 1}'])
def test_another_file_of_that_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ConfigError, match="is no manifest of labels"):
        open_manifest(tmp_path, ARGUMENTS)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"holds notes.txt and no manifest.json"):
        open_manifest(tmp_path, ARGUMENTS)
