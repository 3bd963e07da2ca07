"""Checkpoint folders in every form of the scgpt package give the same weights, and invalid folders are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spikgpt.engines.scgpt.checkpoint import (
    ARGS,
    UPSTREAM_WEIGHTS,
    VOCABULARY,
    WEIGHTS,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from spikgpt.errors import CheckpointError
from tests import upstream


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """Write the checkpoint as the scgpt package does, with its prediction heads; return the folder."""
    path = save_checkpoint(checkpoint, tmp_path / "checkpoint")
    (path / WEIGHTS).unlink()
    torch.save(upstream.model(checkpoint).state_dict(), path / UPSTREAM_WEIGHTS)
    return path


def stored(folder: Path) -> dict[str, Any]:
    weights: dict[str, Any] = torch.load(folder / UPSTREAM_WEIGHTS, weights_only=True)
    return weights


def test_a_folder_of_upstream_is_read(checkpoint: Checkpoint, folder: Path) -> None:
    loaded = load_checkpoint(folder)

    assert loaded.sha256 == checkpoint.sha256
    assert loaded.vocabulary == checkpoint.vocabulary
    assert "cls_decoder.out_layer.weight" in loaded.weights


@pytest.mark.parametrize(
    "renamed",
    [
        lambda weights: {name.replace("in_proj_", "Wqkv."): tensor for name, tensor in weights.items()},
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {"model_state_dict": weights, "epoch": 3},
        lambda weights: {name: tensor.half() for name, tensor in weights.items() if "decoder" not in name},
    ],
    ids=["flash-attn", "parallel", "nested", "half, no heads"],
)
def test_every_form_of_weights_is_read(
    checkpoint: Checkpoint, folder: Path, renamed: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    torch.save(renamed(stored(folder)), folder / UPSTREAM_WEIGHTS)

    state = load_checkpoint(folder).encoder().state_dict()

    for name, tensor in checkpoint.encoder().state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=1e-3, rtol=1e-3)


def test_conversion_from_and_to_the_upstream_format_keeps_the_weights(
    checkpoint: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    ours = save_checkpoint(load_checkpoint(folder), tmp_path / "ours")
    back = save_checkpoint(load_checkpoint(ours), tmp_path / "back", upstream=True)

    assert sorted(path.name for path in ours.iterdir()) == [ARGS, WEIGHTS, VOCABULARY]
    assert sorted(path.name for path in back.iterdir()) == [ARGS, UPSTREAM_WEIGHTS, VOCABULARY]
    assert load_checkpoint(ours).sha256 == load_checkpoint(back).sha256 == checkpoint.sha256
    before, after = stored(folder), stored(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "checkpoint", "ours"]


def test_missing_special_tokens_are_added_at_the_end(checkpoint: Checkpoint, folder: Path) -> None:
    vocabulary = json.loads((folder / VOCABULARY).read_text())
    del vocabulary["<eoc>"]  # the last token
    (folder / VOCABULARY).write_text(json.dumps(vocabulary))

    assert load_checkpoint(folder).vocabulary == checkpoint.vocabulary


def test_each_gene_has_its_id_of_the_vocabulary(checkpoint: Checkpoint) -> None:
    genes = checkpoint.genes

    assert [checkpoint.vocabulary[symbol] for symbol in genes.symbols] == checkpoint.with_length(9).gene_ids.tolist()
    assert sum(gene_id is not None for gene_id in genes.ensembl_ids) > 0.9 * len(genes)


class Payload:
    """Object that makes a folder when it is unpickled, to show that code was executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_executed(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    for content in (pickle.dumps(Payload(trap)), None):
        if content:
            (folder / UPSTREAM_WEIGHTS).write_bytes(content)
        else:
            torch.save({"weights": Payload(trap)}, folder / UPSTREAM_WEIGHTS)
        with pytest.raises(CheckpointError, match="holds more than weights, and was not executed"):
            load_checkpoint(folder)
    assert not trap.exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged_archive(folder: Path) -> None:
    truncate(folder / UPSTREAM_WEIGHTS)


def damaged_safetensors(folder: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in stored(folder).items()}, folder / WEIGHTS)
    truncate(folder / WEIGHTS)


