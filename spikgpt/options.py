"""What can be asked for, with one meaning in Python and on the command line.

Each options object is frozen and checked when it is made from a user's keywords by :func:`options_of`. The descriptions
are the help of the command line and the text of the Python reference. The ``Keywords`` classes beside them tell type
checkers and editors the same fields as keywords; a test holds the two against each other.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from spikgpt.errors import ConfigError

Share = Annotated[float, Meta(ge=0, lt=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
EngineName = Literal["auto", "onnx", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
Scaling = Literal["auto", "composition", "shift", "reference", "query"]

WORDS = {
    str: "text",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    dict: "a dict with text as keys",
    list: "a list",
}

# First part of the names of what an annotation writes.
KEY_ADDED = "spikgpt"

T = TypeVar("T", bound="Options")


def cores() -> int:
    """Return on how many cores this process may run, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about(description: str, flag: str | None = "") -> Meta:
    """Return what users are told of a field; ``flag`` spells its flag, and None leaves it out of the command line."""
    return Meta(description=description, extra={"flag": flag})


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all options objects."""


class AnnotateOptions(Options, frozen=True, kw_only=True):
    """How the cells of a query are labelled."""

    layer: Annotated[str | None, about("Layer to read, X or raw; by default the best expression values.")] = None
    scaling: Annotated[Scaling, about("How query genes are scaled; auto decides by evidence.")] = "auto"
    neighbours: Annotated[bool, about("Label each cell with those like it, or alone.", "--neighbours/--alone")] = True
    unknown_rate: Annotated[
        Share | None, about("Largest share of cells like the held-out ones that may be Unknown; default: no limit.")
    ] = None
    threshold: Annotated[Probability | None, about("Confidence below which a cell is Unknown; paper: 0.95.")] = None
    same_study: Annotated[bool, about("Judge cells as if they were of the reference's study.", "--same-study")] = False
    batch_key: Annotated[
        str | None, about("Column of obs with batches; auto finds one such as sample, or infers batches.")
    ] = "auto"
    batch_size: Annotated[Count | None, about("Cells classified at a time; the labels do not depend on it.")] = None
    progress: Annotated[bool | None, about("Show a progress bar; by default on a terminal.", None)] = None
    key_added: Annotated[str, Meta(min_length=1), about("Prefix of the columns in obs, obsm, uns and tables.")] = (
        KEY_ADDED
    )

    def __post_init__(self) -> None:
        if "/" in self.key_added or not self.key_added.isprintable():
            msg = (
                f"key_added is {self.key_added!r}; expected a name without / and line breaks, such as 'pancreas' "
                "(--key-added pancreas)."
            )
            raise ConfigError(msg)
        if self.threshold is not None and (self.unknown_rate is not None or self.same_study):
            msg = (
                "threshold goes with neither unknown_rate nor same_study (--threshold with neither --unknown-rate, "
                "--no-unknown nor --same-study); choose one rule."
            )
            raise ConfigError(msg)


class EngineOptions(Options, frozen=True, kw_only=True):
    """What runs the network of a reference, and where."""

    engine: Annotated[EngineName, about("auto takes ONNX Runtime if the reference has a graph, else torch.")] = "auto"
    precision: Annotated[Precision, about("Which of the reference's graphs to run.")] = "fp32"
    provider: Annotated[Provider, about("Where ONNX Runtime runs; auto is CUDA if it works, else the CPU.")] = "auto"
    whole_graph: Annotated[bool, about("Refuse a GPU that cannot run the whole graph.", "--whole-graph/--any-part")] = (
        True
    )
    threads: Annotated[Count | None, about("Batches at a time on a CPU; by default one per core.")] = None
    memory_arena: Annotated[bool, about("Keep freed memory of ONNX Runtime for the next batch.")] = True
    engine_cache: Annotated[Path | None, about("Folder for the engines that TensorRT builds.")] = None
    io_binding: Annotated[bool, about("On a GPU, copy through ONNX Runtime's bindings.")] = True


class HubOptions(Options, frozen=True, kw_only=True):
    """How the Hugging Face Hub is reached."""

    token: Annotated[str | bool | None, about("Token; True for that of `hf auth login`, False for none.", None)] = None
    cache_dir: Annotated[Path | None, about("Folder for downloads; by default the cache of huggingface_hub.")] = None
    endpoint: Annotated[str | None, about("Address of the Hub; by default HF_ENDPOINT, or huggingface.co.")] = None
    local_files_only: Annotated[bool, about("Use what is cached; do not contact the Hub.", "--offline")] = False


class TrainOptions(Options, frozen=True, kw_only=True):
    """How a reference is trained."""

    batch_key: Annotated[str | None, about("Column of obs with the donor or batch, to hold out whole ones.")] = None
    layer: Annotated[str | None, about("Layer to read, X or raw; by default the best expression values.")] = None
    recipe: Annotated[Literal["default", "paper"], about("default, or paper for the published settings.")] = "default"
    name: Annotated[str, Meta(min_length=1, description="Name of the reference.", extra={"flag": None})] = "reference"
    seed: Annotated[int, Meta(ge=0, description="The same seed gives the same reference.")] = 0
    device: Annotated[str | None, about("A torch device; by default a GPU when there is one.")] = None
    checkpoints: Annotated[Path | None, about("Folder for the state of the training, to resume from.", None)] = None
    provenance: Annotated[dict[str, Any] | None, about("More to keep, such as source and licence.", None)] = None


class PushOptions(Options, frozen=True, kw_only=True):
    """How a reference is put on the Hub."""

    private: Annotated[bool, about("Make a new repository private.", "--private")] = False
    branch: Annotated[str | None, about("Branch to commit to, instead of main.")] = None
    tag: Annotated[str | None, about("Name for the commit, such as v1.")] = None
    pull_request: Annotated[bool, about("Open a pull request instead of committing.", "--pull-request")] = False
    message: Annotated[str | None, about("Commit message.")] = None
    dry_run: Annotated[bool, about("Change nothing; show what would be sent.", "--dry-run")] = False


class AnnotateKeywords(TypedDict, total=False):
    """Keywords of :class:`AnnotateOptions`."""

    layer: str | None
    scaling: Scaling
    neighbours: bool
    unknown_rate: float | None
    threshold: float | None
    same_study: bool
    batch_key: str | None
    batch_size: int | None
    progress: bool | None
    key_added: str


class EngineKeywords(TypedDict, total=False):
    """Keywords of :class:`EngineOptions`."""

    engine: EngineName
    precision: Precision
    provider: Provider
    whole_graph: bool
    threads: int | None
    memory_arena: bool
    engine_cache: str | Path | None
    io_binding: bool


class HubKeywords(TypedDict, total=False):
    """Keywords of :class:`HubOptions`."""

    token: str | bool | None
    cache_dir: str | Path | None
    endpoint: str | None
    local_files_only: bool


class LoadKeywords(HubKeywords, EngineKeywords, total=False):
    """Keywords of :class:`HubOptions` and :class:`EngineOptions` together."""


class TrainKeywords(TypedDict, total=False):
    """Keywords of :class:`TrainOptions`."""

    batch_key: str | None
    layer: str | None
    recipe: Literal["default", "paper"]
    name: str
    seed: int
    device: str | None
    checkpoints: str | Path | None
    provenance: dict[str, Any] | None


class PushKeywords(TypedDict, total=False):
    """Keywords of :class:`PushOptions`."""

    private: bool
    branch: str | None
    tag: str | None
    pull_request: bool
    message: str | None
    dry_run: bool


def expected(kind: type[Options], name: str) -> str:
    """Say in a user's words what an option takes, such as "a number of at least 0 and below 1"."""
    allowed = limits(kind, name)
    return _words(get_type_hints(kind)[name]) + (f" of {allowed}" if allowed else "")


