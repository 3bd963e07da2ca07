"""The card of a reference: a README that states what was measured and nothing else."""

from __future__ import annotations

from typing import Any


def card(
    name: str,
    labels: list[dict[str, Any]],
    thresholds: dict[str, Any],
    metrics: dict[str, Any],
    provenance: dict[str, Any],
) -> str:
    """Return the Markdown text of a card, from the same values that the other files of the reference hold."""
    held_out = metrics["held_out"]
    scores = {row["label"]: row for row in held_out["per_label"]}
    rows = []
    for label in labels:
        score = scores.get(label["name"])
        figures = (
            f"{score['cells']} | {score['recall']:.3f} | {score['f1']:.3f}"
            if score
            else "0 | not measured | not measured"
        )
        cells = metrics["cells_per_label"][label["name"]]
        rows.append(f"| {label['name']} | {label['cell_ontology_id'] or '-'} | {cells} | {figures} |")
    table = "\n".join(rows)
    origin = provenance.get("source") or "not stated"
    licence = provenance.get("licence") or "other"
    recipe, seed = provenance["recipe"]["name"], provenance["seed"]
    threshold, rate = thresholds["threshold"], 100 * thresholds["unknown_rate"]
    paper_rejects = 100 * metrics["paper_threshold_rejects"]
    return f"""---
license: {licence.lower()}
library_name: spikgpt
tags:
- single-cell
- cell-type-annotation
- spiking-neural-network
---
# {name}

A SpikGPT reference with {len(labels)} labels, trained on {metrics["cells"]} cells (recipe `{recipe}`, seed {seed}).
Origin of the cells: {origin}

```python
from spikgpt import SpikGPT
SpikGPT.from_pretrained("{name}").annotate(adata)
```

```
spikgpt annotate QUERY.h5ad --model {name} --out OUT.h5ad
```

## Measured on held-out reference cells

Held out: {metrics["held_out_by"]}. Over {held_out["cells"]} cells, accuracy is {held_out["accuracy"]:.3f} and
macro-F1 {held_out["macro_f1"]:.3f}.

| label | Cell Ontology id | cells in the reference | held-out cells | recall | F1 |
|---|---|---|---|---|---|
{table}

## Unknown

A cell whose largest class probability is below {threshold:.4f} is Unknown. That rejects at most {rate:.0f}% of known
cells like the {thresholds["calibration_cells"]} held-out ones. The paper's fixed threshold,
{thresholds["paper_threshold"]}, rejected {paper_rejects:.1f}% of them. Cells from another study, technology or tissue
state can be rejected more or less often.
"""
