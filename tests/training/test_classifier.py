from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spikgpt.errors import CheckpointError
from spikgpt.training.classifier import Progress, fit_classifier
from spikgpt.training.loop import TrainingRun
from spikgpt.training.recipes import DEFAULT, PAPER, TrainingRecipe

QUICK = replace(DEFAULT, epochs=4, minimum_steps=0)
N, DIM, LABELS = 150, 10, 3


def toy() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    labels = np.arange(N) % LABELS
    return np.random.default_rng(0).standard_normal((N, DIM)) + 2 * np.eye(DIM)[labels], labels


def fitted(recipe: TrainingRecipe = QUICK, **options: Any) -> dict[str, torch.Tensor]:
    vectors, labels = toy()
    return fit_classifier(recipe, vectors, labels, LABELS, **options).state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not() -> None:
    first = fitted(seed=3)
    torch.rand(7)
    assert equal(first, fitted(seed=3))
    assert not equal(first, fitted(seed=4))


def test_training_leaves_the_random_state_of_the_caller_unchanged() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fitted()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("recipe", [QUICK, replace(PAPER, epochs=4)], ids=lambda recipe: recipe.name)
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, recipe: TrainingRecipe) -> None:
    checkpoint = tmp_path / "state" / "fit.safetensors"

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(recipe, checkpoint=checkpoint, on_epoch=interrupt)
    epochs: list[int] = []
    resumed = fitted(recipe, checkpoint=checkpoint, on_epoch=lambda progress: epochs.append(progress.epoch))
    assert epochs == [3, 4]
    assert equal(resumed, fitted(recipe))


def test_an_interruption_within_an_epoch_keeps_the_previous_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    steps, original = 0, TrainingRun.step

    def interrupted(run: TrainingRun, epoch: int, step: int, loss: torch.Tensor, **options: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 6:  # an epoch has 2 steps
            raise KeyboardInterrupt
        original(run, epoch, step, loss, **options)

    monkeypatch.setattr(TrainingRun, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(checkpoint=checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    epochs: list[int] = []
    resumed = fitted(checkpoint=checkpoint, on_epoch=lambda progress: epochs.append(progress.epoch))
    assert epochs == [3, 4]
    assert equal(resumed, fitted())


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    fitted(checkpoint=checkpoint)
    for options in ({"seed": 1}, {"recipe": replace(QUICK, learning_rate=0.1)}):
        with pytest.raises(CheckpointError, match="belongs to other cells, another recipe or another seed. Delete it"):
            fitted(checkpoint=checkpoint, **options)


def test_a_checkpoint_of_other_cells_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    fitted(checkpoint=checkpoint)
    vectors, labels = toy()
    for other, names in ((vectors + 1e-3, labels), (vectors, labels[::-1]), (vectors[:-1], labels[:-1])):
        with pytest.raises(CheckpointError, match="belongs to other cells"):
            fit_classifier(QUICK, other, names, LABELS, checkpoint=checkpoint)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    first = fitted(checkpoint=checkpoint)
    states: list[Progress] = []
    assert equal(fitted(checkpoint=checkpoint, on_epoch=states.append), first)
    assert states == []
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]


def test_the_number_of_threads_is_restored_and_changes_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with_one_thread = fitted()
        torch.set_num_threads(2)
        with_two_threads = fitted()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert equal(with_one_thread, with_two_threads)


def test_a_last_batch_of_one_cell_is_left_out() -> None:
    vectors, labels = toy()
    assert fit_classifier(QUICK, vectors[:129], labels[:129], LABELS).config.input_dim == DIM


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    checkpoint.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot be read .* Delete it to train from the start"):
        fitted(checkpoint=checkpoint)


@pytest.mark.slow
def test_the_classifier_learns() -> None:
    # At this distance, the best possible classifier labels 99.5% of the cells correctly.
    vectors, labels = toy()
    vectors = vectors + 2 * np.eye(DIM)[labels]
    states: list[Progress] = []
    recipe = replace(QUICK, epochs=60)
    classifier = fit_classifier(recipe, vectors, labels, LABELS, on_epoch=states.append)
    predicted = classifier(torch.as_tensor(vectors, dtype=torch.float32)).argmax(1).numpy()
    assert (predicted == labels).mean() > 0.95
    assert states[-1].loss < states[0].loss
    assert [state.epoch for state in states] == list(range(1, 61))


def test_few_cells_get_the_minimum_number_of_steps() -> None:
    states: list[Progress] = []
    fitted(replace(QUICK, minimum_steps=11), on_epoch=states.append)
    assert states[-1].epochs == 6  # 2 batches an epoch
