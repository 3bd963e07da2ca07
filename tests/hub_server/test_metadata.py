"""Checks of model card metadata by the loopback Hub."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hub_server.metadata import errors_of, warnings_of

RESULT = {
    "task": {"type": "tabular-classification"},
    "dataset": {"type": "GSE84133", "name": "donor human3"},
    "metrics": [{"type": "accuracy", "value": 0.0}],
}


def test_valid_metadata_have_no_errors() -> None:
    assert errors_of({}) == []
    values = {"license": "other", "license_name": "my-license-1.0", "tags": ["a:b"], "datasets": ["org/cells"]}
    assert errors_of(values | {"model-index": [{"name": "islets", "results": [RESULT]}]}) == []
    assert warnings_of(values) == []


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"license": "GEO states none"}, "license"),
        ({"license_name": "My Licence"}, "license_name"),
        ({"tags": "spikgpt"}, "tags"),
        ({"tags": [7]}, "tags"),
        ({"datasets": [None]}, "datasets"),
        ({"pipeline_tag": "cells"}, "pipeline_tag"),
        ({"model-index": [{"results": []}]}, "name"),
        ({"model-index": [{"name": "x", "results": [RESULT | {"dataset": {"type": "x"}}]}]}, "dataset.name"),
        ({"model-index": [{"name": "x", "results": [RESULT | {"metrics": [{"type": "f1"}]}]}]}, "metrics.value"),
    ],
)
def test_each_invalid_field_has_an_error(values: dict[str, Any], error: str) -> None:
    (message,) = errors_of(values)
    assert error in message


def test_an_accession_as_data_set_gives_a_warning() -> None:
    assert warnings_of({"datasets": ["GSE84133", "org/cells"]}) == ["'GSE84133' is no data set of the Hub"]
