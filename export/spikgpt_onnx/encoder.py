"""scGPT's network as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Encoder:
    """scGPT's network for cell embeddings.

    ``weights`` have the names of :class:`spikgpt.scgpt.encoder.Encoder`; ``lowest`` is the smallest value of a token,
    ``n_bins`` the largest, and ``length`` the tokens of a cell at most.
    """

    heads: int
    layers: int
    lowest: int
    n_bins: int
    length: int
    weights: Mapping[str, Floats]

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return int(self.weights["encoder.enc_norm.weight"].shape[0])
