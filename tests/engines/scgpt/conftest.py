"""Checkpoints in the scGPT format, with random weights and real gene names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from anndata import AnnData

from spikgpt.embedding.vocabulary import CLS, END
from spikgpt.engines.scgpt.checkpoint import Checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTConfig, ScGPTEncoder

SMALL = ScGPTConfig(dim=32, heads=4, hidden=48, layers=3, dropout=0.1)


@pytest.fixture(scope="session")
def random_checkpoint(query: AnnData) -> Callable[[ScGPTConfig], Checkpoint]:
    """Return a function that makes checkpoints with random weights and the gene names of the test cells."""

    def make(config: ScGPTConfig = SMALL) -> Checkpoint:
        tokens = (*query.var_names[:12_000], config.pad_token, CLS, END)
        vocabulary = {token: index for index, token in enumerate(tokens)}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = ScGPTEncoder(config, len(vocabulary), vocabulary[config.pad_token])
            for name, weight in network.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.1)
        return Checkpoint(config, vocabulary, {name: tensor.detach() for name, tensor in network.state_dict().items()})

    return make


@pytest.fixture(scope="session")
def checkpoint(random_checkpoint: Callable[[ScGPTConfig], Checkpoint]) -> Checkpoint:
    """Return a small checkpoint with random weights."""
    return random_checkpoint(SMALL)
