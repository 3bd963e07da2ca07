"""The card of a reference: a README that states what was measured and nothing else."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import yaml

from spikgpt.errors import DamagedReference
from spikgpt.labels.thresholds import CELLS_FOR_OWN_LIMIT
from spikgpt.reference.layout import fields_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Keys of ``provenance`` that the card shows; all but these come from the training.
DESCRIPTION, DATASETS, TISSUE, ORGANISM, PAPER = "description", "datasets", "tissue", "organism", "paper"
ONE_LINE = ("source", "licence", TISSUE, ORGANISM, "repository")
PAPER_FIELDS = ("reference", "query", "figures")
TAGS = ("spikgpt", "single-cell", "scrna-seq", "cell-type-annotation", "spiking-neural-network")
TASK = "tabular-classification"


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

    Parameters
    ----------
    onnx
        Whether the reference carries an exported graph.
    """
    held_out = metrics["held_out"]
    scores = {row["label"]: row for row in held_out["per_label"]}
    rows = []
    for label in labels:
        score = scores.get(label["name"])
        figures = (
            f"{score['cells']} | {score['precision']:.3f} | {score['recall']:.3f} | {score['f1']:.3f}"
            if score
            else "0 | not measured | not measured | not measured"
        )
        cells = metrics["cells_per_label"][label["name"]]
        rows.append(f"| {label['name']} | {label['cell_ontology_id'] or '-'} | {cells} | {figures} |")
    table = "\n".join(rows)
    recipe, seed = provenance["recipe"]["name"], provenance["seed"]
    return f"""{front_matter(name, provenance, metrics)}
# {name}

A SpikGPT reference with {len(labels)} labels, trained on {metrics["cells"]} cells
(recipe `{recipe}`, seed {seed}).

{origin(provenance)}

{usage(provenance.get("repository") or name, onnx=onnx)}

{provenance.get(DESCRIPTION) or NO_DESCRIPTION}

## Measured on held-out reference cells

Held out: {metrics["held_out_by"]}. Over {held_out["cells"]} cells, accuracy is {held_out["accuracy"]:.3f} and
macro-F1 {held_out["macro_f1"]:.3f}. On another study, technology or tissue state these are lower.

| label | Cell Ontology id | cells in the reference | held-out cells | precision | recall | F1 |
|---|---|---|---|---|---|---|
{table}

![Confusion matrix: true labels in rows, predicted labels in columns](confusion_matrix.png)

{calibration(metrics)}{unknown(thresholds, metrics)}"""


def calibration(metrics: dict[str, Any]) -> str:
    """Return how far probabilities can be believed, where that was measured."""
    if "reliability" not in metrics:
        return ""
    error = metrics["reliability"]["expected_calibration_error"]
    rows = "\n".join(
        f"| {row['cells']} | {row['confidence']:.3f} | {row['accuracy']:.3f} |"
        for row in metrics["reliability"]["bins"]
    )
    return f"""## Calibration

Expected calibration error {error:.3f}, over held-out cells that did not set the temperature.

| held-out cells | mean confidence | labels that are right |
|---|---|---|
{rows}

![Reliability diagram: share of right labels by confidence](reliability.png)

"""


