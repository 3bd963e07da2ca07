"""scGPT checkpoint of a reference: open it for training, store its settings, and open it again from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta

from spikgpt.cells.genes import GeneList
from spikgpt.embedding.vocabulary import MOST_TOKENS, EncoderWeights, Vocabulary
from spikgpt.engines.scgpt.checkpoint import ARGS, ENCODER, FILES, VOCABULARY, Checkpoint, load_checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTConfig
from spikgpt.errors import CheckpointError, DamagedReference
from spikgpt.reference.hub import Hub, parse
from spikgpt.reference.json_files import converted
from spikgpt.types import Floats

KIND = "scgpt"
# Largest number of tokens of a cell, as in the scgpt package.
MAX_LENGTH = 1200


class StoredSettings(msgspec.Struct, omit_defaults=True):
    """Settings of scGPT in ``config.json``; the last two fields are set for a checkpoint inside the reference only."""

    source: str
    revision: str | None
    sha256: str
    max_length: Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
    bundled: bool
    args: dict[str, Any] = {}
    special_tokens: dict[str, int] = {}


@dataclass(frozen=True)
class ScGPTSource:
    """An scGPT checkpoint and its origin: a folder's name, or a repository and its commit.

    At most ``max_length`` tokens of a cell are used. With ``bundled``, a reference contains the checkpoint.
    """

    checkpoint: Checkpoint
    source: str
    revision: str | None = None
    max_length: int = MAX_LENGTH
    bundled: bool = False

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary and special values that turn cells into tokens."""
        return self.checkpoint.with_length(self.max_length)

    def encoder(self) -> EncoderWeights:
        """Return the weights of the network, from which ONNX graphs are built."""
        config = self.checkpoint.config
        weights = {name: weight.float().numpy() for name, weight in self.checkpoint.weights.items()}
        return EncoderWeights(
            config.heads, config.layers, min(config.pad_value, config.mask_value), self.vocabulary, weights
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``config.json``: the checkpoint's origin, and its sizes if it is bundled."""
        stored = StoredSettings(self.source, self.revision, self.checkpoint.sha256, self.max_length, self.bundled)
        if self.bundled:
            tokens, genes = self.checkpoint.vocabulary, set(self.checkpoint.genes.symbols)
            stored.args = self.checkpoint.config.to_args()
            stored.special_tokens = {token: tokens[token] for token in tokens if token not in genes}
        return {"kind": KIND, **msgspec.to_builtins(stored)}

    def tensors(self) -> dict[str, Floats]:
        """Return the weights of a bundled checkpoint by name; an empty dict for a checkpoint that is not bundled."""
        if not self.bundled:
            return {}
        return {n: w.float().numpy() for n, w in self.checkpoint.weights.items() if n.startswith(ENCODER)}

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, Floats],
        genes: GeneList,
        *,
        scgpt: str | Path | None = None,
        hub: Hub | None = None,
    ) -> ScGPTSource:
        """Open the checkpoint that a stored reference was trained with.

        Parameters
        ----------
        genes
            Genes of the vocabulary of a bundled checkpoint.
        scgpt
            Folder of the checkpoint, if the reference neither contains it nor names a repository.
        hub
            Client for a checkpoint on the Hub.

        Raises
        ------
        CheckpointError
            When the checkpoint is missing, or is not the checkpoint that the reference was trained with.
        """
        stored = converted(dict(settings), "The scgpt embedder of config.json", StoredSettings)
        if stored.bundled:
            checkpoint = _bundled(stored, tensors, genes)
        elif scgpt is not None:
            checkpoint = load_checkpoint(scgpt)
        elif stored.revision is not None:
            checkpoint = load_checkpoint(_downloaded(stored.source, stored.revision, hub))
        else:
            msg = (
                f"This reference needs the scGPT checkpoint {stored.source!r}; give its folder with scgpt= or --scgpt."
            )
            raise CheckpointError(msg)
        if checkpoint.sha256 != stored.sha256:
            msg = (
                f"Found an scGPT checkpoint of sha256 {checkpoint.sha256[:12]}...; expected {stored.source} of sha256 "
                f"{stored.sha256[:12]}..., which the reference was trained with. Name its folder by scgpt= or --scgpt."
            )
            raise CheckpointError(msg)
        return cls(checkpoint, stored.source, stored.revision, stored.max_length, stored.bundled)


def open_scgpt(
    name: str | Path, *, max_length: int = MAX_LENGTH, bundled: bool = False, hub: Hub | None = None
) -> ScGPTSource:
    """Open an scGPT checkpoint: a folder, or ``org/repo[@revision]`` on the Hugging Face Hub.

    The other parameters are fields of :class:`ScGPTSource`. Errors of the Hub are those of
    :meth:`spikgpt.reference.hub.Hub.snapshot`.
    """
    path = Path(name)
    if not path.is_dir() and (repository := parse(str(name))):
        folder = _downloaded(*repository, hub)
        return ScGPTSource(load_checkpoint(folder), repository[0], folder.name, max_length, bundled)
    return ScGPTSource(load_checkpoint(path), path.resolve().name, None, max_length, bundled)


def _downloaded(repository: str, revision: str | None, hub: Hub | None) -> Path:
    return (hub or Hub()).snapshot(repository, revision, FILES, required=(ARGS, VOCABULARY))


def _bundled(stored: StoredSettings, tensors: Mapping[str, Floats], genes: GeneList) -> Checkpoint:
    symbols = iter(genes.symbols)
    names = {index: token for token, index in stored.special_tokens.items()}
    size = len(genes) + len(names)
    vocabulary = {names[index] if index in names else next(symbols, ""): index for index in range(size)}
    try:
        config = ScGPTConfig.from_args(stored.args)
        checkpoint = Checkpoint(config, vocabulary, {name: torch.as_tensor(tensors[name]) for name in tensors})
        checkpoint.check()
    except CheckpointError as error:
        msg = f"The scGPT checkpoint inside the reference is inconsistent: {error}"
        raise DamagedReference(msg) from None
    return checkpoint
