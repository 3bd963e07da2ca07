"""Tasks of a worker: read shards, return sampled cells, label shards."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.obs import batch_columns
from spikgpt.cells.reading import open_cells
from spikgpt.embedding.base import Engine, QueryCells
from spikgpt.engines.opening import open_engine
from spikgpt.engines.query_model import QueryModel
from spikgpt.engines.restriction import restrict
from spikgpt.errors import DataError, ShardError, SpikGPTError, SpikGPTWarning
from spikgpt.options import AnnotateOptions, EngineOptions
from spikgpt.pipeline import CellLabels, annotation_of, label_cells, read_query
from spikgpt.reference.files import Reference, read_reference
from spikgpt.sampling import content_keys
from spikgpt.shards.cache import ShardCache
from spikgpt.shards.files import ShardFile, identify, local_copy
from spikgpt.shards.manifest import MANIFEST, QUERY_MODEL
from spikgpt.shards.parts import FinishedPart, finished_part, write_part
from spikgpt.types import InputReport, Integers, Rows, Strings


@dataclass(frozen=True)
class ShardJob:
    """Arguments that all tasks of a run need; each worker gets them once.

    Attributes
    ----------
    run
        Digest of the arguments of the run.
    folder
        Output folder of the labels, on a disk that all workers share.
    files, origin
        Contents of the files of the reference by name, including the manifest, and ``REPOSITORY@COMMIT`` of the
        reference; None if it is not from the Hub.
    """

    run: str
    folder: str
    files: Mapping[str, bytes] = field(repr=False)
    origin: str | None
    engine: EngineOptions
    options: AnnotateOptions


@dataclass(frozen=True)
class ShardFacts:
    """Facts of a shard that the first pass returns.

    Attributes
    ----------
    stop, n_obs
        End of the rows that were read, excluded, and number of cells of the whole file.
    unit, genes
        Phrase on the kind of values, such as "counts values", and digest of the genes.
    columns
        Kind of the values of each column of obs that may name batches, by column name: NumPy's letter, such as "i".
    combinations, cells
        Combinations of values that these columns have in the shard, and the number of cells with each combination.
    keys
        Content keys of the cells (:func:`spikgpt.sampling.content_keys`), shape (n,); NaN for an empty cell.
    notes
        Warnings that the opening of the file gave.
    """

    stop: int
    n_obs: int
    unit: str
    genes: str
    report: InputReport
    columns: dict[str, str]
    combinations: list[tuple[str, ...]]
    cells: list[int]
    keys: npt.NDArray[np.float64] = field(repr=False)
    notes: tuple[str, ...]


@dataclass
class _OpenFile:
    """An open file, with its cells and the warnings that its opening gave."""

    file: ShardFile
    closing: ExitStack
    cells: Any
    query: QueryCells
    notes: tuple[str, ...]


class ShardWorker:
    """State of a run in one process: the reference, its engine, the query model, open files, and caches of shards.

    Parameters
    ----------
    scratch
        Folder on the disk of this worker.
    model
        Reference and engine, if both are open already; None to open them on first use.
    """

    def __init__(self, job: ShardJob, scratch: Path, model: tuple[Reference, Engine] | None = None) -> None:
        self.job, self.scratch = job, scratch
        self._model = model
        self._query_model: tuple[str, QueryModel] | None = None
        self._lock = threading.Lock()
        # The open file of each thread, by thread id, because the threads of a worker read different files.
        self._open: dict[int, _OpenFile] = {}
        self._caches: dict[tuple[str, int], ShardCache] = {}

    @property
    def model(self) -> tuple[Reference, Engine]:
        """Reference and engine, opened on first use."""
        with self._lock:
            if self._model is None:
                reference = read_reference(self.job.files, self.job.origin)
                self._model = restrict(reference, open_engine(reference, self.job.engine), self.job.options)
            return self._model

    def query_model(self, sha256: str) -> QueryModel:
        """Return the query model of the output folder; refuse a file with another sha256."""
        reference = self.model[0]
        with self._lock:
            if self._query_model is None or self._query_model[0] != sha256:
                content = Path(self.job.folder, QUERY_MODEL).read_bytes()
                if hashlib.sha256(content).hexdigest() != sha256:
                    msg = f"{self.job.folder} holds another {QUERY_MODEL} than its {MANIFEST} lists; start again."
                    raise ShardError(msg)
                self._query_model = sha256, QueryModel.load(content, reference.familiarity)
            return self._query_model[1]

    def open(self, file: ShardFile) -> _OpenFile:
        """Open a file, unless this thread has opened it already, and close the thread's previous file."""
        thread = threading.get_ident()
        opened = self._open.get(thread)
        if opened and opened.file == file:
            return opened
        if opened:
            self._open.pop(thread).closing.close()
        if identify(file.path) != file:
            msg = f"{file.path} was changed or replaced during the run; expected the file as it was. Start again."
            raise DataError(msg)
        with ExitStack() as stack, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SpikGPTWarning)
            cells = stack.enter_context(open_cells(stack.enter_context(local_copy(file.path, self.scratch))))
            query = read_query(self.model[1], cells, self.job.options)
            notes = tuple(str(warning.message) for warning in caught if issubclass(warning.category, SpikGPTWarning))
            self._open[thread] = _OpenFile(file, stack.pop_all(), cells, query, notes)
        return self._open[thread]

    def read(self, file: ShardFile, rows: range) -> ShardFacts:
        """Read and cache the cells in some rows of a file, and return their facts."""
        opened = self.open(file)
        query, rows = opened.query, range(rows.start, min(rows.stop, opened.query.n_obs))
        columns, combinations, codes = self._combinations(opened, rows)
        cache = ShardCache(self._cache_path(file, rows.start), _names(opened, rows), codes)
        self._caches[file.path, rows.start] = cache
        keys, genes, start = [], "", 0
        for chunk in query.rows(rows, 1):
            cache.append(start, chunk)
            genes = genes or _digest_of_genes(query, chunk)
            filled = np.flatnonzero(~chunk.empty)
            of_chunk = np.full(len(chunk.totals), np.nan)
            of_chunk[filled] = content_keys(chunk.values[filled])
            keys.append(of_chunk)
            start += len(chunk.totals)
        return ShardFacts(
            stop=rows.stop,
            n_obs=query.n_obs,
            unit=_unit_of(query),
            genes=genes,
            report=query.report,
            columns=columns,
            combinations=combinations,
            cells=np.bincount(codes, minlength=len(combinations)).tolist(),
            keys=np.concatenate(keys),
            notes=opened.notes,
        )

    def chunks(self, file: ShardFile, rows: range, some: Rows | None = None) -> Iterator[tuple[int, AlignedCells]]:
        """Yield the first row and the cells of each chunk of a shard, from the cache if the cache is intact.

        ``some`` are row numbers in the shard, ascending. The cache leaves out chunks without any of these rows. None
        stands for all rows.
        """
        cache = self._caches.get((file.path, rows.start))
        if cache and cache.intact:
            yield from cache.chunks(some)
            return
        start = 0
        for chunk in self.open(file).query.rows(rows, 1):
            yield start, chunk
            start += len(chunk.totals)

    def head(self, file: ShardFile, rows: range) -> tuple[Strings, Integers]:
        """Return the names of the n cells of a shard and the index of each cell's combination of batch values.

        Both arrays have the shape (n,).
        """
        cache = self._caches.get((file.path, rows.start))
        if cache and cache.intact:
            return cache.head()
        opened = self.open(file)
        return _names(opened, rows), self._combinations(opened, rows)[2]

    def forget(self, file: ShardFile, rows: range) -> None:
        """Delete the cache of a shard."""
        if cache := self._caches.pop((file.path, rows.start), None):
            cache.remove()

    def close(self) -> None:
        """Close the files and delete the caches."""
        for opened in self._open.values():
            opened.closing.close()
        for cache in self._caches.values():
            cache.remove()
        self._open.clear()
        self._caches.clear()

    def _combinations(self, opened: _OpenFile, rows: range) -> tuple[dict[str, str], list[tuple[str, ...]], Integers]:
        """Return the batch columns with their kinds, the combinations of their values, and each cell's combination.

        Batch columns are the columns that may name batches. The last array, shape (n,), is the index of the combination
        of each cell.
        """
        obs = opened.cells.obs.iloc[rows.start : rows.stop]
        names = batch_columns(obs, self.job.options.batch_key)
        codes = np.zeros(len(rows), dtype=np.int64)
        for name in names:
            other = pd.factorize(obs[name].astype(str), sort=True)[0]
            codes = np.unique(codes * (other.max(initial=0) + 1) + other, return_inverse=True)[1].ravel()
        firsts = np.unique(codes, return_index=True)[1]
        texts = [obs[name].iloc[firsts].astype(str).tolist() for name in names]
        combinations: list[tuple[str, ...]] = list(zip(*texts, strict=True)) if names else [()]
        return {str(name): _kind_of(obs[name]) for name in names}, combinations, codes

    def _cache_path(self, file: ShardFile, start: int) -> Path:
        name = hashlib.sha256(f"{self.job.run} {file.path} {start}".encode()).hexdigest()
        return self.scratch / f"spikgpt-{name[:32]}.cells"


