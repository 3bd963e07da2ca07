"""``spikgpt build``: its messages, and errors before the first request."""

from __future__ import annotations

from pathlib import Path

import pytest
from anndata import AnnData

from mirror import pancreas
from spikgpt.reference.hub import Hub
from spikgpt.sharing import pull
from spikgpt_recipes.recipe import FILE
from tests.cli.conftest import Run, assert_refused
from tests.hub_server import LoopbackHub
from tests.spikgpt_recipes.conftest import islets_of, write_recipe
from tests.spikgpt_recipes.file_server import FileServer


@pytest.mark.slow
def test_a_build_reports_each_step_and_is_pushed(run: Run, cells: AnnData, tmp_path: Path, hub: LoopbackHub) -> None:
    recipe, out = write_recipe(tmp_path / "recipe", training="paper"), tmp_path / "islets"
    pancreas(islets_of(cells), tmp_path / "mirror")
    arguments = ["build", recipe, "--mirror", tmp_path / "mirror", "--out", out, "--synthetic"]
    ran = run(*arguments, "--steps", "download,prepare")
    assert ran.code == 0, ran.err
    output = ran.err
    assert "download (0." in output
    assert "): reference: 200 cells of ReferenceStudy; query: 100 cells of QueryStudy.\n" in output
    assert "Wrote" not in output
    ran = run(*arguments, "--push", "me/islets", "--endpoint", hub.endpoint)
    assert ran.code == 0, ran.err
    output = ran.err
    assert "prepare (unchanged): " in output
    assert f"Wrote {out}; annotate with: spikgpt annotate QUERY.h5ad --model {out} --out OUT.h5ad\n" in output
    pulled = pull("me/islets", tmp_path / "pulled", hub=Hub(hub.endpoint, cache_dir=tmp_path / "cache"))
    assert pulled.origin is not None
    assert f"me/islets is at commit {pulled.origin.partition('@')[2]}" in output
    assert "**Made-up cells.**" in (tmp_path / "pulled" / "README.md").read_text()
    again = run(*arguments, "--push", "me/islets", "--endpoint", hub.endpoint)
    assert again.code == 0, again.err
    assert "card (unchanged): " in again.err
    assert "Nothing changed, as every file is there already: me/islets is at commit " in again.err


def test_the_first_steps_are_reported_and_write_no_reference(run: Run, cells: AnnData, tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path / "recipe"), tmp_path / "islets"
    pancreas(islets_of(cells), tmp_path / "mirror")
    arguments = ["build", recipe, "--mirror", tmp_path / "mirror", "--out", out, "--steps", "download,prepare"]
    ran = run(*arguments)
    assert ran.code == 0, ran.err
    assert "): reference: 200 cells of ReferenceStudy; query: 100 cells of QueryStudy.\n" in ran.err
    assert "Wrote" not in ran.err
    assert not out.exists()
    assert "prepare (unchanged): " in run(*arguments).err


def test_an_impossible_push_is_refused_before_the_work(run: Run, tmp_path: Path) -> None:
    arguments = ["build", write_recipe(tmp_path / "recipe"), "--mirror", tmp_path, "--out", tmp_path / "out"]
    assert_refused(run(*arguments, "--push", "islets"), "'islets' is no name of a repository; expected ORG/NAME.")
    refused = run(*arguments, "--push", "me/islets", "--steps", "download,prepare")
    assert_refused(refused, "--push needs the step card; add it: --steps download,prepare,card")


def test_a_typo_in_a_recipe_is_found_before_any_request(run: Run, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    text = (recipe / FILE).read_text()
    (recipe / FILE).write_text(text.replace("    accession:", "    acession:", 1))
    with FileServer() as server:
        ran = run("build", recipe, "--mirror", server.url, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
        assert server.requests == []
    assert_refused(ran, "unknown field `acession`, in sources[0] (study ReferenceStudy). Correct that line.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe"]


def test_the_card_of_a_recipe_is_shown(run: Run) -> None:
    shown = run("build", "lung", "--show-card")
    assert shown.code == 0
    assert shown.out.startswith("---\n")
    assert "\nlicense: other\n" in shown.out
    assert "**Not trained yet.**" in shown.out
    assert_refused(run("build", "lung"), "Name the folder to write the reference to: --out FOLDER.")
    refused = run("build", "lung", "--out", "x", "--only", "Baron")
    assert_refused(refused, "The recipe lung has no study 'Baron'; choose from HLCA (HLCA-core), Morse")
