"""The spiking classifier in NumPy: the engine that needs no extra package.

The network is the collapsed form of :mod:`spikgpt.engines.model` in evaluation. One copy with gain m stands for the m
copies of a cell. In the shape comments T is time steps, B cells, D the width, H heads, E = D / H, F hidden neurons of
the MLP, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, softmax

from spikgpt.cells.align import AlignedCells
from spikgpt.embedding.pca import PCAProjection
from spikgpt.embedding.stored import stored_embedding
from spikgpt.engines.batches import run_batches, worker_count
from spikgpt.errors import ConfigError, install_command
from spikgpt.options import EngineOptions
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.files import CLASSIFIER, EMBEDDER, Reference
from spikgpt.types import Floats, NetworkOutput, OnCells, Scale

# Number of cells in a batch. The values of a batch of this size stay in the processor's cache.
BATCH = 256
# Constant that torch's BatchNorm1d and LayerNorm add to the variance.
NORM_EPSILON = 1e-5
# Function that is called with the name of a layer of neurons, and the spikes of the layer, shape (T, B, N).
OnSpikes = Callable[[str, Floats], None]


def fold_layer(weights: Mapping[str, Floats], name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the weight, shape (out, in), and bias, shape (out,), of a layer after folding its BatchNorm into both."""
    if f"{name}.weight" in weights:
        return weights[f"{name}.weight"].astype(np.float64), weights[f"{name}.bias"].astype(np.float64)
    parts = ("linear.weight", "norm.running_mean", "norm.running_var", "norm.weight", "norm.bias")
    weight, mean, variance, gain, shift = (weights[f"{name}.{part}"].astype(np.float64) for part in parts)
    gain = gain / np.sqrt(variance + NORM_EPSILON)
    return weight * gain[:, None], shift - mean * gain


