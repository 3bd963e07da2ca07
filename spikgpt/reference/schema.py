"""Types of the JSON files of a reference.

The types of ``labels.json`` and ``thresholds.json`` are in :mod:`spikgpt.scoring`. Metrics and provenance may have
further fields, which are kept, because versions of this library differ in these fields. The other files have no further
fields.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated, Any, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from spikgpt.errors import DamagedReference, with_noun

Count = Annotated[int, Meta(ge=0, le=10**15)]
Share = Annotated[float, Meta(ge=0, le=1)]
# Largest allowed difference between a stored score and the same score computed again.
ROUNDING = 1e-9


def require(holds: bool, problem: str) -> None:
    """Raise DamagedReference unless ``holds`` is True; ``problem`` says what was found and what was expected."""
    if not holds:
        msg = f"{problem} Get the reference again, or another one."
        raise DamagedReference(msg)


class Lines(msgspec.Struct, frozen=True):
    """Base class of records that cards and terminals show.

    Texts may have no line breaks and no control characters, except in the field ``description``.
    """

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not text.isprintable() and name != "description":
                    msg = f"{name} is {text!r}; expected a line of text without control characters"
                    raise ValueError(msg)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of a file in bytes, and its sha256."""

    size: Count
    sha256: str


class ReferenceManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json``: the size and the sha256 of every other file, by name."""

    files: dict[str, Entry]


class Header(Lines, frozen=True):
    """Fields that ``config.json`` has in every format of references, also in future formats."""

    format_version: Annotated[int, Meta(ge=1)]
    library: dict[str, str]


class RecipeRecord(Lines, frozen=True):
    """The recipe with which the reference was trained."""

    name: str


class Paper(Lines, frozen=True, forbid_unknown_fields=True):
    """Results of the SpikGPT paper on the same data: the paper's reference, its query, and its figures as text."""

    reference: str
    query: str
    figures: str


class Study(Lines, frozen=True, forbid_unknown_fields=True):
    """A study that a reference was built from, and the number of its cells that were used."""

    study: str
    accession: str
    role: str
    cells: Count
    citation: str
    licence: str


class Provenance(Lines, frozen=True):
    """The origin of a reference, as its card shows it; ``incomplete`` names data of the recipe that training lacked."""

    recipe: RecipeRecord
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
    """``config.json``: name, network settings, embedder settings and origin of a reference."""

    name: Annotated[str, Meta(min_length=1)]
    model: dict[str, Any]
    embedder: dict[str, Any]
    provenance: Provenance


class PCARecord(msgspec.Struct, frozen=True):
    """Settings of the pca embedder: the largest scaled expression, and the total of a cell after normalisation."""

    clip: Annotated[float, Meta(ge=0.1, le=1000)]
    target_sum: Annotated[float, Meta(ge=1, le=1e9)]


class GeneNamesRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Symbols and Ensembl ids of genes, in the same order; an id is None if it is not known."""

    symbols: tuple[str, ...]
    ensembl_ids: tuple[str | None, ...]


class Genes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``genes.json``: the genes that the network reads; ``more`` are genes that help to impute them."""

    sha256: str
    symbols: tuple[str, ...]
    ensembl_ids: tuple[str | None, ...]
    more: GeneNamesRecord | UnsetType = UNSET


class LabelScore(Lines, frozen=True):
    """The scores of one label; ``cells`` counts the cells with this true label."""

    label: str
    precision: Share
    recall: Share
    f1: Share
    cells: Count


