"""Model card of a reference: its README.md, with intended use, licence and measured accuracy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import yaml

from spikgpt.reference.hub_metadata import hub_licence, is_hub_dataset, tags_of
from spikgpt.reference.summary import label_agreement
from spikgpt.scoring.ontology import ontology
from spikgpt.scoring.thresholds import CELLS_FOR_OWN_LIMIT

TASK = "tabular-classification"
TEMPLATE = Path(__file__).with_name("card.md.jinja")
FRONT = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)
# Largest length, in characters, of the YAML front matter at the top of a card.
LONGEST_FRONT = 20_000
NO_DESCRIPTION = """## Intended use and limits

The maker of this reference has not stated its intended use. It assigns the labels below and no others; cells of other
types should become Unknown, which is not certain."""


class WithoutAliases(yaml.SafeLoader):
    """YAML loader that refuses aliases, because a few lines of nested aliases can expand to fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node of the YAML document; refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            msg = "an alias"
            raise yaml.YAMLError(msg)
        return super().compose_node(parent, index)


class Card(str):
    """Markdown text of a model card. Notebooks show the text without the YAML front matter and the pictures."""

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Return the card of a reference from its files; ``files`` maps file names to contents."""
        return cls(files["README.md"].decode(errors="replace"))

    @property
    def metadata(self) -> dict[str, Any]:
        """Values of the YAML front matter, such as licence and tags; empty if the YAML cannot be read."""
        return read_metadata(self) or {}

    @property
    def body(self) -> str:
        """Text of the card without the YAML front matter and the pictures."""
        return re.sub(r"(?m)^!\[.*\n?", "", FRONT.sub("", self, count=1)).strip() + "\n"

    def __repr__(self) -> str:
        title = self.body.partition("\n")[0].lstrip("# ")
        return f"<Card of {title}, {len(self)} characters; print() shows the text>"

    def _repr_markdown_(self) -> str:
        return self.body


def card(
    name: str,
    labels: list[dict[str, Any]],
    thresholds: dict[str, Any],
    metrics: dict[str, Any],
    provenance: dict[str, Any],
    *,
    onnx: bool = False,
) -> str:
    """Return the Markdown text of the card of a reference, made from the values of its JSON files.

    ``onnx`` is True if the reference has an exported ONNX graph.
    """
    together, rate = thresholds.get("together"), thresholds["unknown_rate"]
    rows = together["labels"].items() if together else ()
    return _rendered(
        name,
        provenance,
        metrics,
        labels=labels,
        thresholds=thresholds,
        together=together,
        own_limits=[label for label, row in rows if row["cells"] >= CELLS_FOR_OWN_LIMIT],
        unknown_rate=f"{rate:g}",
        rate=_percent(rate, 0),
        scores={row["label"]: row for row in label_agreement(metrics)["per_label"]},
        onnx=onnx,
    )


def untrained_card(recipe: dict[str, Any]) -> str:
    """Return the card of a recipe whose reference has not been trained yet; the card has no measured accuracy."""
    return _rendered(recipe["name"], recipe["provenance"], None)


def _rendered(name: str, provenance: dict[str, Any], metrics: dict[str, Any] | None, **values: Any) -> str:
    """Return the card template filled with values; ``metrics`` is None if the reference has not been trained yet."""
    # Escape lines such as ---, which a parser could take for YAML front matter.
    description = re.sub(
        r"(?m)^(\s*)(---|\+\+\+|\.\.\.)", r"\1\\\2", _plain(provenance.get("description") or NO_DESCRIPTION)
    )
    functions = {"plain": _plain, "cell": _table_cell, "percent": _percent}
    values |= {"name": name, "model": provenance.get("repository") or name, "description": description, **functions}
    metadata = _metadata(name, provenance, metrics, values.get("labels", []))
    text: str = _template().render(card_data=metadata, provenance=provenance, metrics=metrics, **values)
    return text.rstrip() + "\n"


@cache
def _template() -> Any:
    import jinja2

    return jinja2.Template(TEMPLATE.read_text(encoding="utf-8"))


def _metadata(
    name: str, provenance: dict[str, Any], metrics: dict[str, Any] | None, labels: list[dict[str, Any]]
) -> str:
    """Return the YAML front matter of a card; its field ``model-index`` holds the measured scores.

    The scores are not written to the folder ``.eval_results``. The Hub shows results in that folder only for data sets
    that are benchmarks on the Hub.
    """
    from huggingface_hub import ModelCardData

    terms = ontology().names if labels else {}
    results = _results(provenance, metrics) if metrics is not None else None
    licence, licence_name = hub_licence(provenance.get("licence") or "")
    data = ModelCardData(
        license=licence,
        license_name=licence_name,
        library_name="spikgpt",
        pipeline_tag=TASK,
        tags=tags_of(provenance, (terms.get(row["cell_ontology_id"], row["name"]) for row in labels)),
        datasets=[dataset for dataset in provenance.get("datasets") or () if is_hub_dataset(dataset)] or None,
        model_name=name if results else None,
        eval_results=results,
    )
    return str(data)


def _results(provenance: dict[str, Any], metrics: dict[str, Any]) -> list[Any]:
    """Return scores as ``EvalResult`` objects of huggingface_hub: other studies first, held-out cells last.

    The order matters, because :func:`card_figures` reads the scores of the last result, also in earlier versions.
    """
    from huggingface_hub import EvalResult

    accessions = {row["study"]: row["accession"] for row in provenance.get("studies") or ()}
    held_out = {"dataset_type": ", ".join(provenance.get("datasets") or ()) or "not stated"}
    held_out["dataset_name"] = f"held out: {metrics['held_out_by']}"
    scored = [
        # huggingface_hub merges results that differ only in dataset_name, so dataset_config names the study too.
        ({"dataset_type": accessions.get(study, study), "dataset_name": study, "dataset_config": study}, row)
        for row in metrics.get("studies") or ()
        for study in [row["study"]]
    ]
    return [
        EvalResult(
            task_type=TASK,
            task_name="Cell type annotation",
            metric_type=kind,
            metric_name=shown,
            metric_value=row[figure],
            **data,
        )
        for data, row in [*scored, (held_out, metrics["held_out"])]
        for kind, shown, figure in (("accuracy", "accuracy", "accuracy"), ("f1", "macro-F1", "macro_f1"))
    ]


def read_metadata(text: str) -> dict[str, Any] | None:
    """Return the YAML mapping at the top of a card; None if it is missing, invalid, too long or has aliases."""
    parts = re.match(r"---\r?\n(.*?)\r?\n---", text[:LONGEST_FRONT], re.DOTALL)
    try:
        values = yaml.load(parts[1], WithoutAliases) if parts else None  # WithoutAliases is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):  # e.g. the date 2026-13-32, or endless nesting
        return None
    return values if isinstance(values, dict) else None


def same_card(first: str | bytes, second: str | bytes) -> bool:
    """Return True if two cards have the same text and the same metadata.

    The order of the metadata does not count, because the order depends on the version of huggingface_hub.
    """
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else text for text in (first, second)]
    bodies = [FRONT.sub("", text, count=1) for text in texts]
    return bodies[0] == bodies[1] and read_metadata(texts[0]) == read_metadata(texts[1])


def card_figures(text: str) -> dict[str, float]:
    """Return the scores in the ``model-index`` of a card, by metric; an empty dict if it cannot be read."""
    try:
        results = (read_metadata(text) or {})["model-index"][0]["results"]
        return {metric["type"]: metric["value"] for result in results for metric in result["metrics"]}
    except (LookupError, TypeError):
        return {}


def _plain(text: str) -> str:
    """Return text with each ``<`` escaped, so that a page shows HTML tags as text and does not render them."""
    return text.replace("<", "&lt;")


def _table_cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"
