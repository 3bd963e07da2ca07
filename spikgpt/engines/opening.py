"""Which engine runs a reference, and with what."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spikgpt.embedding.base import Engine
from spikgpt.embedding.stored import stored_embedding
from spikgpt.errors import needs
from spikgpt.options import EngineOptions
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, Reference
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import GRAPHS

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
    """Return what runs a reference's network.

    With ``auto`` that is ONNX Runtime where it is installed and the reference has the graph, else torch. For torch,
    ``scgpt`` is the folder of the checkpoint where the reference neither carries it nor names a repository, and ``hub``
    how to get one that it names. Errors: a ConfigError for a missing package, a GraphError for a graph that cannot be
    run, a CheckpointError for another scGPT, or none, and DamagedReference for files that do not fit together.
    """
    options = options or EngineOptions()
    graph = GRAPHS[options.precision] in reference.files and find_spec("onnxruntime") is not None
    if options.engine == "onnx" or (options.engine == "auto" and graph and scgpt is None):
        from spikgpt_onnx.engine import OnnxEngine

        return OnnxEngine(reference, options)
    return torch_engine(reference, scgpt=scgpt, hub=hub)


def torch_engine(
    reference: Reference,
    *,
    scgpt: str | Path | None = None,
    hub: Hub | None = None,
    source: ScGPTSource | None = None,
) -> TorchEngine:
    """Return the torch engine of a reference; see :func:`open_engine`. A ``source`` is scGPT, opened already."""
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
