"""scGPT checkpoints: a folder with ``args.json`` (sizes), ``vocab.json`` (token to index) and the weights.

The scgpt package writes the weights as ``best_model.pt``, and this package writes them as ``model.safetensors``.
``best_model.pt`` is read with ``weights_only=True``, so no code in the file is executed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.vocabulary import CLS, END, Vocabulary
from spikgpt.engines.scgpt.encoder import ScGPTConfig, ScGPTEncoder
from spikgpt.engines.scgpt.weights import AGAIN, TYPES, read_pickle, read_safetensors
from spikgpt.errors import CheckpointError, with_noun
from spikgpt.files import replacing

FILES = ARGS, VOCABULARY, UPSTREAM_WEIGHTS, WEIGHTS = "args.json", "vocab.json", "best_model.pt", "model.safetensors"
# Largest size of these files in bytes; the vocabulary of the published models has 1.3 MB.
LARGEST = {ARGS: 1024**2, VOCABULARY: 64 * 1024**2}
# Name prefixes of the tensors that the cell embedding needs.
LAYERS = "transformer_encoder.layers."
ENCODER = ("encoder.", "value_encoder.", "transformer_encoder.")


@dataclass(frozen=True)
class Checkpoint:
    """An scGPT model: sizes, vocabulary (token to index) and weights, including those of heads for other outputs."""

    config: ScGPTConfig
    vocabulary: dict[str, int]
    weights: dict[str, Tensor] = field(repr=False)

    @property
    def pad_id(self) -> int:
        """Vocabulary index of padding."""
        return self.vocabulary[self.config.pad_token]

    @property
    def cls_id(self) -> int:
        """Vocabulary index of ``<cls>``."""
        return self.vocabulary[CLS]

    def with_length(self, length: int) -> Vocabulary:
        """Return the vocabulary and special values for cells of at most ``length`` tokens."""
        names = tuple(sorted(self.vocabulary, key=self.vocabulary.__getitem__))
        config = self.config
        return Vocabulary(names, config.pad_token, config.pad_value, config.n_bins, length, self.sha256)

    @cached_property
    def genes(self) -> GeneList:
        """Genes of the vocabulary, in the order of their indices, with the Ensembl ids that are known."""
        return self.with_length(0).genes

    def check(self) -> None:
        """Raise CheckpointError for weights that do not fit the sizes and the vocabulary, or are not finite."""
        # This check comes before the network is built, because a small file could state any number of layers.
        layers = len({name.removeprefix(LAYERS).partition(".")[0] for name in self.weights if name.startswith(LAYERS)})
        if layers != self.config.layers:
            msg = (
                f"The weights hold {with_noun(layers, 'layer')}; {ARGS} states nlayers = {self.config.layers}. {AGAIN}"
            )
            raise CheckpointError(msg)
        if missing := [token for token in (self.config.pad_token, CLS) if token not in self.vocabulary]:
            msg = f"The vocabulary lacks the special token {missing[0][:100]!r}. {AGAIN}"
            raise CheckpointError(msg)
        with torch.device("meta"):
            expected = ScGPTEncoder(self.config, len(self.vocabulary), self.pad_id).state_dict()
        table = self.weights.get("encoder.embedding.weight")
        if table is not None and len(table) != len(self.vocabulary):
            msg = (
                f"The vocabulary has {len(self.vocabulary)} tokens, special ones included; the weights have "
                f"{len(table)} gene embeddings. This {VOCABULARY} is of another model; get the one that came with the "
                "weights."
            )
            raise CheckpointError(msg)
        for name, tensor in expected.items():
            weight = self.weights.get(name)
            if weight is None or weight.shape != tensor.shape:
                shape = "nothing" if weight is None else tuple(weight.shape)
                msg = f"The weights hold {shape} for {name}; expected {tuple(tensor.shape)} by {ARGS}. {AGAIN}"
                raise CheckpointError(msg)
            if weight.dtype not in TYPES or not bool(weight.isfinite().all()):
                msg = f"The weight {name} holds values that are no finite numbers. {AGAIN}"
                raise CheckpointError(msg)
        if unknown := [name for name in self.weights if name.startswith(ENCODER) and name not in expected]:
            msg = f"The weights hold {unknown[0][:100]!r}, which no scGPT encoder has. Use weights of scGPT 0.2.4."
            raise CheckpointError(msg)

    def encoder(self) -> ScGPTEncoder:
        """Return the network of the cell embedding, in evaluation mode and in float32."""
        encoder = ScGPTEncoder(self.config, len(self.vocabulary), self.pad_id)
        used = {name: tensor.float() for name, tensor in self.weights.items() if name.startswith(ENCODER)}
        encoder.load_state_dict(used)
        return encoder.eval().requires_grad_(False)

    @cached_property
    def sha256(self) -> str:
        """Sha256 of the sizes, the vocabulary and the weights of the encoder, which determine the embedding."""
        digest = hashlib.sha256(json.dumps(self.config.to_args(), sort_keys=True).encode())
        digest.update(json.dumps(self.vocabulary, sort_keys=True).encode())
        for name in sorted(name for name in self.weights if name.startswith(ENCODER)):
            digest.update(name.encode())
            digest.update(self.weights[name].float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read an scGPT checkpoint folder that the scgpt package or this package wrote.

    Attention weights may have the names of flash-attn or of PyTorch, with or without ``module.``.

    Raises
    ------
    CheckpointError
        When files are missing, damaged or do not fit together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"{folder} is no folder; expected {ARGS}, {VOCABULARY} and weights. Name the folder of a checkpoint."
        raise CheckpointError(msg)
    config = ScGPTConfig.from_args(_json(folder / ARGS))
    vocabulary = _vocabulary(_json(folder / VOCABULARY), config, folder / VOCABULARY)
    checkpoint = Checkpoint(config, vocabulary, _weights(folder))
    checkpoint.check()
    return checkpoint


def save_checkpoint(checkpoint: Checkpoint, target: str | Path, *, upstream: bool = False) -> Path:
    """Write a checkpoint to a new folder, completely or not at all.

    With ``upstream``, the weights are written as ``best_model.pt``, which the scgpt package reads.
    """
    target = Path(target)
    if target.exists():
        msg = f"{target} exists already; name a new folder for the checkpoint."
        raise CheckpointError(msg)
    with replacing(target) as folder:
        folder.mkdir()
        (folder / ARGS).write_text(json.dumps(checkpoint.config.to_args(), indent=1) + "\n")
        (folder / VOCABULARY).write_text(json.dumps(checkpoint.vocabulary, indent=0, ensure_ascii=False) + "\n")
        weights = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
        if upstream:
            named = {name.replace("self_attn.in_proj.", "self_attn.in_proj_"): w for name, w in weights.items()}
            torch.save(named, folder / UPSTREAM_WEIGHTS)
        else:
            (folder / WEIGHTS).write_bytes(save(weights))
    return target


def _our_name(name: str) -> str:
    """Return the name that this package gives to a weight, from any name that the scgpt package gives to it."""
    name = name.removeprefix("module.")
    return name.replace("self_attn.Wqkv.", "self_attn.in_proj.").replace("self_attn.in_proj_", "self_attn.in_proj.")


def _json(path: Path) -> Any:
    if not path.exists():
        msg = f"{path.parent} lacks {path.name}, a file of every scGPT checkpoint. Name another folder. {AGAIN}"
        raise CheckpointError(msg)
    largest = LARGEST[path.name]
    if not path.is_file() or path.stat().st_size > largest:
        msg = f"{path} is not a regular file of at most {largest} bytes. {AGAIN}"
        raise CheckpointError(msg)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path} cannot be read as JSON ({error}). {AGAIN}"
        raise CheckpointError(msg) from None


def _vocabulary(content: Any, config: ScGPTConfig, path: Path) -> dict[str, int]:
    """Return a checked vocabulary; as in the scgpt package, missing special tokens are added at the end."""
    if not isinstance(content, dict) or not all(isinstance(index, int) for index in content.values()):
        msg = f"{path} does not map tokens to indices. {AGAIN}"
        raise CheckpointError(msg)
    try:
        "".join(content).encode()
    except UnicodeEncodeError as error:
        msg = f"{path} holds a token that is no Unicode text ({error.reason}). {AGAIN}"
        raise CheckpointError(msg) from None
    if sorted(content.values()) != list(range(len(content))):
        msg = f"The indices in {path} are not 0 to {len(content) - 1}, each once. {AGAIN}"
        raise CheckpointError(msg)
    vocabulary = dict(sorted(content.items(), key=lambda item: item[1]))
    for token in (config.pad_token, CLS, END):
        vocabulary.setdefault(token, len(vocabulary))
    return vocabulary


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint under the names of this package."""
    ours, upstream = folder / WEIGHTS, folder / UPSTREAM_WEIGHTS
    if not ours.is_file() and not upstream.is_file():
        msg = f"{folder} has neither {WEIGHTS} nor {UPSTREAM_WEIGHTS}. Name another folder. {AGAIN}"
        raise CheckpointError(msg)
    tensors = read_safetensors(ours) if ours.is_file() else read_pickle(upstream)
    return {_our_name(name): tensor for name, tensor in tensors.items()}
