"""The cells of a study, a few thousand at a time, from the files that it published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from anndata import AnnData

from spikgpt.sources.spec import SourceFile

# Cells in a part, at most.
CHUNK = 4096


def read(files: Sequence[SourceFile], paths: Mapping[str, Path]) -> Iterator[AnnData]:
    """Give the cells of a study in parts: ``X`` in CSR, float32, counts or linear values, and obs as the files say.

    Parts of one table share their genes; those of several may differ in them. Names of cells are unique in a study.

    Parameters
    ----------
    paths
        Where each of the files lies, by name.
    """
    raise NotImplementedError
