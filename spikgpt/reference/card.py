"""The card of a reference: a README that states what was measured and nothing else."""

from __future__ import annotations

import re
from typing import Any

import yaml

from spikgpt.scoring.thresholds import CELLS_FOR_OWN_LIMIT

TAGS = ("spikgpt", "single-cell", "scrna-seq", "cell-type-annotation", "spiking-neural-network")
TASK = "tabular-classification"
# Characters of a card in which its front matter ends.
LONGEST_FRONT = 20_000


class WithoutAliases(yaml.SafeLoader):
    """Reads YAML in which nothing stands for something else, as what a few lines stand for may fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is no alias."""
        if self.check_event(yaml.AliasEvent):
            msg = "an alias"
            raise yaml.YAMLError(msg)
        return super().compose_node(parent, index)


def card(
    name: str,
    labels: list[dict[str, Any]],
    thresholds: dict[str, Any],
    metrics: dict[str, Any],
    provenance: dict[str, Any],
    *,
    onnx: bool = False,
) -> str:
    """Return the Markdown text of a card, from the same values that the other files of the reference hold.

    ``onnx`` says whether one of these is an exported graph.
    """
    held_out = metrics["held_out"]
    scores = {
        row["label"]: f"{row['cells']} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f}"
        for row in held_out["per_label"]
    }
    table = "\n".join(
        f"| {in_table(label['name'])} | {in_table(label['cell_ontology_id'] or '-')} | "
        f"{metrics['cells_per_label'][label['name']]} | "
        f"{scores.get(label['name'], '0 | not measured | not measured | not measured')} |"
        for label in labels
    )
    recipe, seed = provenance["recipe"]["name"], provenance["seed"]
    return f"""{front_matter(name, provenance, metrics)}
# {plain(name)}

A SpikGPT reference with {len(labels)} labels, trained on {metrics["cells"]} cells
(recipe `{recipe}`, seed {seed}).

{origin(provenance)}
{warnings(provenance)}
{usage(provenance.get("repository") or name, onnx=onnx)}

{described(provenance.get("description") or NO_DESCRIPTION)}

## Measured on held-out reference cells

Held out: {plain(metrics["held_out_by"])}. Over {held_out["cells"]} cells, accuracy is {held_out["accuracy"]:.3f} and
macro-F1 {held_out["macro_f1"]:.3f}. On another study, technology or tissue state these are lower.

| label | Cell Ontology id | cells in the reference | held-out cells | precision | recall | F1 |
|---|---|---|---|---|---|---|
{table}

![Confusion matrix: true labels in rows, predicted labels in columns](confusion_matrix.png)

{calibration(metrics)}{unknown(thresholds, metrics)}{asked(metrics)}{left_out(metrics)}{studies(provenance)}"""


def plain(text: str) -> str:
    """Return text without HTML, which a page would obey; a "<" is written as one."""
    return text.replace("<", "&lt;")


def in_table(text: str) -> str:
    """Return text for a cell of a table."""
    return plain(text).replace("|", "\\|")


def described(text: str) -> str:
    """Return a description without HTML and without lines that could be read as front matter."""
    return re.sub(r"(?m)^(\s*)(---|\+\+\+|\.\.\.)", r"\1\\\2", plain(text))


def calibration(metrics: dict[str, Any]) -> str:
    """Return how far probabilities can be believed, where that was measured."""
    if "reliability" not in metrics:
        return ""
    error, bins = metrics["reliability"]["expected_calibration_error"], metrics["reliability"]["bins"]
    rows = "\n".join(f"| {row['cells']} | {row['confidence']:.3f} | {row['accuracy']:.3f} |" for row in bins)
    return f"""## Calibration

Expected calibration error {error:.3f}, over held-out cells that did not set the temperature.

| held-out cells | mean confidence | labels that are right |
|---|---|---|
{rows}

![Reliability diagram: share of right labels by confidence](reliability.png)

"""


