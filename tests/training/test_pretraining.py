"""Pretraining of scGPT lowers the loss and resumes to the same weights; the scgpt package reads the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from sklearn.linear_model import LogisticRegression

from spikgpt.engines.scgpt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spikgpt.engines.scgpt.embedding import RunSettings
from spikgpt.engines.scgpt.encoder import ScGPTConfig
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.engines.torch import embed_query
from spikgpt.errors import CheckpointError, ConfigError, DataError
from spikgpt.training.pretraining import Pretraining, pretrain
from tests import upstream

CONFIG = ScGPTConfig(dim=16, heads=2, hidden=32, layers=1, dropout=0.0)
SETTINGS = Pretraining(genes=200, max_length=64, epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def trained(cells: AnnData) -> tuple[Checkpoint, list[float]]:
    losses: list[float] = []
    checkpoint = pretrain(cells, CONFIG, SETTINGS, device="cpu", on_epoch=lambda _, __, loss: losses.append(loss))
    return checkpoint, losses


@pytest.mark.slow
def test_training_lowers_the_loss(trained: tuple[Checkpoint, list[float]]) -> None:
    _, losses = trained
    assert len(losses) == 3
    assert losses[2] < losses[0]


@pytest.mark.slow
def test_the_embedding_separates_types(trained: tuple[Checkpoint, list[float]], cells: AnnData) -> None:
    vectors, _, _ = embed_query(ScGPTSource(trained[0], "mine"), cells, RunSettings())
    labels = cells.obs["cell_type"].to_numpy()
    train = np.arange(cells.n_obs) % 2 == 0
    model = LogisticRegression(C=100, max_iter=2000).fit(vectors[train], labels[train])

    # There are six types of equal size, so chance gives an accuracy of 1/6.
    assert model.score(vectors[~train], labels[~train]) > 0.5


@pytest.mark.slow
def test_an_interrupted_training_resumes_to_the_same_weights(
    trained: tuple[Checkpoint, list[float]], cells: AnnData, tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"

    def stop(epoch: int, _: int, __: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(cells, CONFIG, SETTINGS, device="cpu", state=state, on_epoch=stop)
    epochs: list[int] = []
    resumed = pretrain(
        cells, CONFIG, SETTINGS, device="cpu", state=state, on_epoch=lambda epoch, _, __: epochs.append(epoch)
    )

    assert epochs == [3]
    assert resumed.sha256 == trained[0].sha256
    with pytest.raises(CheckpointError, match="belongs to other cells, another recipe or another seed"):
        pretrain(cells, CONFIG, Pretraining(genes=200, max_length=64, epochs=4), device="cpu", state=state)


@pytest.mark.slow
def test_upstream_reads_the_checkpoint(trained: tuple[Checkpoint, list[float]], tmp_path: Path) -> None:
    folder = save_checkpoint(trained[0], tmp_path / "mine", upstream=True)
    checkpoint = load_checkpoint(folder)
    genes = torch.tensor([[checkpoint.cls_id, 5, 9, 20], [checkpoint.cls_id, 7, 8, checkpoint.pad_id]])
    bins = torch.tensor([[-2, 3, 50, 12], [-2, 4, 4, -2]])

    expected = upstream.embed(upstream.model(checkpoint), genes, bins, checkpoint.pad_id)

    assert (checkpoint.encoder().embed(genes, bins) - expected).abs().max() < 1e-5


@pytest.mark.slow
def test_the_pretraining_heads_equal_those_of_upstream(trained: tuple[Checkpoint, list[float]]) -> None:
    checkpoint = trained[0]
    network = upstream.model(checkpoint)
    heads = {name for name in network.state_dict() if name.startswith(("decoder.", "mvc_decoder."))}

    assert heads == {name for name in checkpoint.weights if name.startswith(("decoder.", "mvc_decoder."))} | {
        name for name in heads if name.endswith("gene2query.bias")
    }


def test_cells_without_genes_are_refused() -> None:
    with pytest.raises(DataError, match="Only 10 genes are seen in 3 cells or more; at least 50 are needed"):
        pretrain(AnnData(np.ones((40, 10), np.float32)), CONFIG, SETTINGS)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"epochs": 0}, {"max_length": 1}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="genes, epochs, batch_size and learning_rate must be positive"):
        Pretraining(**settings)
