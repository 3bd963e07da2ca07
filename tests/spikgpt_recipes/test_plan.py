"""Which cells are built from."""

from __future__ import annotations

from typing import Any

import pytest

from spikgpt.errors import ConfigError
from spikgpt_recipes.plan import BuildPlan, plan_build
from spikgpt_recipes.recipe import find_recipe, read_recipe


def plan(**options: Any) -> BuildPlan:
    return plan_build(read_recipe(find_recipe("pancreas")), **options)


def studies(found: BuildPlan) -> tuple[list[str], list[str], tuple[str, ...]]:
    reference, query = ([one.name for one in role] for role in (found.reference, found.query))
    return reference, query, found.missing


def test_all_studies_are_used_by_their_roles() -> None:
    assert studies(plan()) == (["Baron", "Muraro"], ["Xin", "Segerstolpe", "Lawlor"], ())
    assert [source.study for source in plan().studies] == ["Baron", "Muraro", "Xin", "Segerstolpe", "Lawlor"]


def test_a_build_may_do_with_some_studies() -> None:
    found = plan(only=["GSE84133", "Xin"])
    assert studies(found) == (["Baron"], ["Xin"], ("Muraro", "Segerstolpe", "Lawlor"))


def test_a_variant_takes_some_donors_and_asks_others() -> None:
    found = plan(variant="shipped")
    assert studies(found) == (["Baron"], ["Baron"], ())
    assert found.reference[0].where == {"donor": ("human1", "human3")}
    assert found.query[0].where == {"donor": ("human2", "human4")}
    assert found.card == "shipped.md"
    assert [source.study for source in found.studies] == ["Baron"]
    assert (plan().name, found.name) == ("pancreas", "pancreas")


def test_a_variant_can_be_a_reference_of_its_own() -> None:
    found = plan(variant="four-donors")
    assert found.name == "pancreas-four-donors"
    assert studies(found) == (["Baron"], [], ())
    assert len(found.reference[0].where["donor"]) == 4


def test_a_variant_may_have_its_own_licence_and_labels_to_leave_out() -> None:
    retina = read_recipe(find_recipe("retina"))
    found = plan_build(retina, variant="shipped").recipe
    assert (retina.licence, retina.left_out) == ("other", ())
    assert (found.licence, found.left_out) == ("CC0-1.0", retina.variants["shipped"].left_out)
    assert plan(variant="shipped").recipe == plan().recipe


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "small"}, "no variant 'small'; it has shipped, four-donors"),
        ({"only": ["GSE1"]}, r"no study 'GSE1'; choose from Baron \(GSE84133\), Muraro"),
        ({"only": ["Xin"]}, "No study of pancreas is left to train on; its reference studies are Baron, Muraro"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(**options)
