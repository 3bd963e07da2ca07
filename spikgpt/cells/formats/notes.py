"""Notes on how a file was read, kept in ``uns`` until the cells are labelled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "spikgpt_reading"


def with_notes(adata: AnnData, notes: Iterable[str]) -> AnnData:
    """Add sentences on how the file was read to ``uns``, and return the cells."""
    if texts := list(notes):
        adata.uns[KEY] = np.array(texts, dtype=object)
    return adata


def reading_notes(adata: AnnData) -> tuple[str, ...]:
    """Return the sentences that :func:`with_notes` has added; empty if there are none."""
    return tuple(str(text) for text in np.ravel(adata.uns.get(KEY, ())))
