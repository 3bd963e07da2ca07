"""Choose the cells to build a reference from: those of the recipe, of a variant, or of some studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import structs

from spikgpt.errors import ConfigError, listed
from spikgpt_recipes.recipe import BuildRecipe, ObsFilter, RecipeStudy


@dataclass(frozen=True)
class StudySelection:
    """A study, and the allowed values of obs columns of its cells, in addition to ``RecipeStudy.keep``."""

    study: RecipeStudy
    where: ObsFilter

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.study.study

    def to_builtins(self) -> dict[str, Any]:
        """Return the study and the allowed values as plain JSON values; they determine the selected cells."""
        return {"source": msgspec.to_builtins(self.study), "where": msgspec.to_builtins(self.where)}


@dataclass(frozen=True)
class BuildPlan:
    """Plan of a build: studies to train on, and studies to evaluate on.

    ``missing`` are studies of the recipe, or of its variant, that are left out.
    """

    recipe: BuildRecipe
    source: str
    card: str
    reference: tuple[StudySelection, ...]
    query: tuple[StudySelection, ...]
    missing: tuple[str, ...]
    variant: str | None = None
    synthetic: bool = False

    @property
    def name(self) -> str:
        """The name of the reference."""
        variant = self.recipe.variants[self.variant] if self.variant else None
        return variant.name if variant and variant.name else self.recipe.name

    @property
    def studies(self) -> tuple[RecipeStudy, ...]:
        """Every study of the plan, once."""
        return tuple({selection.name: selection.study for selection in (*self.reference, *self.query)}.values())


def plan_build(
    recipe: BuildRecipe, *, variant: str | None = None, only: Sequence[str] = (), synthetic: bool = False
) -> BuildPlan:
    """Return the plan of a build.

    Parameters
    ----------
    only
        Studies, or their accessions, to build from; by default all.
    synthetic
        True for simulated cells; the reference and its card state so.

    Raises
    ------
    ConfigError
        When the variant or a study does not exist, or no study is left to train on.
    """
    studies = {study.study: study for study in recipe.sources}
    known = {*studies, *(study.accession for study in recipe.sources)}
    if unknown := [name for name in only if name not in known]:
        names = listed(f"{study.study} ({study.accession})" for study in recipe.sources)
        msg = f"The recipe {recipe.name} has no study {unknown[0]!r}; choose from {names}."
        raise ConfigError(msg)
    if variant is None:
        roles: list[dict[str, ObsFilter]] = [
            {study.study: {} for study in recipe.sources if study.role == role} for role in ("reference", "query")
        ]
        source, card = recipe.source, recipe.card
    elif variant in recipe.variants:
        chosen = recipe.variants[variant]
        roles, source, card = [chosen.reference, chosen.query], chosen.source, chosen.card
        changes = {"licence": chosen.licence, "left_out": chosen.left_out}
        recipe = structs.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    else:
        msg = f"The recipe {recipe.name} has no variant {variant!r}; it has {listed(recipe.variants)}."
        raise ConfigError(msg)

    def is_wanted(study: RecipeStudy) -> bool:
        return not only or bool({study.study, study.accession} & set(only))

    reference, query = (
        tuple(StudySelection(studies[name], where) for name, where in role.items() if is_wanted(studies[name]))
        for role in roles
    )
    if not reference:
        msg = f"No study of {recipe.name} is left to train on; its reference studies are {listed(roles[0])}. Name one."
        raise ConfigError(msg)
    used = {selection.name for selection in (*reference, *query)}
    missing = tuple(name for role in roles for name in role if name not in used)
    return BuildPlan(recipe, source, card, reference, query, missing, variant, synthetic)
