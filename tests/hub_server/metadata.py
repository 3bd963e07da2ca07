"""Checks of model card metadata by the rules in modelcard.md of the hub-docs repository."""

from __future__ import annotations

import re
from typing import Any

from spikgpt.reference.hub_metadata import HUB_LICENCES, is_hub_dataset

# Values of ``pipeline_tag`` that the loopback Hub accepts in a model card.
TASKS = ("tabular-classification", "other")


def errors_of(values: dict[str, Any]) -> list[str]:
    """Return the errors for which the Hub refuses a commit; the Hub checks only the fields in ``values``."""
    errors, licence = [], values.get("license", "unknown")
    if licence not in HUB_LICENCES:
        errors.append(f'"license" must be one of the listed licences, not {licence!r}')
    if (name := values.get("license_name")) is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(name)):
        errors.append(f'"license_name" must be in lower case with hyphens, not {name!r}')
    for field in ("tags", "datasets"):
        texts = values.get(field, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            errors.append(f'"{field}" must be a list of texts')
    if values.get("pipeline_tag", "other") not in TASKS:
        errors.append(f'"pipeline_tag" must be a task of the Hub, not {values["pipeline_tag"]!r}')
    return errors + _result_errors(values.get("model-index", []))


def warnings_of(values: dict[str, Any]) -> list[str]:
    """Return the warnings of the Hub; a card with warnings is accepted."""
    return [f"{name!r} is no data set of the Hub" for name in values.get("datasets", []) if not is_hub_dataset(name)]


def _result_errors(models: list[dict[str, Any]]) -> list[str]:
    errors = []
    for model in models:
        if not model.get("name"):
            errors.append('"model-index[].name" is required')
        for result in model.get("results", []):
            needed = {"task": ("type",), "dataset": ("type", "name")}
            missing = [f"{part}.{key}" for part, keys in needed.items() for key in keys if not result[part].get(key)]
            missing += ["metrics.type" for metric in result["metrics"] if not metric.get("type")]
            missing += ["metrics.value" for metric in result["metrics"] if metric.get("value") is None]
            errors += [f'"model-index[].results[].{name}" is required' for name in missing]
    return errors
