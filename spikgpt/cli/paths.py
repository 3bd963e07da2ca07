"""Checks of the output paths of a command, before its work."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from spikgpt.errors import ConfigError
from spikgpt.files import check_target

# Allowed endings of output files, in small or capital letters.
CELLS = (".h5ad", ".zarr")
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
TABLES = (*CSV, ".parquet")
PNG = (".png",)
JSON = (".json",)
HTML = (".html", ".htm")
# Names of the files of a matrix in the 10x format.
PARTS_OF_10X = re.compile(r".*(matrix\.mtx|(barcodes|features|genes|peaks)\.(tsv|bed))(\.gz)?")


class Output(NamedTuple):
    """An output: its flag, its path if the user named one, and the allowed endings."""

    flag: str
    path: Path | None
    endings: tuple[str, ...] = ()


def check_outputs(*outputs: Output, inputs: Iterable[str | Path | None] = ()) -> None:
    """Check that no output would destroy an input or another output, and that each output can be written.

    Raises
    ------
    ConfigError
        When a path is an input, a part of an input, another output, a folder, a device or a pipe. When a path has none
        of the allowed endings, or lies in a folder that cannot be written to.
    """
    named = [(flag, path, endings) for flag, path, endings in outputs if path is not None]
    sources = [Path(path) for path in inputs if path is not None and Path(path).exists()]
    for flag, path, endings in named:
        _check_kind(flag, path)
        for source in sources:
            _check_input(flag, path, source)
        _check_ending(flag, path, endings)
        check_target(path)
    for (flag, path, _), (other_flag, other, _) in itertools.combinations(named, 2):
        if _same(path, other):
            msg = f"{flag} and {other_flag} name the same file {path}; name two files."
        elif _inside(path, other) or _inside(other, path):
            msg = f"{flag} {path} and {other_flag} {other} are nested; name two separate paths."
        else:
            continue
        raise ConfigError(msg)


def _check_input(flag: str, path: Path, source: Path) -> None:
    """Raise ConfigError if an output is the input, a part of the input, or a folder that holds the input."""
    if path.exists() and path.samefile(source):
        msg = f"{path} is the input; name another file for the output."
    elif source.is_dir() and _inside(path, source) and _belongs_to(path, source):
        msg = f"{flag} {path} lies in the input {source}; name a path outside the input."
    elif _beside_a_matrix(path, source):
        msg = f"{path} belongs to the input {source}; name another file for the output."
    elif path.is_dir() and _inside(source, path):
        msg = f"{flag} {path} is a folder that holds the input {source}; name another path."
    else:
        return
    raise ConfigError(msg)


def _beside_a_matrix(path: Path, source: Path) -> bool:
    """Return True if an output is an existing file of the 10x matrix that is the input."""
    parts = PARTS_OF_10X.fullmatch(source.name) and PARTS_OF_10X.fullmatch(path.name)
    return parts is not None and path.exists() and path.parent.samefile(source.parent)


def _belongs_to(path: Path, folder: Path) -> bool:
    """Return True if a path in an input folder is a file of the input, and False if it is a new file."""
    if folder.suffix.lower() == ".zarr" or any((folder / name).exists() for name in ("zarr.json", ".zgroup")):
        return True
    from spikgpt.reference.format import LAYOUT

    name = Path(os.path.realpath(path)).relative_to(os.path.realpath(folder)).as_posix()
    return path.exists() and (name in LAYOUT or PARTS_OF_10X.fullmatch(path.name) is not None)


def _check_ending(flag: str, path: Path, endings: tuple[str, ...]) -> None:
    """Raise ConfigError if a file name has none of the allowed endings; without ``endings``, any name is allowed."""
    # A name such as ".csv" has no ending.
    if endings and not any(path.name.lower().endswith(ending) and len(path.name) > len(ending) for ending in endings):
        problem = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        msg = f"{flag} {path} {problem}; expected a name that ends in {' or '.join(endings)}."
        raise ConfigError(msg)


def _check_kind(flag: str, path: Path) -> None:
    """Raise ConfigError if an existing path is neither a writable file nor a zarr folder with an AnnData."""
    if path.is_dir():
        if path.suffix.lower() != ".zarr":
            msg = f"{path} is a folder; name a file to write."
        elif any(path.iterdir()) and not all((path / name).is_dir() for name in ("obs", "var")):
            msg = f"{path} is a folder without an AnnData, and would be replaced; name another path."
        else:
            return
    elif path.exists() and not path.is_file():
        msg = f"{flag} {path} is a device, a pipe or a socket; name a file to write."
    elif path.exists() and not os.access(path, os.W_OK):
        msg = f"{flag} {path} is write-protected; change its permissions, or name another file."
    else:
        return
    raise ConfigError(msg)


def _same(first: Path, second: Path) -> bool:
    """Return whether two paths name one file, or would name one file on a disk that ignores the case."""
    if first.exists() and second.exists() and first.samefile(second):
        return True
    return _canonical(first) == _canonical(second)


def _canonical(path: Path) -> str:
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def _inside(path: Path, folder: Path) -> bool:
    """Return whether a path lies below a folder, after following links."""
    path, folder = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return path != folder and path.is_relative_to(folder)
