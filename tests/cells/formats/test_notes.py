"""Notes of a reader are kept with the cells and reported."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData

from spikgpt.cells.expression import find_expression
from spikgpt.cells.formats.notes import reading_notes, with_notes


def test_notes_stay_with_cells_and_reach_the_report(real: AnnData, tmp_path: Path) -> None:
    cells = with_notes(real.copy(), ["The table has genes in rows; it was transposed."])
    assert reading_notes(cells[:5]) == ("The table has genes in rows; it was transposed.",)
    assert find_expression(cells).notes[0] == "The table has genes in rows; it was transposed."
    cells.write_h5ad(tmp_path / "a.h5ad")
    assert reading_notes(anndata.read_h5ad(tmp_path / "a.h5ad")) == reading_notes(cells)


def test_without_notes_nothing_is_stored() -> None:
    adata = with_notes(AnnData(np.ones((2, 2))), [])
    assert not adata.uns
    assert reading_notes(adata) == ()