class Confusion(Lines, frozen=True):
    """A confusion matrix of cell counts: true labels in rows, predicted labels in columns."""

    labels: tuple[str, ...]
    counts: tuple[tuple[Count, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if [len(row) for row in self.counts] != [len(self.labels)] * len(self.labels):
            msg = f"counts must be a square matrix of {with_noun(len(self.labels), 'label')}"
            raise ValueError(msg)


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement of predicted and true labels; macro averages give each true label the same weight."""

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


class GroupScore(Lines, frozen=True):
    """The scores on the held-out cells of a donor or batch."""

    group: str
    cells: Count
    accuracy: Share
    macro_f1: Share


class Spread(msgspec.Struct, frozen=True):
    """The mean and the standard deviation (n - 1) of a score over donors or batches."""

    mean: Share
    std: Share

    @classmethod
    def from_scores(cls, scores: Sequence[float]) -> Self:
        """Return the mean and the standard deviation of scores; the deviation of a single score is 0."""
        return cls(statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0)


class CrossValidation(Lines, frozen=True):
    """The scores with each donor or batch held out in turn; ``batch_key`` is the column of ``obs`` with their names.

    ``pooled`` is the agreement over the held-out cells of all donors or batches.
    """

    batch_key: str
    groups: Annotated[tuple[GroupScore, ...], Meta(min_length=1)]
    accuracy: Spread
    macro_f1: Spread
    pooled: Agreement

    def __post_init__(self) -> None:
        super().__post_init__()
        confusion, cells = self.pooled.confusion, self.pooled.cells
        by_label = {name: sum(row) for name, row in zip(confusion.labels, confusion.counts, strict=True) if sum(row)}
        right = sum(row[position] for position, row in enumerate(confusion.counts)) / max(cells, 1)
        computed = {
            "the accuracy of pooled": (self.pooled.accuracy, right),
            "the accuracy of groups": (sum(row.accuracy * row.cells for row in self.groups) / max(cells, 1), right),
        }
        for name in ("accuracy", "macro_f1"):
            stated, spread = getattr(self, name), Spread.from_scores([getattr(row, name) for row in self.groups])
            computed |= {f"{name}.mean": (stated.mean, spread.mean), f"{name}.std": (stated.std, spread.std)}
        inconsistent = [name for name, (stated, recomputed) in computed.items() if abs(stated - recomputed) > ROUNDING]
        if len({row.group for row in self.groups}) < len(self.groups):
            inconsistent.append("the names of groups")
        if {row.label: row.cells for row in self.pooled.per_label} != by_label or sum(by_label.values()) != cells:
            inconsistent.append("the cells of pooled")
        if sum(row.cells for row in self.groups) != cells:
            inconsistent.append("the cells of groups")
        if inconsistent:
            msg = f"{inconsistent[0]} of the cross-validation differ from its other figures"
            raise ValueError(msg)

    @classmethod
    def summarise(cls, batch_key: str, groups: Sequence[GroupScore], pooled: Agreement) -> Self:
        """Return the scores of donors or batches, with the mean and the standard deviation of these scores."""
        accuracy, macro_f1 = (
            Spread.from_scores([getattr(row, name) for row in groups]) for name in ("accuracy", "macro_f1")
        )
        return cls(batch_key, tuple(groups), accuracy, macro_f1, pooled)


class Bin(msgspec.Struct, frozen=True):
    """Held-out cells of similar confidence: mean confidence, accuracy, and number of cells."""

    confidence: Share
    accuracy: Share
    cells: Count


class Reliability(msgspec.Struct, frozen=True):
    """Calibration of the confidence: its expected calibration error, and the accuracy in bins of confidence."""

    expected_calibration_error: Share
    bins: tuple[Bin, ...]


class StudyRecord(Lines, frozen=True, kw_only=True, omit_defaults=True):
    """The scores on another study.

    ``cells`` counts the known cells, whose label the reference has. ``unseen_labels`` counts the other cells, by label.
    ``share_right`` is the open-set accuracy. ``known_unknown`` is the share of known cells that become Unknown by the
    default rule, ``known_unknown_by_paper`` by the paper's rule.
    """

    study: str
    cells: Count
    accuracy: Share
    macro_f1: Share
    share_right: Share
    known_unknown: Share
    known_unknown_by_paper: Share
    unseen_labels: dict[str, Count] = {}


class LeftOutRecord(Lines, frozen=True, kw_only=True):
    """Scores on a study of a reference that was trained without ``label``.

    Unseen cells have this label and should be Unknown; known cells have other labels. ``auroc`` compares the OOD scores
    of unseen and known cells. ``mistaken_for`` counts the unseen cells by their label before rejection.
    """

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


class MetricsRecord(Lines, frozen=True):
    """``metrics.json``: numbers of training cells, and measured scores of a reference."""

    cells: Count
    cells_per_label: dict[str, Count]
    held_out_by: str
    held_out: Agreement
    paper_threshold_rejects: Share
    reliability: Reliability | UnsetType = UNSET
    cross_validation: CrossValidation | UnsetType = UNSET
    studies: tuple[StudyRecord, ...] = ()
    left_out: tuple[LeftOutRecord, ...] = ()
    synthetic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for row in self.cross_validation.pooled.per_label if self.cross_validation else ():
            if row.cells > (most := self.cells_per_label.get(row.label, 0)):
                msg = f"cross_validation has {row.cells} cells of {row.label!r}; expected at most {most}"
                raise ValueError(msg)


class ParityRecord(msgspec.Struct, frozen=True):
    """``onnx/parity.json``: the sha256 of the files that the graphs were made from, and a report of each graph."""

    made_from: dict[str, str]
    graphs: dict[str, dict[str, Any]]
