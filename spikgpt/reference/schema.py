"""The JSON files of a reference as types: what is read is checked against them.

``labels.json`` and ``thresholds.json`` have theirs in :mod:`spikgpt.labels`. Figures and provenance may hold more than
is known here, as versions add fields to them; that is kept. Other files hold what is listed here and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]


class Lines(msgspec.Struct, frozen=True):
    """Base of what cards and terminals show: texts without line breaks and control characters."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not text.isprintable() and name != "description":
                    msg = f"{name} is {text!r}; expected a line of text without control characters"
                    raise ValueError(msg)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest lists of a file."""

    size: Count
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json``: every other file, by name."""

    files: dict[str, Entry]


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """The version of this library that wrote the reference, and those that can read it."""

    name: str = "spikgpt"
    version: str = ""
    requires: str


class Header(msgspec.Struct, frozen=True):
    """What ``config.json`` of any format says, those of the future included."""

    format_version: Annotated[int, Meta(ge=1)]
    library: Library


class PCASettings(msgspec.Struct, frozen=True, tag_field="kind", tag="pca"):
    """Embedder by principal components; the tensors hold the rest of it."""

    clip: Positive
    target_sum: Positive


class ObsmSettings(msgspec.Struct, frozen=True, tag_field="kind", tag="obsm"):
    """Embedding that the user brings in ``obsm[key]``."""

    key: str
    dim: int


class ScGPTSettings(msgspec.Struct, frozen=True, tag_field="kind", tag="scgpt"):
    """Embedder by scGPT: which checkpoint, or its sizes where the reference carries it."""

    source: str
    revision: str | None
    sha256: str
    max_length: Annotated[int, Meta(ge=1)]
    bundled: bool
    args: dict[str, Any] = {}
    special_tokens: dict[str, Count] = {}


class Recipe(Lines, frozen=True):
    """How the reference was trained."""

    name: str


class Paper(Lines, frozen=True, forbid_unknown_fields=True):
    """What the paper reports for the same cells."""

    reference: str
    query: str
    figures: str


class Provenance(Lines, frozen=True):
    """Where a reference comes from; the texts are what its card shows."""

    recipe: Recipe
    seed: int
    source: str = ""
    licence: str = ""
    tissue: str = ""
    organism: str = ""
    repository: str = ""
    datasets: tuple[str, ...] = ()
    description: str = ""
    paper: Paper | UnsetType = UNSET


class Config(Lines, frozen=True, forbid_unknown_fields=True):
    """``config.json``."""

    format_version: int
    library: Library
    name: Annotated[str, Meta(min_length=1)]
    model: dict[str, Any]
    embedder: PCASettings | ObsmSettings | ScGPTSettings
    provenance: Provenance


class Genes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``genes.json``."""

    sha256: Sha256
    symbols: tuple[str, ...]
    ensembl_ids: tuple[str | None, ...]


class LabelScore(Lines, frozen=True):
    """How one label fared on held-out cells."""

    label: str
    precision: Share
    recall: Share
    f1: Share
    cells: Count


class Confusion(Lines, frozen=True):
    """Counts of cells, with a row for each label as truth and a column for each as prediction."""

    labels: tuple[str, ...]
    counts: tuple[tuple[Count, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if [len(row) for row in self.counts] != [len(self.labels)] * len(self.labels):
            msg = f"counts are no square of {len(self.labels)} labels"
            raise ValueError(msg)


class HeldOut(msgspec.Struct, frozen=True):
    """Agreement with the truth on held-out cells."""

    cells: Count
    accuracy: Share
    macro_f1: Share
    per_label: tuple[LabelScore, ...]
    confusion: Confusion


class Bin(msgspec.Struct, frozen=True):
    """Held-out cells of like confidence."""

    confidence: Share
    accuracy: Share
    cells: Count


class Reliability(msgspec.Struct, frozen=True):
    """How often labels of a confidence are right."""

    expected_calibration_error: Share
    bins: tuple[Bin, ...]


class Metrics(Lines, frozen=True):
    """``metrics.json``."""

    cells: Count
    cells_per_label: dict[str, Count]
    held_out_by: str
    held_out: HeldOut
    paper_threshold_rejects: Share
    reliability: Reliability | UnsetType = UNSET


class Graph(msgspec.Struct, frozen=True):
    """What ``onnx/parity.json`` says of a graph; its agreement with the model stands beside this."""

    sha256: Sha256


class Parity(msgspec.Struct, frozen=True):
    """``onnx/parity.json``: the sha256 of the files that the graphs were made from, and the graphs."""

    made_from: dict[str, str]
    graphs: dict[str, Graph]
