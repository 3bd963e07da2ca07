"""Options with the same names, defaults and ranges in Python and on the command line.

:func:`options_of` checks a user's keywords. The description of a field is the help text of its flag. The methods of
:class:`spikgpt.SpikGPT` repeat the fields as explicit keywords, and a test compares both.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, structs

from spikgpt.errors import ConfigError, warn

Share = Annotated[float, Meta(ge=0, lt=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
EngineName = Literal["auto", "onnx", "numpy", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
RecipeName = Literal["default", "paper"]
Scaling = Literal["auto", "composition", "shift", "reference", "query"]
Species = Literal["human", "mouse"]

WORDS = {
    str: "text",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    dict: "a dict with text as keys",
    list: "a list of texts",
}

# Default prefix of the names of columns and arrays with results.
KEY_ADDED = "spikgpt"
# Default of the lowest probability that a broad label may have.
CERTAINTY = 0.95
# Options of an annotation that say how cells are read.
READING = ("layer", "gene_key", "species", "batch_key", "progress")
# Options of version 0.9 and the options that replace them.
RENAMED = {"neighbours": "smoothing", "same_study": "reference_cutoff"}

T = TypeVar("T", bound="Options")
P = ParamSpec("P")
R = TypeVar("R")


def cores() -> int:
    """Return the number of cores that this process may use; the machine may have more cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about(description: str, flag: str | None = "", *, hidden: bool = False) -> Meta:
    """Return the metadata of a field of an options class: help text and spelling of its flag.

    An empty ``flag`` means the name of the field; None means that the field has no flag. A hidden flag works but is not
    listed in the help.
    """
    return Meta(description=description, extra={"flag": flag, "hidden": hidden})


