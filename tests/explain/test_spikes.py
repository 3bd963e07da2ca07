"""Recorded spikes equal those of torch; rates, tables and texts for users."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.engines.numpy import NumpyClassifier, NumpyEngine
from spikgpt.engines.opening import torch_engine
from spikgpt.errors import ConfigError, DataError
from spikgpt.explain.spikes import SpikeActivity
from spikgpt.reference.files import CLASSIFIER, Reference
from tests.conftest import labelled
from tests.engines.test_model import ARCHITECTURES, Recorder, classifier_for, embeddings
from tests.explain.test_energy import activity as activity_of


def recorded(reference: Reference, cells: int) -> SpikeActivity:
    """Record the spikes of a reference's network for random vectors, one for each of ``cells`` cells."""
    vectors = np.random.default_rng(0).standard_normal((cells, reference.config.input_dim))
    classifier, names = NumpyClassifier(reference.config, reference.part(CLASSIFIER)), list(map(str, range(cells)))
    return SpikeActivity.record(classifier, vectors, names, reference.labels.names, reference.name)


@pytest.fixture(scope="module")
def model(small: Reference) -> SpikGPT:
    return SpikGPT(small)


@pytest.fixture(scope="module")
def activity(model: SpikGPT, query: AnnData) -> SpikeActivity:
    return model.spikes(query)


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_spikes_are_those_of_torch_and_recording_changes_no_bit(overrides: dict[str, Any]) -> None:
    classifier, x = classifier_for(overrides, trained=True).double(), embeddings(50).double()
    folded = classifier.folded()
    recorder = Recorder(folded)
    with torch.inference_mode():
        folded(x)
    expected = {name: spikes[:, :, 0] for name, spikes in recorder.spikes.items()}
    weights = {name: tensor.numpy() for name, tensor in classifier.state_dict().items()}
    numpy_classifier, spikes_by_layer = NumpyClassifier(classifier.config, weights), dict[str, Any]()
    recorded = numpy_classifier.logits(x.numpy(), lambda name, spikes: spikes_by_layer.update({name: spikes}))
    np.testing.assert_array_equal(recorded, numpy_classifier.logits(x.numpy()))
    assert list(spikes_by_layer) == list(expected)
    for name, spikes in spikes_by_layer.items():
        np.testing.assert_array_equal(spikes, expected[name])


def test_rates_are_means_over_cells_of_each_layer_head_and_step(activity: SpikeActivity, small: Reference) -> None:
    config, n_cells = small.config, len(activity.cells)
    rates = activity.rates.set_index(["layer", "head", "step"])["rate"]
    assert len(rates) == config.time_steps * (4 * config.heads + 1)
    rasters = [activity.raster(row).layers for row in range(n_cells)]
    for layer in ("query", "value", "attention output"):
        spikes = np.mean([raster[layer] for raster in rasters], axis=0)  # shape (neurons, steps)
        by_head = spikes.reshape(config.heads, -1, config.time_steps).mean(axis=1)  # shape (heads, steps)
        head_rates = np.array([[rates[layer, head + 1, step + 1] for step in range(4)] for head in range(config.heads)])
        np.testing.assert_allclose(head_rates, by_head, atol=1e-12)
    hidden = np.mean([raster["hidden"] for raster in rasters], axis=(0, 1))
    np.testing.assert_allclose([rates["hidden", 0, step + 1] for step in range(4)], hidden, atol=1e-12)
    np.testing.assert_allclose(
        activity.cell_rates.iloc[7], [raster.mean() for raster in rasters[7].values()], atol=1e-12
    )
    pd.testing.assert_index_equal(activity.layer_rates.index, activity.cell_rates.columns)
    assert 0 < activity.firing_rate < 0.5
    blocks = activity.blocks[0]
    assert blocks.coincidences == pytest.approx(
        np.mean([(raster["query"] & raster["key"]).sum() for raster in rasters]), rel=1e-12
    )
    assert blocks.hidden == pytest.approx(np.mean([raster["hidden"].sum() for raster in rasters]), rel=1e-12)


def test_labels_are_those_of_the_network_for_the_scale_of_the_query(
    activity: SpikeActivity, small: Reference, query: AnnData
) -> None:
    annotation = labelled(small, query, smoothing=False, unknown_rate=0.0)
    assert activity.cells.tolist() == query.obs_names.tolist()
    np.testing.assert_array_equal(activity.labels, annotation.labels)
    by_label = activity.label_rates()
    assert sorted(by_label.index) == sorted(set(activity.labels))
    assert by_label.loc["beta", "value"] == pytest.approx(
        activity.cell_rates["value"][activity.labels == "beta"].mean()
    )


