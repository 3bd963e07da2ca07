"""Annotation of a query in several files: fit the query model once, label every shard, and resume interrupted runs.

The two passes are those of :mod:`spikgpt.pipeline`. In the first pass, workers read the shards and keep the aligned
cells on their disks. They return a content key for each cell, a number that depends on the cell's values only. The
driver, the process that started the run, chooses the sample by these keys and fits the query model. In the second pass,
workers label the shards, and write one part for each shard.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from spikgpt.cells.align import joined
from spikgpt.cells.obs import combined_batches
from spikgpt.cells.progress import progress_bar
from spikgpt.embedding.base import Engine
from spikgpt.engines.query_model import QueryModel
from spikgpt.engines.restriction import restrict
from spikgpt.errors import ConfigError, DataError, ShardError, SpikGPTError, needs, with_noun
from spikgpt.files import hold_lock, replacing, sha256_of
from spikgpt.options import AnnotateOptions, EngineOptions
from spikgpt.pipeline import INFERRED
from spikgpt.reference.files import Reference
from spikgpt.reference.format import with_manifest
from spikgpt.sampling import sample_of
from spikgpt.scoring.notes import QuerySummary
from spikgpt.shards.files import ShardFile, identify_all
from spikgpt.shards.manifest import FREE, QUERY_MODEL, Arguments, Shard, ShardManifest, open_manifest
from spikgpt.shards.parts import part_name
from spikgpt.shards.pools import Pool, in_process
from spikgpt.shards.worker import ShardFacts, ShardJob, fetch_cells, label_shard, read_shard
from spikgpt.types import InputReport, Integers, Rows
from spikgpt.version import __version__

# Default number of cells of a shard, and so of the part with its labels.
SHARD_SIZE = 100_000
# Seconds between two writes of the manifest.
SAVE_SECONDS = 2.0


@dataclass(frozen=True)
class ShardedAnnotation:
    """Labels of a query in several files, written as Parquet files to a folder.

    Attributes
    ----------
    folder
        Folder with the parts, ``query_model.safetensors`` and ``manifest.json``.
    parts
        Parquet files, in the order of the shards: one row per cell, with the columns of :meth:`Annotation.table` and
        the column ``shard``.
    resumed
        Number of parts that an earlier run had finished.
    """

    folder: Path
    parts: tuple[Path, ...]
    resumed: int
    summary: QuerySummary

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.summary.tally.cells

    @property
    def unknown_fraction(self) -> float:
        """Share of cells that are Unknown."""
        return self.summary.unknown_fraction

    def counts(self) -> dict[str, int]:
        """Return the number of cells of each label, the largest first."""
        return dict(self.summary.tally.labels)

    def sentences(self) -> list[str]:
        """Return sentences on the values, the genes, the rejection and the compatibility."""
        return self.summary.sentences()

    def notes(self) -> list[str]:
        """Return a sentence on each unusual fact, such as few genes or many Unknown cells."""
        return self.summary.notes()


def annotate_shards(
    reference: Reference,
    engine: Engine,
    shards: Iterable[str | Path],
    folder: Path,
    options: AnnotateOptions,
    *,
    client: Any = None,
    shard_size: int = SHARD_SIZE,
) -> ShardedAnnotation:
    """Label the cells of several files, which together are one query; see :func:`spikgpt.annotate_shards`."""
    # Leave out options that only the command line has; their values were applied before.
    options = AnnotateOptions(**{name: getattr(options, name) for name in AnnotateOptions.__struct_fields__})
    if options.majority_vote or options.cluster_key is not None:
        msg = (
            "Shards are labelled one by one, so the most frequent label of a cluster in all shards is not known. Leave "
            "out majority_vote and cluster_key (--majority-vote, --cluster-key), or annotate one file with all cells."
        )
        raise ConfigError(msg)
    files = identify_all(shards)
    worker_options = _engine_options(engine)
    reference, engine = restrict(reference, engine, options)
    arguments = Arguments(
        spikgpt_version=__version__,
        reference=reference.name,
        reference_digest=reference.digest,
        engine={name: getattr(worker_options, name) for name in ("engine", "precision")},
        options={name: value for name, value in structs.asdict(options).items() if name not in FREE},
        shard_size=shard_size,
        files=files,
    )
    folder = folder.resolve()
    _check_folder(folder, files)
    client = client or _current_client()
    refusal = f"Another process labels shards into {folder}; wait for it, or name another folder."
    with hold_lock(folder / ".lock", refusal):
        manifest = open_manifest(folder, arguments)
        content = with_manifest(reference.files)
        job = ShardJob(arguments.digest, str(folder), content, reference.origin, worker_options, options)
        with _pool(client, job, (reference, engine)) as pool:
            run = _Run(reference, engine, folder, options, manifest, pool)
            run.fit()
            return run.label()


@dataclass
class _Run:
    """The two passes of a run in the driver, which submits tasks to the pool and collects their results."""

    reference: Reference
    engine: Engine
    folder: Path
    options: AnnotateOptions
    manifest: ShardManifest
    pool: Pool
    # Address of the worker that has cached the cells of a shard, by the index of the file and the first row.
    workers: dict[tuple[int, int], str | None] = field(default_factory=dict)

    @property
    def files(self) -> list[ShardFile]:
        """Files of the query."""
        return self.manifest.arguments.files

    def fit(self) -> None:
        """Fit the query model, unless an earlier run has fitted the model."""
        path, known = self.folder / QUERY_MODEL, self.manifest.query_model
        if known is not None and path.is_file() and sha256_of(path) == known:
            return
        facts = self._read()
        ranges = {key: range(key[1], fact.stop) for key, fact in facts.items()}
        batches = _batches(list(facts.values()), self.options.batch_key)
        shards = [
            Shard(file, rows.start, rows.stop, codes)
            for ((file, _), rows), codes in zip(ranges.items(), batches[1], strict=True)
        ]
        rows = _sampled_rows(facts)
        with progress_bar("Fitting to a sample", None, self.options.progress):
            cells, codes = self._fetch(shards, rows)
            model = QueryModel.fit(
                self.engine,
                self.reference.familiarity,
                cells,
                rows,
                batches=codes,
                report=_joined_report([(self.files[key[0]].path, fact) for key, fact in facts.items()]),
                options=self.options,
            ).with_rule(self.reference.thresholds, self.reference.labels.names, self.options)
        content = model.save()
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        self.manifest.shards, self.manifest.batch_key = shards, INFERRED if model.inferred else batches[0]
        self.manifest.query_model = hashlib.sha256(content).hexdigest()
        self.manifest.save(self.folder)

    def _read(self) -> dict[tuple[int, int], ShardFacts]:
        """Read all shards; return their facts by index of the file and first row, in the order of the query."""
        size, facts = self.manifest.arguments.shard_size, dict[tuple[int, int], ShardFacts]()
        for number, file in enumerate(self.files):
            self.pool.submit((number, 0), read_shard, file, range(size))
        with progress_bar("Reading", None, self.options.progress) as bar:
            for result in self.pool.results():
                if result.error:
                    raise result.error
                key, fact = result.key, result.value
                number, start = key
                facts[key], self.workers[key] = fact, result.worker
                if start == 0:
                    _check_alike(self.files, facts, number)
                    for first in range(size, fact.n_obs, size):
                        rows = range(first, first + size)
                        self.pool.submit((number, first), read_shard, self.files[number], rows)
                bar.update(len(fact.keys))
        return dict(sorted(facts.items()))

    def _fetch(self, shards: Sequence[Shard], rows: Any) -> tuple[Any, Integers]:
        """Return the cells in k rows of the query, and the index of the batch of each cell, shape (k,)."""
        firsts = _first_rows(shards)
        for number, shard in enumerate(shards):
            own = rows[(rows >= firsts[number]) & (rows < firsts[number + 1])] - firsts[number]
            if len(own) or not (len(rows) or number):
                worker = self.workers.get((shard.file, shard.start))
                file_rows = self.files[shard.file], range(shard.start, shard.stop)
                self.pool.submit(number, fetch_cells, *file_rows, own, worker=worker)
        parts = {}
        for result in self.pool.results():
            if result.error:
                raise result.error
            cells, codes = result.value
            parts[result.key] = cells, np.array(shards[result.key].batches)[codes]
        ordered = [parts[number] for number in sorted(parts)]
        return joined([cells for cells, _ in ordered]), np.concatenate([codes for _, codes in ordered])

    def label(self) -> ShardedAnnotation:
        """Label the shards whose parts are not finished."""
        shards, parts, saved = self.manifest.shards, self.manifest.parts, time.monotonic()
        firsts, failures, resumed = _first_rows(shards), list[SpikGPTError](), 0
        with progress_bar("Labelling", int(firsts[-1]), self.options.progress) as bar:
            for number, shard in enumerate(shards):
                file_rows = self.files[shard.file], range(shard.start, shard.stop)
                plan = int(firsts[number]), shard.batches, self.manifest.batch_key, self.manifest.query_model
                name = part_name(number)
                worker = self.workers.get((shard.file, shard.start))
                self.pool.submit(number, label_shard, *file_rows, *plan, name, parts.get(name), worker=worker)
            try:
                for result in self.pool.results():
                    if result.error:
                        failures.append(result.error)
                        continue
                    parts[part_name(result.key)], finished = result.value
                    resumed += finished
                    bar.update(shards[result.key].stop - shards[result.key].start)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self.manifest.save(self.folder)
                        saved = time.monotonic()
            finally:
                self.manifest.save(self.folder)
        if failures:
            msg = (
                f"{len(failures)} of {with_noun(len(shards), 'shard')} could not be labelled; the parts of the "
                "others are in "
                f"{self.folder}. {failures[0]} Correct the problem and run the same command again; it labels the rest."
            )
            raise ShardError(msg)
        return self._annotation(resumed)

    def _annotation(self, resumed: int) -> ShardedAnnotation:
        """Return the finished annotation."""
        model = QueryModel.load((self.folder / QUERY_MODEL).read_bytes(), self.reference.familiarity)
        assert model.rule is not None
        names = [part_name(number) for number in range(len(self.manifest.shards))]
        tallies = [self.manifest.parts[name].tally for name in names]
        summary = QuerySummary(
            tally=sum(tallies[1:], start=tallies[0]),
            report=model.report,
            rule=model.rule,
            compatibility=model.compatibility,
            label_names=self.reference.labels.names,
            label_ids=self.reference.labels.cell_ontology_ids,
            reference_name=self.reference.name,
            batch_key=self.manifest.batch_key,
        )
        return ShardedAnnotation(self.folder, tuple(self.folder / name for name in names), resumed, summary)


def _check_folder(folder: Path, files: list[ShardFile]) -> None:
    """Refuse an output folder that cannot be written, or that lies inside a shard."""
    existing = next(part for part in (folder, *folder.parents) if part.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        msg = f"{folder} cannot be written: {existing} is {'not writable for you' if existing.is_dir() else 'a file'}. "
        raise ConfigError(msg + "Name another folder.")
    if shard := next((file.path for file in files if folder.is_relative_to(file.path)), None):
        msg = f"{folder} lies in the shard {shard}; name a folder outside the shards."
        raise ConfigError(msg)


def _engine_options(engine: Engine) -> EngineOptions:
    """Return the options with which workers open the same engine with one thread."""
    options = getattr(engine, "options", EngineOptions())
    return structs.replace(options, engine=engine.name.partition(" ")[0], threads=1)


def _current_client() -> Any:
    """Return the Dask client that the user has opened; None if there is none."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None


