"""Errors that a user of SpikGPT can meet.

The classes::

    SpikGPTError
    ├── DataError            the cells cannot be used
    │   ├── GenesError       too few genes are shared with the reference
    │   └── LabelsError      the column of cell types is missing or unsuitable
    ├── ConfigError          an option is out of range or contradicts another option
    ├── DamagedReference     a reference is incomplete, altered or inconsistent
    │   └── FormatError      the file format of a reference cannot be read
    ├── ReferenceNotFound    no reference has this name
    ├── HubError             the Hugging Face Hub refuses a request or gives no proper answer
    ├── DownloadError        a published file cannot be downloaded or has another hash
    ├── CheckpointError      a training checkpoint belongs to another training run
    ├── ShardError           some shards of a query could not be labelled; the other shards are finished
    ├── ParityError          an exported graph disagrees with the trained model
    └── GraphError           a graph cannot be run on this machine

Every message states the problem, the expected value and the next step. If a query is unusual but can be annotated, a
SpikGPTWarning is given.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

# Optional modules; training needs the first five together.
TRAINING = ("torch", "spikingjelly", "scanpy", "sklearn", "matplotlib")
OPTIONAL = (*TRAINING, "distributed", "gradio", "igraph", "numba", "onnx", "onnxruntime", "psutil", "pyarrow")


def printable(text: str) -> str:
    """Return text on one line with control characters escaped, so that text from untrusted files can be printed."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


# Largest number of characters of a message: about one screen.
LONGEST = 3000


class SpikGPTError(Exception):
    """Base class of the errors below, which a user can correct."""

    def __str__(self) -> str:
        # A message may quote long text from an untrusted file. The end, which says what to do, is kept.
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class DataError(SpikGPTError):
    """The cells cannot be used: their values, genes, layers or columns are unsuitable."""


class GenesError(DataError):
    """Too few genes are shared between the query and the reference."""


class LabelsError(DataError):
    """The column of cell types is missing or unsuitable."""


class ConfigError(SpikGPTError):
    """An option is out of range or contradicts another option."""


class DamagedReference(SpikGPTError):
    """A reference is incomplete, altered or inconsistent."""


class FormatError(DamagedReference):
    """The file format of a reference cannot be read, for example because it is newer than this version of SpikGPT."""


class ReferenceNotFound(SpikGPTError):
    """No reference has this name, in this package, on the disk or on the Hub."""


class HubError(SpikGPTError):
    """The Hugging Face Hub refuses a request or gives no proper answer."""


class DownloadError(SpikGPTError):
    """A published file of a study cannot be downloaded, or has another size or hash than expected."""


class CheckpointError(SpikGPTError):
    """A training checkpoint belongs to another training run."""


class ShardError(SpikGPTError):
    """Some shards of a query could not be labelled; the other shards are finished."""


class ParityError(SpikGPTError):
    """An exported ONNX graph gives other labels than the trained model."""


class GraphError(SpikGPTError):
    """An ONNX graph cannot be run on this machine or the requested device."""


class SpikGPTWarning(UserWarning):
    """The cells or the labels are unusual; the labels were still computed."""


def warn(*messages: str, category: type[Warning] = SpikGPTWarning) -> None:
    """Give warnings that point at the user's own line of code: the first caller outside this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "spikgpt":
        level, frame = level + 1, frame.f_back
    for message in messages:
        warnings.warn(message, category, stacklevel=level)


@contextmanager
def needs(package: str = "") -> Iterator[None]:
    """Turn an ImportError of the block into a ConfigError with the command that installs the module.

    ``package`` names the module that the block needs; by default, the command installs the module that is missing. An
    ImportError of a module that is not in ``OPTIONAL`` is raised unchanged.
    """
    try:
        yield
    except ImportError as error:
        missing = package or str(error.name).partition(".")[0]
        if missing not in OPTIONAL:
            raise
        together = TRAINING if missing in TRAINING and not package else ()
        also_missing = [name for name in together if name != missing and find_spec(name) is None]
        msg = (
            f"This needs {missing}, which cannot be imported ({error}). Run: {install_command(missing, *also_missing)}"
        )
        raise ConfigError(msg) from None


def install_command(*packages: str) -> str:
    """Return a pip command for the named packages, in the versions that SpikGPT needs; nothing is installed.

    The command names packages, not extras of SpikGPT, as pip may not find SpikGPT itself in its index.
    """
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        requirements = list(map(Requirement, requires("spikgpt") or ()))
    except PackageNotFoundError:  # SpikGPT runs from source files that pip did not install
        requirements = []
    versions = {requirement.name: f"{requirement.name}{requirement.specifier}" for requirement in requirements}
    names = ["scikit-learn" if name == "sklearn" else name for name in packages]
    command = shlex.join(["pip", "install", *(versions.get(name, name) for name in names)])
    smaller = "torch" in packages and sys.platform == "linux"
    return f"{command} (README.md has a smaller torch, without CUDA)" if smaller else command


# Remedies for errors of the operating system, by errno.
FAULTS = {
    errno.ENOSPC: "The disk is full: make room, or name a folder on another disk.",
    errno.EDQUOT: "Your disk quota is used up: make room, or name a folder on another disk.",
    errno.EFBIG: "The file would be larger than allowed here (ulimit -f, or the file system's limit).",
    errno.EROFS: "The disk is read-only: name a folder on another disk.",
    errno.EACCES: "Access is denied: change the permissions, or name another path.",
    errno.EPERM: "Access is denied: change the permissions, or name another path.",
    errno.EISDIR: "The path is a folder: name a file.",
    errno.ENOTDIR: "A part of the path is a file, not a folder: name another path.",
    errno.ENOENT: "The path does not exist: check its spelling.",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n).",
}


def fault(error: BaseException) -> str | None:
    """Return the remedy for the system error behind an exception; None for other exceptions."""
    cause: BaseException | None = error
    while cause is not None:
        # Errors of HDF5 have no errno: the number is only in the text of the message.
        number = getattr(cause, "errno", None) or next(
            (number for number in (errno.ENOSPC, errno.EFBIG) if os.strerror(number) in str(cause)), None
        )
        if isinstance(cause, OSError) and number in FAULTS:
            return FAULTS[number]
        cause = cause.__cause__ or cause.__context__
    return None


def listed(names: Iterable[Any]) -> str:
    """Return names separated by commas; "none" without names."""
    return ", ".join(map(str, names)) or "none"


def with_noun(count: int, noun: str, plural: str = "", *, form: str = "") -> str:
    """Return a number with its noun, such as "1 line" or "2 lines".

    ``noun`` and ``plural`` may include a verb: "1 cell has", "2 cells have". ``form`` is the format of the number, such
    as "," for thousands.
    """
    return f"{count:{form}} {noun if count == 1 else plural or f'{noun}s'}"
