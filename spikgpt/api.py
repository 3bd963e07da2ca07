"""SpikGPT, the class that users work with: load or train a reference, annotate, evaluate, export and share."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from spikgpt.cells.reading import open_cells
from spikgpt.embedding.base import Engine
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.errors import ConfigError, DataError, needs, warn
from spikgpt.options import (
    KEY_ADDED,
    AnnotateOptions,
    EngineName,
    EngineOptions,
    HubOptions,
    Precision,
    Provider,
    PushOptions,
    RecipeName,
    Scaling,
    TrainOptions,
    arguments_as,
    checked_keywords,
)
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference, save
from spikgpt.reference.hub import Hub, Push
from spikgpt.reference.lockfile import VersionPin
from spikgpt.scoring.annotation import Annotation
from spikgpt.sharing import open_reference, push

if TYPE_CHECKING:
    from spikgpt.engines.scgpt.source import ScGPTSource
    from spikgpt.training.evaluation import Evaluation
    from spikgpt_onnx.parity import GraphParity


class SpikGPT:
    """A trained reference, ready to annotate.

    Parameters
    ----------
    reference
        Reference that :meth:`from_pretrained` loads or :meth:`train` makes; most users call these.
    engine
        Engine that runs the network; None for ONNX Runtime if it is installed and the reference has a graph, else
        NumPy.
    """

    def __init__(self, reference: Reference, engine: Engine | None = None) -> None:
        if not isinstance(reference, Reference):
            shown = repr(str(reference)) if isinstance(reference, str | Path) else "NAME"
            msg = f"SpikGPT() got {_described(reference)}. To load a reference, use SpikGPT.from_pretrained({shown})."
            raise ConfigError(msg)
        self.reference = reference
        self.engine = engine or open_engine(reference)

    def __repr__(self) -> str:
        labels, kind = self.reference.labels.names, self.engine.embedding.kind
        return f"SpikGPT({self.reference.name!r}, {len(labels)} labels, embedding {kind}, {self.engine.name})"

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
            A name such as ``pancreas``, a folder, or ``org/repo[@revision]``. A name means the reference that ships
            with this package, else the repository of that name in the namespace ``SPIKGPT_NAMESPACE``.
        revision
            Branch, tag or commit of the repository. With a revision, a name always means the repository.
        engine
            Program that runs the network: ``onnx``, ``numpy`` or ``torch``. ``auto`` takes ONNX Runtime if it is
            installed and the reference has a graph, else NumPy.
        provider
            Hardware for ONNX Runtime: ``cpu``, ``cuda`` or ``tensorrt``. ``auto`` takes CUDA if it works, else the CPU.
        precision
            Number format of the graph: ``fp32``, ``fp16`` or ``int8``.
        threads
            Number of batches that run at the same time on a CPU; None for one per core.
        whole_graph
            Raise an error if a GPU cannot run the whole graph. False lets the CPU run the rest.
        memory_arena
            Keep freed memory of ONNX Runtime for the next batch.
        engine_cache
            Folder for the engines that TensorRT builds.
        io_binding
            On a GPU, copy data through the bindings of ONNX Runtime.
        scgpt
            Folder of the scGPT checkpoint that the reference was trained with. It is needed if the reference neither
            contains the checkpoint nor names its repository.
        token
            Access token for the Hub; True for the token of ``hf auth login``, False for none.
        cache_dir
            Folder for downloads; None for the cache of huggingface_hub.
        endpoint
            Address of the Hub; None for ``HF_ENDPOINT``, or huggingface.co.
        local_files_only
            Use cached files and do not contact the Hub.
        expect
            Digest that the reference must have, as ``spikgpt pull`` prints it.
        lock
            Lock file. A reference that the file lists is loaded at the commit and with the digest listed there. Another
            reference is added to the file.

        Raises
        ------
        ReferenceNotFound
            When there is no such reference.
        DamagedReference
            When a file of it is missing or altered, even after it was fetched again, or it is not the one that was
            expected or locked.
        FormatError
            When it was written by a newer library.
        HubError
            When the Hub refuses or cannot be reached, and the reference is not cached.
        ConfigError
            When an option is out of range, or a package is missing.
        """
        if not isinstance(name, str | Path):
            msg = f"name is {_described(name)}; expected a name such as 'pancreas', a folder, or 'org/repo'."
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
        embedder: str | ScGPTSource = "pca",
        layer: str | None = None,
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
            Column of ``obs`` with the cell types. Cells without a label, and types of fewer than 5 cells, are left out.
        batch_key
            Column of ``obs`` with the donor or batch. Whole donors or batches are then held out for calibration.
        embedder
            Embedding of the cells: ``pca``, ``obsm:KEY`` for an embedding in ``obsm``, or a checkpoint opened with
            :func:`spikgpt.engines.scgpt.source.open_scgpt`.
        layer
            Layer to read, ``X`` or ``raw``; None for counts if present, else log-normalised values.
        recipe
            ``default``, or ``paper`` for the published settings.
        name
            Name of the reference.
        seed
            Seed of all random numbers: the same seed gives the same reference.
        device
            Torch device; None for a GPU if there is one.
        checkpoints
            Folder for the state of the training. An interrupted training resumes from there.
        provenance
            Further facts to store with the reference, such as source and licence.

        Raises
        ------
        DataError
            When the cells cannot be read or the labels cannot be learned from.
        ConfigError
            When an option is out of range, or a package is missing.

        Warns
        -----
        SpikGPTWarning
            For each note on the labels and the cells.
        """
        _check_cells(adata, "SpikGPT.train")
        _check_key(label_key)
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
            When something is in the way.
        """
        _check_folder(folder)
        return save(self.reference, folder, overwrite=overwrite)

    def export(self, folder: str | Path, *, precisions: Sequence[str] = ("fp32",)) -> dict[str, GraphParity]:
        """Write the reference with its ONNX graphs; return how well each agrees with the trained model, by file name.

        Raises
        ------
        ParityError
            When a graph disagrees with the trained model. Nothing is written then.
        ConfigError
            When something is in the way, or a package is missing.
        """
        _check_folder(folder)
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
            Repository, ``org/name``; it is created if it does not exist.
        private
            Make a new repository private.
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
            When the Hub refuses the upload, for example without permission, or somebody else changed the repository
            during the upload. No file was committed then.
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
        batch_key: str | None = "auto",
        unknown_rate: float | None = None,
        threshold: float | None = None,
        reference_cutoff: bool = False,
        smoothing: bool = True,
        scaling: Scaling = "auto",
        batch_size: int | None = None,
        progress: bool | None = None,
        key_added: str = KEY_ADDED,
    ) -> Annotation:
        """Label every cell.

        Parameters
        ----------
        cells
            An AnnData, which gets the labels: ``obs["spikgpt_label"]``, ``obs["spikgpt_confidence"]``,
            ``obs["spikgpt_best_label"]`` (before rejection), ``obsm["spikgpt_probabilities"]``, ``uns["spikgpt"]`` and
            more. Or the path of an h5ad file or a zarr folder, which is read a few cells at a time and not changed.
            A view becomes an AnnData of its own, and its parent gets no labels.
        layer
            Layer to read, ``X`` or ``raw``; None for counts if present, else log-normalised values.
        batch_key
            Column of ``obs`` with the batch, such as the donor. To decide on Unknown, a cell is compared with the cells
            of the same label in its batch. ``auto`` finds columns such as ``sample`` or ``donor``, or infers batches.
            None treats all cells as one batch.
        unknown_rate
            Largest expected share of Unknown among cells like the held-out cells of the reference, from 0 to below 1.
            0 gives every cell a label. None sets no limit.
        threshold
            Confidence below which a cell is Unknown, from 0 to 1, instead of the out-of-distribution rule. The paper
            uses 0.95.
        reference_cutoff
            Use the cut-offs of the reference's held-out cells alone, for cells of the same study as the reference.
        smoothing
            Average the probabilities of each cell with those of its nearest neighbours. It needs 100 cells.
        scaling
            Scaling of the query's genes: ``composition``, ``shift``, ``reference`` or ``query``. ``auto`` takes
            ``composition`` or ``shift``, whichever the network supports more.
        batch_size
            Cells classified at a time. The labels do not depend on it.
        progress
            Show a progress bar; None for only on a terminal.
        key_added
            Prefix of the names of columns and arrays.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        ConfigError
            When an option is out of range.

        Warns
        -----
        SpikGPTWarning
            For each of the notes of the annotation.
        """
        options = arguments_as(AnnotateOptions, locals())
        if isinstance(cells, str | Path):
            with open_cells(cells) as opened:
                annotation = annotate(self.reference, self.engine, opened, options)
            warn(*annotation.notes())
            return annotation
        _check_cells(cells, "annotate", paths=True)
        if cells.is_view and cells.isbacked:
            msg = "This view of a file on disk cannot hold labels; pass adata[...].to_memory()."
            raise DataError(msg)
        annotation = annotate(self.reference, self.engine, cells, options)
        annotation.write_to(cells)
        return annotation

    @checked_keywords
    def evaluate(
        self,
        adata: AnnData,
        label_key: str,
        *,
        label_map: Mapping[str, str] | None = None,
        layer: str | None = None,
        batch_key: str | None = "auto",
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
            Maps names in that column to the reference's names, where they differ.
        layer
            Layer to read, ``X`` or ``raw``; None for counts if present, else log-normalised values.
        batch_key
            Column of ``obs`` with the batch, such as the donor. To decide on Unknown, a cell is compared with the cells
            of the same label in its batch. ``auto`` finds columns such as ``sample`` or ``donor``, or infers batches.
            None treats all cells as one batch.
        unknown_rate
            Largest expected share of Unknown among cells like the held-out cells of the reference, from 0 to below 1.
            0 gives every cell a label. None sets no limit.
        threshold
            Confidence below which a cell is Unknown, from 0 to 1, instead of the out-of-distribution rule. The paper
            uses 0.95.
        reference_cutoff
            Use the cut-offs of the reference's held-out cells alone, for cells of the same study as the reference.
        smoothing
            Average the probabilities of each cell with those of its nearest neighbours. It needs 100 cells.
        scaling
            Scaling of the query's genes: ``composition``, ``shift``, ``reference`` or ``query``. ``auto`` takes
            ``composition`` or ``shift``, whichever the network supports more.
        batch_size
            Cells classified at a time. The labels do not depend on it.
        progress
            Show a progress bar; None for only on a terminal.

        Raises
        ------
        DataError
            When the cells cannot be read, or the label column is missing or names no type of the reference.

        Warns
        -----
        SpikGPTWarning
            For each of the notes of the annotation.
        """
        _check_cells(adata, "evaluate")
        _check_key(label_key)
        if label_map is not None and not isinstance(label_map, Mapping):
            msg = f"label_map is {_described(label_map)}; expected a dict from the query's types to the reference's."
            raise ConfigError(msg)
        with needs():
            from spikgpt.training.evaluation import evaluate, match_labels
        match_labels(adata, label_key, self.reference.labels, label_map)  # refuse other labels before the work
        options = arguments_as(AnnotateOptions, locals())
        annotation = annotate(self.reference, self.engine, adata, options)
        warn(*annotation.notes())
        return evaluate(annotation, adata, label_key, label_map, labels=self.reference.labels)


def _check_cells(cells: Any, function: str, *, paths: bool = False) -> None:
    """Raise a DataError that says how to make an AnnData, unless cells are one."""
    if isinstance(cells, AnnData):
        return
    kind = type(cells).__name__
    if isinstance(cells, str | Path):
        remedy = f"Read the file first: adata = anndata.read_h5ad({str(cells)!r})."
    elif cells is None:
        remedy = "Most functions of scanpy change the AnnData and return None: pass the AnnData itself."
    elif kind == "MuData":
        remedy = f"Pass the AnnData of its RNA, such as mdata['rna']; it holds {', '.join(map(str, cells.mod))}."
    elif kind == "SpatialData":
        remedy = "Pass the AnnData of its table, such as sdata.tables['table']."
    elif kind == "Raw":
        remedy = "Pass adata.raw.to_adata(), or the AnnData itself with layer='raw'."
    elif kind == "DataFrame":
        remedy = "Make an AnnData, with cells as rows and genes as columns: anndata.AnnData(df)."
    elif hasattr(cells, "shape"):
        remedy = (
            "It has no gene names. Make an AnnData, with cells as rows and genes as columns: "
            "anndata.AnnData(X, var=pandas.DataFrame(index=gene_names))."
        )
    elif isinstance(cells, Sequence | Mapping):
        remedy = "Pass one AnnData, or join several: anndata.concat(adatas)."
    else:
        remedy = "Read your cells first: adata = anndata.read_h5ad(FILE)."
    expected = "an AnnData or the path of a file" if paths else "an AnnData"
    msg = f"{function} got {_described(cells)}; expected {expected}. {remedy}"
    raise DataError(msg)


def _check_folder(folder: Any) -> None:
    """Raise a ConfigError unless folder is a path."""
    if not isinstance(folder, str | Path):
        msg = f"folder is {_described(folder)}; expected the path of a folder to write, such as 'my_reference'."
        raise ConfigError(msg)


def _check_key(label_key: Any) -> None:
    """Raise a ConfigError unless label_key is the name of a column."""
    if not isinstance(label_key, str):
        name = getattr(label_key, "name", None)
        example = name if isinstance(name, str) else "cell_type"
        msg = (
            f"label_key is {_described(label_key)}; expected the name of a column of obs, such as "
            f"label_key={example!r}."
        )
        raise ConfigError(msg)


def _described(value: Any) -> str:
    """Return the type and size of a value, such as "a DataFrame of shape (3, 2)"."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:100]
    shape = getattr(value, "shape", None)
    size = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    if isinstance(value, list | tuple | dict | set):
        size = f" of {len(value)} items"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}{size}"