def unknown(thresholds: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Return when a cell is Unknown, and how many known cells that takes."""
    rate, rejects = f"{100 * thresholds['unknown_rate']:.0f}%", _share(metrics["paper_threshold_rejects"])
    if scores := thresholds.get("together"):
        cells, rest = scores["everything"]["cells"], f"{100 - 100 * thresholds['unknown_rate']:.0f}%"
        own = [name for name, row in scores["labels"].items() if row["cells"] >= CELLS_FOR_OWN_LIMIT]
        each = f", and of those that get the label {' or '.join(own)}" if own else ""
        rows = (
            "| default | its OOD score is above 0: it is unlike the cells of its label in its batch | no promise |\n"
            f"| `--unknown-rate {thresholds['unknown_rate']:g}` | that, and it is less familiar than {rest} of the "
            f"held-out cells | at most {rate} of cells like the {cells} held-out ones |"
        )
        promise = (
            f"\n`--unknown-rate {thresholds['unknown_rate']:g}` gives a promise (split conformal prediction): of cells "
            f"that could be exchanged with the held-out ones{each}, at most {rate} are Unknown on average, with the "
            "model that was measured. With `--same-study`, familiarity alone decides.\n"
        )
    else:
        cells, promise = thresholds["calibration_cells"], ""
        rule = f"its confidence is below {thresholds['threshold']:.4f}"
        rows = f"| default | {rule} | at most {rate} of cells like the {cells} held-out ones |"
    return f"""## Unknown

| rule | a cell is Unknown when | known cells rejected |
|---|---|---|
{rows}
| the paper's | its confidence is below {thresholds["paper_threshold"]} | {rejects} of the held-out cells |
{promise}"""


def warnings(provenance: dict[str, Any]) -> str:
    """Return what a user has to know before anything else: made-up cells, or less data than there should be."""
    said = []
    if provenance.get("synthetic"):
        said.append(
            "**Made-up cells.** The cells are synthetic: this reference shows that it can be built, no biology."
        )
    if provenance.get("incomplete"):
        said.append(f"**Not yet trained on the full data.** {plain(provenance['incomplete'])}")
    return "".join(f"\n{line}\n" for line in said)


def asked(metrics: dict[str, Any]) -> str:
    """Return how well labels of other studies were told, where that was measured."""
    if not metrics.get("studies"):
        return ""
    rows = "\n".join(
        f"| {in_table(row['study'])} | {row['cells']} | {row['accuracy']:.3f} | {row['macro_f1']:.3f} | "
        f"{row['share_right']:.3f} | {_share(row['known_unknown'])} | {_share(row['known_unknown_by_paper'])} |"
        for row in metrics["studies"]
    )
    return f"""
## Measured on other cells{_made_up(metrics)}

Cells that the reference has not seen, over those whose label it has. Accuracy and macro-F1 are those before rejection;
share right counts Unknown as right for cells of other labels, and as wrong for these.

| cells of | cells | accuracy | macro-F1 | share right | known ones Unknown | by the paper's rule |
|---|---|---|---|---|---|---|
{rows}
"""


def left_out(metrics: dict[str, Any]) -> str:
    """Return what became of labels that were left out of the reference, where that was measured."""
    if not metrics.get("left_out"):
        return ""
    rows = "\n".join(
        f"| {in_table(row['label'])} | {in_table(row['study'])} | {row['unseen_cells']} | "
        f"{_share(row['unseen_unknown'])} | {_share(row['known_unknown'])} | "
        f"{_share(row['unseen_unknown_by_paper'])} | {_share(row['known_unknown_by_paper'])} | {row['auroc']:.3f} | "
        f"{in_table(', '.join(f'{name} {cells}' for name, cells in row['mistaken_for'].items()))} |"
        for row in metrics["left_out"]
    )
    return f"""
## A label left out{_made_up(metrics)}

Trained without a label and asked for its cells, which should be Unknown; the others should not. "Best label" is what
they are called before rejection.

| left out | cells of | cells | Unknown | known Unknown | by the paper's rule | known, by it | AUROC | best label |
|---|---|---|---|---|---|---|---|---|
{rows}
"""


def studies(provenance: dict[str, Any]) -> str:
    """Return the studies that a reference was built from, where that is known."""
    if not provenance.get("studies"):
        return ""
    rows = "\n".join(
        f"| {in_table(row['study'])} | {in_table(row['accession'])} | {row['role']} | {row['cells']} | "
        f"{in_table(row['citation'])} | {in_table(row['licence'])} |"
        for row in provenance["studies"]
    )
    return f"""
## Studies

| study | accession | role | cells | citation | licence |
|---|---|---|---|---|---|
{rows}
"""


def _made_up(metrics: dict[str, Any]) -> str:
    return " (made-up cells)" if metrics.get("synthetic") else ""


def _share(share: float) -> str:
    return f"{100 * share:.1f}%"


def untrained_card(recipe: dict[str, Any]) -> str:
    """Return the card of a recipe that no reference was trained by yet: it says so and states no figure of ours."""
    name, provenance = recipe["name"], recipe["provenance"]
    return f"""{front_matter(name, provenance)}
# {plain(name)}

**Not trained yet.** There are no weights here, and nothing was measured.

{origin(provenance)}

{described(provenance["description"])}
"""


NO_DESCRIPTION = """## Intended use and limits

Whoever trained this reference has not said what it is meant for. It names the labels below and no others; cells of
other types should come out as Unknown, which is not certain."""


def front_matter(name: str, provenance: dict[str, Any], metrics: dict[str, Any] | None = None) -> str:
    """Return the metadata of a card as the Hub reads it, with the figures that were measured as its model-index."""
    values: dict[str, Any] = {
        "license": (provenance.get("licence") or "other").lower(),
        "library_name": "spikgpt",
        "pipeline_tag": TASK,
        "tags": [*TAGS, *(provenance[key] for key in ("tissue", "organism") if provenance.get(key))],
    }
    if provenance.get("datasets"):
        values["datasets"] = list(provenance["datasets"])
    if metrics is not None:
        held_out = metrics["held_out"]
        figures = (("accuracy", held_out["accuracy"], "accuracy"), ("f1", held_out["macro_f1"], "macro-F1"))
        dataset = ", ".join(provenance.get("datasets") or ()) or "not stated"
        result = {
            "task": {"type": TASK, "name": "Cell type annotation"},
            "dataset": {"type": dataset, "name": f"held out: {metrics['held_out_by']}"},
            "metrics": [{"type": kind, "value": value, "name": shown} for kind, value, shown in figures],
        }
        values["model-index"] = [{"name": name, "results": [result]}]
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def stated(text: str) -> dict[str, Any] | None:
    """Return the YAML mapping at the top of a card, or None if it has none, or one with aliases, or a very long one."""
    parts = re.match(r"---\r?\n(.*?)\r?\n---", text[:LONGEST_FRONT], re.DOTALL)
    try:
        values = yaml.load(parts[1], WithoutAliases) if parts else None  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):  # of a date such as 2026-13-32, or of endless nesting
        return None
    return values if isinstance(values, dict) else None


def card_figures(text: str) -> dict[str, float]:
    """Return the figures in the model-index of a card, by metric; none where it has none that can be read."""
    try:
        results = (stated(text) or {})["model-index"][0]["results"]
        return {metric["type"]: metric["value"] for result in results for metric in result["metrics"]}
    except (LookupError, TypeError):
        return {}


def origin(provenance: dict[str, Any]) -> str:
    """Return where the cells come from, and what the paper reports for them."""
    line = f"Origin of the cells: {plain(provenance.get('source') or 'not stated')}"
    if not (paper := provenance.get("paper")):
        return line
    reference, query, figures = (plain(paper[part]) for part in ("reference", "query", "figures"))
    return (
        f"{line}\n\nThe paper trains on {reference} and reports, on {query}: {figures}. "
        "These are the paper's figures, not measurements of this reference."
    )


def usage(name: str, *, onnx: bool) -> str:
    """Return how to label cells from Python and on the command line, with torch and without."""
    without_torch = f"It has no graph to be run without torch; make one with: spikgpt export {name} --out FOLDER"
    if onnx:
        without_torch = f"""Without torch, through ONNX Runtime:

```
spikgpt.SpikGPT.from_pretrained("{name}", engine="onnx").annotate(adata)
spikgpt annotate QUERY.h5ad --model {name} --engine onnx --out labelled.h5ad
```"""
    return f"""```python
import anndata, spikgpt
adata = anndata.read_h5ad("QUERY.h5ad")
spikgpt.SpikGPT.from_pretrained("{name}").annotate(adata)
```

```
spikgpt pull {name} --out FOLDER
spikgpt info FOLDER
spikgpt annotate QUERY.h5ad --model {name} --out labelled.h5ad
```

{without_torch}"""