# The runs of this process, by the digest of their arguments.
_RUNS: dict[str, ShardWorker] = {}


def start_run(job: ShardJob, scratch: Path, model: tuple[Reference, Engine] | None = None) -> None:
    """Make this process a worker of a run; see :class:`ShardWorker`."""
    stop_run(job.run)
    _RUNS[job.run] = ShardWorker(job, scratch, model)


def stop_run(run: str) -> None:
    """Close the files of a run, and delete its caches."""
    if worker := _RUNS.pop(run, None):
        worker.close()


def read_shard(run: str, file: ShardFile, rows: range) -> ShardFacts:
    """Read the cells of some rows of a file, and return their content keys and other facts."""
    with _named(file, rows):
        return _RUNS[run].read(file, rows)


def fetch_cells(run: str, file: ShardFile, rows: range, some: Rows) -> tuple[AlignedCells, Integers]:
    """Return k cells of a shard, and the index of each cell's combination of values in the batch columns, shape (k,).

    Parameters
    ----------
    some
        Row numbers in the shard, ascending, shape (k,).
    """
    with _named(file, rows):
        worker, parts = _RUNS[run], []
        for start, chunk in worker.chunks(file, rows, some):
            chosen = some[(some >= start) & (some < start + len(chunk.totals))] - start
            parts.append(chunk.part(chosen))
        return joined(parts), worker.head(file, rows)[1][some]


