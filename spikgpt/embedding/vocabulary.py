"""Vocabulary of an scGPT checkpoint, and the weights of its encoder as arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from spikgpt.cells.genes import GeneList, ensembl_ids_of
from spikgpt.errors import DamagedReference
from spikgpt.types import Floats

CLS, END = "<cls>", "<eoc>"
# Largest number of bins and of tokens, and lowest padding value: tables of these sizes are allocated.
MOST_BINS, MOST_TOKENS, LOWEST_VALUE = 10_000, 1_000_000, -1000


@dataclass(frozen=True)
class Vocabulary:
    """Vocabulary of n tokens, and the settings that turn a cell into tokens.

    Attributes
    ----------
    names
        Text of the token at each index.
    length
        Largest number of tokens of a cell.
    sha256
        Hash of the checkpoint.
    """

    names: tuple[str, ...]
    pad_token: str
    pad_value: int
    n_bins: int
    length: int
    sha256: str

    def to_json(self) -> str:
        """Return the fields as JSON, for the metadata of the encoder's graph."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Return the vocabulary from a text that :meth:`to_json` has written.

        Raises
        ------
        DamagedReference
            When the text does not hold a complete vocabulary.
        """
        try:
            values = json.loads(text)
            vocabulary = cls(**values | {"names": tuple(map(str, values["names"]))})
            vocabulary.pad_id, vocabulary.cls_id, vocabulary.genes  # noqa: B018, fails without these tokens
            vocabulary._check_sizes()
        except (ValueError, TypeError, KeyError) as error:
            msg = f"The encoder's graph carries no vocabulary ({error}). Export the reference again."
            raise DamagedReference(msg) from None
        return vocabulary

    def _check_sizes(self) -> None:
        """Raise ValueError for sizes that would take too much memory."""
        bounds = {
            "n_bins": (self.n_bins, 3, MOST_BINS),
            "length": (self.length, 1, MOST_TOKENS),
            "pad_value": (self.pad_value, LOWEST_VALUE, self.n_bins),
        }
        for name, (value, least, most) in bounds.items():
            if not least <= value <= most:
                msg = f"{name} is {value}; expected {least} to {most}"
                raise ValueError(msg)

    @property
    def pad_id(self) -> int:
        """Index of the padding token."""
        return self.names.index(self.pad_token)

    @property
    def cls_id(self) -> int:
        """Index of ``<cls>``."""
        return self.names.index(CLS)

    @cached_property
    def gene_ids(self) -> npt.NDArray[np.int64]:
        """Indices of the tokens that name genes, ascending."""
        special = {self.pad_token, CLS, END}
        return np.array([i for i, name in enumerate(self.names) if name not in special and not name.startswith("<")])

    @cached_property
    def genes(self) -> GeneList:
        """Genes of the vocabulary, in the order of their indices, with the Ensembl ids that are known."""
        tokens = [self.names[index] for index in self.gene_ids]
        ids = ensembl_ids_of(tokens)
        # If two spellings of one symbol have the same Ensembl id, only the first spelling keeps the id.
        owner: dict[str, int] = {}
        for index, gene_id in enumerate(ids):
            if gene_id is not None:
                owner.setdefault(gene_id, index)
        return GeneList(tuple(tokens), tuple(g if g and owner[g] == index else None for index, g in enumerate(ids)))


@dataclass(frozen=True)
class EncoderWeights:
    """Weights and sizes of scGPT's encoder of cells.

    The keys of ``weights`` are the parameter names of :class:`spikgpt.engines.scgpt.encoder.ScGPTEncoder`. ``lowest``
    is the smallest value of a token.
    """

    heads: int
    layers: int
    lowest: int
    vocabulary: Vocabulary
    weights: Mapping[str, Floats]

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return int(self.weights["encoder.enc_norm.weight"].shape[0])
