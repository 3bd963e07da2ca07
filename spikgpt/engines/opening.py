"""Open the engine that runs a reference's network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spikgpt.embedding.base import Engine
from spikgpt.embedding.stored import stored_embedding
from spikgpt.errors import needs
from spikgpt.options import EngineOptions
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, Reference
from spikgpt.reference.format import GRAPHS
from spikgpt.reference.hub import Hub

if TYPE_CHECKING:
    from spikgpt.engines.scgpt.source import ScGPTSource
    from spikgpt.engines.torch import TorchEngine


def open_engine(
    reference: Reference,
    options: EngineOptions | None = None,
    *,
    scgpt: str | Path | None = None,
    hub: Hub | None = None,
) -> Engine:
    """Return the engine of a reference.

    The engine ``auto`` is ONNX Runtime if ONNX Runtime is installed, the reference has the graph, and ``scgpt`` is
    None. Otherwise ``auto`` is NumPy, or torch for a reference on scGPT. ``scgpt`` is the folder of the checkpoint, for
    a reference that neither contains the checkpoint nor names its repository. ``hub`` downloads a checkpoint that the
    reference names.

    Raises
    ------
    ConfigError
        When a package is missing, or an option is wrong.
    GraphError
        When a graph is missing or cannot be run.
    CheckpointError
        When the scGPT checkpoint is missing, or is not the checkpoint that the reference was trained with.
    DamagedReference
        When the files of the reference do not fit together.
    """
    options = options or EngineOptions()
    engine: str = options.engine
    if engine == "auto":
        on_scgpt = reference.embedder["kind"] == "scgpt"
        has_graph = GRAPHS[options.precision] in reference.files and find_spec("onnxruntime") is not None
        engine = "onnx" if has_graph and scgpt is None else "torch" if on_scgpt else "numpy"
    if engine == "onnx":
        from spikgpt.engines.onnx import OnnxEngine

        return OnnxEngine(reference, options)
    if engine == "numpy":
        from spikgpt.engines.numpy import NumpyEngine

        return NumpyEngine(reference, options)
    return torch_engine(reference, scgpt=scgpt, hub=hub)


def torch_engine(
    reference: Reference,
    *,
    scgpt: str | Path | None = None,
    hub: Hub | None = None,
    source: ScGPTSource | None = None,
) -> TorchEngine:
    """Return the torch engine of a reference; see :func:`open_engine`. ``source`` is an open scGPT checkpoint."""
    with needs():
        import torch

        from spikgpt.engines.model import SpikingClassifier
        from spikgpt.engines.scgpt.source import ScGPTSource as Source
        from spikgpt.engines.torch import TorchEngine, scgpt_embedding
    weights = {name: torch.from_numpy(array) for name, array in reference.part(CLASSIFIER).items()}
    classifier = SpikingClassifier.from_weights(reference.config, weights)
    settings, tensors, genes = reference.embedder, reference.part(EMBEDDER), reference.genes
    if settings["kind"] != "scgpt":
        embedding = stored_embedding(settings, tensors, genes, reference.more_genes)
        return TorchEngine(embedding, classifier, reference.thresholds.temperature)
    source = source or Source.from_settings(settings, tensors, genes, scgpt=scgpt, hub=hub)
    return TorchEngine(scgpt_embedding(source), classifier, reference.thresholds.temperature, source)