class NumpyClassifier:
    """The classifier of a reference, in float64 unless another type is given."""

    def __init__(self, config: SpikGPTConfig, weights: Mapping[str, Floats], dtype: type = np.float64) -> None:
        config.check(weights)
        self.config, self.dtype = config, dtype
        names = [name for name in weights if name.endswith(".weight") and ".norm." not in name]
        layers = {name.removesuffix(".weight").removesuffix(".linear") for name in names}
        folded = {layer: fold_layer(weights, layer) for layer in layers}
        self.layers: dict[str, tuple[Floats, Floats]] = {
            layer: (weight.T.astype(dtype), bias.astype(dtype)) for layer, (weight, bias) in folded.items()
        }

    def logits(self, vectors: Floats, on_spikes: OnSpikes | None = None) -> Floats:
        """Return the logits of cells, shape (B, L), from their vectors, shape (B, input_dim).

        ``on_spikes`` is called with the spikes of each layer of neurons, under the name of the layer in
        :mod:`spikgpt.engines.model`.
        """
        config, steps, cells = self.config, self.config.time_steps, len(vectors)
        x: Floats = np.asarray(vectors, dtype=self.dtype)
        # The input is the same at each time step, so the first projection is computed once.
        x = (self._linear("stem", x) if config.has_stem else x)[None]  # (1, B, D)
        for block in (f"blocks.{index}" for index in range(config.depth)):
            currents = self._linear(f"{block}.attention.query_key_value", x)  # (T or 1, B, 3D)
            spikes = self._fire(currents, f"{block}.attention.projection_neurons", on_spikes)  # (T, B, 3D)
            by_head = spikes.reshape(steps, cells, 3, config.heads, config.width // config.heads)  # (T, B, 3, H, E)
            query, key, value = np.moveaxis(by_head, 2, 0)  # each (T, B, H, E)
            attended = config.copies * (query * key).sum(axis=-1, keepdims=True) * value  # (T, B, H, E)
            # These are whole numbers, also after division by m. So potentials meet the threshold exactly.
            scale = config.attention_scale
            currents = attended / config.copies if scale is None else attended * scale
            currents = currents.reshape(steps, cells, config.width)  # (T, B, D)
            attended = self._fire(currents, f"{block}.attention.output_neurons", on_spikes)  # (T, B, D)
            x = x + attended if config.residual else attended  # (T, B, D)
            currents = self._linear(f"{block}.mlp.hidden", x)  # (T, B, F)
            hidden = self._fire(currents, f"{block}.mlp.hidden_neurons", on_spikes)  # (T, B, F)
            output = self._linear(f"{block}.mlp.output", hidden)  # (T, B, D)
            x = x + output if config.residual else output  # (T, B, D)
        return self._linear("head", x.mean(axis=0))  # (B, L)

    def _linear(self, name: str, x: Floats) -> Floats:
        """Apply a linear layer to the last axis of ``x``."""
        weight, bias = self.layers[name]
        product: Floats = x @ weight + bias
        return product

    def _fire(self, currents: Floats, name: str, on_spikes: OnSpikes | None) -> Floats:
        """Return the spikes, 0 or 1, (T, B, N), of leaky integrate-and-fire neurons with inputs of (T or 1, B, N)."""
        spikes = np.empty((self.config.time_steps, *currents.shape[1:]), dtype=self.dtype)
        potential = np.zeros_like(currents[0])  # (B, N)
        for step, current in enumerate(np.broadcast_to(currents, spikes.shape)):
            potential += (current - potential) / self.config.tau
            fired = potential >= self.config.v_threshold
            spikes[step] = fired
            potential[fired] = 0
        if on_spikes is not None:
            on_spikes(name, spikes)
        return spikes


class NumpyEngine:
    """Run a reference on PCA or on an embedding in ``obsm``, in float64 on the CPU.

    A reference on scGPT, or a provider that names a GPU, raises a ConfigError.
    """

    name = "numpy on cpu"

    def __init__(self, reference: Reference, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        if self.options.provider not in ("auto", "cpu"):
            msg = (
                f"provider is {self.options.provider!r}, but the NumPy engine runs on the CPU. For a GPU, run: "
                f"{install_command('onnxruntime-gpu')}, and use a reference with a graph (spikgpt export MODEL --out "
                "FOLDER). Or pass provider='cpu' (--provider cpu)."
            )
            raise ConfigError(msg)
        if reference.embedder["kind"] == "scgpt":
            msg = (
                "The NumPy engine does not run scGPT. Use engine='onnx' (--engine onnx) if the reference has a graph, "
                "or engine='torch' (--engine torch)."
            )
            raise ConfigError(msg)
        tensors, genes = reference.part(EMBEDDER), reference.genes
        self.embedding = stored_embedding(reference.embedder, tensors, genes, reference.more_genes)
        self.classifier = NumpyClassifier(reference.config, reference.part(CLASSIFIER))
        self.temperature = reference.thresholds.temperature

    @property
    def chunk_threads(self) -> int:
        """Number of chunks of cells to label at the same time."""
        return worker_count(self.options)

    def run(
        self,
        cells: AlignedCells,
        scale: Scale | None,
        *,
        batch_size: int | None = None,
        on_cells: OnCells | None = None,
    ) -> NetworkOutput:
        """Return the network's output for cells, none of them empty; see :class:`spikgpt.embedding.base.Engine`."""

        def run_batch(part: slice) -> NetworkOutput:
            batch = cells.part(part)
            projection = self.embedding if isinstance(self.embedding, PCAProjection) else None
            vectors = projection.vectors(batch, scale) if projection else batch.vectors
            # NetworkOutput sets cells with values that are not finite to 0, so NumPy need not warn.
            with np.errstate(over="ignore", invalid="ignore"):
                logits = self.classifier.logits(vectors)
                probabilities = softmax(logits / self.temperature, axis=1)
                return NetworkOutput.from_arrays(vectors, probabilities, logsumexp(logits, axis=1))

        size, threads = batch_size or BATCH, worker_count(self.options)
        return run_batches(run_batch, len(cells.totals), size, threads=threads, on_cells=on_cells)
