"""scGPT's network as plain arrays, and its vocabulary."""

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
# Bins of expression and tokens of a cell at most, and the lowest special value: tables of that size are made.
MOST_BINS, MOST_TOKENS, LOWEST_VALUE = 10_000, 1_000_000, -1000


@dataclass(frozen=True)
class Vocabulary:
    """What turns a cell into tokens: the name of each index, and special values.

    ``length`` is the number of tokens of a cell at most, ``sha256`` that of the checkpoint.
    """

    names: tuple[str, ...]
    pad_token: str
    pad_value: int
    n_bins: int
    length: int
    sha256: str

    def to_json(self) -> str:
        """Return the fields as JSON, as the graph of the encoder carries them."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Read :meth:`to_json`'s output.

        Raises
        ------
        DamagedReference
            When it is something else.
        """
        try:
            values = json.loads(text)
            found = cls(**values | {"names": tuple(map(str, values["names"]))})
            found.pad_id, found.cls_id, found.genes  # noqa: B018, that they are there
            found._check_sizes()
        except (ValueError, TypeError, KeyError) as error:
            msg = f"The encoder's graph carries no vocabulary ({error}). Export the reference again."
            raise DamagedReference(msg) from None
        return found

    def _check_sizes(self) -> None:
        """Refuse sizes for which any amount of memory would be taken."""
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
        """Index of padding."""
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
        # Two spellings of one symbol share an id; the first keeps it.
        owner: dict[str, int] = {}
        for index, gene_id in enumerate(ids):
            if gene_id is not None:
                owner.setdefault(gene_id, index)
        return GeneList(tuple(tokens), tuple(g if g and owner[g] == index else None for index, g in enumerate(ids)))


@dataclass(frozen=True)
class Encoder:
    """scGPT's network for cell embeddings.

    ``weights`` have the names of :class:`spikgpt.engines.scgpt.encoder.Encoder`; no token has a value below ``lowest``.
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
