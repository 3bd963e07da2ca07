"""Identities of local files and remote objects, and copies of remote objects."""

from __future__ import annotations

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from spikgpt import Annotation, SpikGPT, annotate_shards
from spikgpt.cells.reading import read_cells
from spikgpt.errors import ConfigError, DataError
from spikgpt.shards.files import identify, identify_all, local_copy
from tests.shards.conftest import assert_same_labels


def test_an_identity_changes_with_the_file(tmp_path: Path) -> None:
    path, folder = tmp_path / "cells.h5ad", tmp_path / "cells.zarr"
    path.write_bytes(b"1")
    folder.mkdir()
    (folder / "a").write_bytes(b"12")
    for name, part in ((path, path), (folder, folder / "a")):
        before = identify(str(name))
        assert before == identify(str(name))
        os.utime(part, ns=(1, 1))
        assert identify(str(name)) != before
        assert identify(str(name)).size == before.size == part.stat().st_size
    with pytest.raises(DataError, match=r"no.h5ad does not exist"):
        identify(str(tmp_path / "no.h5ad"))


def test_a_file_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.h5ad").touch()
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in identify_all(["a.h5ad"])] == [str(tmp_path / "a.h5ad")]
    with pytest.raises(ConfigError, match="twice"):
        identify_all(["a.h5ad", tmp_path / "a.h5ad"])


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_objects_are_copied_and_labelled(
    shipped: SpikGPT, shards: list[Path], whole: Annotation, tmp_path: Path
) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(shards[0]), "/cells/shard0.h5ad")
    folder = tmp_path / "shard1.zarr"
    read_cells(shards[1]).write_zarr(folder)
    store.put(str(folder), "/cells/shard1.zarr", recursive=True)
    names: list[str | Path] = ["memory://cells/shard0.h5ad", "memory://cells/shard1.zarr", shards[2]]
    assert identify(str(names[0])).size == shards[0].stat().st_size
    before = identify(str(names[1]))
    with local_copy(str(names[1]), tmp_path) as copy:
        assert read_cells(copy).n_obs == 150
    assert not copy.exists()
    labelled = annotate_shards(shipped, names, tmp_path / "labels", shard_size=100)
    assert_same_labels(labelled, whole)
    store.pipe("/cells/shard1.zarr/other", b"1")
    assert identify(str(names[1])) != before
    for name in ("memory://cells/no.h5ad", "nowhere://cells/no.h5ad"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            identify(name)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_file_behind_http_is_labelled(
    shipped: SpikGPT, shards: list[Path], whole: Annotation, tmp_path: Path
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(shards[0].parent)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        names = [f"{address}/{path.name}" for path in shards]
        assert_same_labels(annotate_shards(shipped, names, tmp_path / "labels"), whole)
        with pytest.raises(DataError, match=f"{address}/no.h5ad cannot be read"):
            identify(f"{address}/no.h5ad")
    finally:
        server.shutdown()
        server.server_close()
