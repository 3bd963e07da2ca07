"""Read the weights of a checkpoint as named tensors, and refuse files that state far larger tensors than they hold."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spikgpt.errors import CheckpointError

# Names under which some training programs save the weights, beside the state of the optimiser.
NESTED = ("model_state_dict", "state_dict", "model")
# Allowed types of weights.
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Largest size of tensors and archive entries: this number of bytes, plus this multiple of the size of the file. Two
# tensors may share their weights, so the multiple is above 1.
ALWAYS_ALLOWED, LARGEST_RATIO = 1024**2, 2
# Largest number of entries of an archive. Largest size in bytes of the pickle with the names of tensors, and of a file
# that is no archive.
MOST_ENTRIES, LARGEST_PICKLE, LARGEST_OLD = 100_000, 4 * 1024**2, 16 * 1024**2
# First bytes and size of the record at the end of a zip archive without a comment.
END_OF_ARCHIVE, END_SIZE = b"PK\x05\x06", 22
AGAIN = "Get the checkpoint again."


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises
    ------
    CheckpointError
        When the file is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        msg = f"{path} is not a safetensors file ({error}). {AGAIN}"
        raise CheckpointError(msg) from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of ``torch.save``, without executing code in the file.

    Raises
    ------
    CheckpointError
        When the file is damaged, holds anything but weights, or states far larger tensors than it holds.
    """
    _check_archive(path)
    content: Any
    try:
        with warnings.catch_warnings():
            # torch warns about unusual pickle protocols. Anything but weights is refused below.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        msg = f"{path} holds more than weights, and was not executed. Use a checkpoint with weights only."
        raise CheckpointError(msg) from None
    except Exception as error:  # noqa: BLE001, the reader raises any error on a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:300]
        msg = f"{path} is damaged or incomplete ({reason}). {AGAIN}"
        raise CheckpointError(msg) from None
    for name in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        msg = f"The weights in {path.parent} are not named tensors. {AGAIN}"
        raise CheckpointError(msg)
    tensors = {str(name): tensor for name, tensor in content.items()}
    check_tensors(tensors, path.stat().st_size, path)
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], size: int, path: Path) -> None:
    """Raise CheckpointError for tensors that are no plain arrays, or too large for a file of ``size`` bytes.

    A view of one number can have any shape, and many names can refer to the same numbers.
    """
    stated = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            msg = f"{path} holds {name[:100]!r}, which is no plain tensor. Save the weights as plain tensors."
            raise CheckpointError(msg)
        stated += tensor.numel() * tensor.element_size()
        stored = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored:
            shape = tuple(tensor.shape)
            msg = f"{path} states the shape {shape} for {name[:100]!r} and holds {stored} bytes of it. {AGAIN}"
            raise CheckpointError(msg)
    if stated > most_bytes(size):
        msg = f"{path} has {size} bytes and states {stated} bytes of tensors. {AGAIN}"
        raise CheckpointError(msg)


def most_bytes(size: int) -> int:
    """Return the largest total size of tensors, in bytes, that a file of ``size`` bytes may state."""
    return ALWAYS_ALLOWED + LARGEST_RATIO * size


def _check_archive(path: Path) -> None:
    """Raise CheckpointError for an archive that is damaged, or that unpacks to far more than its size.

    torch neither compresses weights nor adds comments to an archive.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(4)
        file.seek(max(0, size - END_SIZE))
        end = file.read()
    if begin != b"PK\x03\x04":
        if size > LARGEST_OLD:
            msg = f"{path} is not in the format of torch 1.6 or newer. Load it with torch, and save the weights again."
            raise CheckpointError(msg)
        return
    # If more bytes followed the last record, torch could read another table of contents than zipfile.
    if not end.startswith(END_OF_ARCHIVE) or end[-2:] != b"\0\0":
        msg = f"{path} is damaged or incomplete (it does not end as an archive of torch). {AGAIN}"
        raise CheckpointError(msg)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        msg = f"{path} is damaged or incomplete ({error}). {AGAIN}"
        raise CheckpointError(msg) from None
    unpacked = sum(entry.file_size for entry in entries)
    pickled = max((entry.file_size for entry in entries if entry.filename.endswith(".pkl")), default=0)
    if unpacked > most_bytes(size) or pickled > LARGEST_PICKLE or len(entries) > MOST_ENTRIES:
        contents = f"{len(entries)} entries of {unpacked} bytes, with {pickled} bytes of names"
        msg = f"{path} has {size} bytes and states {contents}. {AGAIN}"
        raise CheckpointError(msg)
