"""A trained reference, ready to run: written, read again, and asked for probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spikgpt.errors import ConfigError
from spikgpt.reference.layout import FILES, PICTURE, RELIABILITY
from spikgpt.training.reference import Reference, load, save


def test_a_reference_loads_as_it_was_saved(small: Reference, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, small.embedder.dim))
    again = load(save(small, tmp_path / "small"))
    np.testing.assert_array_equal(again.probabilities(vectors), small.probabilities(vectors))
    assert (again.labels, again.thresholds, again.name) == (small.labels, small.thresholds, small.name)
    assert again.metrics == small.metrics
    assert again.provenance == json.loads(json.dumps(small.provenance))
    assert again.embedder.genes == small.embedder.genes


def test_saving_gives_the_same_bytes_again(small: Reference, tmp_path: Path) -> None:
    first, second = save(small, tmp_path / "a"), save(load(tmp_path / "a"), tmp_path / "b")
    assert sorted(file.name for file in first.iterdir()) == sorted((*FILES, PICTURE, RELIABILITY, "manifest.json"))
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_probabilities_do_not_depend_on_the_batch_size(small: Reference, batch_size: int) -> None:
    vectors = np.random.default_rng(1).standard_normal((64, small.embedder.dim))
    whole = small.probabilities(vectors).astype(np.float32)
    np.testing.assert_array_equal(small.probabilities(vectors, batch_size=batch_size).astype(np.float32), whole)


def test_a_batch_has_a_cell(small: Reference) -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        small.probabilities(np.zeros((2, small.embedder.dim)), batch_size=0)