def _pool(client: Any, job: ShardJob, model: tuple[Reference, Engine]) -> AbstractContextManager[Pool]:
    """Return a pool of the workers of a Dask client or, if ``client`` is None, of this process."""
    if client is None:
        return in_process(job, model)
    with needs("distributed"):
        from spikgpt.shards.cluster import on_cluster
    return on_cluster(client, job)


def _first_rows(shards: Sequence[Shard]) -> Integers:
    """Return the row number in the query of each shard's first cell, followed by the number of all cells."""
    return np.cumsum([0, *(shard.stop - shard.start for shard in shards)])


def _check_alike(files: list[ShardFile], facts: dict[tuple[int, int], ShardFacts], number: int) -> None:
    """Refuse a file with another kind of values or other genes than the files that were read before."""
    other = min(file for file, start in facts if start == 0)
    compared, first = facts[number, 0], facts[other, 0]
    paths = files[number].path, files[other].path
    if compared.unit != first.unit:
        msg = (
            f"{paths[0]} holds {compared.unit}, and {paths[1]} holds {first.unit}; expected one kind of values in all "
            "shards. Write counts into all of them, or annotate them apart."
        )
        raise DataError(msg)
    if compared.genes != first.genes:
        msg = (
            f"{paths[0]} has other genes than {paths[1]} ({compared.genes}; {first.genes}); expected the same genes in "
            "all shards, in any order. Keep the genes that all have, or annotate the shards apart."
        )
        raise DataError(msg)


