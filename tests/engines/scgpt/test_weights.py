"""Untrusted weight files that state more data than they hold are refused before loading."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spikgpt.engines.scgpt import weights
from spikgpt.engines.scgpt.weights import read_pickle, read_safetensors
from spikgpt.errors import CheckpointError

# Number of float32 values in a terabyte.
HUGE = 2**38


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def small_weights() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4).half()}


def repacked(size: int = 0, name: str = "data/0", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a torch file in which the entry ``name`` consists of ``size`` zero bytes; 0 keeps its content."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(small_weights()))) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in old.namelist():
            new.writestr(entry, bytes(size) if size and entry.endswith(name) else old.read(entry))
    return packed.getvalue()


def many_entries() -> bytes:
    packed = io.BytesIO(saved(small_weights()))
    with zipfile.ZipFile(packed, "a") as archive:
        for number in range(200):
            archive.writestr(f"archive/{number}", b"")
    return packed.getvalue()


def commented() -> bytes:
    packed = io.BytesIO(saved(small_weights()))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"a comment in which another table of contents could stand"
    return packed.getvalue()


def test_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    shared = torch.ones(5)
    for content in (saved(small_weights()), saved(small_weights(), _use_new_zipfile_serialization=False), repacked()):
        path.write_bytes(content)
        assert {name: tensor.tolist() for name, tensor in read_pickle(path).items()} == {
            name: tensor.tolist() for name, tensor in small_weights().items()
        }
    path.write_bytes(saved({"state_dict": {"one": shared, "other": shared, "rows": torch.ones(3, 4).T}, "epoch": 3}))
    assert sorted(read_pickle(path)) == ["one", "other", "rows"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: saved({"a": torch.ones(1).expand(HUGE)}),
            r"states the shape \(274877906944,\) for 'a' and holds 4",
        ),
        (lambda: saved({"a": torch.ones(1).as_strided((2**19, 2**19), (0, 0))}), r"and holds 4 bytes of it"),
        (lambda: saved(dict.fromkeys(map(str, range(200)), torch.ones(10_000))), r"states 8000000 bytes of tensors"),
        (lambda: saved({"a": torch.empty(HUGE, device="meta")}), r"'a', which is no plain tensor"),
        (lambda: saved({"a": torch.eye(3).to_sparse()}), r"'a', which is no plain tensor"),
        (lambda: repacked(2**26), r"states \d+ entries of 6\d+ bytes"),
        (lambda: repacked(2**23, "data.pkl", zipfile.ZIP_STORED), r"with 8388608 bytes of names"),
        (many_entries, r"states 2\d\d entries"),
        (commented, r"does not end as an archive of torch"),
        (lambda: b"x" * 2000, r"is not in the format of torch 1\.6 or newer"),
        (lambda: b"PK\x03\x04" + b"x" * 200, r"damaged or incomplete"),
        (lambda: saved(5), r"are not named tensors"),
        (lambda: b"(" * 900, r"damaged or incomplete|more than weights"),
    ],
)
def test_invalid_weight_files_are_refused(
    make: Callable[[], bytes], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MOST_ENTRIES", 100)
    monkeypatch.setattr(weights, "LARGEST_OLD", 1000)
    path = tmp_path / "best_model.pt"
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=message):
        read_pickle(path)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"{}x"])
def test_invalid_safetensors_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        read_safetensors(path)
