"""Choice of the studies and donors of a build."""

from __future__ import annotations

from typing import Any

import pytest

from spikgpt.errors import ConfigError
from spikgpt_recipes.plan import BuildPlan, plan_build
from spikgpt_recipes.recipe import find_recipe, read_recipe


def plan(**options: Any) -> BuildPlan:
    return plan_build(read_recipe(find_recipe("pancreas")), **options)


def studies(build_plan: BuildPlan) -> tuple[list[str], list[str], tuple[str, ...]]:
    reference, query = ([selection.name for selection in role] for role in (build_plan.reference, build_plan.query))
    return reference, query, build_plan.missing


def test_studies_are_selected_by_role() -> None:
    assert studies(plan()) == (["Baron", "Muraro"], ["Xin", "Segerstolpe", "Lawlor"], ())
    assert [source.study for source in plan().studies] == ["Baron", "Muraro", "Xin", "Segerstolpe", "Lawlor"]


def test_a_build_can_use_some_of_the_studies() -> None:
    build_plan = plan(only=["GSE84133", "Xin"])
    assert studies(build_plan) == (["Baron"], ["Xin"], ("Muraro", "Segerstolpe", "Lawlor"))


def test_a_variant_splits_donors_into_reference_and_query() -> None:
    build_plan = plan(variant="shipped")
    assert studies(build_plan) == (["Baron"], ["Baron"], ())
    assert build_plan.reference[0].where == {"donor": ("human1", "human3")}
    assert build_plan.query[0].where == {"donor": ("human2", "human4")}
    assert build_plan.card == "shipped.md"
    assert [source.study for source in build_plan.studies] == ["Baron"]
    assert (plan().name, build_plan.name) == ("pancreas", "pancreas")


def test_a_variant_can_be_a_separate_reference() -> None:
    build_plan = plan(variant="four-donors")
    assert build_plan.name == "pancreas-four-donors"
    assert studies(build_plan) == (["Baron"], [], ())
    assert len(build_plan.reference[0].where["donor"]) == 4


def test_a_variant_can_have_its_own_licence_and_left_out_labels() -> None:
    retina = read_recipe(find_recipe("retina"))
    variant = plan_build(retina, variant="shipped").recipe
    assert (retina.licence, retina.left_out) == ("other", ())
    assert (variant.licence, variant.left_out) == ("CC0-1.0", retina.variants["shipped"].left_out)
    assert plan(variant="shipped").recipe == plan().recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "small"}, "no variant 'small'; it has shipped, four-donors"),
        ({"only": ["GSE1"]}, r"no study 'GSE1'; choose from Baron \(GSE84133\), Muraro"),
        ({"only": ["Xin"]}, "No study of pancreas is left to train on; its reference studies are Baron, Muraro"),
    ],
    ids=str,
)
def test_impossible_builds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**options)
