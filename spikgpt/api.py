"""SpikGPT, the class that users work with: load or train a reference, annotate, evaluate, export and share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from spikgpt.arguments import check_cells, check_folder, check_label_key, described
from spikgpt.cells.reading import open_cells
from spikgpt.embedding.base import Engine
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.errors import ConfigError, DataError, needs, warn
from spikgpt.options import (
    CERTAINTY,
    KEY_ADDED,
    AnnotateOptions,
    EngineName,
    EngineOptions,
    ExplainOptions,
    HubOptions,
    Precision,
    Provider,
    PushOptions,
    RecipeName,
    Scaling,
    Species,
    TrainOptions,
    arguments_as,
    checked_keywords,
)
from spikgpt.pipeline import annotate
from spikgpt.reference.card import Card
from spikgpt.reference.files import Reference, save
from spikgpt.reference.hub import Hub, Push
from spikgpt.reference.lockfile import VersionPin
from spikgpt.reference.summary import Labels
from spikgpt.scoring.annotation import Annotation
from spikgpt.sharing import open_reference, push
from spikgpt.tables import html_view
from spikgpt.types import Bools, Integers

if TYPE_CHECKING:
    from distributed import Client

    from spikgpt.engines.scgpt.source import ScGPTSource
    from spikgpt.explain.explanation import Explanation
    from spikgpt.explain.spikes import SpikeActivity
    from spikgpt.shards.run import ShardedAnnotation
    from spikgpt.training.evaluation import Evaluation
    from spikgpt_onnx.parity import GraphParity


class SpikGPT:
    """A trained reference, ready to annotate.

    Parameters
    ----------
    reference
        Opened reference. Most users call :meth:`from_pretrained` or :meth:`train` instead of this class.
    engine
        Program that runs the network. None means ONNX Runtime if it is installed and the reference has a graph, else
        NumPy.
    """

    def __init__(self, reference: Reference, engine: Engine | None = None) -> None:
        if not isinstance(reference, Reference):
            shown = repr(str(reference)) if isinstance(reference, str | Path) else "NAME"
            msg = f"SpikGPT() got {described(reference)}. To load a reference, use SpikGPT.from_pretrained({shown})."
            raise ConfigError(msg)
        self.reference = reference
        self.engine = engine or open_engine(reference)

    def __repr__(self) -> str:
        labels, kind = self.reference.labels.names, self.engine.embedding.kind
        return f"SpikGPT({self.reference.name!r}, {len(labels)} labels, embedding {kind}, {self.engine.name})"

    def _repr_html_(self) -> str:
        reference, labels = self.reference, self.labels
        facts = reference.provenance
        cells_of = " ".join(str(facts[name]) for name in ("organism", "tissue") if facts.get(name))
        held_out, licence = reference.metrics["held_out"], facts.get("licence")
        texts = [
            f"{len(labels)} labels, trained on {reference.metrics['cells']:,} cells{cells_of and f' of {cells_of}'}.",
            f"Held out: {reference.metrics['held_out_by']}. Accuracy {held_out['accuracy']:.3f}, macro-F1 "
            f"{held_out['macro_f1']:.3f}.",
            f"Embedding {self.engine.embedding.kind}, {self.engine.name}.",
            *([f"Licence: {licence}."] if licence else []),
        ]
        return html_view(f"Reference {reference.name!r}", texts, [labels._repr_html_()])

    @property
    def labels(self) -> Labels:
        """Names of the labels; ``print`` shows a table of Cell Ontology ids, numbers of training cells, and F1."""
        return Labels.from_metrics(self.reference.labels, self.reference.metrics)

    @property
    def card(self) -> Card:
        """Card of the reference: intended use, limits, measured accuracy, studies and licence, as Markdown."""
        return Card.from_files(self.reference.files)

    @classmethod
    @checked_keywords
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        engine: EngineName = "auto",
        provider: Provider = "auto",
        precision: Precision = "fp32",
        threads: int | None = None,
        whole_graph: bool = True,
        memory_arena: bool = True,
        engine_cache: str | Path | None = None,
        io_binding: bool = True,
        scgpt: str | Path | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        endpoint: str | None = None,
        local_files_only: bool = False,
        expect: str | None = None,
        lock: str | Path | None = None,
    ) -> SpikGPT:
        """Load a reference by name, from a folder, or from the Hugging Face Hub.

        Parameters
        ----------
        name
            Name such as ``pancreas``, folder, or repository ``org/repo[@revision]`` of the Hub. A name is searched
            among the references of this package, then among folders, and then on the Hub in the namespace that the
            environment variable ``SPIKGPT_NAMESPACE`` sets.
        revision
            Branch, tag or commit of the repository on the Hub.
        engine
            Program that runs the network: ``onnx``, ``numpy`` or ``torch``. ``auto`` uses ONNX Runtime if it is
            installed and the reference has a graph, else NumPy, or PyTorch for references on scGPT.
        provider
            Hardware for ONNX Runtime: ``cpu``, ``cuda`` or ``tensorrt``. ``auto`` uses CUDA if it works, else the CPU.
        precision
            Number format of the ONNX graph: ``fp32``, ``fp16`` or ``int8``.
        threads
            Number of chunks of cells that run at the same time on a CPU; None for one per core.
        whole_graph
            Raise an error if a GPU cannot run the whole ONNX graph. False lets the CPU run the rest.
        memory_arena
            Let ONNX Runtime keep freed memory for the next chunk of cells.
        engine_cache
            Folder for the engines that TensorRT compiles.
        io_binding
            Use the IO binding of ONNX Runtime on a GPU.
        scgpt
            Folder of the scGPT checkpoint that the reference was trained with. The folder is needed if the reference
            neither contains the checkpoint nor names its repository.
        token
            Access token for the Hub; True for the token of ``hf auth login``, False for no token.
        cache_dir
            Folder for downloads; None for the cache of huggingface_hub.
        endpoint
            Address of the Hub; None for ``HF_ENDPOINT``, or huggingface.co.
        local_files_only
            Use cached files and do not contact the Hub.
        expect
            Digest that the reference must have, as ``spikgpt pull`` prints it.
        lock
            Lock file, such as ``spikgpt.lock``. If the file lists the reference, the listed commit is loaded, and the
            digest must match. Otherwise the reference is added to the file.

        Raises
        ------
        ReferenceNotFound
            When no reference has this name.
        DamagedReference
            When a file of the reference is missing or altered, or its digest differs from ``expect`` or the lock file.
        FormatError
            When the reference was written by a newer version of SpikGPT.
        HubError
            When the Hub refuses or cannot be reached, and the reference is not cached.
        ConfigError
            When an option is out of range, or a package is missing.
        """
        if not isinstance(name, str | Path):
            msg = f"name is {described(name)}; expected a name such as 'pancreas', a folder, or 'org/repo'."
            raise ConfigError(msg)
        engine_options = arguments_as(EngineOptions, locals())
        hub = Hub.from_options(arguments_as(HubOptions, locals()))
        pin = VersionPin(expect, None if lock is None else Path(lock))
        reference = open_reference(name, revision, hub=hub, pin=pin)
        model = cls(reference, open_engine(reference, engine_options, scgpt=scgpt, hub=hub))
        pin.record(name, revision, reference.origin, reference.digest)
        return model

    @classmethod
    @checked_keywords
    def train(
        cls,
        adata: AnnData,
        label_key: str,
        *,
        batch_key: str | None = None,
        cross_validate: bool = False,
        embedder: str | ScGPTSource = "pca",
        layer: str | None = None,
        gene_key: str | None = None,
        recipe: RecipeName = "default",
        name: str = "reference",
        seed: int = 0,
        device: str | None = None,
        checkpoints: str | Path | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> SpikGPT:
        """Train a reference on labelled cells.

        Parameters
        ----------
        adata
            Labelled cells, with counts or log-normalised values.
        label_key
            Column of ``obs`` with the cell types. Cells without a type, and types of fewer than 5 cells, are left out.
        batch_key
            Column of ``obs`` with donors or batches. The cells that are held out for calibration are then whole donors
            or batches.
        cross_validate
            Also measure the accuracy with each donor or batch held out in turn. Needs ``batch_key``. The result is in
            ``reference.metrics["cross_validation"]`` and on the card.
        embedder
            Embedding of the cells: ``pca`` for principal components, ``obsm:KEY`` for an embedding in ``obsm``, or an
            scGPT checkpoint opened with :func:`spikgpt.engines.scgpt.source.open_scgpt`.
        layer
            Layer to read, ``X`` or ``raw``; None for counts if present, else log-normalised values.
        gene_key
            Column of ``var`` with gene symbols or Ensembl ids. None uses the index or column with most gene names.
        recipe
            Settings of the training: ``default``, or ``paper`` for the published settings.
        name
            Name of the reference.
        seed
            Seed of all random numbers: the same seed gives the same reference.
        device
            Device of PyTorch, such as ``cpu``; None for a GPU if there is one.
        checkpoints
            Folder for the state of the training. An interrupted training resumes from this state.
        provenance
            Further facts to store with the reference, such as source and licence.

        Raises
        ------
        DataError
            When the cells cannot be read, or the labels are unsuitable, such as a single type.
        ConfigError
            When an option is out of range, or a package is missing.

        Warns
        -----
        SpikGPTWarning
            For anything unusual in the labels or the cells.
        """
        check_cells(adata, "SpikGPT.train")
        check_label_key(label_key)
        with needs():
            from spikgpt.training.train import train

        options = arguments_as(TrainOptions, locals())
        reference = train(adata, label_key, embedder=embedder, options=options, on_note=warn)
        return cls(reference, torch_engine(reference, source=None if isinstance(embedder, str) else embedder))

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the reference to a folder.

        Raises
        ------
        ConfigError
            When the folder exists, unless it holds a reference and ``overwrite`` is True.
        """
        check_folder(folder)
        return save(self.reference, folder, overwrite=overwrite)

    def export(self, folder: str | Path, *, precisions: Sequence[str] = ("fp32",)) -> dict[str, GraphParity]:
        """Write the reference with its ONNX graphs, and return the comparison of each graph with the trained model.

        Parameters
        ----------
        precisions
            Number formats of the graphs: ``fp32``, ``fp16`` and ``int8``.

        Returns
        -------
        dict
            For each file of a graph, the numbers of equal labels and equal Unknown decisions on simulated cells, and
            the largest difference of probabilities.

        Raises
        ------
        ParityError
            When a graph disagrees with the trained model. Nothing is written then.
        ConfigError
            When the folder exists and holds no reference, or a package is missing.
        """
        check_folder(folder)
        with needs():
            from spikgpt.engines.torch import TorchEngine
            from spikgpt_onnx.exporter import export
            from spikgpt_onnx.parity import ExportableReference
        engine = self.engine if isinstance(self.engine, TorchEngine) else torch_engine(self.reference)
        return export(ExportableReference(self.reference, engine), folder, precisions=precisions)

    @checked_keywords
    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        branch: str | None = None,
        tag: str | None = None,
        pull_request: bool = False,
        message: str | None = None,
        dry_run: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> Push:
        """Upload the reference to a repository ``org/name`` of the Hub, in one commit.

        Parameters
        ----------
        repo
            Repository on the Hub, ``org/name``. A missing repository is created.
        private
            If a repository is created, make it private.
        branch
            Branch to commit to; None for ``main``.
        tag
            Tag for the commit, such as ``v1``.
        pull_request
            Open a pull request instead of committing.
        message
            Commit message.
        dry_run
            Change nothing, and return what would be uploaded.
        token, endpoint
            Access token and address of the Hub, as for :meth:`from_pretrained`.

        Raises
        ------
        HubError
            When the Hub refuses the upload, or somebody else changes the repository during the upload. The
            repository is unchanged then.
        """
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / "reference")
            options = arguments_as(PushOptions, locals())
            return push(saved, repo, options, hub=Hub(endpoint, token))

    @checked_keywords
    def annotate(
        self,
        cells: AnnData | str | Path,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        species: Species | None = None,
        batch_key: str | None = "auto",
        labels: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        unknown_rate: float | None = None,
        threshold: float | None = None,
        reference_cutoff: bool = False,
        smoothing: bool = True,
        scaling: Scaling = "auto",
        cluster_key: str | None = None,
        majority_vote: bool = False,
        certainty: float = CERTAINTY,
        batch_size: int | None = None,
        progress: bool | None = None,
        key_added: str = KEY_ADDED,
    ) -> Annotation:
        """Label every cell.

        Parameters
        ----------
        cells
            AnnData object, or path of an h5ad file or a zarr folder. An AnnData object gets the labels in
            ``obs["spikgpt_label"]``, and further results in ``obs``, ``obsm`` and ``uns``. A file is read in chunks
            and is not changed. A view of an AnnData object becomes a copy, and its parent gets no labels.
        layer
            Layer to read, ``X`` or ``raw``; None for counts if present, else log-normalised values.
        gene_key
            Column of ``var`` with gene symbols or Ensembl ids. None uses the index or column with most genes of the
            reference.
        species
            Species of the query, ``human`` or ``mouse``. If the reference is of the other species, genes are mapped to
            one-to-one orthologues. None matches genes by name alone.
        batch_key
            Column of ``obs`` with batches, such as donors. To decide on Unknown, a cell is compared with the cells of
            the same label in its batch. ``auto`` uses columns such as ``sample`` or ``donor``; without such columns,
            batches are inferred from the cells. None treats all cells as one batch.
        labels
            Labels that cells may get; None for all labels. A cell is compared with the allowed labels alone. So cells
            of other types become Unknown if they are unlike the allowed labels. A text may name several labels,
            separated by commas.
        exclude
            Labels that no cell may get, as a list or a text with commas. None excludes no label.
        unknown_rate
            Upper limit of the share of cells of known types that become Unknown, from 0 to below 1. The limit holds on
            average for cells of the same study as the reference. 0 gives every cell a label. None sets no limit, or
            0.05 without smoothing.
        threshold
            Confidence below which a cell is Unknown, from 0 to 1, instead of the default rule. The paper uses 0.95.
        reference_cutoff
            Use cut-offs from the held-out cells of the reference alone, without correction of the batch effect. This
            suits queries of the same study as the reference.
        smoothing
            Average the probabilities of each cell with those of its nearest neighbours. Queries of fewer than 100 cells
            are not smoothed.
        scaling
            Scaling of the genes: ``composition``, ``shift``, ``reference`` or ``query``. ``auto`` uses ``composition``
            or ``shift``, whichever gives the network the higher mean energy.
        cluster_key
            Column of ``obs`` with clusters. ``obs["spikgpt_cluster_label"]`` then has the most frequent label of the
            cluster of each cell. A cluster of 10 cells or more is Unknown if at least half of its cells are Unknown.
        majority_vote
            Make many small clusters of the query, in ``obs["spikgpt_cluster"]``, and label them as for ``cluster_key``.
            This needs the package igraph.
        certainty
            Lowest probability that the broad label of a cell, and so its Cell Ontology term, may have, from 0 to
            below 1. If the label of a cell is less certain, the broad label is a more general term: the most specific
            term above the label with at least this probability. The label itself does not depend on this number.
        batch_size
            Number of cells classified at a time. The labels do not depend on this number.
        progress
            Show a progress bar. None shows it only on a terminal.
        key_added
            Prefix of the names of the columns and arrays with the results.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        ConfigError
            When an option is out of range.

        Warns
        -----
        SpikGPTWarning
            For anything unusual in the cells: the notes of the annotation.
        """
        options = arguments_as(AnnotateOptions, locals())
        return written_to(cells, lambda opened: annotate(self.reference, self.engine, opened, options))

    @checked_keywords
    def explain(
        self,
        adata: AnnData | str | Path | Annotation,
        *,
        labels: Sequence[str] | None = None,
        cells: Sequence[str | int] | None = None,
        cluster_key: str | None = None,
        top: int = 20,
        layer: str | None = None,
        gene_key: str | None = None,
        species: Species | None = None,
        batch_key: str | None = "auto",
        progress: bool | None = None,
    ) -> Explanation:
        """Return the genes behind the labels of cells, and the reasons for Unknown; the AnnData is not changed.

        Parameters
        ----------
        adata
            Cells, as for :meth:`annotate`. Or the annotation that :meth:`annotate` returned: its cells are not
            annotated again, and its options are kept.
        labels
            Labels to explain; None for the labels that the cells got. "Unknown" stands for the Unknown cells. With
            ``cells`` or ``cluster_key``, these labels are explained in each cell or cluster.
        cells
            Names or positions of at most 1000 cells, to explain each cell by itself.
        cluster_key
            Column of ``obs`` with clusters, to explain each cluster.
        top
            Largest number of genes of each role: supporting, conflicting and missing.
        layer, gene_key, species, batch_key, progress
            The same as for :meth:`annotate`.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        ConfigError
            When the reference reads no genes, such as a reference on scGPT, when an option is out of range, or
            when another reference made the annotation.
        """
        from spikgpt.explain import front, groups

        options = arguments_as(ExplainOptions, locals())
        front.expression_embedding(self.reference, self.engine)  # raises if the reference reads no genes
        if isinstance(adata, Annotation):
            annotation = groups.checked_origin(adata, self.reference)
            return groups.explain_annotation(annotation, None, options, cells=cells)
        check_cells(adata, "explain", paths=True)
        with open_cells(adata) if isinstance(adata, str | Path) else nullcontext(adata) as opened:
            annotation = annotate(self.reference, self.engine, opened, options.reading())
            return groups.explain(annotation, opened, options, cells=cells)

    @checked_keywords
    def evaluate(
        self,
        adata: AnnData,
        label_key: str,
        *,
        label_map: Mapping[str, str] | None = None,
        layer: str | None = None,
        gene_key: str | None = None,
        species: Species | None = None,
        batch_key: str | None = "auto",
        labels: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        unknown_rate: float | None = None,
        threshold: float | None = None,
        reference_cutoff: bool = False,
        smoothing: bool = True,
        scaling: Scaling = "auto",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> Evaluation:
        """Label every cell and compare the labels with ``obs[label_key]``; the AnnData is not changed.

        Parameters
        ----------
        adata
            Cells of known types.
        label_key
            Column of ``obs`` with the true types.
        label_map
            Dictionary from names of types in the column to names in the reference, such as ``{"Alpha": "alpha"}``.
        layer, gene_key, species, batch_key, labels, exclude, unknown_rate, threshold, reference_cutoff, smoothing
            The same as for :meth:`annotate`. The right answer for cells of an excluded type is Unknown.
        scaling, batch_size, progress
            The same as for :meth:`annotate`.

        Raises
        ------
        DataError
            When the cells cannot be read, the label column is missing, or none of its types is in the reference.

        Warns
        -----
        SpikGPTWarning
            For anything unusual in the cells: the notes of the annotation.
        """
        check_cells(adata, "evaluate")
        check_label_key(label_key)
        if label_map is not None and not isinstance(label_map, Mapping):
            msg = f"label_map is {described(label_map)}; expected a dict from the query's types to the reference's."
            raise ConfigError(msg)
        with needs():
            from spikgpt.training.evaluation import evaluate, match_labels
        match_labels(adata, label_key, self.reference.labels, label_map)  # raises if no true type is in the reference
        options = arguments_as(AnnotateOptions, locals())
        annotation = annotate(self.reference, self.engine, adata, options)
        warn(*annotation.notes())
        return evaluate(annotation, adata, label_key, label_map, labels=self.reference.labels)

    @checked_keywords
    def spikes(
        self,
        adata: AnnData,
        cells: Sequence[str] | Integers | Bools | Sequence[int] | None = None,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        species: Species | None = None,
        scaling: Scaling = "auto",
        batch_size: int | None = None,
    ) -> SpikeActivity:
        """Return firing rates, spike rasters, operations and modelled energy of cells; the AnnData is not changed.

        Parameters
        ----------
        adata
            Cells of a query.
        cells
            Names of cells, row numbers, or True and False for each cell. None for all cells; if there are more than
            20,000 cells, None for a sample of at most 20,000 cells. The result has the cells in the order of
            ``adata``. The scale of the genes is computed from the whole of ``adata``, as for :meth:`annotate`.
        layer, gene_key, species, scaling, batch_size
            The same as for :meth:`annotate`.

        Returns
        -------
        SpikeActivity
            Tables of firing rates, ``raster(cell)`` for the spikes of one cell, and ``energy()`` for the energy with
            and without spikes.

        Raises
        ------
        DataError
            When the cells cannot be read, or all chosen cells are empty.
        ConfigError
            When ``cells`` names cells that ``adata`` lacks.
        """
        from spikgpt.explain.spikes import record_spikes

        check_cells(adata, "spikes")
        return record_spikes(self.reference, self.engine, adata, cells, arguments_as(AnnotateOptions, locals()))


@checked_keywords
def annotate_shards(
    model: SpikGPT,
    shards: Iterable[str | Path],
    folder: str | Path,
    client: Client | None = None,
    *,
    shard_size: int = 100_000,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    batch_key: str | None = "auto",
    labels: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    unknown_rate: float | None = None,
    threshold: float | None = None,
    reference_cutoff: bool = False,
    smoothing: bool = True,
    scaling: Scaling = "auto",
    certainty: float = CERTAINTY,
    batch_size: int | None = None,
    progress: bool | None = None,
    key_added: str = KEY_ADDED,
) -> ShardedAnnotation:
    """Label the cells of several files as one query, with the workers of a Dask cluster.

    The labels are the same as those that :meth:`SpikGPT.annotate` gives to one file with all cells. If a call is
    interrupted, the same call resumes the work and keeps the finished parts.

    Parameters
    ----------
    model
        Reference.
    shards
        Files of cells or zarr folders, or addresses that fsspec reads, such as ``s3://bucket/cells.h5ad``. All files
        must have the same genes, in any order, and the same kind of values. All workers must be able to read the paths.
    folder
        Output folder. Each part, ``part-00000.parquet`` and so on, is a table with one row per cell. The folder also
        gets ``manifest.json`` and ``query_model.safetensors``. All workers must be able to write to the folder.
    client
        Client of a Dask cluster. None for the client that is already open; without an open client, this process
        labels all cells.
    shard_size
        Largest number of cells in a part. A file with more cells is divided into several parts.
    layer, gene_key, species, batch_key, labels, exclude, unknown_rate, threshold, reference_cutoff, smoothing
        As for :meth:`SpikGPT.annotate`. Batches are compared over all shards.
    scaling, certainty, batch_size, progress, key_added
        As for :meth:`SpikGPT.annotate`.

    Raises
    ------
    DataError
        When a shard cannot be read, or differs from the others in its genes or the kind of its values.
    ConfigError
        When an option is out of range, or the folder holds labels that were computed with other arguments.
    ShardError
        When some shards could not be labelled. The other shards are finished, and the same call labels the rest.

    Warns
    -----
    SpikGPTWarning
        For each note on the labels.
    """
    if not isinstance(model, SpikGPT):
        msg = f"annotate_shards got {described(model)}; expected a reference: SpikGPT.from_pretrained(NAME)."
        raise ConfigError(msg)
    if isinstance(shards, str | Path):
        shards = [shards]
    if not isinstance(shard_size, int) or shard_size < 1:
        msg = f"shard_size is {described(shard_size)}; expected a whole number of at least 1."
        raise ConfigError(msg)
    check_folder(folder)
    with needs():
        from spikgpt.shards.run import annotate_shards as run
    options = arguments_as(AnnotateOptions, locals())
    annotation = run(model.reference, model.engine, shards, Path(folder), options, client=client, shard_size=shard_size)
    warn(*annotation.notes())
    return annotation


def written_to(cells: AnnData | str | Path, label: Callable[[AnnData], Annotation]) -> Annotation:
    """Annotate cells with the function ``label``; write the labels into an AnnData, but not into a file."""
    if isinstance(cells, str | Path):
        with open_cells(cells) as opened:
            annotation = label(opened)
        warn(*annotation.notes())
        return annotation
    check_cells(cells, "annotate", paths=True)
    if cells.is_view and cells.isbacked:
        msg = "This view of a file on disk cannot hold labels; pass adata[...].to_memory()."
        raise DataError(msg)
    annotation = label(cells)
    annotation.write_to(cells)
    return annotation
