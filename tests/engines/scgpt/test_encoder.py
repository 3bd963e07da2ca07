"""The encoder gives the cell vectors of the scgpt package, at full and small size, with padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spikgpt.engines.scgpt.checkpoint import Checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTConfig
from spikgpt.errors import CheckpointError
from tests import upstream

FULL = ScGPTConfig()
SMALL = ScGPTConfig(dim=32, heads=4, hidden=48, layers=3, dropout=0.1)


def batch(checkpoint: Checkpoint, cells: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return genes and bins of random cells, each of shape (cells, length); all but the first cell are padded."""
    random = torch.Generator().manual_seed(0)
    genes = torch.randint(0, len(checkpoint.genes), (cells, length), generator=random)
    bins = torch.randint(1, 52, (cells, length), generator=random)
    genes[:, 0], bins[:, 0] = checkpoint.cls_id, checkpoint.config.pad_value
    for cell in range(1, cells):
        genes[cell, length - 7 * cell :] = checkpoint.pad_id
        bins[cell, length - 7 * cell :] = checkpoint.config.pad_value
    return genes, bins


@pytest.mark.parametrize(("config", "cells", "length"), [(SMALL, 6, 150), (FULL, 2, 400)])
def test_cell_vectors_equal_those_of_upstream(
    random_checkpoint: Callable[[ScGPTConfig], Checkpoint], config: ScGPTConfig, cells: int, length: int
) -> None:
    checkpoint = random_checkpoint(config)
    genes, bins = batch(checkpoint, cells, length)

    expected = upstream.embed(upstream.model(checkpoint), genes, bins, checkpoint.pad_id)
    vectors = checkpoint.encoder().embed(genes, bins)

    assert (vectors - expected).abs().max() < 1e-5
    # If all cells had nearly the same vector, the comparison above would show nothing.
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_embed_equals_the_whole_network(checkpoint: Checkpoint) -> None:
    genes, bins = batch(checkpoint, 4, 90)
    encoder = checkpoint.encoder()

    whole = torch.nn.functional.normalize(encoder(genes, bins)[:, 0], dim=1)

    assert (encoder.embed(genes, bins) - whole).abs().max() < 1e-6


def test_args_survive_a_round_trip() -> None:
    assert ScGPTConfig.from_args(SMALL.to_args()) == SMALL
    published: dict[str, Any] = {
        "embsize": 512,
        "nheads": 8,
        "d_hid": 512,
        "nlayers": 12,
        "n_layers_cls": 3,
        "dropout": 0.2,
    }
    published |= {"pad_token": "<pad>", "pad_value": -2, "mask_value": -1, "n_bins": 51, "max_seq_len": 1200}
    assert ScGPTConfig.from_args(published) == FULL


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embsize": None}, "args.json has embsize = None; expected a number."),
        ({"nheads": "8"}, "args.json has nheads = '8'; expected a number."),
        ({"nheads": 5}, "expected positive sizes, and heads that divide dim"),
        ({"nlayers": 0}, "expected positive sizes"),
        ({"input_emb_style": "category"}, "input_emb_style = 'category'; only 'continuous' is supported."),
        ({"pre_norm": True}, "pre_norm = True; only False is supported."),
    ],
)
def test_other_networks_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(")):
        ScGPTConfig.from_args(SMALL.to_args() | changed)


def test_args_that_are_no_object_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"args.json holds list; expected an object with embsize"):
        ScGPTConfig.from_args([])
