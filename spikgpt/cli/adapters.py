"""The interfaces that the commands are written for, on what there is today; to be deleted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd
from msgspec import structs

from spikgpt.cells.output import check_table
from spikgpt.errors import ConfigError
from spikgpt.labels.annotation import PROBABILITIES, PROVENANCE
from spikgpt.labels.annotation import Annotation as TodaysAnnotation
from spikgpt.options import AnnotateOptions, EngineOptions, PushOptions, TrainOptions
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import GRAPHS
from spikgpt.reference.registry import find
from spikgpt.reference.stored import Stored, read_stored

if TYPE_CHECKING:
    from anndata import AnnData

    from spikgpt.scgpt.draws import UpstreamDraws

__all__ = ["check_table"]


@dataclass(frozen=True)
class ReferenceFiles(Stored):
    origin: str | None = None
    folder: Path = Path()


def open_reference(name: str | Path, revision: str | None = None, *, hub: Hub | None = None) -> ReferenceFiles:
    found = find(name, revision, hub=hub)
    return ReferenceFiles(**vars(read_stored(found.folder)), origin=found.origin, folder=found.folder)


@dataclass(frozen=True)
class Engine:
    name: str
    annotate: Callable[[Any, AnnotateOptions], TodaysAnnotation]


def open_engine(
    reference: ReferenceFiles, options: EngineOptions, *, scgpt: Path | None = None, hub: Hub | None = None
) -> Engine:
    graph = GRAPHS[options.precision] in reference.files
    onnx = options.engine == "onnx" or (
        options.engine == "auto" and graph and importlib.util.find_spec("onnxruntime") is not None
    )
    return _onnx(reference, options) if onnx else _torch(reference, scgpt, hub)


def _onnx(reference: ReferenceFiles, options: EngineOptions) -> Engine:
    from spikgpt_onnx.annotator import Annotator

    keywords = structs.asdict(options)
    del keywords["engine"]
    annotator = Annotator(reference.folder, origin=reference.origin, **keywords)
    return Engine(f"onnx on {annotator.provider}", lambda cells, how: annotator.annotate(cells, **structs.asdict(how)))


def _torch(reference: ReferenceFiles, scgpt: Path | None, hub: Hub | None) -> Engine:
    from spikgpt.pipeline import annotate as todays
    from spikgpt.training.reference import load

    opened = replace(load(reference.folder, scgpt=scgpt, hub=hub), origin=reference.origin)

    def run(cells: Any, options: AnnotateOptions) -> TodaysAnnotation:
        keywords = {name: value for name, value in structs.asdict(options).items() if value is not None}
        keywords.pop("progress", None)
        return todays(opened, cells, **keywords)

    return Engine("torch", run)


class Annotation(TodaysAnnotation):
    @property
    def unknown_fraction(self) -> float:
        return self.unknown_rate

    @property
    def cutoffs(self) -> Any:
        return self.decision

    def table_chunks(self) -> Any:
        return self

    def obs(self) -> pd.DataFrame:
        labels = {name: pd.Categorical(values) for name, values in self.table().items() if "label" in str(name)}
        return pd.DataFrame(labels | self._numbers(), index=self.cells)

    def obsm(self) -> dict[str, Any]:
        return {PROBABILITIES: self.probabilities}

    def uns(self, target: Any = None) -> dict[str, Any]:
        return {PROVENANCE: self.provenance()}

    def notes(self, target: Any = None) -> list[str]:
        return super().notes()


def annotate(reference: ReferenceFiles, engine: Engine, cells: AnnData, options: AnnotateOptions) -> Annotation:
    return Annotation(**vars(engine.annotate(cells, options)))


@contextmanager
def open_cells(path: str | Path) -> Iterator[AnnData]:
    from spikgpt.cells.obs import read_h5ad

    adata = read_h5ad(path, backed=True)
    try:
        yield adata
    finally:
        adata.file.close()


def write_table(parts: Any, path: Path) -> None:
    from spikgpt.cells.output import write_table as todays

    todays(parts, path)


def read_cells(path: str | Path) -> AnnData:
    from spikgpt.cells.obs import read_h5ad

    return read_h5ad(path)


def write_copy(
    source: Path,
    target: Path,
    *,
    obs: Mapping[str, Any] | None = None,
    obsm: Mapping[str, Any] | None = None,
    uns: Mapping[str, Any] | None = None,
) -> None:
    from spikgpt.cells.h5ad import write_with

    def coded(values: Any) -> Any:
        if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
            column = pd.Categorical(values)
            return column.codes.astype(np.int16), column.categories.tolist()
        return np.asarray(values)

    write_with(source, target, {name: coded(values) for name, values in (obs or {}).items()}, obsm or {}, uns or {})


def evaluate(annotation: Annotation, adata: AnnData, label_key: str, label_map: Mapping[str, str] | None = None) -> Any:
    from spikgpt.training.evaluation import Evaluation
    from spikgpt.training.evaluation import evaluate as todays

    class Result(Evaluation):
        notes = ()
        known_unknown_fraction = property(lambda self: self.known_unknown_rate)
        unseen_unknown_fraction = property(lambda self: self.unseen_unknown_rate)

    if label_map:
        labels = adata.obs[label_key].astype(str)
        obs = adata.obs.assign(**{label_key: labels.map(lambda label: label_map.get(label, label))})
        adata = type(adata)(obs=obs)
    return Result(**vars(todays(annotation, adata, label_key)))


def read_label_map(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        msg = f'{path} is no label map ({error}); expected JSON such as {{"Alpha cells": "alpha"}}.'
        raise ConfigError(msg) from error


def train(
    adata: AnnData,
    label_key: str,
    *,
    embedder: Any = "pca",
    options: TrainOptions | None = None,
    on_cells: Callable[[int], None] | None = None,
    on_epoch: Callable[[str, Any], None] | None = None,
) -> ReferenceFiles:
    from spikgpt.training.train import train as todays

    keywords = structs.asdict(options or TrainOptions())
    trained = todays(adata, label_key, embedder=embedder, on_cells=on_cells, on_epoch=on_epoch, **keywords)
    return ReferenceFiles(
        trained.name,
        trained.config,
        trained.embedder.settings(),
        trained.provenance,
        trained.labels,
        trained.thresholds,
        trained.embedder.genes,  # type: ignore[arg-type]
        trained.metrics,
        trained.familiarity,
        {},
        trained.files(),
    )


def training_notes(metrics: dict[str, Any], provenance: dict[str, Any], labels: Any) -> list[str]:
    dropped = provenance["labels_left_out"]
    return [f"{label} has {cells} cells, too few to learn from; left out." for label, cells in dropped.items()]


def study(
    adata: AnnData,
    label_key: str,
    *,
    types: list[str] | None = None,
    embedder: Any = "pca",
    options: TrainOptions | None = None,
    on_type: Callable[[str], None] | None = None,
) -> Any:
    from spikgpt.training.novelty import study as todays

    return todays(
        adata, label_key, types=types, embedder=embedder, on_type=on_type, **structs.asdict(options or TrainOptions())
    )


def open_scgpt(name: str | Path, *, max_length: int = 1200, bundled: bool = False, hub: Hub | None = None) -> Any:
    from spikgpt.training.embedders import open_scgpt as todays

    return todays(name, hub=hub, max_length=max_length, bundled=bundled)


@dataclass(frozen=True)
class Running:
    batch_size: int | None = None
    precision: str = "float32"
    device: str | None = None
    cache: Path | None = None
    draws: UpstreamDraws | None = None


def ScGPTEmbedder(source: Any, running: Running) -> Any:
    return replace(source, **vars(running))


def pull(name: str, folder: str | Path, revision: str | None = None, hub: Hub | None = None) -> Any:
    from spikgpt.training.sharing import pull as todays

    return todays(name, folder, revision, hub=hub)


def push(
    folder: str | Path, repo: str, options: PushOptions, *, hub: Hub | None = None, scgpt: str | Path | None = None
) -> Any:
    from spikgpt.training.sharing import push as todays

    return todays(folder, repo, hub=hub, scgpt=scgpt, **structs.asdict(options))


def verify(folder: str | Path, *, hub: Hub | None = None, scgpt: str | Path | None = None) -> Any:
    from spikgpt.training.sharing import verify as todays

    return todays(folder, hub=hub, scgpt=scgpt)


def exportable(reference: ReferenceFiles, *, scgpt: str | Path | None = None, hub: Hub | None = None) -> Any:
    from spikgpt.training.reference import load

    return replace(load(reference.folder, scgpt=scgpt, hub=hub), origin=reference.origin)
