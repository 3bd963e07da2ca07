"""The class that users meet."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from anndata import AnnData

from spikgpt.labels.annotation import Annotation
from spikgpt.options import PushOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.hub import Hub, Push
from spikgpt.sharing import open_reference, push
from spikgpt.training.evaluation import Evaluation, evaluate
from spikgpt.training.reference import Reference, save, trained
from spikgpt.training.train import train


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
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        endpoint: str | None = None,
        local_files_only: bool = False,
        scgpt: str | Path | None = None,
    ) -> SpikGPT:
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
        scgpt
            Folder of the scGPT checkpoint that the reference was trained with, where it neither carries it nor names a
            repository.

        Raises
        ------
        ReferenceNotFound
            When there is no such reference.
        DamagedReference
            When a file of it is missing or altered, even after it was fetched again.
        FormatError
            When it was written by a newer library.
        HubError
            When the Hub refuses or cannot be reached, and the reference is not cached.
        """
        hub = Hub(endpoint, token, cache_dir, local_files_only)
        return cls(trained(open_reference(name, revision, hub=hub), scgpt=scgpt, hub=hub))

    @classmethod
    def train(cls, adata: AnnData, label_key: str, **options: Any) -> SpikGPT:
        """Train a reference; the options are those of :func:`spikgpt.training.train.train`."""
        return cls(train(adata, label_key, **options))

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the reference to a folder.

        Raises
        ------
        ConfigError
            When something is in the way.
        """
        return save(self.reference, folder, overwrite=overwrite)

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
        scgpt: str | Path | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> Push:
        """Put the reference into a repository ``org/name`` of the Hub, in one commit.

        A graph that is there is removed, since nothing says that it was made from these weights; to share one, export
        to a folder and use :func:`spikgpt.sharing.push`. The options are those of that function.

        Raises
        ------
        HubError
            When the Hub refuses, or somebody else has committed meanwhile. Nothing was committed then.
        """
        with tempfile.TemporaryDirectory() as folder:
            return push(
                self.save_pretrained(Path(folder) / "reference"),
                repo,
                PushOptions(
                    private=private,
                    branch=branch,
                    tag=tag,
                    pull_request=pull_request,
                    message=message,
                    dry_run=dry_run,
                ),
                scgpt=scgpt,
                hub=Hub(endpoint, token),
            )

    def annotate(self, adata: AnnData, **options: Any) -> Annotation:
        """Label every cell and write the result into the AnnData.

        Sets ``obs["spikgpt_label"]``, ``obs["spikgpt_confidence"]``, ``obs["spikgpt_best_label"]`` (before rejection),
        ``obsm["spikgpt_probabilities"]`` and ``uns["spikgpt"]``. The options are those of
        :func:`spikgpt.pipeline.annotate`.

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
