"""Notes of a reader on a file, kept with the cells until they are labelled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "spikgpt_reading"


def with_notes(adata: AnnData, notes: Iterable[str]) -> AnnData:
    """Return the cells with sentences on their reading in ``uns``."""
    if texts := list(notes):
        adata.uns[KEY] = np.array(texts, dtype=object)
    return adata


def reading_notes(adata: AnnData) -> tuple[str, ...]:
    """Return the sentences of :func:`with_notes`."""
    return tuple(str(text) for text in np.ravel(adata.uns.get(KEY, ())))
