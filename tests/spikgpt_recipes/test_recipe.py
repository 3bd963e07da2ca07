"""Shipped recipes are read in full, and mistakes in recipes are refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest
import yaml

from spikgpt.cells.reading import read_cells
from spikgpt.errors import ConfigError
from spikgpt.scoring.ontology import ontology
from spikgpt_recipes.recipe import FILE, BuildRecipe, find_build, find_recipe, read_card, read_recipe, recipe_folders
from tests.conftest import DATA
from tests.spikgpt_recipes.conftest import write_recipe

NAMES = sorted(recipe_folders())
# Numbers of reference and query cells in the paper, and accessions of the reference and query studies.
PAPER = {
    "lung": (309_287, 24_181, {"HLCA-core"}, {"HLCA-core"}),
    "pancreas": (10_600, 4_218, {"GSE84133", "GSE85241"}, {"GSE81608", "E-MTAB-5061", "GSE86473"}),
    "retina": (93_842, 6_061, {"GSE148077"}, {"GSE130636"}),
}

each_recipe = pytest.mark.parametrize("name", NAMES)


def recipe_of(name: str) -> BuildRecipe:
    return read_recipe(find_recipe(name))


def changed(folder: Path, *pairs: tuple[str, str]) -> Path:
    """Write the pancreas recipe with text replaced; return the folder."""
    original = find_recipe("pancreas")
    text = (original / FILE).read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(text)
    for card in original.glob("*.md"):
        (folder / card.name).write_text(card.read_text())
    return folder


def test_only_recipes_of_the_paper_state_its_figures() -> None:
    assert {name for name in NAMES if recipe_of(name).paper} == PAPER.keys()


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper_have_its_cells_and_studies(name: str) -> None:
    recipe = recipe_of(name)
    accessions = {
        role: {source.accession for source in recipe.sources if source.role == role} for role in ("reference", "query")
    }
    assert (recipe.cells.reference, recipe.cells.query, accessions["reference"], accessions["query"]) == PAPER[name]
    assert recipe.name == name
    assert recipe.left_out == (("alpha",) if name == "pancreas" else ())


@each_recipe
def test_every_field_of_a_recipe_is_read(name: str) -> None:
    stated = yaml.safe_load((find_recipe(name) / FILE).read_text())
    # The parsed recipe has every value of the file, and defaults for missing fields.
    read = msgspec.to_builtins(recipe_of(name))

    def assert_contained(stated_value: object, read_value: object) -> None:
        if isinstance(stated_value, dict):
            assert isinstance(read_value, dict)
            for key, item in stated_value.items():
                assert_contained(item, read_value[key])
        elif isinstance(stated_value, list):
            assert isinstance(read_value, list | tuple)
            for item, read_item in zip(stated_value, read_value, strict=True):
                assert_contained(item, read_item)
        else:
            assert stated_value == read_value

    assert_contained(stated, read)


@each_recipe
def test_every_label_has_its_ontology_term_and_a_broader_term(name: str) -> None:
    table = ontology()
    for label in recipe_of(name).labels.values():
        assert table.names[label.id] == label.term
        assert table.names[label.broad] == label.broad_term
        assert label.broad in table.above(label.id)


@each_recipe
def test_every_label_is_mapped_from_a_study_label(name: str) -> None:
    recipe = recipe_of(name)
    named = {ours for source in recipe.sources for ours in (source.labels | source.patterns).values()}
    assert named - {None} == set(recipe.labels)


@each_recipe
def test_recipes_state_unverified_facts(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.unverified
    for source in recipe.sources:
        # A source without a verified hash of each file must state so.
        assert all(file.sha256 for file in source.files) or source.unverified
        assert source.page
        assert source.citation
        assert source.licence


@each_recipe
def test_a_recipe_has_its_cards(name: str) -> None:
    recipe = recipe_of(name)
    for card in {recipe.card, *(variant.card for variant in recipe.variants.values())}:
        assert read_card(find_recipe(name), card).startswith("## Intended use\n")


def test_all_labels_of_the_real_cells_are_mapped() -> None:
    (baron,) = (source for source in recipe_of("pancreas").sources if source.study == "Baron")
    for path in DATA.glob("pancreas_baron_*.h5ad"):
        obs = read_cells(path).obs
        ids = recipe_of("pancreas").labels
        for label, term in set(zip(obs["cell_type"], obs["cell_ontology_id"], strict=True)):
            assert ids[str(baron.map_label(label))].id == term


@pytest.mark.parametrize(
    ("label", "name"),
    [("Gaba12", "amacrine"), ("DB4a", "bipolar"), ("mlCone", "cone"), ("Rod", "rod"), ("MG_OFF", "ganglion")],
)
def test_patterns_map_labels(label: str, name: str) -> None:
    yan, _ = recipe_of("retina").sources
    assert yan.map_label(label) == name
    with pytest.raises(KeyError):
        yan.map_label("Surprise")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence: MIT", "license: MIT", "unknown field `license`"),
        ("accession: GSE84133", "accesion: GSE84133", "unknown field `accesion`, in sources[0] (study Baron)"),
        ("cells: 8569", "cells: many", "Expected `int | null`, got `str`, in sources[0].cells (study Baron)"),
        ("role: query", "role: asked", "Invalid enum value 'asked', in sources[2].role (study Xin)"),
        ("embedder: pca", "embedder: umap", "Invalid enum value 'umap', in embedder"),
        ("format: tar", "format: rar", "Invalid value 'rar', in sources[0].files[0].reader.format (study Baron)"),
        ("id: CL:0000171", "id: CL:171", "in labels"),
        ("id: CL:0000171", "id: CL:0000169", "alpha has the id CL:0000169, which is 'type B pancreatic cell'"),
        ("id: CL:0000171", "id: CL:9999999", "alpha has the id CL:9999999, which is no term in the Cell Ontology"),
        ("broad: CL:0008024, broad_term: pancreatic endocrine", "broad: CL:0000115, broad_term: endothelial",
         "alpha has the broad CL:0000115, which is not above CL:0000171"),
        ("beta: beta", "beta: bêta", "Baron maps 'beta' to 'bêta', which is not in labels"),
        ("left_out: [alpha]", "left_out: [alhpa]", "left_out names 'alhpa'"),
        ("card: shipped.md", "card: shipped.md\n    left_out: [bet]", "left_out names 'bet', which is not in labels"),
        ("study: Muraro", "study: Baron", "sources repeats a name"),
        ("seed: 0", "seed: 0\nseed: 1", "the repeated key 'seed'"),
        ("seed: 0", "seed: &a 0\nx: *a", "an alias"),
        ("seed: 0", "seed: [", "is no plain YAML"),
        ("seed: 0", f"seed: 1{':1' * 40_000}", "a number of 80001 characters, line"),
        ("seed: 0", f"seed: 0x{'f' * 90_000}", "a number of 90002 characters, line"),
        ("seed: 0", f"seed: {10**30}", "in seed"),
        ("sources:\n", "sources:\n  - text\n", "got `str`, in sources[0]"),
        ("seed: 0", "seed: " + "[" * 20_000, "is no plain YAML"),
        ("seed: 0", "seed: 0\n? [a, b]\n: 1", "a key that is no text"),
        ("seed: 0", f"seed: 0 # {'x' * 300_000}", "has more than 262144 bytes"),
        ("{Baron: {donor: [human1", "{Barn: {donor: [human1", "shipped names the study 'Barn'"),
        ("(?P<donor>human\\d)", "(?P<donor>human\\d", "is no regular expression"),
        ("accession: GSE84133", "accession: ..", "accession is '..'; expected a plain file name"),
        ("accession: GSE84133", "accession: /etc", "accession is '/etc'; expected a plain file name"),
        ("accession: GSE84133", 'accession: "a\\0"', "accession is 'a\\x00'; expected"),
        ("study: Muraro", "study: ..", "study is '..'; expected a plain file name"),
        ("study: Muraro", "study: baron", "sources repeats a name"),
        ("card: shipped.md", "card: ../secret.md", "in variants"),
        ("card: shipped.md", "card: lost.md", "lost.md cannot be read"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_an_invalid_recipe_is_refused_with_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(changed(tmp_path, (old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_can_be_a_recipe(tmp_path: Path) -> None:
    changed(tmp_path, ("name: pancreas", "name: islets"))
    assert read_recipe(find_recipe(str(tmp_path))).name == "islets"
    with pytest.raises(ConfigError, match="There is no recipe 'lungs'; choose .*lung, .*retina.*, or name"):
        find_recipe("lungs")


def test_a_reference_name_selects_recipe_and_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_recipe("pancreas")
    assert find_build("pancreas") == (folder, None)
    assert find_build("pancreas-four-donors") == (folder, "four-donors")
    with pytest.raises(ConfigError, match="There is no recipe 'pancreas-two-donors'; choose"):
        find_build("pancreas-two-donors")
    # A folder with this name takes precedence over the shipped recipe.
    monkeypatch.chdir(tmp_path)
    copied = tmp_path / "pancreas-four-donors"
    shutil.copytree(folder, copied)
    assert find_build("pancreas-four-donors") == (Path("pancreas-four-donors"), None)


@pytest.mark.parametrize("name", [FILE, "card.md", "shipped.md"])
@pytest.mark.parametrize("kind", ["link", "link inside", "pipe", "device"])
def test_links_and_special_files_in_a_recipe_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = changed(tmp_path / "recipe") / name
    path.rename(tmp_path / "secret")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link inside":
        path.with_name("other").write_bytes((tmp_path / "secret").read_bytes())
        path.symlink_to("other")
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "secret")
    with pytest.raises(ConfigError, match=rf"{name} is (a link|not a regular file)"):
        read_recipe(find_recipe(str(tmp_path / "recipe")))


@pytest.mark.parametrize("changed_field", ["url", "size", "sha256"])
def test_one_file_name_with_two_addresses_sizes_or_hashes_is_refused(tmp_path: Path, changed_field: str) -> None:
    write_recipe(tmp_path)
    text = (tmp_path / FILE).read_text()
    line = "        url: https://example.org/GSE84133/GSE84133_RAW.tar\n"
    other = {"url": line.replace("org", "com"), "size": f"{line}        size: 5\n"}
    begin, end = text.rsplit(line, 1)
    (tmp_path / FILE).write_text(begin + other.get(changed_field, f"{line}        sha256: {'a' * 64}\n") + end)
    with pytest.raises(ConfigError, match=r"GSE84133/GSE84133_RAW\.tar has two addresses, sizes or hashes"):
        read_recipe(tmp_path)
