"""Licences and tags in the forms that the Hub knows."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikgpt.reference.hub_metadata import (
    ALIASES,
    CELL_TYPE,
    HUB_LICENCES,
    TAGS,
    TISSUE,
    hub_licence,
    is_hub_dataset,
    slug,
    tags_of,
    values_of,
)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", ("mit", None)),
        ("CC-BY-4.0", ("cc-by-4.0", None)),
        ("CC BY 4.0", ("cc-by-4.0", None)),
        ("CC0 1.0", ("cc0-1.0", None)),
        ("CC0", ("cc0-1.0", None)),
        ("Apache 2.0", ("apache-2.0", None)),
        ("openrail++", ("openrail++", None)),
        ("other", ("other", None)),
        ("", ("unknown", None)),
        (" - ", ("unknown", None)),
        ("CC BY", ("other", "cc-by")),
        ("GEO states none", ("other", "geo-states-none")),
    ],
)
def test_licences_become_identifiers_of_the_hub(licence: str, expected: tuple[str, str | None]) -> None:
    assert hub_licence(licence) == expected


def test_aliases_are_listed_licences() -> None:
    assert set(ALIASES.values()) <= HUB_LICENCES
    assert len(HUB_LICENCES) > 60


@given(st.text(max_size=200))
def test_every_text_gives_a_licence_that_the_hub_accepts(licence: str) -> None:
    identifier, name = hub_licence(licence)
    assert identifier in HUB_LICENCES
    assert name is None or (identifier == "other" and re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,79}", name))


@given(st.text(max_size=50))
def test_the_slug_of_a_slug_is_the_same(text: str) -> None:
    assert slug(slug(text)) == slug(text)
    assert re.fullmatch(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?", slug(text))


def test_tags_name_tissue_organism_accessions_and_cell_types_once() -> None:
    provenance = {"tissue": "RPE and choroid", "organism": "Homo sapiens", "datasets": ["GSE1", "org/cells"]}
    tags = tags_of(provenance, ["Müller cell", "T cell", "T cell", "CD4-positive, alpha-beta T cell", "??"])
    assert tags == [
        *TAGS,
        "tissue:rpe-and-choroid",
        "organism:homo-sapiens",
        "accession:GSE1",
        "cell_type:m-ller-cell",
        "cell_type:t-cell",
        "cell_type:cd4-positive-alpha-beta-t-cell",
    ]
    assert values_of(tags, TISSUE) == ["rpe and choroid"]
    assert len(values_of(tags, CELL_TYPE)) == 3
    assert tags_of({}, []) == list(TAGS)


def test_data_sets_of_the_hub_have_an_owner() -> None:
    assert is_hub_dataset("org/cells")
    assert not any(map(is_hub_dataset, ("GSE84133", "E-MTAB-5061", "a/b/c", "https://x.org/y", "")))
