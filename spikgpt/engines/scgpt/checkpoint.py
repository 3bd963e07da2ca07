"""scGPT checkpoints: a folder with the weights, the sizes and the vocabulary.

==========================================  ==================================================================
``args.json``                               sizes, under upstream's names
``vocab.json``                              token to index
``best_model.pt`` or ``model.safetensors``  the weights, as upstream publishes them or as we write them
==========================================  ==================================================================

Weights are data: ``best_model.pt`` is read with ``weights_only=True``, so nothing in it is ever executed.
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
from spikgpt.engines.scgpt.encoder import Encoder, ScGPTConfig
from spikgpt.engines.scgpt.weights import AGAIN, TYPES, read_pickle, read_safetensors
from spikgpt.errors import CheckpointError
from spikgpt.files import replacing

FILES = ARGS, VOCABULARY, UPSTREAM_WEIGHTS, WEIGHTS = "args.json", "vocab.json", "best_model.pt", "model.safetensors"
# Bytes of these files at most: the vocabulary of the published models has 1.3 MB.
LARGEST = {ARGS: 1024**2, VOCABULARY: 64 * 1024**2}
# Tensors of a checkpoint that the cell embedding needs.
LAYERS = "transformer_encoder.layers."
ENCODER = ("encoder.", "value_encoder.", "transformer_encoder.")


@dataclass(frozen=True)
class Checkpoint:
    """An scGPT model: sizes, vocabulary (token to index) and weights, those of extra heads included."""

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

    def described(self, length: int) -> Vocabulary:
        """Return the vocabulary with what else turns cells into tokens, at most ``length`` of them."""
        names = tuple(sorted(self.vocabulary, key=self.vocabulary.__getitem__))
        config = self.config
        return Vocabulary(names, config.pad_token, config.pad_value, config.n_bins, length, self.sha256)

    @cached_property
    def genes(self) -> GeneList:
        """Genes of the vocabulary, in the order of their indices, with the Ensembl ids that are known."""
        return self.described(0).genes

    def check(self) -> None:
        """Refuse weights that do not fit the sizes and the vocabulary, or are not finite."""
        # Before anything is built: a number in a small file could ask for any number of layers.
        layers = len({name.removeprefix(LAYERS).partition(".")[0] for name in self.weights if name.startswith(LAYERS)})
        if layers != self.config.layers:
            msg = f"The weights hold {layers} layers; {ARGS} states nlayers = {self.config.layers}. {AGAIN}"
            raise CheckpointError(msg)
        if missing := [token for token in (self.config.pad_token, CLS) if token not in self.vocabulary]:
            msg = f"The vocabulary lacks the special token {missing[0][:100]!r}. {AGAIN}"
            raise CheckpointError(msg)
        with torch.device("meta"):
            expected = Encoder(self.config, len(self.vocabulary), self.pad_id).state_dict()
        table = self.weights.get("encoder.embedding.weight")
        if table is not None and len(table) != len(self.vocabulary):
            msg = (
                f"The vocabulary has {len(self.vocabulary)} tokens, special ones included; the weights have "
                f"{len(table)} gene embeddings. This {VOCABULARY} is of another model; get the one that came with the "
                "weights."
            )
            raise CheckpointError(msg)
        for name, tensor in expected.items():
            found = self.weights.get(name)
            if found is None or found.shape != tensor.shape:
                shape = "nothing" if found is None else tuple(found.shape)
                msg = f"The weights hold {shape} for {name}; {ARGS} asks for {tuple(tensor.shape)}."
                raise CheckpointError(msg)
            if found.dtype not in TYPES or not bool(found.isfinite().all()):
                msg = f"The weight {name} holds values that are no finite numbers. Get the checkpoint again."
                raise CheckpointError(msg)

        if strange := [name for name in self.weights if name.startswith(ENCODER) and name not in expected]:
            msg = f"The weights hold {strange[0][:100]!r}, which no scGPT encoder has. Use weights of scGPT 0.2.4."
            raise CheckpointError(msg)

    def encoder(self) -> Encoder:
        """Return the network of the cell embedding, for evaluation, float32."""
        encoder = Encoder(self.config, len(self.vocabulary), self.pad_id)
        used = {name: tensor.float() for name, tensor in self.weights.items() if name.startswith(ENCODER)}
        encoder.load_state_dict(used)
        return encoder.eval().requires_grad_(False)

    @cached_property
    def sha256(self) -> str:
        """Digest of everything that the embedding depends on."""
        digest = hashlib.sha256(json.dumps(self.config.to_args(), sort_keys=True).encode())
        digest.update(json.dumps(self.vocabulary, sort_keys=True).encode())
        for name in sorted(name for name in self.weights if name.startswith(ENCODER)):
            digest.update(name.encode())
            digest.update(self.weights[name].float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read an scGPT checkpoint folder, upstream's or ours.

    Attention weights may be named as flash-attn or as PyTorch names them, with or without ``module.``; heads that the
    embedding does not need are kept. Files that are missing, damaged or do not fit each other are a CheckpointError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"{folder} is no folder; give the folder of an scGPT checkpoint, with {ARGS}, {VOCABULARY} and weights."
        raise CheckpointError(msg)
    config = ScGPTConfig.from_args(_json(folder / ARGS))
    vocabulary = _vocabulary(_json(folder / VOCABULARY), config, folder / VOCABULARY)
    checkpoint = Checkpoint(config, vocabulary, _weights(folder))
    checkpoint.check()
    return checkpoint


def save_checkpoint(checkpoint: Checkpoint, target: str | Path, *, upstream: bool = False) -> Path:
    """Write a new checkpoint folder, all of it or nothing; ``upstream`` has ``best_model.pt`` for safetensors."""
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
    """Return the name of a weight here, from any of upstream's."""
    name = name.removeprefix("module.")
    return name.replace("self_attn.Wqkv.", "self_attn.in_proj.").replace("self_attn.in_proj_", "self_attn.in_proj.")


def _json(path: Path) -> Any:
    """Read a JSON file of a checkpoint."""
    if not path.exists():
        msg = (
            f"{path.parent} has no {path.name}, which every scGPT checkpoint has. Name another folder, or get it again."
        )
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


def _vocabulary(found: Any, config: ScGPTConfig, path: Path) -> dict[str, int]:
    """Return a checked vocabulary; as upstream does, missing special tokens are added at the end."""
    if not isinstance(found, dict) or not all(isinstance(index, int) for index in found.values()):
        msg = f"{path} does not map tokens to indices. Get the checkpoint again."
        raise CheckpointError(msg)
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        msg = f"{path} holds a token that is no Unicode text ({error.reason}). {AGAIN}"
        raise CheckpointError(msg) from None
    if sorted(found.values()) != list(range(len(found))):
        msg = f"The indices in {path} are not 0 to {len(found) - 1}, each once. Get the checkpoint again."
        raise CheckpointError(msg)
    vocabulary = dict(sorted(found.items(), key=lambda item: item[1]))
    for token in (config.pad_token, CLS, END):
        vocabulary.setdefault(token, len(vocabulary))
    return vocabulary


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint under our names."""
    ours, upstream = folder / WEIGHTS, folder / UPSTREAM_WEIGHTS
    if not ours.is_file() and not upstream.is_file():
        msg = (
            f"{folder} has neither {WEIGHTS} nor {UPSTREAM_WEIGHTS}. Name another folder, or get the checkpoint again."
        )
        raise CheckpointError(msg)
    found = read_safetensors(ours) if ours.is_file() else read_pickle(upstream)
    return {_our_name(name): tensor for name, tensor in found.items()}
