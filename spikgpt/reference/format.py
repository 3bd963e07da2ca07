"""File format of references (format 3). Each file is compared with the manifest before its content is parsed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from spikgpt.errors import ConfigError, DamagedReference, FormatError
from spikgpt.files import check_target, replacing
from spikgpt.reference.json_files import decoded, dumped
from spikgpt.reference.schema import Entry, Header, ParityRecord, ReferenceManifest, require
from spikgpt.version import __version__

FORMAT_VERSION = 3
# Versions of this library that read format 3. Newer versions read older formats too.
LIBRARY_RANGE = ">=0.6"
# File with the size and the sha256 of every other file.
MANIFEST = "manifest.json"
FILES = (
    "config.json",  # format and library versions, network, embedder, recipe and provenance
    "model.safetensors",  # tensors: classifier.*, embedder.*, and familiarity.*, the geometry of the labels
    "labels.json",  # name and Cell Ontology id of each label, by its index
    "thresholds.json",  # rules for Unknown cells
    "genes.json",  # genes that the network reads, in order, with their sha256, and genes to impute them from
    "metrics.json",  # scores on held-out reference cells
    "README.md",  # the model card
)
# Pictures of the card: the confusion matrix, and accuracy by confidence.
PICTURE, RELIABILITY = "confusion_matrix.png", "reliability.png"
# ONNX graph of the network in each precision: fp16 is for GPUs, int8 (8-bit weights) for CPUs.
GRAPH = "onnx/model.onnx"
GRAPHS = {"fp32": GRAPH, "fp16": "onnx/model_fp16.onnx", "int8": "onnx/model_int8.onnx"}
PRECISIONS = {name: precision for precision, name in GRAPHS.items()}
# ONNX graph of scGPT, from tokens to an embedding; and of scGPT with the classifier, from tokens to labels.
ENCODER, COMBINED = "onnx/encoder.onnx", "onnx/combined.onnx"
# Parity report: the sha256 of the files that the graphs were made from, and a comparison of the results of graphs and
# weights.
PARITY = "onnx/parity.json"
OPTIONAL = (PICTURE, RELIABILITY, *GRAPHS.values(), ENCODER, COMBINED, PARITY)
LAYOUT = (*FILES, *OPTIONAL, MANIFEST)
# Files from which the ONNX graphs are made. The parity report states the sha256 of each file.
GRAPH_SOURCES = ("model.safetensors", "labels.json", "thresholds.json", "genes.json")
# Largest size in bytes of each file, and of all JSON files together. Limits are needed, because files are read whole
# before they are checked. For comparison, scGPT's gene list has 3 MB, and its weights and its graph have 200 MB each.
MIB = 1024 * 1024
LARGEST = dict.fromkeys(LAYOUT, MIB) | {
    **{"config.json": 4 * MIB, "labels.json": 4 * MIB, "thresholds.json": 32 * MIB, "genes.json": 32 * MIB},
    **{"metrics.json": 32 * MIB, PICTURE: 16 * MIB, RELIABILITY: 16 * MIB, "model.safetensors": 2048 * MIB},
    **dict.fromkeys((*GRAPHS.values(), ENCODER, COMBINED), 1024 * MIB),
}
LARGEST_JSON = 64 * MIB
# For each older format, the function that converts its files to the next format. If the function changes config.json,
# the new config.json states the next format.
MIGRATIONS: dict[int, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    # Format 2 adds the geometry of labels (familiarity.*).
    1: dict,
    # Format 3 adds genes from which missing genes are imputed.
    2: dict,
}

# Flag that keeps open() from waiting on a FIFO; 0 on systems without this flag.
NONBLOCKING = getattr(os, "O_NONBLOCK", 0)
# The folder of a reference, or the contents of its files by name.
Source = Path | Mapping[str, bytes]


def stored_files(source: Source) -> dict[str, bytes]:
    """Return every file of a reference as it is stored, the manifest last; compare each file with the manifest.

    Raises
    ------
    FormatError
        When a newer library wrote the reference.
    DamagedReference
        When the manifest is not valid, or a file differs from the manifest.
    """
    _checked_format(source)
    manifest = read_file(source, MANIFEST)
    entries = _entries(manifest)
    files = {name: read_file(source, name, entries[name].size) for name in LAYOUT if name in entries}
    altered = [name for name, content in files.items() if _entry(content) != entries[name]]
    require(not altered, f"{', '.join(altered)} differs from what {MANIFEST} lists.")
    return files | {MANIFEST: manifest}


def migrated(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference, converted to the current format, without the manifest."""
    present = {name: content for name, content in files.items() if name != MANIFEST}
    for older in range(_checked_format(files), FORMAT_VERSION):
        present = MIGRATIONS[older](present)
    return present


