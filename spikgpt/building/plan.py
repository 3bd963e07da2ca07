"""Which cells of a recipe are built from: all, those of a variant, or those of some studies only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from spikgpt.building.recipe import Expected, Recipe, Source, Where
from spikgpt.errors import ConfigError, listed

# How a query's file and a reference's are named.
REFERENCE, QUERY = "reference", "query"


@dataclass(frozen=True)
class Chosen:
    """A study, and of its cells those with some values in some columns, beside what the study keeps itself."""

    source: Source
    where: Where

    def told(self) -> dict[str, Any]:
        """Return plain JSON values: all that decides which cells these are."""
        return {"source": msgspec.to_builtins(self.source), "where": msgspec.to_builtins(self.where)}


@dataclass(frozen=True)
class Plan:
    """What to build: studies to train on and to ask, and the cells that there should be of them.

    ``missing`` are studies of the recipe, or of its variant, that were left out.
    """

    recipe: Recipe
    source: str
    card: str
    expected: Expected
    reference: tuple[Chosen, ...]
    query: tuple[Chosen, ...]
    missing: tuple[str, ...]
    variant: str | None = None
    synthetic: bool = False

    @property
    def studies(self) -> tuple[Source, ...]:
        """Every study whose files are needed, once."""
        return tuple({chosen.source.study: chosen.source for chosen in (*self.reference, *self.query)}.values())


def plan_of(recipe: Recipe, *, variant: str | None = None, only: Sequence[str] = (), synthetic: bool = False) -> Plan:
    """Return what to build of a recipe.

    Parameters
    ----------
    only
        Studies, or their accessions, to build from; by default all.
    synthetic
        Whether the cells are made up, which everything that is written then says.

    Raises
    ------
    ConfigError
        When there is no such variant or study, or nothing is left to train on.
    """
    studies = {source.study: source for source in recipe.sources}
    for name in only:
        if name not in studies and name not in [source.accession for source in recipe.sources]:
            known = listed(f"{source.study} ({source.accession})" for source in recipe.sources)
            msg = f"The recipe {recipe.name} has no study {name!r}; choose of {known}."
            raise ConfigError(msg)
    if variant is None:
        wheres: dict[str, dict[str, Where]] = {REFERENCE: {}, QUERY: {}}
        for source in recipe.sources:
            wheres[source.role][source.study] = {}
        told, card, expected = recipe.source, recipe.card, recipe.cells
    elif variant in recipe.variants:
        chosen = recipe.variants[variant]
        wheres = {REFERENCE: chosen.reference, QUERY: chosen.query}
        told, card, expected = chosen.source, chosen.card, chosen.cells or recipe.cells
    else:
        msg = f"The recipe {recipe.name} has no variant {variant!r}; it has {listed(recipe.variants)}."
        raise ConfigError(msg)

    def kept(role: str) -> tuple[Chosen, ...]:
        found = (Chosen(studies[study], where) for study, where in wheres[role].items())
        return tuple(one for one in found if not only or {one.source.study, one.source.accession} & set(only))

    reference, query = kept(REFERENCE), kept(QUERY)
    if not reference:
        msg = f"Nothing is left of {recipe.name} to train on; its reference is {listed(wheres[REFERENCE])}. Name one."
        raise ConfigError(msg)
    used = {one.source.study for one in (*reference, *query)}
    missing = tuple(study for role in wheres.values() for study in role if study not in used)
    return Plan(recipe, told, card, expected, reference, query, missing, variant, synthetic)