GeneKey = Annotated[
    str | None, about("Column of var with gene symbols or Ensembl ids; default: the names with most matches.")
]
QueryLayer = Annotated[
    str | None, about("Layer to read, X or raw; default: counts if present, else log-normalised values.")
]
QuerySpecies = Annotated[
    Species | None, about("Species of the query, to map genes to orthologues in the species of the reference.")
]
BatchKey = Annotated[
    str | None,
    about("Column of obs with batches; auto: a column such as sample, else inferred from the cells."),
]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of all options objects."""


class AnnotateOptions(Options, frozen=True, kw_only=True):
    """Annotation of the query."""

    layer: QueryLayer = None
    gene_key: GeneKey = None
    species: QuerySpecies = None
    batch_key: BatchKey = "auto"
    labels: Annotated[list[str] | None, about("Labels that cells may get, as A,B or repeated; default: all.")] = None
    exclude: Annotated[list[str] | None, about("Labels that no cell may get, as A,B or repeated.")] = None
    unknown_rate: Annotated[
        Share | None,
        about("Largest share of known cells that may be Unknown; default: no limit, or 0.05 without smoothing."),
    ] = None
    threshold: Annotated[Probability | None, about("Confidence below which a cell is Unknown; paper: 0.95.")] = None
    reference_cutoff: Annotated[
        bool,
        about("Use cut-offs from held-out cells of the reference; ignore batch effects.", "--reference-cutoff"),
    ] = False
    smoothing: Annotated[bool, about("Average each cell's probabilities with those of its nearest neighbours.")] = True
    scaling: Annotated[
        Scaling, about("Scaling of the genes; auto: composition or shift, whichever gives the higher mean energy.")
    ] = "auto"
    cluster_key: Annotated[
        str | None, about("Column of obs with clusters; each cluster gets its most frequent label.")
    ] = None
    majority_vote: Annotated[
        bool, about("Make many small clusters; each cluster gets its most frequent label.", "--majority-vote")
    ] = False
    certainty: Annotated[Share, about("Least probability of a cell's broad label and Cell Ontology term.")] = CERTAINTY
    batch_size: Annotated[Count | None, about("Cells classified at a time; does not change the labels.")] = None
    progress: Annotated[bool | None, about("Show a progress bar; default: on a terminal.", None)] = None
    key_added: Annotated[str, Meta(min_length=1), about("Prefix of result names in obs, obsm, uns and tables.")] = (
        KEY_ADDED
    )

    def __post_init__(self) -> None:
        if "/" in self.key_added or not self.key_added.isprintable():
            msg = (
                f"key_added is {self.key_added!r}; expected a name without / and line breaks, such as 'pancreas' "
                "(--key-added pancreas)."
            )
            raise ConfigError(msg)
        if self.threshold is not None and (self.unknown_rate is not None or self.reference_cutoff):
            msg = (
                "threshold cannot be combined with unknown_rate or reference_cutoff (--threshold with --unknown-rate, "
                "--no-unknown or --reference-cutoff); choose one rule."
            )
            raise ConfigError(msg)
        if self.majority_vote and (self.cluster_key is not None or not self.smoothing):
            msg = (
                "majority_vote makes its own clusters from the neighbours that smoothing searches; leave out "
                "cluster_key and smoothing=False (--cluster-key, --no-smoothing), or leave out majority_vote."
            )
            raise ConfigError(msg)

    def plain(self) -> AnnotateOptions:
        """Return the options with the default rule for Unknown, all labels, and no clusters."""
        return structs.replace(
            self,
            unknown_rate=None,
            threshold=None,
            reference_cutoff=False,
            labels=None,
            exclude=None,
            cluster_key=None,
            majority_vote=False,
        )


class ExplainOptions(Options, frozen=True, kw_only=True):
    """Explanation of labels."""

    labels: Annotated[
        list[str] | None, about("Labels to explain, as A,B or repeated; default: those that the cells got.")
    ] = None
    cluster_key: Annotated[str | None, about("Column of obs with clusters, to explain each cluster.")] = None
    top: Annotated[Count, about("Largest number of genes of each role.")] = 20
    layer: QueryLayer = None
    gene_key: GeneKey = None
    species: QuerySpecies = None
    batch_key: BatchKey = "auto"
    progress: Annotated[bool | None, about("Show a progress bar; default: on a terminal.", None)] = None

    def reading(self) -> AnnotateOptions:
        """Return the options of the annotation that is explained."""
        return AnnotateOptions(**{name: getattr(self, name) for name in READING})


class EngineOptions(Options, frozen=True, kw_only=True):
    """Engine and hardware that run the network."""

    engine: Annotated[
        EngineName, about("Program that runs the network; auto: ONNX Runtime if possible, else NumPy (scGPT: torch).")
    ] = "auto"
    precision: Annotated[Precision, about("Number format of the ONNX graph.")] = "fp32"
    provider: Annotated[Provider, about("Hardware for ONNX Runtime; auto: CUDA if it works, else the CPU.")] = "auto"
    whole_graph: Annotated[bool, about("Stop if a GPU cannot run the whole graph.", "--whole-graph/--any-part")] = True
    threads: Annotated[Count | None, about("Chunks of cells run in parallel on a CPU; default: one per core.")] = None
    memory_arena: Annotated[bool, about("Let ONNX Runtime keep freed memory for the next chunk of cells.")] = True
    engine_cache: Annotated[Path | None, about("Folder for the engines that TensorRT compiles.")] = None
    io_binding: Annotated[bool, about("Use the IO binding of ONNX Runtime on a GPU.")] = True


class HubOptions(Options, frozen=True, kw_only=True):
    """Access to the Hugging Face Hub."""

    token: Annotated[
        str | bool | None, about("Access token; True: the token of `hf auth login`; False: no token.", None)
    ] = None
    cache_dir: Annotated[Path | None, about("Folder for downloads; default: the cache of huggingface_hub.")] = None
    endpoint: Annotated[str | None, about("Address of the Hub; default: HF_ENDPOINT, or huggingface.co.")] = None
    local_files_only: Annotated[bool, about("Use cached files; do not contact the Hub.", "--offline")] = False


class TrainOptions(Options, frozen=True, kw_only=True):
    """Training of a reference."""

    batch_key: Annotated[
        str | None, about("Column of obs with donors or batches; whole donors or batches are held out.")
    ] = None
    cross_validate: Annotated[
        bool, about("Also measure with each donor or batch held out in turn; needs --batch-key.", "--cross-validate")
    ] = False
    layer: QueryLayer = None
    gene_key: GeneKey = None
    recipe: Annotated[RecipeName, about("Training settings: default, or paper (as published).")] = "default"
    name: Annotated[str, Meta(min_length=1, description="Name of the reference.", extra={"flag": None})] = "reference"
    seed: Annotated[int, Meta(ge=0, description="The same seed gives the same reference.")] = 0
    device: Annotated[str | None, about("Device of PyTorch, such as cpu; default: a GPU if there is one.")] = None
    checkpoints: Annotated[Path | None, about("Folder for the state of the training, to resume it.", None)] = None
    provenance: Annotated[dict[str, Any] | None, about("Facts to store, such as source and licence.", None)] = None


class PushOptions(Options, frozen=True, kw_only=True):
    """Upload of a reference to the Hub."""

    private: Annotated[bool, about("If a repository is created, make it private.", "--private")] = False
    branch: Annotated[str | None, about("Branch of the repository to upload to; default: main.")] = None
    tag: Annotated[str | None, about("Tag for the uploaded version, such as v1.")] = None
    pull_request: Annotated[bool, about("Open a pull request instead of committing.", "--pull-request")] = False
    message: Annotated[str | None, about("Commit message.")] = None
    dry_run: Annotated[bool, about("Change nothing; show what would be uploaded.", "--dry-run")] = False


def expected(kind: type[Options], name: str) -> str:
    """Describe the values that an option takes, such as "a number of at least 0 and below 1"."""
    allowed = limits(kind, name)
    return _type_in_words(get_type_hints(kind)[name]) + (f" of {allowed}" if allowed else "")


def limits(kind: type[Options], name: str) -> str:
    """Describe the range of an option, such as "at least 0 and below 1"; an empty text if the range has no limits."""
    parts = [get_type_hints(kind, include_extras=True)[name]]
    ranges = []
    for part in parts:  # the loop also visits the type arguments that it appends
        parts += get_args(part)
        if isinstance(part, Meta):
            ends = {"at least": part.ge, "above": part.gt, "at most": part.le, "below": part.lt}
            ends["length at least"] = part.min_length
            ranges += [f"{word} {end}" for word, end in ends.items() if end is not None]
    return " and ".join(ranges)


def _type_in_words(kind: Any) -> str:
    """Return a type in words for users, such as "a number"; limits of its range are left out."""
    if get_origin(kind) is Literal:
        *first, last = get_args(kind)
        return f"{', '.join(first)} or {last}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_type_in_words(part) for part in get_args(kind) if part is not NoneType)
    return WORDS[get_origin(kind) or kind]


def options_of(kind: type[T], keywords: Mapping[str, Any], flags: Mapping[str, str] | None = None) -> T:
    """Return an options object from a user's keywords.

    Parameters
    ----------
    flags
        Flag of each option on the command line, which messages name. None for a call from Python: messages name the
        keyword.

    Raises
    ------
    ConfigError
        When a keyword is not an option, or a value is of another type or out of range.
    """
    keywords = _with_new_names(keywords, kind.__struct_fields__)
    # NumPy's numbers and paths become plain Python values, which msgspec converts.
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in keywords.items()}
    # A single text becomes a list with this text.
    annotations = {name: text for base in kind.__mro__ for name, text in getattr(base, "__annotations__", {}).items()}
    texts = {name for name, text in annotations.items() if "list[str]" in str(text)}
    plain |= {name: [value] for name, value in plain.items() if name in texts and isinstance(value, str)}
    plain |= {name: str(value) for name, value in plain.items() if isinstance(value, Path)}
    try:
        return msgspec.convert(plain, kind, dec_hook=lambda to, value: to(value))
    except msgspec.ValidationError as error:
        if not (path := re.search(r"\$\.(\w+)", str(error))):
            raise ConfigError(str(error)) from None
        name = path[1]
        msg = f"{(flags or {}).get(name, name)} is {keywords[name]!r}; expected {expected(kind, name)}."
        raise ConfigError(msg) from None


def arguments_as(kind: type[T], arguments: Mapping[str, Any]) -> T:
    """Return an options object from the arguments of a function, ``locals()``; names that are no option are ignored."""
    return options_of(kind, {name: arguments[name] for name in kind.__struct_fields__ if name in arguments})


def checked_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function accept old names of its keywords, and suggest the right name for an unknown keyword.

    Raises
    ------
    ConfigError
        When the function has no keyword of this name.
    """
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*arguments: P.args, **keywords: P.kwargs) -> R:
        return function(*arguments, **_with_new_names(keywords, known))

    return checked


def _with_new_names(keywords: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return keywords with old names replaced by new names; warn about old names, and raise for unknown names."""
    known, renamed = tuple(known), {}
    for name, value in keywords.items():
        new = name if name in known else RENAMED.get(name, name)
        if new not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            options = ", ".join(option for option in known if option not in ("self", "cls"))
            msg = f"There is no option {name!r}; the options are {options}.{hint}"
            raise ConfigError(msg)
        if new != name:
            if new in keywords:
                msg = f"{name} and {new} are two names of one option; pass {new} alone."
                raise ConfigError(msg)
            text = f"The option {name} is now called {new}; the old name will be removed in version 1.0."
            warn(text, category=DeprecationWarning)
        renamed[new] = value
    return renamed