def verified_files(source: Source) -> dict[str, bytes]:
    """Read the files of a reference, compare them with the manifest, and return them in the current format."""
    return migrated(stored_files(source))


def digest_of(manifest: bytes) -> str:
    """Return the digest of a reference: the sha256 of its manifest, which lists the sha256 of every other file."""
    return hashlib.sha256(manifest).hexdigest()


def hashes_of(stored: Mapping[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each file, by file name, from the manifest among the stored files."""
    return {name: entry.sha256 for name, entry in decoded(stored[MANIFEST], MANIFEST, ReferenceManifest).files.items()}


def check_graphs(files: Mapping[str, bytes], hashes: Mapping[str, str]) -> None:
    """Refuse ONNX graphs that were made from other files, or that the parity report does not list.

    ``hashes`` is the sha256 of each file, by file name.
    """
    graphs = {name: hashes[name] for name in files if name.endswith(".onnx")}
    require(bool(graphs) == (PARITY in files), f"A reference has both graphs and {PARITY}, or neither.")
    if not graphs:
        return
    report = decoded(files[PARITY], PARITY, ParityRecord)
    other_sources = [name for name in GRAPH_SOURCES if report.made_from.get(name) != hashes[name]]
    require(
        not other_sources, f"{', '.join(sorted(graphs))} was made from another {' and '.join(other_sources)} than this."
    )
    checked = {name: graph.get("sha256") for name, graph in report.graphs.items()}
    different = sorted(name for name in checked.keys() | graphs if checked.get(name) != graphs.get(name))
    require(not different, f"{PARITY} was written for another {', '.join(different)} than this.")


def graph_sources(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each file from which the ONNX graphs are made, by file name."""
    return {name: hashlib.sha256(files[name]).hexdigest() for name in GRAPH_SOURCES}


def write_files(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write the files of a reference to a folder, atomically; files that belong to no reference stay."""
    with replacing(folder) as fresh:
        for name, content in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        keep_other_files(folder, fresh)
    return folder


def keep_other_files(folder: Path, fresh: Path) -> None:
    """Copy files that belong to no reference from ``folder`` to ``fresh``, the folder that will replace ``folder``."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        kept = fresh / path.relative_to(folder)
        if path.relative_to(folder).as_posix() not in LAYOUT:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept)


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, holds other files, or holds a reference that must not be replaced."""
    check_target(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file():
        msg = f"{folder} exists and is not a reference; choose another folder."
        raise ConfigError(msg)
    if not overwrite:
        msg = f"{folder} already holds a reference; choose another folder, or pass overwrite=True (--overwrite)."
        raise ConfigError(msg)


def with_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a reference in a fixed order, with a new manifest as the last file."""
    ordered = {name: files[name] for name in (*FILES, *OPTIONAL) if name in files}
    return ordered | {MANIFEST: dumped(ReferenceManifest({name: _entry(content) for name, content in ordered.items()}))}


def _entry(content: bytes) -> Entry:
    return Entry(len(content), hashlib.sha256(content).hexdigest())


def _entries(manifest: bytes) -> dict[str, Entry]:
    """Return the size and sha256 of each file that a manifest lists; refuse missing, unknown and too large files."""
    entries = decoded(manifest, MANIFEST, ReferenceManifest).files
    missing, unexpected = sorted(set(FILES) - entries.keys()), sorted(entries.keys() - set(FILES) - set(OPTIONAL))
    require(not missing, f"{MANIFEST} does not list {', '.join(missing)}.")
    require(not unexpected, f"{MANIFEST} lists {', '.join(map(repr, unexpected))}, which no reference has.")
    sizes = {name: (entry.size, LARGEST[name]) for name, entry in entries.items()}
    sizes["all JSON files"] = sum(size for name, (size, _) in sizes.items() if name.endswith(".json")), LARGEST_JSON
    for name, (size, largest) in sizes.items():
        require(size <= largest, f"{MANIFEST} lists {size} bytes of {name}; expected at most {largest}.")
    return entries


def read_file(source: Source, name: str, limit: int | None = None) -> bytes:
    """Return the content of a file of a reference; refuse links out of the folder, devices and too large files.

    ``limit`` is the largest size in bytes; None for the limit that ``LARGEST`` sets for this file.
    """
    limit = LARGEST[name] if limit is None else limit
    if not isinstance(source, Path):
        require(name in source, f"It has no {name}, which every reference has.")
        require(len(source[name]) <= limit, f"{name} has {len(source[name])} bytes; expected at most {limit}.")
        return source[name]
    require(source.is_dir(), f"There is no folder {source}.")
    path = source / name
    try:
        target, home = path.resolve(strict=True), source.resolve()
        # The cache of huggingface_hub keeps REPOSITORY/snapshots/COMMIT/FILE as a link into REPOSITORY/blobs.
        blobs = home.parents[1] / "blobs" if len(home.parents) > 1 and home.parent.name == "snapshots" else home
        inside = target.is_relative_to(home) or target.is_relative_to(blobs)
        require(inside, f"{path} is a link that leaves its folder. Do not use this reference.")
        # Check before opening, because opening a device may have an effect. Check again after opening, because the file
        # may have been replaced meanwhile.
        irregular = f"{path} is no regular file. Do not use this reference."
        require(stat.S_ISREG(target.stat().st_mode), irregular)
        with os.fdopen(os.open(target, os.O_RDONLY | NONBLOCKING), "rb") as opened:
            status = os.fstat(opened.fileno())
            require(stat.S_ISREG(status.st_mode), irregular)
            size = status.st_size
            require(size <= limit, f"{path} has {size} bytes and differs from what {MANIFEST} lists; expected {limit}.")
            content = opened.read(limit + 1)
        require(len(content) <= limit, f"{path} grows while it is read; expected {limit} bytes.")
        return content
    except FileNotFoundError:
        msg = f"{source} has no {name}, which every reference has. Get the reference again, or name another folder."
        raise DamagedReference(msg) from None
    except (OSError, RuntimeError) as error:
        msg = f"{path} cannot be read: {error}."
        raise DamagedReference(msg) from None


def _checked_format(source: Source) -> int:
    """Return the format of a reference; refuse formats of newer libraries."""
    header = decoded(read_file(source, "config.json"), "config.json", Header)
    version, needs = header.format_version, header.library.get("requires", "of no version")
    try:
        versions = SpecifierSet(needs)
    except InvalidSpecifier:
        msg = f"config.json requires spikgpt {needs!r}; expected a range such as '>=0.1'. Get the reference again."
        raise DamagedReference(msg) from None
    # Upper ends of the range are ignored, because this version reads references of older versions.
    too_old = any(not part.contains(__version__, prereleases=True) for part in versions if ">" in part.operator)
    if version > FORMAT_VERSION or too_old:
        msg = (
            f"This reference is in format {version} and needs spikgpt {versions}; spikgpt {__version__} reads up to "
            f"format {FORMAT_VERSION}. Install spikgpt {versions}."
        )
        raise FormatError(msg)
    return version