def limits(kind: type[Options], name: str) -> str:
    """Say in which range the values of an option lie, such as "at least 0 and below 1"; nothing where any will do."""
    parts = [get_type_hints(kind, include_extras=True)[name]]
    said = []
    for part in parts:  # grows by what each part is made of
        parts += get_args(part)
        if isinstance(part, Meta):
            ends = {"at least": part.ge, "above": part.gt, "at most": part.le, "below": part.lt}
            ends["length at least"] = part.min_length
            said += [f"{word} {end}" for word, end in ends.items() if end is not None]
    return " and ".join(said)


def _words(kind: Any) -> str:
    """Say in a user's words what a type without limits takes."""
    if get_origin(kind) is Literal:
        *first, last = get_args(kind)
        return f"{', '.join(first)} or {last}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(part) for part in get_args(kind) if part is not NoneType)
    return WORDS[get_origin(kind) or kind]


def options_of(kind: type[T], keywords: Mapping[str, Any], called: Mapping[str, str] | None = None) -> T:
    """Return an options object from a user's keywords.

    Parameters
    ----------
    called
        What the user calls an option, where that is not its name.

    Raises
    ------
    ConfigError
        When there is no such option, or a value is of another type or out of range.
    """
    known = kind.__struct_fields__
    for name in keywords:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            msg = f"There is no option {name!r}; the options are {', '.join(known)}.{hint}"
            raise ConfigError(msg)
    # NumPy's numbers and paths are taken as what they are meant to be.
    plain = {name: value.item() if getattr(value, "ndim", 1) == 0 else value for name, value in keywords.items()}
    plain |= {name: str(value) for name, value in plain.items() if isinstance(value, Path)}
    try:
        return msgspec.convert(plain, kind, dec_hook=lambda to, value: to(value))
    except msgspec.ValidationError as error:
        if not (place := re.search(r"\$\.(\w+)", str(error))):
            raise ConfigError(str(error)) from None
        name = place[1]
        msg = f"{(called or {}).get(name, name)} is {keywords[name]!r}; expected {expected(kind, name)}."
        raise ConfigError(msg) from None