def label_shard(
    run: str,
    file: ShardFile,
    rows: range,
    first: int,
    batches: list[int],
    batch_key: str | None,
    query_model: str,
    name: str,
    expected: FinishedPart | None,
) -> tuple[FinishedPart, bool]:
    """Label a shard and write its part, unless a finished part exists; return the part, and True if it existed.

    Parameters
    ----------
    first
        Row number in the query of the shard's first cell.
    batches
        Index of the batch of each combination of values in the batch columns.
    batch_key
        Names of the columns with the batches; None for one batch.
    query_model
        Sha256 of the file with the query model.
    name
        File name of the part.
    expected
        Part that the manifest lists; None if the manifest lists none.
    """
    worker = _RUNS[run]
    with _named(file, rows):
        folder = Path(worker.job.folder)
        if not (folder / MANIFEST).is_file():
            msg = f"this worker cannot reach the folder {folder}; name a folder on a disk that all workers share."
            raise ShardError(msg)
        if part := finished_part(folder / name, expected, run=run, query_model=query_model):
            worker.forget(file, rows)
            return part, True
        (reference, engine), model, options = worker.model, worker.query_model(query_model), worker.job.options
        obs_names, codes = worker.head(file, rows)
        batch_of = np.array(batches, dtype=np.int64)[codes]
        labels = CellLabels.allocate(len(rows), len(reference.labels.names))
        for start, chunk in worker.chunks(file, rows):
            own = np.arange(start, start + len(chunk.totals))
            chosen: dict[str, Any] = {"certainty": options.certainty, "batch_size": options.batch_size}
            of_chunk = label_cells(reference, engine, model, chunk, first + own, batch_of[own], **chosen)
            labels.fill(own, of_chunk)
        annotation = annotation_of(reference, model, labels, pd.Index(obs_names), options, batch_key=batch_key)
        part = write_part(folder / name, annotation, file.path, run=run, query_model=query_model)
        worker.forget(file, rows)
        return part, False


@contextmanager
def _named(file: ShardFile, rows: range) -> Iterator[None]:
    """While this context is open, add the path and the rows of the shard to the message of an error."""
    try:
        yield
    except (SpikGPTError, OSError, MemoryError) as error:
        kind = type(error) if isinstance(error, SpikGPTError) else ShardError
        text = " ".join(str(error).split()) or type(error).__name__
        row_range = f", rows {rows.start} to {rows.stop}" if rows.start else ""
        msg = text if text.startswith(file.path) else f"{file.path}{row_range}: {text}"
        raise kind(msg) from None


def _names(opened: _OpenFile, rows: range) -> Strings:
    """Return the names of the cells of some rows of a file, shape (n,)."""
    return np.asarray(opened.cells.obs_names[rows.start : rows.stop], dtype=np.str_)


def _kind_of(column: pd.Series[Any]) -> str:
    """Return NumPy's letter for the kind of the values of a column, such as ``i`` for whole numbers."""
    dtype: Any = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    return str(dtype.kind)


def _unit_of(query: QueryCells) -> str:
    """Return a phrase on the values of a query: counts, linear or log values, and the base of the logarithm."""
    if query.expression is None:
        return query.report.values
    content = query.expression.content
    base = "" if content.log_base is None else f" of base {content.log_base:.4g}"
    return f"{content.kind} values{base}" + (f" after {content.inverse}" if content.inverse else "")


def _digest_of_genes(query: QueryCells, chunk: AlignedCells) -> str:
    """Return a digest of the genes of a query, in any order, and of the genes that the reference shares."""
    names = [] if query.expression is None else sorted(map(str, query.expression.var.index))
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(chunk.genes_present.tobytes() + chunk.other_genes.tobytes())
    return f"{len(names)} genes, {digest.hexdigest()[:12]}" if names else digest.hexdigest()[:12]
