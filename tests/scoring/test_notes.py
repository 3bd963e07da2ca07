"""Cell counts in notes add up over the parts of a query."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spikgpt import Annotation
from spikgpt.scoring.notes import Tally


def tally(annotation: Annotation, part: slice) -> Tally:
    return Tally.from_cells(
        annotation.best[part],
        annotation.rejected[part],
        annotation.empty[part],
        annotation.confidence[part],
        annotation.label_names,
        annotation.rule,
    )


@pytest.mark.parametrize("cut", [0, 1, 5, 12])
def test_cell_counts_of_parts_add_up(annotation: Annotation, cut: int) -> None:
    changed = dataclasses.replace(
        annotation,
        empty=np.arange(12) == 3,
        rejected=np.arange(12) % 3 == 0,
        rule=dataclasses.replace(annotation.rule, least_confidence=0.4),
    )
    whole = tally(changed, slice(None))
    assert tally(changed, slice(0, cut)) + tally(changed, slice(cut, 12)) == whole
    assert whole.labels == changed.counts()
    assert (whole.cells, whole.empty) == (12, 1)
    assert whole.uncertain == int(((changed.confidence < 0.4) & ~changed.empty).sum())
    confident = changed.confidence >= 0.9
    assert sum(whole.confident) == confident.sum()
    assert sum(whole.confident_unknown) == (confident & changed.rejected).sum()
    summary = changed.query_summary
    assert summary.unknown_fraction == pytest.approx(4 / 12)
    assert any("1 cell without counts is Unknown." in note for note in summary.notes())
    assert summary.notes() == changed.notes()
