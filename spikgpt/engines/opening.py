"""Which engine runs a reference, and with what."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spikgpt.embedding.base import Embedding, Engine
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.embedding.pca import PCAProjection
from spikgpt.errors import needs
from spikgpt.options import EngineOptions
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, ReferenceFiles
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import GRAPHS

if TYPE_CHECKING:
    from spikgpt.engines.torch import TorchEngine
    from spikgpt.scgpt.source import ScGPTSource


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


def torch_engine(
    reference: ReferenceFiles,
    *,
    scgpt: str | Path | None = None,
    hub: Hub | None = None,
    source: ScGPTSource | None = None,
) -> TorchEngine:
    """Return the torch engine of a reference; see :func:`open_engine`. A ``source`` is scGPT, opened already."""
    with needs():
        import torch

        from spikgpt.engines.model import SpikingClassifier
        from spikgpt.engines.torch import TorchEngine, scgpt_embedding
        from spikgpt.scgpt.source import ScGPTSource as Source
    weights = {name: torch.from_numpy(array) for name, array in reference.part(CLASSIFIER).items()}
    classifier = SpikingClassifier.from_weights(reference.config, weights)
    if reference.embedder.get("kind") != "scgpt":
        return TorchEngine(stored_embedding(reference), classifier, reference.thresholds.temperature)
    tensors = reference.part(EMBEDDER)
    source = source or Source.from_settings(reference.embedder, tensors, reference.genes, scgpt=scgpt, hub=hub)
    return TorchEngine(scgpt_embedding(source), classifier, reference.thresholds.temperature, source)


def stored_embedding(reference: ReferenceFiles) -> Embedding:
    """Return the embedding of a reference that needs no scGPT; that it fits the network was seen when it was read."""
    if reference.embedder["kind"] == PCA:
        return PCAProjection.from_tensors(reference.embedder, reference.part(EMBEDDER), reference.genes)
    return ObsmEmbedding.from_settings(reference.embedder)
