"""The class that users meet."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any

from anndata import AnnData

from spikgpt.annotate import Annotation, annotate
from spikgpt.building import train
from spikgpt.errors import ReferenceNotFound
from spikgpt.evaluation import Evaluation, evaluate
from spikgpt.reference import MANIFEST, Reference, load, save


def shipped_references() -> dict[str, Path]:
    """Return the folders of the references inside this package, by name."""
    root = Path(str(files("spikgpt"))) / "references"
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / MANIFEST).is_file()}


def locate(name: str | Path) -> Path:
    """Return the folder of a reference given by name or by folder.

    A bare name means a shipped reference first; write ``./name`` for a folder of that name.

    Raises
    ------
    ReferenceNotFound
        When there is neither.
    """
    shipped = shipped_references()
    if str(name) in shipped:
        return shipped[str(name)]
    if Path(name).is_dir():
        return Path(name)
    close = difflib.get_close_matches(str(name), shipped, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    msg = (
        f"There is no reference or folder {str(name)!r}.{hint} Shipped references: {', '.join(shipped)}. "
        "Train your own with: spikgpt train"
    )
    raise ReferenceNotFound(msg)


class SpikGPT:
    """A trained reference, ready to annotate.

    Parameters
    ----------
    reference
        What training returns or a folder holds; most users call :meth:`from_pretrained` or :meth:`train`.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def __repr__(self) -> str:
        labels = self.reference.labels.names
        return f"SpikGPT({self.reference.name!r}, {len(labels)} labels, embedder {self.reference.embedder.kind})"

    @classmethod
    def from_pretrained(cls, name: str | Path, *, scgpt: str | Path | None = None) -> SpikGPT:
        """Load a reference by name or from a folder.

        Parameters
        ----------
        scgpt
            Folder of the scGPT checkpoint that the reference was trained with, where it neither carries it nor names a
            repository.

        Raises
        ------
        ReferenceNotFound
            When there is no such reference.
        DamagedReference
            When a file of it is missing or altered.
        FormatError
            When it was written by a newer library.
        """
        return cls(load(locate(name), scgpt=scgpt))

    @classmethod
    def train(cls, adata: AnnData, label_key: str, **options: Any) -> SpikGPT:
        """Train a reference; the options are those of :func:`spikgpt.building.train`."""
        return cls(train(adata, label_key, **options))

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the reference to a folder.

        Raises
        ------
        ConfigError
            When something is in the way.
        """
        return save(self.reference, folder, overwrite=overwrite)

    def annotate(self, adata: AnnData, **options: Any) -> Annotation:
        """Label every cell and write the result into the AnnData.

        Sets ``obs["spikgpt_label"]``, ``obs["spikgpt_confidence"]``, ``obs["spikgpt_best_label"]`` (before rejection),
        ``obsm["spikgpt_probabilities"]`` and ``uns["spikgpt"]``. The options are those of
        :func:`spikgpt.annotate.annotate`.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        """
        annotation = annotate(self.reference, adata, **options)
        annotation.write_to(adata)
        return annotation

    def evaluate(self, adata: AnnData, label_key: str, **options: Any) -> Evaluation:
        """Label every cell and hold the labels against ``obs[label_key]``; the AnnData is left as it is.

        Raises
        ------
        DataError
            When the cells cannot be read, or the label column is missing or names no type of the reference.
        """
        return evaluate(annotate(self.reference, adata, **options), adata, label_key)