def unknown(thresholds: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Return when a cell is Unknown, and how many known cells that takes."""
    threshold, rate = thresholds["threshold"], 100 * thresholds["unknown_rate"]
    paper = (
        f"| the paper's | its confidence is below {thresholds['paper_threshold']} | "
        f"{100 * metrics['paper_threshold_rejects']:.1f}% of the held-out cells |"
    )
    if "together" not in thresholds:
        cells = thresholds["calibration_cells"]
        default = (
            f"its confidence is below {threshold:.4f} | at most {rate:.0f}% of cells like the {cells} held-out ones"
        )
        promise = ""
    else:
        scores = thresholds["together"]
        own = [name for name, row in scores["labels"].items() if row["cells"] >= CELLS_FOR_OWN_LIMIT]
        default = (
            f"it is less familiar than {100 - rate:.0f}% of the held-out cells | at most {rate:.0f}% of cells like the "
            f"{scores['everything']['cells']} held-out ones"
        )
        each = f", and of those that get the label {' or '.join(own)}" if own else ""
        promise = (
            f"\nThe default is a promise (split conformal prediction): of cells that could be exchanged with the "
            f"held-out ones{each}, at most {rate:.0f}% are Unknown on average, with the model that was measured. "
        )
    return f"""## Unknown

| rule | a cell is Unknown when | known cells rejected |
|---|---|---|
| default | {default} |
{paper}
{promise}
Cells from another study, technology or tissue state can be rejected more or less often.
"""


def check_provenance(provenance: dict[str, Any]) -> None:
    """Refuse a provenance that cards and tables cannot show.

    Raises
    ------
    DamagedReference
        When the recipe or the seed is missing, or a field is not text that can be printed.
    """
    recipe = fields_of(provenance, "provenance in config.json", {"recipe": dict, "seed": int})["recipe"]
    lines = {"recipe": recipe.get("name"), **{key: provenance[key] for key in ONE_LINE if key in provenance}}
    datasets, paper = provenance.get(DATASETS, []), provenance.get(PAPER, dict.fromkeys(PAPER_FIELDS, ""))
    if not isinstance(datasets, list) or not isinstance(paper, dict) or paper.keys() != set(PAPER_FIELDS):
        msg = f"provenance in config.json holds {DATASETS} or {PAPER} in another form. Get the reference again."
        raise DamagedReference(msg)
    lines |= {f"{DATASETS} {index}": value for index, value in enumerate(datasets)} | paper
    for name, value in lines.items():
        if not isinstance(value, str) or not value.isprintable():
            msg = f"{name} in the provenance is {value!r}; expected a line of text. Get the reference again."
            raise DamagedReference(msg)
    if not isinstance(provenance.get(DESCRIPTION, ""), str):
        msg = f"{DESCRIPTION} in the provenance is no text. Get the reference again."
        raise DamagedReference(msg)


def untrained_card(recipe: dict[str, Any]) -> str:
    """Return the card of a recipe that no reference was trained by yet: it says so and states no figure of ours."""
    name, provenance = recipe["name"], recipe["provenance"]
    return f"""{front_matter(name, provenance)}
# {name}

**Not trained yet.** There are no weights here, and nothing was measured.

{origin(provenance)}

{provenance[DESCRIPTION]}
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
        "tags": [*TAGS, *(provenance[key] for key in (TISSUE, ORGANISM) if provenance.get(key))],
    }
    if provenance.get(DATASETS):
        values["datasets"] = list(provenance[DATASETS])
    if metrics is not None:
        held_out = metrics["held_out"]
        dataset = ", ".join(provenance.get(DATASETS) or ()) or "not stated"
        values["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": TASK, "name": "Cell type annotation"},
                        "dataset": {"type": dataset, "name": f"held out: {metrics['held_out_by']}"},
                        "metrics": [
                            {"type": "accuracy", "value": held_out["accuracy"], "name": "accuracy"},
                            {"type": "f1", "value": held_out["macro_f1"], "name": "macro-F1"},
                        ],
                    }
                ],
            }
        ]
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def card_figures(text: str) -> dict[str, float]:
    """Return the figures in the model-index of a card, by metric; none where it has none that can be read."""
    parts = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        results = yaml.safe_load(parts[1])["model-index"][0]["results"] if parts else []
        return {metric["type"]: metric["value"] for result in results for metric in result["metrics"]}
    except (yaml.YAMLError, LookupError, TypeError):
        return {}


def origin(provenance: dict[str, Any]) -> str:
    """Return where the cells come from, and what the paper reports for them."""
    lines = [f"Origin of the cells: {provenance.get('source') or 'not stated'}"]
    if paper := provenance.get(PAPER):
        lines.append(
            f"\nThe paper trains on {paper['reference']} and reports, on {paper['query']}: {paper['figures']}. "
            "These are the paper's figures, not measurements of this reference."
        )
    return "\n".join(lines)


def usage(name: str, *, onnx: bool) -> str:
    """Return how to label cells from Python, on the command line and through ONNX Runtime."""
    through_onnx = f"""from spikgpt_onnx import Annotator  # needs neither torch nor spikgpt
Annotator.from_pretrained("{name}").annotate("QUERY.h5ad").write_h5ad("QUERY.h5ad", "labelled.h5ad")"""
    if not onnx:
        through_onnx = f"""# This reference carries no graph; make one with: spikgpt export {name} --out FOLDER"""
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

```python
{through_onnx}
```"""


def reliability_picture(bins: list[dict[str, Any]]) -> bytes:
    """Draw how often labels are right by confidence, as PNG.

    Parameters
    ----------
    bins
        Mean ``confidence``, ``accuracy`` and number of ``cells`` of each.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    largest = max(row["cells"] for row in bins)
    for row in bins:
        size = 20 + 180 * (row["cells"] / largest) ** 0.5
        axes.scatter([row["confidence"]], [row["accuracy"]], s=size, color="tab:blue", alpha=0.7)
        axes.annotate(str(row["cells"]), (row["confidence"], row["accuracy"]), fontsize=7, ha="center", va="center")
    axes.set_xlim(0, 1.05)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of labels that are right")
    return png(figure)


def confusion_picture(confusion: dict[str, Any]) -> bytes:
    """Draw a confusion matrix, each row as shares of its cells, as PNG.

    Parameters
    ----------
    confusion
        ``labels``, and ``counts`` with a row for each as truth and a column as prediction.
    """
    # Here, for the half second that it takes to import.
    from matplotlib.figure import Figure

    labels, counts = confusion["labels"], confusion["counts"]
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    size = 2.5 + 0.32 * len(labels)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if count:
                colour = "white" if shares[row][column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    return picture.getvalue()
