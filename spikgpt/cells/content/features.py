"""Detect features that are not RNA: antibodies, peaks and guides of CITE-seq and multiome files."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from spikgpt.types import Bools

if TYPE_CHECKING:
    import pandas as pd

# Columns of var with feature types, in files from Cell Ranger, scanpy, muon, Seurat and DropletUtils. Names and types
# are compared without case and punctuation.
TYPE_COLUMNS = ("featuretypes", "featuretype", "modality", "modalities", "type")
RNA_TYPES = ("geneexpression", "gex", "rna", "scrna", "transcriptome")
# Types that are not RNA, for a file that names none of RNA_TYPES. Further types, such as protein_coding, may describe
# genes.
OTHER_TYPES = (
    "antibodycapture",
    "antigencapture",
    "adt",
    "atac",
    "chromatinaccessibility",
    "crisprguidecapture",
    "hto",
    "multiplexingcapture",
    "peak",
    "peaks",
    "prot",
    "protein",
)
# Parts of antibody names in lower case. A line end marks the start or the end of a name. PEAK matches the name of an
# interval of a chromosome.
ANTIBODY_MARKS = (
    "totalseq",
    *(f"anti{sign}{species}" for sign in "-_" for species in ("human", "mouse", "rat")),
    *(f"\n{prefix}{sign}" for sign in "-_:" for prefix in ("adt", "hto", "prot")),
    *(f"{sign}{suffix}\n" for sign in "-_:" for suffix in ("adt", "prot", "tsa", "tsb", "tsc")),
)
PEAK = re.compile(r"\nchr\w+?[:\-_]\d+[:\-_]\d+\n")


def rna_features(var: pd.DataFrame) -> tuple[Bools | None, str]:
    """Return a mask of the RNA features of a query.

    The types are read from a column such as ``var["feature_types"]``, else from names such as ``CD3_TotalSeqB`` or
    ``chr1:100-200``.

    Returns
    -------
    Mask of the RNA features, shape (features,), or None if all features are RNA; and a phrase that names the other
    features.
    """
    column, types = _stated_types(var)
    types = types or _types_by_name(var)
    if types is None:
        return None, ""
    counts = Counter(filter(None, types))
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common(5))
    by = "by their names" if column is None else f"by var[{column!r}]"
    return np.array(
        [not name for name in types]
    ), f"{counts.total()} of {len(types)} features that are not RNA {by} ({listed})"


def _stated_types(var: pd.DataFrame) -> tuple[str | None, list[str] | None]:
    """Return the name of the column with feature types, and the type of each feature; two None without such a column.

    The type of an RNA feature is an empty text. A column with RNA types only is ignored.
    """
    columns = {_key(column): column for column in reversed(list(var.columns))}
    for key in TYPE_COLUMNS:
        if key not in columns:
            continue
        stated = var[columns[key]]
        texts = {value: "" if _missing(value) else str(_text(value)) for value in stated.unique()}
        names_rna = any(_key(text) in RNA_TYPES for text in texts.values())
        other_types = {
            value: text
            for value, text in texts.items()
            if (_key(text) not in RNA_TYPES if names_rna else _key(text) in OTHER_TYPES)
        }
        if any(other_types.values()):
            return str(columns[key]), [other_types.get(value, "") for value in stated]
    return None, None


def _types_by_name(var: pd.DataFrame) -> list[str] | None:
    """Return each feature's type by its name, ``antibodies``, ``peaks`` or empty for RNA; None if all are RNA."""
    names = list(map(str, var.index.tolist()))
    together = "\n".join(["", *names, ""]).lower()
    marks = [mark for mark in ANTIBODY_MARKS if mark in together]
    if not marks and not PEAK.search(together):
        return None
    lines = (f"\n{name.lower()}\n" for name in names)
    return [
        "antibodies" if any(mark in line for mark in marks) else "peaks" if PEAK.fullmatch(line) else ""
        for line in lines
    ]


def _key(text: Any) -> str:
    """Return a name in lower case and without punctuation."""
    return re.sub(r"[\W_]+", "", str(_text(text))).lower()


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _missing(value: Any) -> bool:
    return value is None or value != value or str(value) in ("", "<NA>")