def _sampled_rows(facts: dict[tuple[int, int], ShardFacts]) -> Rows:
    """Choose the sample by the content keys, which are then dropped; return its row numbers in the query, ascending."""
    keys = np.concatenate([fact.keys for fact in facts.values()])
    for key, fact in facts.items():  # drop the keys: a billion take 8 GB
        facts[key] = dataclasses.replace(fact, keys=keys[:0])
    empty = np.isnan(keys)
    return np.flatnonzero(~empty)[sample_of(keys[~empty])] if empty.any() else sample_of(keys)


def _batches(facts: list[ShardFacts], batch_key: str | None) -> tuple[str | None, list[list[int]]]:
    """Return the names of the batch columns, and for each shard the batch of each combination of their values.

    The names are joined by " x "; None stands for a query of one batch.
    """
    names = [name for name in facts[0].columns if all(name in fact.columns for fact in facts)]
    values = dict[str, list[str]]()
    for name in names:
        texts = [[row[list(fact.columns).index(name)] for row in fact.combinations] for fact in facts]
        kinds = {fact.columns[name] for fact in facts}
        # If a column of whole numbers has a missing value in a shard, pandas reads floats. The whole numbers of the
        # other shards are then converted to floats too.
        as_float = "f" in kinds and kinds <= set("fiu")
        values[name] = [str(float(text)) if as_float else text for of_shard in texts for text in of_shard]
    codes = {name: np.unique(np.array(texts, dtype=object), return_inverse=True)[1] for name, texts in values.items()}
    cells = np.concatenate([fact.cells for fact in facts]).astype(np.float64)
    batches = combined_batches(codes, cells, batch_key)
    ends = np.cumsum([len(fact.cells) for fact in facts])[:-1]
    return batches.key, [part.tolist() for part in np.split(batches.codes, ends)]


def _joined_report(facts: list[tuple[str, ShardFacts]]) -> InputReport:
    """Return the report on a query from the path and the facts of each shard.

    A note on only some of the files begins with the path of the first of these files, and with their number.
    """
    paths = dict[str, dict[str, None]]()
    for path, fact in facts:
        for note in (*fact.report.notes, *fact.notes):
            paths.setdefault(note, {})[path] = None
    n_files = len({path for path, _ in facts})
    notes = [
        note if len(of_note) == n_files else f"{next(iter(of_note))}, one of {len(of_note)} such shards: {note}"
        for note, of_note in paths.items()
    ]
    sources = dict.fromkeys(fact.report.source for _, fact in facts)
    return dataclasses.replace(facts[0][1].report, source=" and ".join(sources), notes=tuple(notes))
