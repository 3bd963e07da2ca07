"""The main path without torch: cells and a reference's graph in, labels out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from scipy import sparse
from tqdm import tqdm

from spikgpt.cells.align import AlignedCells, aligned_chunks
from spikgpt.cells.expression import Cells, Expression, find_expression
from spikgpt.cells.reading import open_cells
from spikgpt.cells.spool import Spool
from spikgpt.embedding.obsm import PrecomputedEmbedder
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.pca import PCAProjection, Scale
from spikgpt.embedding.result import Embedding, EmbeddingReport
from spikgpt.embedding.vocabulary import Vocabulary, check_scaling
from spikgpt.errors import ConfigError, DamagedReference, DataError, GraphError
from spikgpt.labels.annotation import Annotation, annotated
from spikgpt.labels.familiarity import Familiarity, Traits
from spikgpt.labels.neighbours import Neighbourhood
from spikgpt.labels.reading import Reader, Readings, read_embedding
from spikgpt.labels.thresholds import Rejection
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import ENCODER, GRAPHS
from spikgpt.reference.registry import find
from spikgpt.reference.stored import EMBEDDER, read_stored
from spikgpt.sampling import content_keys, sample_of
from spikgpt_onnx import contract
from spikgpt_onnx.session import Options, Session

# Cells to a batch on a CPU, whose values then stay in its cache, and on a GPU.
CPU_BATCH, GPU_BATCH = 512, 8192
# Cells read at a time.
CHUNK = 4096
# Tokens to a batch of scGPT's encoder.
CPU_TOKENS, GPU_TOKENS = 8192, 1 << 18
# What is kept of what the graph gives.
KEPT = (contract.PROBABILITIES, contract.ENERGY, contract.VECTOR)
Floats = npt.NDArray[np.floating[Any]]
# From what is done and the number of cells to a progress bar.
Bar = Callable[[str, int], Any]


class Annotator:
    """A reference that labels cells through ONNX Runtime; most users call :meth:`from_pretrained`.

    Parameters
    ----------
    folder
        A reference with its graph, as ``spikgpt export`` writes it.
    origin
        Repository and commit that it came from.
    precision
        Which of its graphs to run: ``fp32``, ``fp16`` or ``int8``.
    options
        Fields of :class:`spikgpt_onnx.session.Options`: provider, strict, threads, memory_arena, engine_cache,
        io_binding.

    Raises
    ------
    DamagedReference
        When a file is missing, altered or inconsistent with the others.
    GraphError
        When it has no such graph, or that cannot run where it was asked to.
    """

    def __init__(
        self, folder: str | Path, *, origin: str | None = None, precision: str = "fp32", **options: Any
    ) -> None:
        if precision not in GRAPHS:
            msg = f"There is no precision {precision!r}; choose {', '.join(GRAPHS)}."
            raise ConfigError(msg)
        self.origin = origin
        self.options = Options(**options)
        self.stored = read_stored(Path(folder))
        self.session = Session.of(self.stored.files, GRAPHS[precision], self.options)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        endpoint: str | None = None,
        local_files_only: bool = False,
        precision: str = "fp32",
        **options: Any,
    ) -> Annotator:
        """Load a reference by name, from a folder, or from the Hugging Face Hub.

        Parameters
        ----------
        name
            A name such as ``pancreas``, a folder, or ``org/repo[@revision]``. A name means the reference that ships
            with this package, else the repository of that name in the namespace ``SPIKGPT_NAMESPACE``.
        revision
            Branch, tag or commit of the repository. With one, a name always means the repository.
        token
            Token for the Hub, True for that of ``hf auth login``, False for none. By default the stored one is used
            with the default endpoint, and none with another.
        cache_dir
            Where to keep what is downloaded; by default the cache of huggingface_hub.
        endpoint
            Address of the Hub; by default ``HF_ENDPOINT``, or huggingface.co.
        local_files_only
            Take what is cached and ask nothing of the Hub.
        precision, options
            As for the class.

        Raises
        ------
        ReferenceNotFound
            When there is no such reference.
        DamagedReference
            When a file of it is missing or altered, even after it was fetched again.
        HubError
            When the Hub refuses or cannot be reached, and the reference is not cached.
        GraphError
            When it has no such graph, or that cannot run where it was asked to.
        """
        found = find(name, revision, hub=Hub(endpoint, token, cache_dir, local_files_only))
        return cls(found.folder, origin=found.origin, precision=precision, **options)

    def __repr__(self) -> str:
        return f"Annotator({self.stored.name!r}, {len(self.labels)} labels, on {self.provider})"

    @property
    def provider(self) -> str:
        """Where the graph runs: cpu, cuda or tensorrt."""
        return self.session.provider

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, by index."""
        return self.stored.labels.names

    def annotate(
        self,
        cells: Any,
        *,
        genes: Sequence[str] | None = None,
        layer: str | None = None,
        scaling: str = "auto",
        neighbours: bool = True,
        unknown_rate: float | None = None,
        threshold: float | None = None,
        recalibrate: bool = False,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Annotation:
        """Label every cell.

        Parameters
        ----------
        cells
            An AnnData, which gets the labels in ``obs``, ``obsm`` and ``uns``; the path of an h5ad file, which is read
            a few cells at a time; or a matrix, dense or sparse, shape (n, genes).
        genes
            Symbols or Ensembl ids of the columns of a matrix.
        layer
            Layer to read; by default the best expression values that there are.
        scaling
            How query genes are brought to the reference's scale; ``auto`` decides by evidence.
        neighbours
            Average each cell's probabilities with those of the cells nearest to it; else each cell is labelled alone.
        unknown_rate
            Share of the known cells that may be Unknown, by familiarity; by default 5%. 0 rejects no cell.
        threshold
            Confidence below which a cell is Unknown, instead: the paper's rule, with 0.95.
        recalibrate
            Lower the limits of familiarity to what the query itself suggests, for one that lies far from the reference.
        batch_size
            Cells classified at a time; the labels do not depend on it.
        progress
            Whether to show a bar; by default where there is a terminal.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        ConfigError
            When an option is out of range.
        """
        rejection = Rejection(unknown_rate, threshold, recalibrate)  # refuse bad options before the work
        size = (CPU_BATCH if self.provider == "cpu" else GPU_BATCH) if batch_size is None else batch_size
        if size < 1:
            msg = f"batch_size is {batch_size}; it must be at least 1."
            raise ConfigError(msg)
        workers = self.options.workers if self.provider == "cpu" else 1
        with _opened(cells, genes) as source, ThreadPoolExecutor(workers) as pool:
            run = _Run(self.session, pool, size, len(self.labels), progress, neighbours, self.stored.familiarity)
            if self.stored.embedder.get("kind") == PCA:
                expression, tensors = find_expression(source, layer=layer), self.stored.part(EMBEDDER)
                projection = PCAProjection.from_tensors(self.stored.embedder, tensors, self.stored.genes)
                read, empty, report = run.of_counts(expression, projection, scaling)
            else:
                embedding = self._embedded(source, layer, scaling, run.bar)
                read, empty, report = run.of_embedding(embedding), embedding.empty, embedding.report
            names = source.obs_names
        annotation = annotated(
            names,
            read,
            empty,
            report,
            thresholds=self.stored.thresholds,
            rejection=rejection,
            labels=self.stored.labels,
            neighbours=neighbours,
            reference_name=self.stored.name,
            reference_origin=self.origin,
        )
        if hasattr(cells, "uns"):
            annotation.write_to(cells)
        return annotation

    def _embedded(self, source: Cells, layer: str | None, scaling: str, bar: Bar) -> Embedding:
        """Return the cells as vectors, for a reference that classifies an embedding."""
        if self.stored.embedder.get("kind") == "obsm":
            return PrecomputedEmbedder.from_settings(self.stored.embedder).embed(source, layer=layer, scaling=scaling)
        check_scaling(scaling)
        # One batch of tokens at a time, by all threads: it takes much memory.
        session = Session.of(self.stored.files, ENCODER, self.options, threads=self.options.workers)
        vocabulary = Vocabulary.from_json(session.metadata.get("vocabulary", ""))
        if vocabulary.sha256 != self.stored.embedder.get("sha256"):
            msg = f"{ENCODER} is another scGPT than the reference was trained on. Export the reference again."
            raise DamagedReference(msg)
        expression = find_expression(source, layer=layer)
        return scgpt_embedding(session, vocabulary, self.stored.config.input_dim, expression, bar)


@dataclass(frozen=True)
class _Run:
    """One query on its way through the graph, ``batch`` cells at a time."""

    session: Session
    pool: ThreadPoolExecutor
    batch: int
    n_labels: int
    progress: bool | None
    neighbours: bool
    familiarity: Familiarity | None

    def of_counts(
        self, expression: Expression, projection: PCAProjection, scaling: str
    ) -> tuple[Readings, npt.NDArray[np.bool_], EmbeddingReport]:
        """Return what the cells that are not empty look like, which cells are empty, and how they were read.

        Twice through the cells: what the query's scale and its own space are is learned from a sample of them first.
        """
        with Spool() as spool:
            with self.bar("Reading", expression.n_cells) as bar:
                for chunk in aligned_chunks(expression, projection.genes, chunk_size=CHUNK):
                    spool.add(chunk)
                    bar.update(len(chunk.totals))
            sample, shown = spool.sample()
            scale, used, notes = projection.query_scale(sample, scaling, self.probabilities)
            logs = projection.logs(sample)
            space = projection.own_space(sample) if self.neighbours else None

            def placed(logs: sparse.csr_matrix) -> Floats:
                return space.place(logs) if space else np.empty((logs.shape[0], 0))

            seen = self.classified(sample, scale)
            reader = Reader.of(
                Neighbourhood(shown, placed(logs), seen[contract.PROBABILITIES]),
                self.familiarity,
                self.traits(seen, logs),
                projection.profiles(sample.found),
                together=self.neighbours,
            )
            probabilities = np.empty((expression.n_cells, self.n_labels), dtype=np.float32)
            scores = np.empty(expression.n_cells)
            empty = []
            passed = 0
            with self.bar("Labelling", expression.n_cells) as bar:
                for chunk in spool.chunks():
                    empty.append(chunk.empty)
                    filled = chunk.part(~chunk.empty)
                    seen, logs = self.classified(filled, scale), projection.logs(filled)
                    cells = passed + np.arange(len(filled.totals))
                    found = reader.read(seen[contract.PROBABILITIES], placed(logs), cells, self.traits(seen, logs))
                    probabilities[cells] = found.probabilities
                    if found.scores is not None:
                        scores[cells] = found.scores
                    passed += len(filled.totals)
                    bar.update(len(chunk.totals))
        report = EmbeddingReport(
            source=expression.source,
            values=expression.kind,
            scaling=used,
            genes_matched=int(sample.found.sum()),
            genes_total=len(projection.genes),
            notes=sample.notes + notes,
        )
        readings = Readings(probabilities[:passed], scores[:passed] if reader.judge else None, reader.together)
        return readings, np.concatenate([np.empty(0, dtype=bool), *empty]), report

    def of_embedding(self, embedding: Embedding) -> Readings:
        """Return what the cells that are not empty look like, for cells that are vectors already."""
        vectors = embedding.vectors[~embedding.empty]
        with self.bar("Labelling", len(vectors)) as bar:

            def one(part: slice) -> dict[str, Floats]:
                found = self.session.run({contract.EMBEDDING: vectors[part]})
                bar.update(len(vectors[part]))
                return found

            seen = self._joined(one, len(vectors))
        return read_embedding(
            embedding, seen[contract.PROBABILITIES], seen.get(contract.ENERGY), self.familiarity, self.neighbours
        )

    def traits(self, seen: Mapping[str, Floats], logs: sparse.csr_matrix) -> Traits | None:
        """Return what familiarity is told by, from what the graph says of cells, if the reference has it."""
        return Traits(seen[contract.VECTOR], seen[contract.ENERGY], logs) if self.familiarity else None

    def probabilities(self, cells: AlignedCells, scale: Scale) -> Floats:
        """Return the probabilities of cells, none of them empty, each seen alone, shape (n, labels)."""
        return self.classified(cells, scale)[contract.PROBABILITIES]

    def classified(self, cells: AlignedCells, scale: Scale) -> dict[str, Floats]:
        """Return what the graph says of cells, none of them empty, each seen alone."""
        mean, std = scale

        def one(part: slice) -> dict[str, Floats]:
            inputs = {
                contract.COUNTS: cells.values[part].toarray(),
                contract.TOTAL: cells.totals[part],
                contract.FOUND: cells.found,
                contract.GENE_MEAN: mean,
                contract.GENE_STD: std,
            }
            return self.session.run(inputs)

        return self._joined(one, len(cells.totals))

    def _joined(self, one: Callable[[slice], dict[str, Floats]], cells: int) -> dict[str, Floats]:
        """Run batches side by side and join what they give of each cell; no cells are one batch of none."""
        starts = range(0, cells, self.batch) or (0,)
        parts = list(self.pool.map(one, (slice(start, min(start + self.batch, cells)) for start in starts)))
        return {name: np.concatenate([part[name] for part in parts]) for name in KEPT if name in parts[0]}

    def bar(self, what: str, cells: int) -> Any:
        """Return a progress bar."""
        # With None, tqdm shows nothing where there is no terminal.
        return tqdm(desc=what, total=cells, unit=" cells", disable=None if self.progress is None else not self.progress)


def scgpt_embedding(session: Session, vocabulary: Vocabulary, dim: int, expression: Expression, bar: Bar) -> Embedding:
    """Embed cells with the graph of an scGPT encoder, as vectors of ``dim`` values.

    Raises
    ------
    GraphError
        When numba is not installed.
    """
    try:
        from spikgpt.embedding.tokens import tokenise
    except ImportError as error:
        msg = f"scGPT's tokens need numba ({error}): pip install 'spikgpt-onnx[cpu,scgpt]'"
        raise GraphError(msg) from error
    most = CPU_TOKENS if session.provider == "cpu" else GPU_TOKENS
    vectors, empty = [], []
    with bar("Embedding", expression.n_cells) as progress:
        for chunk in aligned_chunks(expression, vocabulary.genes, minimum_share=0, chunk_size=CHUNK):
            tokens = tokenise(
                chunk.values,
                vocabulary.gene_ids,
                cls_id=vocabulary.cls_id,
                pad_value=vocabulary.pad_value,
                n_bins=vocabulary.n_bins,
                max_length=vocabulary.length,
            )
            found = np.empty((len(tokens.lengths), dim))
            # Cells of like length side by side, so that a batch has little padding.
            order = np.argsort(-tokens.lengths, kind="stable")
            start = 0
            while start < len(order):
                cells = order[start : start + max(1, most // int(tokens.lengths[order[start]]))]
                ids, bins = tokens.padded(cells, vocabulary.pad_id, vocabulary.pad_value)
                inputs = {contract.TOKEN_IDS: ids, contract.VALUES: bins, contract.MASK: ids != vocabulary.pad_id}
                found[cells] = session.run(inputs)[contract.EMBEDDING]
                start += len(cells)
                progress.update(len(cells))
            vectors.append(found)
            empty.append(np.diff(chunk.values.indptr) == 0)
    joined, none = np.concatenate(vectors), np.concatenate(empty)
    points = joined[~none]
    report = EmbeddingReport(
        source=expression.source,
        values=chunk.kind,
        scaling="none",
        genes_matched=int(chunk.found.sum()),
        genes_total=len(expression.var),
        notes=chunk.notes,
        of_query=True,
    )
    return Embedding(joined, none, report, points, sample_of(content_keys(points)))


def _opened(cells: Any, genes: Sequence[str] | None) -> AbstractContextManager[Cells]:
    """Return the cells as something that can be read: an AnnData, a file, or a matrix with gene names."""
    if isinstance(cells, str | Path):
        opened: AbstractContextManager[Cells] = open_cells(cells)
    elif hasattr(cells, "obs_names") and hasattr(cells, "var"):
        opened = nullcontext(cells)
    else:
        matrix = cells if sparse.issparse(cells) else np.asarray(cells)
        if matrix.ndim != 2 or genes is None or len(genes) != matrix.shape[1]:
            named = "no genes" if genes is None else f"{len(genes)} genes"
            msg = (
                f"Found a matrix of shape {matrix.shape} with {named}; expected cells as rows, and genes=, the name of "
                "each column. Or give an AnnData, or the path of an h5ad file."
            )
            raise DataError(msg)
        with warnings.catch_warnings():
            # Columns of the same gene are summed.
            warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
            return nullcontext(AnnData(matrix, var=pd.DataFrame(index=list(genes))))
    if genes is not None:
        msg = "An AnnData names its genes itself; leave genes= out."
        raise ConfigError(msg)
    return opened
