from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from spikgpt.training.loop import epoch_seed, fingerprint, learning_rate, seeded


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate(1.0, 10, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert learning_rate(0.01, 0, 0, 100) == 0.01


def test_seeds_of_epochs_and_runs_do_not_collide() -> None:
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**56 for seed in seeds)


def test_the_random_state_of_the_caller_is_restored() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1, torch.device("cpu")):
        first = torch.rand(3)
    with seeded(1, torch.device("cpu")):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), expected)


def test_a_fingerprint_is_the_sha256_of_settings_and_arrays() -> None:
    array = np.arange(4, dtype="<i8")
    assert fingerprint({"b": 1, "a": 2}, array) == hashlib.sha256(b'{"a": 2, "b": 1}' + array.tobytes()).hexdigest()