def other_vocabulary(folder: Path) -> None:
    vocabulary = json.loads((folder / VOCABULARY).read_text())
    (folder / VOCABULARY).write_text(json.dumps(vocabulary | {"ANOTHER": len(vocabulary)}))


def indices_with_a_gap(folder: Path) -> None:
    vocabulary = json.loads((folder / VOCABULARY).read_text())
    (folder / VOCABULARY).write_text(json.dumps(vocabulary | {"ANOTHER": len(vocabulary) + 5}))


def with_args(**args: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / ARGS).write_text(json.dumps(json.loads((folder / ARGS).read_text()) | args))


def with_weights(**weights: Any) -> Callable[[Path], object]:
    return lambda folder: torch.save(stored(folder) | weights, folder / UPSTREAM_WEIGHTS)


def large(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(2**31)

    return damage


def not_finite(folder: Path) -> None:
    weights = stored(folder)
    weights["encoder.enc_norm.bias"][0] = float("nan")
    torch.save(weights, folder / UPSTREAM_WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged_archive, r"best_model.pt is damaged or incomplete"),
        (damaged_safetensors, r"model.safetensors is not a safetensors file"),
        (other_vocabulary, r"has 12004 tokens, special ones included; the weights have 12003 gene embeddings"),
        (indices_with_a_gap, r"are not 0 to 12003, each once"),
        *(
            (with_args(nlayers=layers), rf"hold 3 layers; args.json states nlayers = {layers}")
            for layers in (2, 4, 999)
        ),
        (with_args(nlayers=10_000_000), r"nlayers = 1e\+07; expected at most 1000"),
        (with_args(embsize=2**40, nheads=1), r"embsize = 1\.09951e\+12; expected at most 16384"),
        (with_args(embsize=64), r"The weights hold \(12003, 32\) for encoder.embedding.weight; expected"),
        (with_args(d_hid=10**9), r"d_hid = 1e\+09; expected at most 65536"),
        (with_args(n_bins=10**9), r"n_bins = 1e\+09; expected at most 10000"),
        (with_args(pad_value=-(10**9)), r"pad_value = -1e\+09; expected -1000 to n_bins = 51"),
        (with_args(mask_value=52), r"mask_value = 52; expected -1000 to n_bins = 51"),
        (with_args(d_hid=10**30), r"d_hid = 1000000000000000000000000000000; expected a number"),
        (with_args(dropout=10**400), r"dropout = 10+; expected a number"),
        (lambda folder: (folder / ARGS).write_text("[" * 100_000), r"args.json cannot be read as JSON"),
        (lambda folder: (folder / ARGS).write_text('{"d_hid": 1' + "0" * 5000 + "}"), r"args.json cannot be read"),
        (large(ARGS), r"args.json is not a regular file of at most 1048576 bytes"),
        (large(VOCABULARY), r"vocab.json is not a regular file of at most"),
        (lambda folder: (folder / VOCABULARY).write_text('{"\\ud800": 0}'), r"a token that is no Unicode text"),
        (with_weights(**{"encoder.more": torch.ones(1)}), r"The weights hold 'encoder.more', which no"),
        (with_weights(**{"encoder.enc_norm.bias": torch.ones(32, dtype=torch.int32)}), r"no finite numbers"),
        (not_finite, r"encoder.enc_norm.bias holds values that are no finite numbers"),
        (lambda folder: (folder / ARGS).unlink(), r"lacks args.json"),
        (lambda folder: (folder / VOCABULARY).write_text("{"), r"vocab.json cannot be read as JSON"),
        (lambda folder: (folder / VOCABULARY).write_text("[]"), r"does not map tokens to indices"),
        (lambda folder: (folder / UPSTREAM_WEIGHTS).unlink(), r"has neither model.safetensors nor best_model.pt"),
        (lambda folder: torch.save([1, 2], folder / UPSTREAM_WEIGHTS), r"are not named tensors"),
        (lambda folder: shutil.rmtree(folder), r"is no folder; expected args.json"),
    ],
)
def test_invalid_folders_are_refused(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_an_existing_folder_is_not_overwritten(checkpoint: Checkpoint, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already; name a new folder"):
        save_checkpoint(checkpoint, folder)
