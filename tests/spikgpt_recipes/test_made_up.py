"""Builds of lung and retina from made-up cells in the layouts of their sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from spikgpt.sharing import verify
from spikgpt_recipes.plan import plan_build
from spikgpt_recipes.recipe import find_recipe, read_recipe
from spikgpt_recipes.steps import Build
from tests.mirror import lung, retina

MIRRORS = {"lung": lung, "retina": retina}


@pytest.mark.slow
@pytest.mark.parametrize("name", MIRRORS)
def test_a_build_from_made_up_cells_is_complete_and_marked_as_made_up(name: str, tmp_path: Path) -> None:
    MIRRORS[name](tmp_path / "mirror", 700, 300)
    folder, out = find_recipe(name), tmp_path / name
    recipe = structs.replace(read_recipe(folder), training="paper")
    Build(plan_build(recipe, synthetic=True), folder, out, tmp_path / "cache", str(tmp_path / "mirror")).run()
    reference = verify(out).reference
    assert set(reference.labels.names) <= set(recipe.labels)
    assert len(reference.labels.names) >= 10
    assert None not in reference.labels.cell_ontology_ids
    assert [row["cells"] for row in reference.metrics["studies"]] == [{"lung": 70, "retina": 210}[name]]
    assert reference.metrics["synthetic"] is True
    assert reference.provenance["synthetic"] is True
    card = reference.files["README.md"].decode()
    assert "**Made-up cells.**" in card
    assert f"**Not yet trained on the full data.** It has {reference.metrics['cells']} cells of the" in card
    # Whole donors are held out.
    assert reference.metrics["held_out_by"].startswith("donor ")
