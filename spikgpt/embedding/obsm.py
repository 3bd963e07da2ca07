"""Embedding from ``obsm`` of the user's AnnData."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from spikgpt.cells.align import CHUNK, AlignedCells
from spikgpt.cells.expression import Cells
from spikgpt.cells.genes import GeneList
from spikgpt.embedding.base import QueryCells, WithoutExpression
from spikgpt.errors import ConfigError, DamagedReference, DataError, listed, with_noun
from spikgpt.types import Floats, InputReport

PREFIX = "obsm:"


@dataclass(frozen=True)
class ObsmEmbedding(WithoutExpression):
    """Embedding by the vectors in ``obsm[key]``; the same model must have computed them for reference and query."""

    key: str
    dim: int

    @property
    def kind(self) -> str:
        """Name of the embedding on the command line."""
        return PREFIX + self.key

    @classmethod
    def fit(cls, adata: Cells, key: str) -> ObsmEmbedding:
        """Return the embedding ``obsm[key]`` of a reference's cells, with the length of its vectors.

        Raises
        ------
        DataError
            When there is no ``obsm[key]``.
        """
        return cls(key, int(_stored(adata, key).shape[1]))

    def read(
        self,
        cells: Cells,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        gene_key: str | None = None,
        species: str | None = None,
    ) -> QueryCells:
        """Return the cells of a query with their vectors in ``obsm[key]``, which are read in chunks.

        Raises
        ------
        DataError
            When there is no ``obsm[key]``, its vectors have another length than in the reference, or a value is not
            finite.
        ConfigError
            When an option for expression values is given, because the vectors are used as they are.
        """
        given = {"layer": layer, "gene_key": gene_key, "species": species}
        given["scaling"] = None if scaling in ("auto", "reference") else scaling
        if named := [f"{name}={value!r}" for name, value in given.items() if value is not None]:
            msg = f"This reference classifies obsm[{self.key!r}], so {listed(named)} does not apply; leave it out."
            raise ConfigError(msg)
        stored = _stored(cells, self.key)
        if stored.shape[1] != self.dim:
            msg = (
                f"obsm[{self.key!r}] has {with_noun(stored.shape[1], 'column')}; the reference was trained on "
                f"{self.dim}. "
                "Embed the query with the model that embedded the reference."
            )
            raise DataError(msg)
        report = InputReport(f"obsm[{self.key!r}]", "embedding", "none", genes_matched=0, genes_total=0)
        return QueryCells(cells.n_obs, partial(self._chunks, stored), report)

    def _chunks(self, stored: Any, rows: range, _threads: int) -> Iterator[AlignedCells]:
        for start in rows[::CHUNK]:
            part = stored[start : min(start + CHUNK, rows.stop)]
            vectors = (part.toarray() if sparse.issparse(part) else np.asarray(part)).astype(np.float64)
            not_finite = ~np.isfinite(vectors).all(axis=1)
            if not_finite.any():
                msg = (
                    f"obsm[{self.key!r}] holds NaN or infinite values, first in row "
                    f"{start + int(not_finite.argmax())}; remove such cells or embed them again."
                )
                raise DataError(msg)
            yield AlignedCells.from_vectors(vectors, np.zeros(len(vectors), dtype=bool))

    @property
    def stored_genes(self) -> GeneList:
        """Return an empty list, as an embedding has no genes."""
        return GeneList((), ())

    def settings(self) -> dict[str, Any]:
        """Return the settings that ``config.json`` stores."""
        return {"kind": "obsm", "key": self.key, "dim": self.dim}

    def tensors(self) -> dict[str, Floats]:
        """Return an empty dictionary, because this embedding has no tensors."""
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> ObsmEmbedding:
        """Return the embedding that the settings of ``config.json`` describe.

        Raises
        ------
        DamagedReference
            When a setting is missing or of another type.
        """
        key, dim = settings.get("key"), settings.get("dim")
        if not isinstance(key, str) or not isinstance(dim, int):
            msg = f"The obsm embedder of config.json is {settings}; expected a key and a dim."
            raise DamagedReference(msg)
        return cls(key, dim)


def _stored(adata: Cells, key: str) -> Any:
    if key not in adata.obsm:
        has = listed(sorted(adata.obsm))
        msg = f"There is no obsm[{key!r}]; this AnnData has: {has}. Add the embedding, or name one of these."
        raise DataError(msg)
    stored = adata.obsm[key]
    # Some tools store a data frame in obsm.
    stored = stored.to_numpy() if hasattr(stored, "to_numpy") else stored
    if len(stored.shape) != 2 or np.dtype(stored.dtype).kind not in "fiu":
        msg = f"obsm[{key!r}] is {stored.dtype} of shape {stored.shape}; expected numbers, one row a cell."
        raise DataError(msg)
    return stored
