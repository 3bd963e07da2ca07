"""The class that users meet."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from anndata import AnnData

from spikgpt.cells.reading import open_cells
from spikgpt.embedding.base import Engine
from spikgpt.engines.opening import open_engine, torch_engine
from spikgpt.errors import ConfigError, DataError, SpikGPTWarning, needs
from spikgpt.options import (
    AnnotateKeywords,
    AnnotateOptions,
    EngineOptions,
    HubOptions,
    LoadKeywords,
    PushKeywords,
    PushOptions,
    TrainKeywords,
    TrainOptions,
    options_of,
)
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference, save
from spikgpt.reference.hub import Hub, Push
from spikgpt.reference.pins import Pin
from spikgpt.scoring.annotation import Annotation
from spikgpt.sharing import open_reference, push

if TYPE_CHECKING:
    from spikgpt.engines.scgpt.source import ScGPTSource
    from spikgpt.training.evaluation import Evaluation
    from spikgpt_onnx.parity import Parity


class SpikGPT:
    """A trained reference, ready to annotate.

    Parameters
    ----------
    reference
        What training returns or a folder holds; most users call :meth:`from_pretrained` or :meth:`train`.
    engine
        What runs its network; by default ONNX Runtime where it and a graph are there, else torch.
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
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        scgpt: str | Path | None = None,
        expect: str | None = None,
        lock: str | Path | None = None,
        **keywords: Unpack[LoadKeywords],
    ) -> SpikGPT:
        """Load a reference by name, from a folder, or from the Hugging Face Hub.

        Parameters
        ----------
        name
            A name such as ``pancreas``, a folder, or ``org/repo[@revision]``. A name means the reference that ships
            with this package, else the repository of that name in the namespace ``SPIKGPT_NAMESPACE``.
        revision
            Branch, tag or commit of the repository. With one, a name always means the repository.
        scgpt
            Folder of the scGPT checkpoint that the reference was trained with, where it neither carries it nor names a
            repository; it is run by torch.
        expect
            Digest that the reference has to have, as ``spikgpt pull`` prints it.
        lock
            Lock file: a reference that it names is loaded at the commit and with the digest that stand there, another
            one is taken into it.
        keywords
            Fields of :class:`spikgpt.options.HubOptions` and :class:`spikgpt.options.EngineOptions`, such as
            ``token``, ``local_files_only``, ``engine`` and ``provider``.

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
        fields = HubOptions.__struct_fields__
        hub = Hub.of(options_of(HubOptions, {key: value for key, value in keywords.items() if key in fields}))
        engine = options_of(EngineOptions, {key: value for key, value in keywords.items() if key not in fields})
        pin = Pin(expect, None if lock is None else Path(lock))
        reference = open_reference(name, revision, hub=hub, pin=pin)
        model = cls(reference, open_engine(reference, engine, scgpt=scgpt, hub=hub))
        pin.keep(name, revision, reference.origin, reference.digest)
        return model

    @classmethod
    def train(
        cls, adata: AnnData, label_key: str, *, embedder: str | ScGPTSource = "pca", **keywords: Unpack[TrainKeywords]
    ) -> SpikGPT:
        """Train a reference on labelled cells.

        Parameters
        ----------
        label_key
            Column of ``obs`` with the cell types. Cells without a label, and types of fewer than 5 cells, are left out.
        embedder
            ``pca``, ``obsm:KEY`` for an embedding that the AnnData brings, or what
            :func:`spikgpt.engines.scgpt.source.open_scgpt` returns.
        keywords
            Fields of :class:`spikgpt.options.TrainOptions`, such as ``batch_key``, ``recipe`` and ``seed``.

        Raises
        ------
        DataError
            When the cells cannot be read or the labels cannot be learned from.
        ConfigError
            When an option is out of range, or a package is missing.
        """
        _check_cells(adata, "SpikGPT.train")
        _check_key(label_key)
        with needs():
            from spikgpt.training.train import train

        def warn(note: str) -> None:
            warnings.warn(note, SpikGPTWarning, stacklevel=4)

        reference = train(adata, label_key, embedder=embedder, options=options_of(TrainOptions, keywords), on_note=warn)
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

    def export(self, folder: str | Path, *, precisions: Sequence[str] = ("fp32",)) -> dict[str, Parity]:
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

    def push_to_hub(
        self,
        repo: str,
        *,
        token: str | bool | None = None,
        endpoint: str | None = None,
        **keywords: Unpack[PushKeywords],
    ) -> Push:
        """Put the reference into a repository ``org/name`` of the Hub, in one commit.

        Parameters
        ----------
        token, endpoint
            As for :meth:`from_pretrained`.
        keywords
            Fields of :class:`spikgpt.options.PushOptions`, such as ``private``, ``tag`` and ``dry_run``.

        Raises
        ------
        HubError
            When the Hub refuses, or somebody else has committed meanwhile. Nothing was committed then.
        """
        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / "reference")
            return push(saved, repo, options_of(PushOptions, keywords), hub=Hub(endpoint, token))

    def annotate(self, cells: AnnData | str | Path, **keywords: Unpack[AnnotateKeywords]) -> Annotation:
        """Label every cell.

        Parameters
        ----------
        cells
            An AnnData, which gets the labels: ``obs["spikgpt_label"]``, ``obs["spikgpt_confidence"]``,
            ``obs["spikgpt_best_label"]`` (before rejection), ``obsm["spikgpt_probabilities"]``, ``uns["spikgpt"]`` and
            more. Or the path of an h5ad file or a zarr folder, which is read a few cells at a time and left as it is.
            A view becomes an AnnData of its own, and its parent gets no labels. ``key_added`` replaces ``spikgpt`` in
            these names.
        keywords
            Fields of :class:`spikgpt.options.AnnotateOptions`, such as ``unknown_rate`` and ``neighbours``.

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
        options = options_of(AnnotateOptions, keywords)
        if isinstance(cells, str | Path):
            with open_cells(cells) as opened:
                annotation = annotate(self.reference, self.engine, opened, options)
            _warn(annotation.notes())
            return annotation
        _check_cells(cells, "annotate", paths=True)
        if cells.is_view and cells.isbacked:
            msg = "This view of a file on disk cannot hold labels; pass adata[...].to_memory()."
            raise DataError(msg)
        annotation = annotate(self.reference, self.engine, cells, options)
        annotation.write_to(cells)
        return annotation

    def evaluate(
        self,
        adata: AnnData,
        label_key: str,
        *,
        label_map: Mapping[str, str] | None = None,
        **keywords: Unpack[AnnotateKeywords],
    ) -> Evaluation:
        """Label every cell and hold the labels against ``obs[label_key]``; the AnnData is left as it is.

        Parameters
        ----------
        label_map
            From names in that column to the reference's names, where they differ.

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
        annotation = annotate(self.reference, self.engine, adata, options_of(AnnotateOptions, keywords))
        _warn(annotation.notes())
        return evaluate(annotation, adata, label_key, label_map, labels=self.reference.labels)


def _warn(notes: Sequence[str]) -> None:
    """Warn of notes where the user called a method of :class:`SpikGPT`."""
    for note in notes:
        warnings.warn(note, SpikGPTWarning, stacklevel=3)


def _check_cells(cells: Any, function: str, *, paths: bool = False) -> None:
    """Refuse what is no AnnData, and say how to make one of it."""
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
    """Refuse what is no path of a folder."""
    if not isinstance(folder, str | Path):
        msg = f"folder is {_described(folder)}; expected the path of a folder to write, such as 'my_reference'."
        raise ConfigError(msg)


def _check_key(label_key: Any) -> None:
    """Refuse what is no name of a column, such as the column itself."""
    if not isinstance(label_key, str):
        name = getattr(label_key, "name", None)
        example = name if isinstance(name, str) else "cell_type"
        msg = (
            f"label_key is {_described(label_key)}; expected the name of a column of obs, such as "
            f"label_key={example!r}."
        )
        raise ConfigError(msg)


def _described(value: Any) -> str:
    """Return what a value is, such as "a DataFrame of shape (3, 2)"."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:100]
    shape = getattr(value, "shape", None)
    size = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    if isinstance(value, list | tuple | dict | set):
        size = f" of {len(value)} items"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}{size}"
