"""Answers of the service: labels as JSON, CSV or Parquet, and headers with the reference and the notes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from spikgpt.cells.output import write_table
from spikgpt.errors import printable
from spikgpt.scoring.annotation import (
    BEST_LABEL,
    BROAD_LABEL,
    CLUSTER,
    CLUSTER_LABEL,
    CONFIDENCE,
    LABEL,
    ONTOLOGY,
    OOD_SCORE,
    ROWS,
    TYPICALITY,
    Annotation,
)
from spikgpt.service.requests import CSV, JSON, PARQUET
from spikgpt.version import __version__

ENDINGS = {JSON: ".json", CSV: ".csv", PARQUET: ".parquet"}
COLUMNS = (LABEL, BEST_LABEL, BROAD_LABEL, *ONTOLOGY, CONFIDENCE, TYPICALITY, OOD_SCORE)
# Largest number of characters of the HTTP header with notes, because proxies limit headers to about 8 kB.
LONGEST_NOTES = 3000


def write_answer(annotation: Annotation, media: str, folder: Path) -> Path:
    """Write the labels to a file in ``folder``, in the format of the media type, and return its path.

    CSV and Parquet have the columns of ``spikgpt annotate --table``.
    """
    path = folder / f"answer{ENDINGS[media]}"
    if media != JSON:
        write_table(annotation.table_chunks(), path)
        return path
    with path.open("wb") as file:
        file.write(msgspec.json.encode(_summary(annotation))[:-1] + b',"cells":[')
        for number, records in enumerate(_records(annotation)):
            file.write((b"," if number else b"") + msgspec.json.encode(records)[1:-1])
        file.write(b"]}")
    return path


def answer_headers(annotation: Annotation) -> dict[str, str]:
    """Return HTTP headers with the reference, the compatibility and the notes. The notes are JSON in ASCII."""
    notes = annotation.notes()
    while len(text := json.dumps(notes)) > LONGEST_NOTES:
        notes = [*notes[: max(0, len(notes) - 2)], "More notes are in the JSON answer."]
    check = annotation.compatibility
    return {
        "SpikGPT-Reference": _ascii(annotation.reference_name),
        "SpikGPT-Digest": _ascii(annotation.reference_digest),
        "SpikGPT-Compatibility": _ascii(check.kind if check else ""),
        "SpikGPT-Notes": text,
    }


def _summary(annotation: Annotation) -> dict[str, Any]:
    """Return the JSON answer without its cells: reference, compatibility, sentences, notes and cells per label."""
    check = annotation.compatibility
    return {
        "reference": {
            "name": annotation.reference_name,
            "digest": annotation.reference_digest,
            "origin": annotation.reference_origin,
        },
        "spikgpt_version": __version__,
        "compatibility": check.kind if check else None,
        "evidence": check.evidence if check else None,
        "summary": annotation.sentences(),
        "notes": annotation.notes(),
        "counts": annotation.counts(),
    }


def _records(annotation: Annotation) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of records, one record for each cell; scores that the reference does not give are None."""
    obs = annotation.obs()
    names = (*COLUMNS, *(name for name in (CLUSTER, CLUSTER_LABEL) if annotation.named(name) in obs))
    for start in range(0, len(obs), ROWS):
        some = obs.iloc[start : start + ROWS]
        columns: dict[str, list[Any]] = {"cell": [str(name) for name in some.index]}
        for name in names:
            column = annotation.named(name)
            columns[name] = some[column].tolist() if column in some else [None] * len(some)
        yield [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _ascii(text: str) -> str:
    """Return text in ASCII for an HTTP header; other characters are escaped."""
    return printable(text).encode("ascii", "backslashreplace").decode()
