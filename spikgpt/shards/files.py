"""Files of shards: local paths, and addresses of object stores that fsspec reads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from spikgpt.cells.storage import as_data_errors, identity_of
from spikgpt.errors import ConfigError, DataError, needs

# Fields in fsspec's description of a file that change when the file is changed.
VERSIONS = ("ETag", "etag", "md5", "mtime", "LastModified", "last_modified", "updated", "created")
REMEDY = "Check the address and your access. S3 needs the package s3fs, Google Cloud gcsfs, Azure adlfs."


class ShardFile(msgspec.Struct, frozen=True):
    """A file of cells; ``size`` is in bytes, and ``version`` differs once the file is changed or replaced."""

    path: str
    size: int
    version: str


def identify(path: str) -> ShardFile:
    """Return the path, the size and the version of a file or a zarr folder.

    Raises
    ------
    DataError
        When there is no such file.
    """
    if not is_address(path):
        local = identity_of(Path(path))
        if not local:
            msg = (
                f"{path} does not exist; expected a shard, an .h5ad file or a .zarr folder. Restore it or leave it out."
            )
            raise DataError(msg)
        return ShardFile(path, sum(part[3] for part in local), f"{len(local)} {max(part[4] for part in local)}")
    with as_data_errors(path, remedy=REMEDY):
        store, name = _store_of(path)
        if store.isdir(name):
            parts = list(store.find(name, detail=True).values())
        else:
            parts = [store.info(name)]
        versions = sorted(str(next((part[key] for key in VERSIONS if part.get(key)), "")) for part in parts)
        return ShardFile(path, sum(int(part["size"] or 0) for part in parts), f"{len(parts)} {versions[-1]}")


def identify_all(paths: Iterable[str | Path]) -> list[ShardFile]:
    """Return the path, the size and the version of each file of a query.

    Raises
    ------
    ConfigError
        When no file is named, or a file is named twice.
    """
    names = [str(path) if is_address(str(path)) else str(Path(path).resolve()) for path in paths]
    if not names:
        msg = "No shards are named; name at least one .h5ad file or .zarr folder."
        raise ConfigError(msg)
    if twice := next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else None:
        msg = f"{twice} is named twice; its cells would be labelled twice. Name each shard once."
        raise ConfigError(msg)
    return [identify(name) for name in names]


@contextmanager
def local_copy(path: str, folder: Path) -> Iterator[Path]:
    """Yield the path of a local file; for a remote address, yield the path of a temporary copy in ``folder``."""
    if not is_address(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetched-") as parent:
        copy = Path(parent) / path.rstrip("/").rpartition("/")[2]
        with as_data_errors(path, remedy=REMEDY):
            store, name = _store_of(path)
            store.get(name, str(copy), recursive=store.isdir(name))
        yield copy


def is_address(path: str) -> bool:
    """Return True for an address such as ``s3://bucket/cells.h5ad``."""
    return "://" in path


def _store_of(path: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the name of the file in this file system."""
    with needs("distributed"):
        core = import_module("fsspec.core")
    store, name = core.url_to_fs(path)
    store.invalidate_cache()
    return store, name