def test_chosen_cells_are_scaled_by_the_whole_query(model: SpikGPT, activity: SpikeActivity, query: AnnData) -> None:
    names = query.obs_names[[5, 9, 200]].tolist()
    choices: tuple[Any, ...] = (names, [5, 9, 200], np.isin(np.arange(query.n_obs), [5, 9, 200]))
    for cells in choices:
        some = model.spikes(query, cells)
        assert some.cells.tolist() == names
        pd.testing.assert_frame_equal(some.cell_rates, activity.cell_rates.iloc[[5, 9, 200]])
    raster = some.raster(names[1])
    assert (raster.cell, raster.label, raster.heads) == (names[1], activity.labels[9], 8)
    np.testing.assert_array_equal(raster.layers["hidden"], activity.raster(9).layers["hidden"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nobody"], "cells names 'nobody', which is not one of the 300 cells"),
        ([3000], "cells names the position 3000; expected 0 to 299"),
        ([-1], "cells names the position -1"),
        ([True, False], "cells has 2 values; expected one True or False for each of the 300 cells"),
        ([], "cells chooses no cell"),
    ],
)
def test_invalid_cells_are_refused(model: SpikGPT, query: AnnData, names: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.spikes(query, names)


def test_empty_cells_have_no_spikes(model: SpikGPT, query: AnnData, activity: SpikeActivity) -> None:
    adata = query.copy()
    adata.X.data[adata.X.indptr[3] : adata.X.indptr[4]] = 0
    assert len(model.spikes(adata).cells) == query.n_obs - 1
    with pytest.raises(DataError, match="All chosen cells are empty"):
        model.spikes(adata, [3])
    with pytest.raises(ConfigError, match="cells names 'nobody'"):
        activity.raster("nobody")
    with pytest.raises(DataError, match="spikes"):
        model.spikes("cells.h5ad")


def test_a_summary_says_when_spikes_save_nothing(activity: SpikeActivity) -> None:
    energy = activity.energy()
    assert energy.index.tolist() == [
        "spikes, 300 copies",
        "spikes, as run",
        "spikes, at least",
        "activations",
        "logistic regression",
    ]
    total = energy["energy, nJ"]
    ratio = total["spikes, as run"] / total["activations"]
    assert ratio > 1
    text = f"a cell takes {ratio:.2f} times as much modelled energy as the same network without spikes; at no firing"
    assert text in repr(activity)
    page = activity._repr_html_()
    assert text in page
    assert page.count("<tr>") == 2 + 5 + 5


def test_markup_in_the_name_of_a_reference_is_escaped(small: Reference) -> None:
    activity = recorded(replace(small, name="<script>$\x1b"), 3)
    assert "<script>" not in activity._repr_html_()
    assert "\x1b" not in activity._repr_html_()


def test_deeper_networks_name_their_blocks() -> None:
    deep = activity_of(classifier_for({"depth": 2, "copies": 3}, trained=True), embeddings(9).double())
    assert deep.cell_rates.columns[0] == "block 1 query"
    assert deep.cell_rates.columns[-1] == "block 2 hidden"
    assert len(deep.blocks) == 2


def test_vectors_of_other_engines_give_the_spikes_of_the_numpy_engine(
    small: Reference, query: AnnData, activity: SpikeActivity
) -> None:
    by_torch = SpikGPT(small, torch_engine(small)).spikes(query)
    np.testing.assert_array_equal(by_torch.labels, activity.labels)
    assert by_torch.firing_rate == pytest.approx(activity.firing_rate, rel=1e-3)
    assert NumpyClassifier(small.config, small.part(CLASSIFIER)).config == by_torch.config


def test_vectors_of_a_reference_on_an_embedding_have_spikes_too(small: Reference) -> None:
    vectors = np.random.default_rng(0).standard_normal((5, small.config.input_dim))
    reference = replace(small, embedder={"kind": "obsm", "key": "X_own", "dim": small.config.input_dim})
    adata = AnnData(obs=pd.DataFrame(index=list("abcde")), obsm={"X_own": vectors})
    recorded_spikes = SpikGPT(reference, NumpyEngine(reference)).spikes(adata, ["e", "b"])
    assert recorded_spikes.cells.tolist() == ["b", "e"]
    expected = torch_engine(small).classify(vectors[[1, 4]])[0].argmax(axis=1)
    np.testing.assert_array_equal(recorded_spikes.labels, np.array(small.labels.names)[expected])
