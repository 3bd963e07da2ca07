"""Detect columns that repeat a gene, and genes of another species."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from spikgpt.cells.matrices import read_rows, sampled_rows
from spikgpt.cells.naming.spellings import foreign_genes, is_foreign, plain, without_suffixes
from spikgpt.errors import DataError, with_noun
from spikgpt.types import Bools, Rows


def own_genes(names: Any, matrix: Any, columns: Rows | None) -> tuple[Bools | None, str]:
    """Return a mask of the genes to read, which leaves out repeated genes and genes of another species.

    A column such as ``INS.1`` with the values of ``INS`` is a repeat. If its values differ, the column is kept, and
    added to ``INS`` later.

    Parameters
    ----------
    names
        Names of the genes, shape (genes,).
    columns
        Columns of ``matrix`` that hold these genes, shape (genes,); None for all columns.

    Returns
    -------
    Mask of the genes to read, shape (genes,), or None for all genes; and a phrase that names the genes left out.
    """
    texts = [plain(name.decode(errors="replace") if isinstance(name, bytes) else str(name)) for name in names]
    kept, phrases = np.ones(len(texts), dtype=bool), []
    if genomes := foreign_genes(texts):
        kept = np.array([not is_foreign(name) for name in texts])
        phrases = [f"{with_noun(count, 'gene')} of {genome} beside human ones" for genome, count in genomes.items()]
    repeats = _repeats(texts, matrix, columns)
    if repeats:
        kept[repeats] = False
        phrases.append(
            f"{with_noun(len(repeats), 'column that repeats', 'columns that repeat')} the values of a gene, "
            f"like {texts[repeats[0]]!r}"
        )
    return (None, "") if kept.all() else (kept, " and ".join(phrases))


def _repeats(names: list[str], matrix: Any, columns: Rows | None) -> list[int]:
    """Return the columns that have the name of an earlier column and the same values in a sample of cells."""
    without = without_suffixes(names)
    several_columns = {name for name, count in Counter(without).items() if name and count > 1}
    if not several_columns:
        return []
    groups: dict[str, list[int]] = defaultdict(list)
    for at, name in enumerate(without):
        if name in several_columns:
            groups[name].append(at)
    several = list(groups.values())
    positions = np.array(sorted(at for group in several for at in group))
    try:
        sample = read_rows(
            matrix, sampled_rows(matrix.shape[0]), positions if columns is None else columns[positions]
        ).tocsc()
    except DataError:
        return []  # the same error is reported when the values are read
    sampled = {at: number for number, at in enumerate(positions.tolist())}
    repeats = []
    for first, *later in several:
        column = sample[:, [sampled[first]]]
        repeats += [at for at in later if column.nnz and (column != sample[:, [sampled[at]]]).nnz == 0]
    return sorted(repeats)
