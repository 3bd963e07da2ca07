"""Query parameters become options of annotate, and the Accept header a media type."""

from __future__ import annotations

import msgspec
import pytest

from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions
from spikgpt.service.refusals import Refusal
from spikgpt.service.requests import CSV, JSON, PARQUET, Parameters, media_type, read_parameters

DEFAULTS = msgspec.structs.asdict(AnnotateOptions(progress=False))


def test_parameters_are_the_options_of_annotate() -> None:
    assert set(Parameters.__struct_fields__) == {"model", *AnnotateOptions.__struct_fields__} - {"progress"}
    assert read_parameters([]) == (None, DEFAULTS)
    pairs = [
        ("model", "pancreas"),
        ("layer", "counts"),
        ("batch_key", ""),
        ("unknown_rate", "0.1"),
        ("reference_cutoff", "true"),
        ("smoothing", "0"),
        ("scaling", "shift"),
        ("batch_size", "100"),
        ("key_added", "null"),
        ("labels", "alpha,beta"),
        ("species", "mouse"),
    ]
    expected = {
        "layer": "counts",
        "batch_key": None,
        "unknown_rate": 0.1,
        "reference_cutoff": True,
        "smoothing": False,
        "scaling": "shift",
        "batch_size": 100,
        "key_added": "null",
        "labels": ["alpha,beta"],
        "species": "mouse",
    }
    assert read_parameters(pairs) == ("pancreas", DEFAULTS | expected)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("progress", "true")], "no option 'progress'"),
        ([("unknown_rate", "1")], r"unknown_rate is 1\.0; expected a number of at least 0 and below 1"),
        ([("unknown_rate", "5%")], "unknown_rate is '5%'; expected a number"),
        ([("smoothing", "maybe")], "smoothing is 'maybe'; expected True or False"),
        ([("scaling", "none")], "scaling is 'none'; expected auto, composition"),
        ([("batch_size", "0")], "batch_size is 0; expected a whole number of at least 1"),
        ([("layer", "a"), ("layer", "b")], "'layer' occurs twice"),
        ([("threshold", "0.9"), ("unknown_rate", "0.1")], "threshold cannot be combined"),
        ([("key_added", "a/b")], "key_added is 'a/b'"),
        ([("species", "rat")], "species is 'rat'; expected human or mouse"),
        ([("majority_vote", "1"), ("cluster_key", "leiden")], "majority_vote makes its own clusters"),
    ],
)
def test_other_parameters_are_refused(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_parameters(pairs)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV; charset=utf-8", CSV),
        ("text/html, text/*;q=0.5", CSV),
        ("application/*", JSON),
        (f"{JSON};q=0.1, {PARQUET}", PARQUET),
        (f"text/csv;q=0, {JSON}", JSON),
    ],
)
def test_the_best_accepted_type_is_used(accept: str, media: str) -> None:
    assert media_type(accept) == media


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0", "text/csv;q=x", ";,;"])
def test_other_types_are_refused(accept: str) -> None:
    with pytest.raises(Refusal) as refused:
        media_type(accept)
    assert refused.value.status == 406
