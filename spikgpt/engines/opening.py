"""Which engine runs a reference, and with what."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spikgpt.embedding.base import Embedding, Engine
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.pca import PCAProjection
from spikgpt.errors import CheckpointError, DamagedReference, HubError, ReferenceNotFound, SpikGPTError
from spikgpt.extras import needs
from spikgpt.options import EngineOptions
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, ReferenceFiles
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import GRAPHS

if TYPE_CHECKING:
    from spikgpt.engines.torch import TorchEngine


def open_engine(
    reference: ReferenceFiles,
    options: EngineOptions | None = None,
    *,
    scgpt: str | Path | None = None,
    hub: Hub | None = None,
) -> Engine:
    """Return what runs a reference's network.

    Parameters
    ----------
    options
        With ``auto``, ONNX Runtime where it is installed and the reference has the graph, else torch.
    scgpt
        Folder of the scGPT checkpoint, where the reference neither carries it nor names a repository; for torch.
    hub
        How to get a checkpoint that the reference names on the Hub.

    Raises
    ------
    ConfigError
        When a package is missing.
    GraphError
        When ONNX Runtime was asked for and cannot run the reference's graph.
    CheckpointError
        When the scGPT checkpoint is missing, or another one.
    DamagedReference
        When the files do not fit together.
    """
    options = options or EngineOptions()
    graph = GRAPHS[options.precision] in reference.files and find_spec("onnxruntime") is not None
    if options.engine == "onnx" or (options.engine == "auto" and graph and scgpt is None):
        from spikgpt_onnx.engine import OnnxEngine

        return OnnxEngine(reference, options)
    return torch_engine(reference, scgpt=scgpt, hub=hub)


def torch_engine(reference: ReferenceFiles, *, scgpt: str | Path | None = None, hub: Hub | None = None) -> TorchEngine:
    """Return the torch engine of a reference; see :func:`open_engine`."""
    with needs("train"):
        import torch

        from spikgpt.engines.model import SpikingClassifier
        from spikgpt.engines.torch import TorchEngine
    weights = {name: torch.from_numpy(array) for name, array in reference.part(CLASSIFIER).items()}
    classifier = SpikingClassifier.from_weights(reference.config, weights)
    settings, temperature = reference.embedder, reference.thresholds.temperature
    embedding: Embedding
    if settings.get("kind") == PCA:
        embedding = PCAProjection.from_tensors(settings, reference.part(EMBEDDER), reference.genes)
    elif settings.get("kind") == "obsm":
        embedding = ObsmEmbedding.from_settings(settings)
    else:
        from spikgpt.scgpt.source import ScGPTSource

        try:
            source = ScGPTSource.from_settings(settings, reference.part(EMBEDDER), reference.genes, folder=scgpt, hub=hub)
        except (DamagedReference, CheckpointError, ReferenceNotFound, HubError):
            raise
        except SpikGPTError as error:
            msg = f"The reference {reference.name} is inconsistent: {error}"
            raise DamagedReference(msg) from error
        return TorchEngine(source.embedding(), classifier, temperature, source.checkpoint)
    return TorchEngine(embedding, classifier, temperature)
