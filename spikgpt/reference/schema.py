"""The JSON files of a reference as types: what is read is checked against them.

``labels.json`` and ``thresholds.json`` have theirs in :mod:`spikgpt.scoring`, settings of an embedder in
:mod:`spikgpt.embedding`. Figures and provenance may hold more than is known here, and it is kept, as versions differ in
them; the other files hold what is listed here and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from spikgpt.errors import DamagedReference

Count = Annotated[int, Meta(ge=0, le=10**15)]
Share = Annotated[float, Meta(ge=0, le=1)]


def require(holds: bool, otherwise: str) -> None:
    """Refuse a reference of which something does not hold, with what was found, and what should be."""
    if not holds:
        msg = f"{otherwise} Get the reference again, or another one."
        raise DamagedReference(msg)


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
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json``: every other file, by name."""

    files: dict[str, Entry]


class Header(Lines, frozen=True):
    """What ``config.json`` of any format says, those of the future included."""

    format_version: Annotated[int, Meta(ge=1)]
    library: dict[str, str]


class Recipe(Lines, frozen=True):
    """How the reference was trained."""

    name: str


class Paper(Lines, frozen=True, forbid_unknown_fields=True):
    """What the paper reports for the same cells."""

    reference: str
    query: str
    figures: str


class Study(Lines, frozen=True, forbid_unknown_fields=True):
    """A study that a reference was built from, and how many of its cells were used."""

    study: str
    accession: str
    role: str
    cells: Count
    citation: str
    licence: str


class Provenance(Lines, frozen=True):
    """Where a reference comes from, as its card shows it.

    ``incomplete`` says what it lacks of the data that its recipe asks for.
    """

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
    studies: tuple[Study, ...] = ()
    incomplete: str = ""
    synthetic: bool = False


class Config(Header, frozen=True, forbid_unknown_fields=True):
    """``config.json``."""

    name: Annotated[str, Meta(min_length=1)]
    model: dict[str, Any]
    embedder: dict[str, Any]
    provenance: Provenance


class Projection(msgspec.Struct, frozen=True):
    """Numbers of the pca embedder in ``config.json``."""

    clip: Annotated[float, Meta(ge=0.1, le=1000)]
    target_sum: Annotated[float, Meta(ge=1, le=1e9)]


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of some genes."""

    symbols: tuple[str, ...]
    ensembl_ids: tuple[str | None, ...]


class Genes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``genes.json``: the genes that the network reads, and ``more`` that are known, if any are."""

    sha256: str
    symbols: tuple[str, ...]
    ensembl_ids: tuple[str | None, ...]
    more: Names | UnsetType = UNSET


class LabelScore(Lines, frozen=True):
    """How one label fared; ``cells`` counts those that truly have it."""

    label: str
    precision: Share
    recall: Share
    f1: Share
    cells: Count


class Confusion(Lines, frozen=True):
    """Counts of cells, with a row for each label as truth and a column as prediction."""

    labels: tuple[str, ...]
    counts: tuple[tuple[Count, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if [len(row) for row in self.counts] != [len(self.labels)] * len(self.labels):
            msg = f"counts are no square of {len(self.labels)} labels"
            raise ValueError(msg)


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How well predicted labels agree with the truth; macro averages give each label of the truth the same weight."""

    cells: Count
    accuracy: Share
    macro_precision: Share = 0.0
    macro_recall: Share = 0.0
    macro_f1: Share
    per_label: tuple[LabelScore, ...]
    confusion: Confusion

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return msgspec.json.decode(msgspec.json.encode(self))  # type: ignore[no-any-return]


class Bin(msgspec.Struct, frozen=True):
    """Held-out cells of like confidence."""

    confidence: Share
    accuracy: Share
    cells: Count


class Reliability(msgspec.Struct, frozen=True):
    """How often labels of a confidence are right."""

    expected_calibration_error: Share
    bins: tuple[Bin, ...]


class Asked(Lines, frozen=True, kw_only=True, omit_defaults=True):
    """How the labels of another study were told.

    ``cells`` counts those whose label the reference has, and ``unseen_labels`` the others. Shares of known cells that
    are Unknown by default, and by the paper's rule.
    """

    study: str
    cells: Count
    accuracy: Share
    macro_f1: Share
    share_right: Share
    known_unknown: Share
    known_unknown_by_paper: Share
    unseen_labels: dict[str, Count] = {}


class LeftOut(Lines, frozen=True, kw_only=True):
    """What became of the cells of a label that was left out of a reference, in a study that has it."""

    label: str
    study: str
    unseen_cells: Count
    known_cells: Count
    unseen_unknown: Share
    known_unknown: Share
    unseen_unknown_by_paper: Share
    known_unknown_by_paper: Share
    auroc: Share
    mistaken_for: dict[str, Count]


class Metrics(Lines, frozen=True):
    """``metrics.json``."""

    cells: Count
    cells_per_label: dict[str, Count]
    held_out_by: str
    held_out: Agreement
    paper_threshold_rejects: Share
    reliability: Reliability | UnsetType = UNSET
    studies: tuple[Asked, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    synthetic: bool = False


class Parity(msgspec.Struct, frozen=True):
    """``onnx/parity.json``: sha256 of the files that the graphs were made from, and what is said of each graph."""

    made_from: dict[str, str]
    graphs: dict[str, dict[str, Any]]
