"""Which scGPT checkpoint a reference is built on: how it is found, and what the reference keeps of it."""

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
from spikgpt.embedding.vocabulary import MOST_TOKENS, Encoder, Vocabulary
from spikgpt.engines.scgpt.checkpoint import ARGS, ENCODER, FILES, VOCABULARY, Checkpoint, load_checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTConfig
from spikgpt.errors import CheckpointError, DamagedReference
from spikgpt.reference.hub import Hub, parse
from spikgpt.reference.json_files import converted
from spikgpt.types import Floats

KIND = "scgpt"
# Tokens of a cell at most, as upstream embeds.
MAX_LENGTH = 1200


class Kept(msgspec.Struct, omit_defaults=True):
    """What ``config.json`` keeps; the last two fields only of a checkpoint that the reference carries along."""

    source: str
    revision: str | None
    sha256: str
    max_length: Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
    bundled: bool
    args: dict[str, Any] = {}
    special_tokens: dict[str, int] = {}


@dataclass(frozen=True)
class ScGPTSource:
    """An scGPT checkpoint and where it came from: a folder's name, or a repository and its commit.

    At most ``max_length`` tokens of a cell are read. With ``bundled``, a reference carries the checkpoint along.
    """

    checkpoint: Checkpoint
    source: str
    revision: str | None = None
    max_length: int = MAX_LENGTH
    bundled: bool = False

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What turns cells into tokens."""
        return self.checkpoint.described(self.max_length)

    def encoder(self) -> Encoder:
        """Return the network as graphs are made of it."""
        config = self.checkpoint.config
        weights = {name: weight.float().numpy() for name, weight in self.checkpoint.weights.items()}
        return Encoder(config.heads, config.layers, min(config.pad_value, config.mask_value), self.vocabulary, weights)

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps: which checkpoint, and its sizes where it is bundled."""
        kept = Kept(self.source, self.revision, self.checkpoint.sha256, self.max_length, self.bundled)
        if self.bundled:
            tokens, genes = self.checkpoint.vocabulary, set(self.checkpoint.genes.symbols)
            kept.args = self.checkpoint.config.to_args()
            kept.special_tokens = {token: tokens[token] for token in tokens if token not in genes}
        return {"kind": KIND, **msgspec.to_builtins(kept)}

    def tensors(self) -> dict[str, Floats]:
        """Return the weights of a bundled checkpoint, else nothing."""
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
        """Find the checkpoint of a stored reference again: the one that it was trained with, and no other.

        ``genes`` are those of a bundled checkpoint, ``scgpt`` is the folder of one that was in a folder, and ``hub``
        how to get one that the reference names on the Hub.
        """
        kept = converted(dict(settings), "The scgpt embedder of config.json", Kept)
        if kept.bundled:
            checkpoint = _bundled(kept, tensors, genes)
        elif scgpt is not None:
            checkpoint = load_checkpoint(scgpt)
        elif kept.revision is not None:
            checkpoint = load_checkpoint(_downloaded(kept.source, kept.revision, hub))
        else:
            msg = f"This reference needs the scGPT checkpoint {kept.source!r}; give its folder with scgpt= or --scgpt."
            raise CheckpointError(msg)
        if checkpoint.sha256 != kept.sha256:
            msg = (
                f"This reference was trained with the scGPT checkpoint {kept.source} (sha256 {kept.sha256[:12]}...), "
                f"and found another one (sha256 {checkpoint.sha256[:12]}...). Get the checkpoint that it names, or "
                "give its folder with scgpt= or --scgpt."
            )
            raise CheckpointError(msg)
        return cls(checkpoint, kept.source, kept.revision, kept.max_length, kept.bundled)


def open_scgpt(
    name: str | Path, *, max_length: int = MAX_LENGTH, bundled: bool = False, hub: Hub | None = None
) -> ScGPTSource:
    """Open an scGPT checkpoint: a folder, or ``org/repo[@revision]`` on the Hugging Face Hub.

    The other parameters are fields of :class:`ScGPTSource`. By default the Hub is reached as its environment variables
    say; its errors are those of :meth:`spikgpt.reference.hub.Hub.snapshot`.
    """
    path = Path(name)
    if not path.is_dir() and (asked := parse(str(name))):
        folder = _downloaded(*asked, hub)
        return ScGPTSource(load_checkpoint(folder), asked[0], folder.name, max_length, bundled)
    return ScGPTSource(load_checkpoint(path), path.resolve().name, None, max_length, bundled)


def _downloaded(repository: str, revision: str | None, hub: Hub | None) -> Path:
    """Return the folder of a checkpoint that is on the Hub."""
    return (hub or Hub()).snapshot(repository, revision, FILES, required=(ARGS, VOCABULARY))


def _bundled(kept: Kept, tensors: Mapping[str, Floats], genes: GeneList) -> Checkpoint:
    """Return the checkpoint that a reference carries."""
    left = iter(genes.symbols)
    names = {index: token for token, index in kept.special_tokens.items()}
    size = len(genes) + len(names)
    vocabulary = {names[index] if index in names else next(left, ""): index for index in range(size)}
    try:
        config = ScGPTConfig.from_args(kept.args)
        checkpoint = Checkpoint(config, vocabulary, {name: torch.as_tensor(tensors[name]) for name in tensors})
        checkpoint.check()
    except CheckpointError as error:
        msg = f"The scGPT checkpoint inside the reference is inconsistent: {error}"
        raise DamagedReference(msg) from None
    return checkpoint
