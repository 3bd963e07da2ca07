from __future__ import annotations

import pytest

from spikgpt.training.recipes import PAPER, network_config


def test_the_paper_recipe_equals_the_published_recipe() -> None:
    assert (PAPER.optimizer, PAPER.learning_rate, PAPER.momentum, PAPER.weight_decay) == ("sgd", 0.01, 0.9, 1e-4)
    assert (PAPER.epochs, PAPER.minimum_steps, PAPER.batch_size, PAPER.warmup) == (10, 0, 128, 0)
    assert (PAPER.label_smoothing, PAPER.class_balance, PAPER.augmented_copies, PAPER.refit) == (0, 0, 0, False)
    config = network_config(PAPER, 512, 14)
    assert (config.width, config.copies, config.time_steps, config.dropout) == (512, 300, 4, 0.1)
    assert not config.residual
    assert not config.shared_dropout
    assert not config.has_stem


@pytest.mark.parametrize(("dim", "heads"), [(8, 8), (30, 2), (7, 1), (64, 8)])
def test_heads_divide_the_width_of_any_embedding(dim: int, heads: int) -> None:
    assert network_config(PAPER, dim, 3).heads == heads
