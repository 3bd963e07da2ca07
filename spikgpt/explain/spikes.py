"""Spikes of cells in the network of a reference: firing rates, spike rasters, operations and modelled energy.

The NumPy engine computes the spikes in float64, from the vectors that the engine of the reference computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from spikgpt.cells.align import AlignedCells
from spikgpt.cells.cell_cache import CellCache
from spikgpt.embedding.base import Engine
from spikgpt.engines.numpy import BATCH, NumpyClassifier
from spikgpt.errors import ConfigError, DataError, with_noun
from spikgpt.explain.cells import cell_rows
from spikgpt.explain.energy import (
    BlockSpikes,
    Operations,
    break_even_rate,
    dense_operations,
    energy_table,
    linear_operations,
    spiking_operations,
)
from spikgpt.options import AnnotateOptions
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.files import CLASSIFIER, Reference
from spikgpt.tables import html_table, html_view
from spikgpt.types import Bools, Floats, NetworkOutput, Rows, Scale, Strings

QUERY, KEY, VALUE, ATTENTION, HIDDEN = PARTS = ("query", "key", "value", "attention output", "hidden")


@dataclass(frozen=True)
class SpikeRaster:
    """Spikes of one cell.

    Attributes
    ----------
    cell, label
        Name of the cell, and its label by the network alone.
    layers
        For each layer by name: True where a neuron fires at a time step, shape (neurons, T).
    heads
        Number of attention heads. In all layers but the hidden layers, the neurons of one head are one block of rows.
    """

    cell: str
    label: str
    layers: dict[str, Bools]
    heads: int


@dataclass(frozen=True, repr=False)
class SpikeActivity:
    """Spikes of n cells in the network of a reference.

    Attributes
    ----------
    cells, labels
        Names of the cells, and their labels by the network alone, before smoothing and rejection, each of shape (n,).
    rates
        Table of firing rates: the share of neurons that fire at one time step, averaged over cells. Each row is one
        layer, one head and one time step, counted from 1. Hidden neurons belong to no head; their head is 0.
    cell_rates
        Table of the firing rates of each cell in each layer.
    blocks
        Number of spikes in each block of the network, averaged over cells.
    """

    reference_name: str
    config: SpikGPTConfig
    cells: Strings
    labels: Strings
    rates: pd.DataFrame
    cell_rates: pd.DataFrame
    blocks: tuple[BlockSpikes, ...]
    vectors: Floats
    classifier: NumpyClassifier

    @classmethod
    def record(
        cls,
        classifier: NumpyClassifier,
        vectors: Floats,
        cells: Sequence[str],
        label_names: Sequence[str],
        reference_name: str,
    ) -> SpikeActivity:
        """Run a network on the vectors of n cells, shape (n, D), and count its spikes."""
        config = classifier.config
        counts = _SpikeCounts(config, len(vectors))
        best = [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(vectors), BATCH):
            part = slice(start, start + BATCH)
            best.append(classifier.logits(vectors[part], counts.recorder(part)).argmax(axis=1))
        labels, names = np.array(label_names)[np.concatenate(best)], np.asarray(cells, dtype=np.str_)
        tables = counts.rates(), counts.cell_rates(names)
        return cls(reference_name, config, names, labels, *tables, counts.blocks(), vectors, classifier)

    @property
    def firing_rate(self) -> float:
        """Share of all neurons that fire at one time step, as mean over cells and steps."""
        return float(np.average(self.rates["rate"], weights=self.rates["neurons"]))

    @property
    def layer_rates(self) -> pd.Series:
        """Firing rate of each layer, as mean over cells, heads and time steps."""
        return self.cell_rates.mean()

    def label_rates(self) -> pd.DataFrame:
        """Return the firing rate of each layer for the cells of each label."""
        return self.cell_rates.groupby(self.labels).mean().rename_axis("label")

    @cached_property
    def operations(self) -> Operations:
        """Operations of one cell in the network that SpikGPT runs, as mean over cells."""
        return spiking_operations(self.config, self.blocks)

    def energy(self) -> pd.DataFrame:
        """Return operations and modelled energy of one cell, with spikes, without spikes and by a linear classifier.

        Energies are in nJ, by :class:`spikgpt.explain.energy.EnergyModel`. The first three rows are the network with
        the m copies of the paper, the network that SpikGPT runs, and a lower bound for the latter. The other rows are
        the network with activations in place of spikes, and logistic regression on the same vectors.
        """
        config = self.config
        networks = [
            (f"spikes, {config.copies} copies", spiking_operations(config, self.blocks, "literal")),
            ("spikes, as run", self.operations),
            ("spikes, at least", spiking_operations(config, self.blocks, "shared input")),
            ("activations", dense_operations(config)),
            ("logistic regression", linear_operations(config.input_dim, config.n_labels)),
        ]
        return energy_table(networks)

    def sentences(self) -> list[str]:
        """Return sentences on the firing rate, and on the energy compared with a network without spikes."""
        config, energies = self.config, self.energy()["energy, nJ"]
        ratio = float(energies["spikes, as run"] / energies["activations"])
        compared = f"{ratio:.2f} times as much modelled energy as the same network without spikes"
        rate = break_even_rate(config)
        even = (
            "at no firing rate would spikes take less"
            if rate is None
            else f"spikes take less at firing rates below about {100 * rate:.0f}%"
        )
        return [
            f"{100 * self.firing_rate:.1f}% of the neurons fire at a time step (of {config.time_steps}).",
            f"With spikes, a cell takes {compared}; {even}.",
        ]

    def raster(self, cell: str | int = 0) -> SpikeRaster:
        """Return the spikes of one cell.

        Parameters
        ----------
        cell
            Name of the cell, or its position among :attr:`cells`.

        Raises
        ------
        ConfigError
            When there is no such cell.
        """
        row = int(cell_rows(self.cells, [cell])[0])
        layers: dict[str, Bools] = {}

        def on_spikes(layer: str, spikes: Floats) -> None:
            block, parts = _parts(self.config, layer, spikes)
            for part, values in parts.items():
                layers[_named(self.config, block, part)] = values[:, 0].reshape(len(values), -1).T > 0

        self.classifier.logits(self.vectors[row : row + 1], on_spikes)
        return SpikeRaster(str(self.cells[row]), str(self.labels[row]), layers, self.config.heads)

    def __repr__(self) -> str:
        texts = "\n".join(self.sentences())
        return f"SpikeActivity of {with_noun(len(self.cells), 'cell')} in {self.reference_name!r}\n{texts}"

    def _repr_html_(self) -> str:
        rates = [(str(name), f"{100 * rate:.1f}%") for name, rate in self.layer_rates.items()]
        table = self.energy()
        energies = [(str(name), *map(_number, row)) for name, row in table.iterrows()]
        tables = [
            html_table(("layer", "neurons that fire at a step"), rates, numbers=1),
            html_table(("network, one cell", *table.columns), energies, numbers=1),
        ]
        heading = f"Spikes of {with_noun(len(self.cells), 'cell')} in {self.reference_name!r}"
        return html_view(heading, self.sentences(), tables)


class _SpikeCounts:
    """Number of spikes of n cells, summed over batches of cells."""

    def __init__(self, config: SpikGPTConfig, cells: int) -> None:
        self.config, self.n_cells = config, cells
        steps, heads = config.time_steps, config.heads
        # Number of spikes at each time step and attention head, shape (T, heads). The hidden layer has one column.
        self.sums = {
            (block, part): np.zeros((steps, 1 if part == HIDDEN else heads))
            for block in range(config.depth)
            for part in PARTS
        }
        self.by_cell = {key: np.zeros(cells) for key in self.sums}
        self.coincidences = np.zeros(config.depth)

    def recorder(self, rows: slice) -> Any:
        """Return a function that adds the spikes of the cells in ``rows`` to the sums."""

        def on_spikes(layer: str, spikes: Floats) -> None:
            block, parts = _parts(self.config, layer, spikes)
            for part, values in parts.items():  # (T, B, H, neurons)
                self.sums[block, part] += values.sum(axis=(1, 3))
                self.by_cell[block, part][rows] = values.sum(axis=(0, 2, 3))
            if QUERY in parts:
                self.coincidences[block] += (parts[QUERY] * parts[KEY]).sum()

        return on_spikes

    def neurons(self, part: str) -> int:
        """Return the number of neurons of a layer."""
        return self.config.hidden_dim if part == HIDDEN else self.config.width

    def rates(self) -> pd.DataFrame:
        """Return the firing rate of each layer, head and time step."""
        rows = []
        for (block, part), sums in self.sums.items():
            neurons = self.neurons(part) // sums.shape[1]
            for (step, head), spikes in np.ndenumerate(sums):
                rows.append(
                    {
                        "layer": _named(self.config, block, part),
                        "head": 0 if part == HIDDEN else head + 1,
                        "step": step + 1,
                        "neurons": neurons,
                        "rate": spikes / (neurons * max(self.n_cells, 1)),
                    }
                )
        return pd.DataFrame(rows)

    def cell_rates(self, names: Strings) -> pd.DataFrame:
        """Return the firing rate of each cell in each layer."""
        steps = self.config.time_steps
        columns = {
            _named(self.config, block, part): spikes / (steps * self.neurons(part))
            for (block, part), spikes in self.by_cell.items()
        }
        return pd.DataFrame(columns, index=pd.Index(names, name="cell"))

    def blocks(self) -> tuple[BlockSpikes, ...]:
        """Return the number of spikes in each block, averaged over cells."""
        cells = max(self.n_cells, 1)
        return tuple(
            BlockSpikes(
                float(self.coincidences[block]) / cells,
                *(float(self.sums[block, part].sum()) / cells for part in (VALUE, ATTENTION, HIDDEN)),
            )
            for block in range(self.config.depth)
        )


def record_spikes(
    reference: Reference, engine: Engine, adata: AnnData, cells: Any, options: AnnotateOptions
) -> SpikeActivity:
    """Return the spikes of cells of a query, with genes scaled as for an annotation.

    Parameters
    ----------
    cells
        Names of cells, row numbers, or True and False for each cell. None for the query's sample of at most 20,000
        cells.

    Raises
    ------
    DataError
        When the cells cannot be read, or all chosen cells are empty.
    ConfigError
        When ``cells`` names no cell, or a cell that does not exist.
    """
    chosen = None if cells is None else cell_rows(adata.obs_names, cells)
    if chosen is not None and not len(chosen):
        msg = "cells chooses no cell; expected at least one name, row number or True."
        raise ConfigError(msg)
    embedding = engine.embedding
    query = embedding.read(
        adata, layer=options.layer, scaling=options.scaling, gene_key=options.gene_key, species=options.species
    )

    def run(part: AlignedCells, scale: Scale | None) -> NetworkOutput:
        return engine.run(part, scale, batch_size=options.batch_size)

    with CellCache() as cache:
        for chunk in query.rows(range(query.n_obs), engine.chunk_threads):
            cache.append(chunk)
        sample, rows = cache.sample()
        scaled = embedding.fit_scale(sample, options.scaling, run)
        if chosen is None:
            vectors = (scaled.output or run(sample, scaled.scale)).vectors
        else:
            parts = list(_read(cache, chosen))
            rows = np.concatenate([part for part, _ in parts])
            vectors = np.concatenate([run(aligned, scaled.scale).vectors for _, aligned in parts])
    if not len(rows):
        msg = "All chosen cells are empty; expected cells with counts. Choose other cells."
        raise DataError(msg)
    classifier = NumpyClassifier(reference.config, reference.part(CLASSIFIER))
    names = adata.obs_names[rows].astype(str).tolist()
    return SpikeActivity.record(classifier, vectors, names, reference.labels.names, reference.name)


def _read(cache: CellCache, chosen: Rows) -> Iterator[tuple[Rows, AlignedCells]]:
    """Yield row numbers and values of the chosen cells that are not empty, chunk by chunk, in the query's order."""
    for rows, chunk in cache.chunks():
        kept = np.isin(rows, chosen) & ~chunk.empty
        yield rows[kept], chunk.part(kept)


def _parts(config: SpikGPTConfig, layer: str, spikes: Floats) -> tuple[int, dict[str, npt.NDArray[Any]]]:
    """Return the index of a layer's block, and the spikes of each part of the layer, shape (T, B, heads, neurons)."""
    block, name = layer.removeprefix("blocks.").split(".", 1)
    cells = spikes.shape[:2]
    if name == "mlp.hidden_neurons":
        return int(block), {HIDDEN: spikes.reshape(*cells, 1, -1)}
    if name == "attention.output_neurons":
        return int(block), {ATTENTION: spikes.reshape(*cells, config.heads, -1)}
    by_part = spikes.reshape(*cells, 3, config.heads, -1)
    return int(block), {part: by_part[:, :, index] for index, part in enumerate((QUERY, KEY, VALUE))}


def _named(config: SpikGPTConfig, block: int, part: str) -> str:
    """Return the name of a part of a block in tables and pictures."""
    return part if config.depth == 1 else f"block {block + 1} {part}"


def _number(value: float) -> str:
    """Return a count or an energy as text."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
