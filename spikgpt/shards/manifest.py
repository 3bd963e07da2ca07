"""Manifest of an output folder of predicted labels: the arguments of the run, its shards, and its finished parts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from spikgpt.errors import ConfigError, listed, printable
from spikgpt.files import replacing
from spikgpt.shards.files import ShardFile
from spikgpt.shards.parts import FinishedPart

MANIFEST, QUERY_MODEL = "manifest.json", "query_model.safetensors"
FORMAT = 1
# Options that do not change the labels.
FREE = ("batch_size", "progress")
# Largest number of differences that a message names.
NAMED = 3


class Shard(msgspec.Struct, frozen=True):
    """Rows ``start`` to ``stop - 1`` of a file; ``file`` is the index of this file in the query.

    ``batches`` has an entry for each combination of values that the batch columns have in the shard: the index of the
    batch of cells with this combination.
    """

    file: int
    start: int
    stop: int
    batches: list[int]


class Arguments(msgspec.Struct, frozen=True):
    """Arguments of a run on which the labels, and their division into parts, depend."""

    spikgpt_version: str
    reference: str
    reference_digest: str
    engine: dict[str, Any]
    options: dict[str, Any]
    shard_size: int
    files: list[ShardFile]

    @property
    def digest(self) -> str:
        """Sha256 of the arguments."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class ShardManifest(msgspec.Struct, kw_only=True):
    """Contents of ``manifest.json`` in the output folder.

    ``shards``, ``batch_key`` and ``query_model`` are set once the query model is fitted. ``query_model`` is the sha256
    of the file with this model. ``parts`` are the finished parts, by file name.
    """

    format: int = FORMAT
    arguments: Arguments
    shards: list[Shard] = []
    batch_key: str | None = None
    query_model: str | None = None
    parts: dict[str, FinishedPart] = {}

    def save(self, folder: Path) -> None:
        """Write the manifest, atomically."""
        with replacing(folder / MANIFEST) as temporary:
            temporary.write_bytes(msgspec.json.encode(self))


def open_manifest(folder: Path, arguments: Arguments) -> ShardManifest:
    """Return the manifest of an output folder, or a new manifest for a new or empty folder.

    Raises
    ------
    ConfigError
        When the folder holds other files, or labels that were computed with other arguments.
    """
    path = folder / MANIFEST
    if not path.is_file():
        entries = (
            [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")] if folder.exists() else []
        )
        if entries:
            msg = f"{folder} holds {listed(sorted(entries)[:NAMED])} and no {MANIFEST}; name a new or empty folder."
            raise ConfigError(msg)
        manifest = ShardManifest(arguments=arguments)
        manifest.save(folder)
        return manifest
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=ShardManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is no manifest of labels ({printable(str(error))}). Name a new folder."
        raise ConfigError(msg) from None
    if differences := _differences(manifest.arguments, arguments):
        more = f" and {len(differences) - NAMED} more" if len(differences) > NAMED else ""
        msg = (
            f"{folder} holds labels that were computed with other arguments: "
            f"{'; '.join(differences[:NAMED])}{more}. Repeat the first arguments to resume, or name a new folder."
        )
        raise ConfigError(msg)
    return manifest


def _differences(before: Arguments, now: Arguments) -> list[str]:
    """Return a phrase on each difference between the arguments of an earlier run and of this run."""
    phrases = []
    for name in ("spikgpt_version", "reference", "reference_digest", "shard_size"):
        old_value, new_value = getattr(before, name), getattr(now, name)
        if old_value != new_value:
            phrases.append(f"{name.replace('_', ' ')} was {old_value}, is {new_value}")
    for kind in ("options", "engine"):
        old, new = getattr(before, kind), getattr(now, kind)
        phrases += [
            f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
    old_files, new_files = ({file.path: file for file in arguments.files} for arguments in (before, now))
    phrases += [f"the shard {path} is missing" for path in old_files if path not in new_files]
    phrases += [f"the shard {path} is new" for path in new_files if path not in old_files]
    phrases += [
        f"the shard {path} has changed" for path, file in new_files.items() if old_files.get(path, file) != file
    ]
    if not phrases and before.files != now.files:
        phrases.append("the shards are in another order")
    return phrases
