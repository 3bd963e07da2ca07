"""Licences and tags in the metadata of a card, in the forms that the Hub knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Tags of all references; the first marks a repository as a reference. Tags with a value, such as "tissue:pancreas",
# have the form that scvi-tools uses on the Hub.
TAGS = ("spikgpt", "biology", "single-cell", "scrna-seq", "cell-type-annotation", "spiking-neural-network")
TISSUE, ORGANISM, CELL_TYPE, ACCESSION = "tissue:", "organism:", "cell_type:", "accession:"
# Licences that the Hub lists, from https://huggingface.co/docs/hub/repositories-licenses. Licences of single families
# of language models are left out.
HUB_LICENCES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl mpl-2.0 odc-by odbl openmdw-1.0 openmdw-1.1
    openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other
    """.split()
)
ALIASES = {"cc0": "cc0-1.0", "apache": "apache-2.0", "apache-license-2.0": "apache-2.0", "mit-license": "mit"}


def slug(text: str) -> str:
    """Return text in lower case, with characters other than letters, digits and dots replaced by hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def hub_licence(licence: str) -> tuple[str, str | None]:
    """Return the card fields ``license`` and ``license_name``; the name is None for a licence that the Hub lists."""
    text = licence.strip().lower()
    identifier = text if text in HUB_LICENCES else ALIASES.get(slug(text), slug(text))
    if identifier in HUB_LICENCES:
        return identifier, None
    return ("other", identifier[:80].rstrip("-.")) if identifier else ("unknown", None)


def is_hub_dataset(name: str) -> bool:
    """Return True if a name has the form ``ORG/NAME`` of a data set on the Hub.

    Accessions such as GSE84133 do not have this form.
    """
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def tags_of(provenance: Mapping[str, Any], cell_types: Iterable[str]) -> list[str]:
    """Return the tags of a reference, from its provenance and the names of its cell types."""
    datasets = (name for name in provenance.get("datasets") or () if not is_hub_dataset(name))
    tags = [
        *TAGS,
        *(prefix + slug(provenance.get(field) or "") for prefix, field in ((TISSUE, "tissue"), (ORGANISM, "organism"))),
        *(ACCESSION + re.sub(r"\W+", "-", name) for name in datasets),
        *(CELL_TYPE + slug(name) for name in cell_types),
    ]
    return [tag for tag in dict.fromkeys(tags) if not tag.endswith(":")]


def values_of(tags: Iterable[str], prefix: str) -> list[str]:
    """Return the values of the tags that start with a prefix, with spaces instead of hyphens."""
    return [tag.removeprefix(prefix).replace("-", " ") for tag in tags if tag.startswith(prefix)]
