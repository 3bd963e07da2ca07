"""Model cards pass the validation of the Hub, and show the measured figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from anndata import AnnData
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, metadata_load

from spikgpt.reference.card import Card, card, card_figures, read_metadata, untrained_card
from spikgpt.reference.hub import Hub
from spikgpt.reference.registry import shipped_references
from spikgpt.reference.summary import label_agreement
from spikgpt.sharing import push
from spikgpt_recipes.plan import plan_build
from spikgpt_recipes.recipe import find_recipe, read_card, read_recipe, recipe_folders
from spikgpt_recipes.steps import provenance_of
from tests.hub_server import LoopbackHub

NAMES = sorted(recipe_folders())
LABELS = [
    {"index": 0, "name": "alpha", "cell_ontology_id": "CL:0000171"},
    {"index": 1, "name": "rare", "cell_ontology_id": None},
]
THRESHOLDS = {"threshold": 0.61234, "unknown_rate": 0.05, "calibration_cells": 321, "paper_threshold": 0.95}
CONFUSION = {"labels": ["alpha", "rare"], "counts": [[27, 3], [0, 0]]}
METRICS: dict[str, Any] = {
    "cells": 77,
    "cells_per_label": {"alpha": 70, "rare": 7},
    "held_out_by": "donor human3",
    "paper_threshold_rejects": 0.432,
    "held_out": {
        "cells": 30,
        "accuracy": 0.9876,
        "macro_f1": 0.8765,
        "per_label": [{"label": "alpha", "cells": 30, "precision": 1.0, "recall": 0.9, "f1": 0.8}],
        "confusion": CONFUSION,
    },
}
PROVENANCE = {
    "recipe": {"name": "default"},
    "seed": 5,
    "source": "GSE84133",
    "licence": "MIT",
    "datasets": ["GSE84133"],
    "tissue": "pancreas",
    "description": "## Intended use\n\nIslets.",
    "repository": "org/islets",
}


def text(provenance: dict[str, Any] | None = None, *, onnx: bool = False) -> str:
    return card("islets", LABELS, THRESHOLDS, METRICS, provenance or PROVENANCE, onnx=onnx)


def recipe_of(name: str) -> dict[str, Any]:
    """Return the name and the provenance that a recipe gives to its reference, without training."""
    folder = find_recipe(name)
    plan = plan_build(read_recipe(folder))
    return {"name": name, "provenance": provenance_of(plan, read_card(folder, plan.card))}


@pytest.mark.parametrize(
    "stated",
    [
        "# islets\n",
        "license: mit\n",
        "library_name: spikgpt\n",
        "pipeline_tag: tabular-classification\ntags:\n- spikgpt\n",
        "- tissue:pancreas\n",
        "- accession:GSE84133\n",
        "- cell_type:pancreatic-a-cell\n- cell_type:rare\n",
        "model-index:\n- name: islets\n",
        "2 labels, trained on 77 cells\n(recipe `default`, seed 5).",
        "Origin of the cells: GSE84133\n",
        "Tissue: pancreas. Organism: not stated. Licence of this reference: MIT.\n",
        "Held out: donor human3. Over 30 cells, accuracy is 0.988 and\nmacro-F1 0.876.",
        "| alpha | CL:0000171 | 70 | 30 | 1.000 | 0.900 | 0.800 |\n",
        "| rare | - | 7 | 0 | not measured | not measured | not measured |\n",
        "| default | its confidence is below 0.6123 | at most 5% of cells like the 321 held-out ones |\n",
        "| the paper's | its confidence is below 0.95 | 43.2% of the held-out cells |\n",
        "## Intended use\n\nIslets.\n",
        'SpikGPT.from_pretrained("org/islets").annotate(adata)\n',
        "spikgpt annotate QUERY.h5ad --model org/islets --out labelled.h5ad\n",
        "(confusion_matrix.png)",
    ],
)
def test_a_card_states_all_facts(stated: str) -> None:
    assert stated in text()


@pytest.mark.parametrize(
    "stated",
    [
        "Expected calibration error 0.012, over held-out cells",
        "| 28 | 0.980 | 1.000 |\n",
        "(reliability.png)",
        "| default | its OOD score is above 0: it is unlike the cells of its label in its batch | no guarantee |",
        "| `--unknown-rate 0.05` | its OOD score is above 0, and it is less typical than 95% of the held-out cells",
        " | at most 5% of cells like the 300 held-out",
        "and of those that get the label alpha, at most 5% are Unknown on average",
    ],
)
def test_calibration_and_the_unknown_rate_are_stated(stated: str) -> None:
    scores = {"everything": {"cells": 300}, "labels": {"alpha": {"cells": 30}, "rare": {"cells": 12}}}
    bins = [{"confidence": 0.4, "accuracy": 0.5, "cells": 2}, {"confidence": 0.98, "accuracy": 1.0, "cells": 28}]
    metrics = METRICS | {"reliability": {"expected_calibration_error": 0.0123, "bins": bins}}
    assert stated in card("islets", LABELS, THRESHOLDS | {"together": scores}, metrics, PROVENANCE)


def test_a_card_states_the_use_of_the_graph() -> None:
    assert "To add a graph: `spikgpt export org/islets --out FOLDER`." in text()
    assert "The ONNX graphs are used if ONNX Runtime is installed." in text(onnx=True)
    assert "spikgpt export" not in text(onnx=True)


def test_a_licence_that_the_hub_does_not_list_has_a_name() -> None:
    metadata = read_metadata(text(PROVENANCE | {"licence": "GEO states none; see the page"}))
    assert metadata is not None
    assert (metadata["license"], metadata["license_name"]) == ("other", "geo-states-none-see-the-page")
    assert "license_name" not in text()


def test_data_sets_of_the_hub_are_linked_and_accessions_are_tags() -> None:
    metadata = read_metadata(text(PROVENANCE | {"datasets": ["org/cells", "E-MTAB-5061"]}))
    assert metadata is not None
    assert metadata["datasets"] == ["org/cells"]
    assert "accession:E-MTAB-5061" in metadata["tags"]
    assert "datasets:" not in text()


def test_scores_on_other_studies_are_results_of_their_own() -> None:
    rows = [{"study": name, "cells": 9, "accuracy": 0.5, "macro_f1": 0.25} for name in ("Xin", "Segerstolpe")]
    rows = [row | dict.fromkeys(("share_right", "known_unknown", "known_unknown_by_paper"), 0.1) for row in rows]
    study = {"study": "Xin", "accession": "GSE81608", "role": "query", "cells": 9, "citation": "x", "licence": "none"}
    content = card("islets", LABELS, THRESHOLDS, METRICS | {"studies": rows}, PROVENANCE | {"studies": [study]})
    metadata = read_metadata(content)
    assert metadata is not None
    results = metadata["model-index"][0]["results"]
    assert [(result["dataset"]["type"], result["dataset"]["name"]) for result in results] == [
        ("GSE81608", "Xin"),
        ("Segerstolpe", "Segerstolpe"),
        ("GSE84133", "held out: donor human3"),
    ]
    assert [metric["value"] for metric in results[0]["metrics"]] == [0.5, 0.25]
    # The held-out result is last, because earlier versions of SpikGPT compare the last result with metrics.json.
    assert card_figures(content) == {"accuracy": 0.9876, "f1": 0.8765}


def test_the_examples_of_a_card_run_as_they_are_written(
    small_folder: Path, few: AnnData, hub: LoopbackHub, tmp_path: Path
) -> None:
    push(small_folder, "lab/islets", hub=Hub(hub.endpoint))
    content = hub.repositories["lab/islets"].at("main").files["README.md"].decode()  # type: ignore[union-attr]
    few.write_h5ad(tmp_path / "QUERY.h5ad")
    python, bash = (re.findall(rf"```{language}\n(.*?)```", content, re.DOTALL) for language in ("python", "bash"))
    assert (len(python), len(bash)) == (1, 1)
    program = f"{sys.executable} -c 'from spikgpt.cli.main import main; main()'"
    script = f"set -e\nspikgpt() {{ {program} \"$@\"; }}\n{sys.executable} -c '{python[0]}'\n{bash[0]}"
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "spikgpt_label" in ran.stdout
    assert (tmp_path / "labelled.h5ad").is_file()
    # The Hub counts requests of config.json as downloads.
    counted = [request for request in hub.requests if request.path.endswith("/config.json")]
    assert {request.method for request in counted} == {"HEAD", "GET"}


def test_a_card_is_text_with_a_short_repr() -> None:
    page = Card(text())
    assert page == text()
    assert repr(page) == f"<Card of islets, {len(text())} characters; print() shows the text>"
    assert page.metadata["license"] == "mit"
    assert page._repr_markdown_() == page.body
    assert page.body.startswith("# islets\n\nA SpikGPT reference with 2 labels")
    assert "confusion_matrix.png" not in page.body
    assert page.body.count("\n## ") == text().count("\n## ")
    assert Card("no metadata").metadata == {}


def test_missing_facts_are_stated_as_not_stated() -> None:
    unstated = text({"recipe": {"name": "paper"}, "seed": 0})
    assert "Origin of the cells: not stated\n" in unstated
    assert "license: unknown\n" in unstated
    assert "has not stated its intended use" in unstated
    assert 'from_pretrained("islets")' in unstated
    assert "datasets:" not in unstated


def test_the_hub_reads_the_measured_figures(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text())
    card_data = ModelCard.load(tmp_path / "README.md").data
    assert card_data.model_name == "islets"
    assert {result.metric_type: result.metric_value for result in card_data.eval_results or ()} == {
        "accuracy": 0.9876,
        "f1": 0.8765,
    }
    result = (card_data.eval_results or [])[0]
    assert (result.task_type, result.dataset_type, result.dataset_name) == (
        "tabular-classification",
        "GSE84133",
        "held out: donor human3",
    )
    assert card_figures(text()) == {"accuracy": 0.9876, "f1": 0.8765}


@pytest.mark.parametrize("name", shipped_references())
def test_the_card_of_a_shipped_reference_equals_its_metrics(name: str) -> None:
    folder = shipped_references()[name]
    metrics = json.loads((folder / "metrics.json").read_text())
    content = (folder / "README.md").read_text()
    held_out = metrics["held_out"]
    assert card_figures(content) == {"accuracy": held_out["accuracy"], "f1": held_out["macro_f1"]}
    for row in label_agreement(metrics)["per_label"]:
        cells = metrics["cells_per_label"][row["label"]]
        figures = f"{row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f}"
        assert f"| {cells} | {row['cells']} | {figures} |\n" in content


def test_the_hub_accepts_every_card(hub: LoopbackHub, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=False)
    api.create_repo("me/model")

    def commit(content: str) -> None:
        # The client lets the Hub validate a card before the commit.
        operation = CommitOperationAdd("README.md", content.encode())
        api.create_commit("me/model", [operation], commit_message=content)

    licences = ("CC BY 4.0", "CC0", "GEO states none", "see https://example.org/terms?a=1", "-", "Llama 9 (tm)")
    cards = [text(), text(onnx=True), *(text(PROVENANCE | {"licence": licence}) for licence in licences)]
    cards += [text(PROVENANCE | {"datasets": ["org/cells"]}), *(untrained_card(recipe_of(name)) for name in NAMES)]
    for content in cards:
        commit(content)
        (tmp_path / "README.md").write_text(content)
        assert metadata_load(tmp_path / "README.md") == yaml.safe_load(content.split("---\n")[1])
    assert len([request for request in hub.requests if request.path == "/api/validate-yaml"]) == len(cards)
    for line in (
        "license: GEO states none",
        "tags: x",
        "model-index:\n- name: x\n  results: [{task: {}, dataset: {}, metrics: []}]",
    ):
        with pytest.raises(ValueError, match=line.partition(":")[0]):
            commit(f"---\n{line}\n---\n")
    for broken in ("# no front matter", "---\n- a: [\n---\n", "---\n- a\n---\n"):
        with pytest.raises(ValueError, match="no YAML mapping"):
            commit(broken)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_of_an_untrained_reference_has_no_figures(name: str) -> None:
    recipe = recipe_of(name)
    content = untrained_card(recipe)
    assert "**Not trained yet.** There are no weights here, and nothing was measured." in content
    assert card_figures(content) == {}
    assert "model-index" not in content
    paper = recipe["provenance"].get("paper")
    assert ("These are the paper's figures, not measurements of this reference." in content) == (paper is not None)
    assert paper is None or f": {paper['figures']}. These are" in content


def test_the_front_matter_is_closed() -> None:
    assert text().startswith("---\n")
    assert text().splitlines().count("---") == 2


@pytest.mark.parametrize("content", ["", "---\n", "---\n[\n---\n", "---\nmodel-index: 3\n---\n", "# no front matter"])
def test_a_card_without_figures_has_none(content: str) -> None:
    assert card_figures(content) == {}


def test_untrusted_text_becomes_neither_html_nor_front_matter() -> None:
    evil = "<script>alert(1)</script>\n---\nlicense: evil\n---\n  +++\n<!-- x"
    names = {"source": "<img src=x>", "description": evil}
    paper = {"reference": "<b>", "query": "<i>", "figures": "<u>"}
    content = text({**PROVENANCE, **names, "paper": paper})
    _, front, body = content.split("---\n", 2)
    assert "<" not in body
    assert r"&lt;script>alert(1)&lt;/script>" in body
    assert [line for line in body.splitlines() if line.strip().startswith(("---", "+++"))] == []
    assert yaml.safe_load(front)["license"] == "mit"
    table = card(
        "x", [LABELS[0] | {"name": "a|<b>"}], THRESHOLDS, METRICS | {"cells_per_label": {"a|<b>": 1}}, PROVENANCE
    )
    assert "| a\\|&lt;b> | CL:0000171 | 1 |" in table


@pytest.mark.parametrize(
    "front",
    [
        "a: &a [x, x]\nb: [*a, *a, *a]\nmodel-index: *a",
        "model-index: &a [*a]",
        "a: " + "[" * 5000,
        "a: 2026-13-32",
        "a: !!python/object/apply:os.system [true]",
        "? [a]\n: {[b]: c}",
        "a: " + "x" * 10**6,
    ],
    ids=lambda front: front[:12],
)
def test_front_matter_is_read_as_plain_values_or_not_at_all(front: str) -> None:
    assert read_metadata(f"---\n{front}\n---\n") in (None, {"a": "2026-13-32"})
    assert card_figures(f"---\n{front}\n---\n") == {}


def test_the_measures_of_a_build_are_stated() -> None:
    scores = {"study": "Xin", "cells": 9, "accuracy": 0.5, "macro_f1": 0.25, "share_right": 0.75, "known_unknown": 0.1}
    left_out = {"label": "alpha", "study": "Xin", "unseen_cells": 7, "known_cells": 2, "unseen_unknown": 0.97}
    left_out |= {"known_unknown": 0.02, "unseen_unknown_by_paper": 0.5, "known_unknown_by_paper": 0.4, "auroc": 0.9}
    metrics = METRICS | {
        "studies": [scores | {"known_unknown_by_paper": 0.2}],
        "left_out": [left_out | {"mistaken_for": {"gamma": 5, "beta": 2}}],
    }
    study = {"study": "Xin", "accession": "GSE1", "role": "query", "cells": 9, "citation": "<b>", "licence": "none"}
    provenance = PROVENANCE | {"studies": [study], "incomplete": "It has 3 cells of the 5."}
    content = card("islets", LABELS, THRESHOLDS, metrics, provenance)
    assert "| Xin | 9 | 0.500 | 0.250 | 0.750 | 10.0% | 20.0% |\n" in content
    assert "| alpha | Xin | 7 | 97.0% | 2.0% | 50.0% | 40.0% | 0.900 | gamma 5, beta 2 |\n" in content
    assert "| Xin | GSE1 | query | 9 | &lt;b> | none |\n" in content
    assert "**Not yet trained on the full data.** It has 3 cells of the 5.\n" in content
    assert "Made-up" not in content
    synthetic = card("islets", LABELS, THRESHOLDS, metrics | {"synthetic": True}, provenance | {"synthetic": True})
    assert "**Made-up cells.**" in synthetic
    assert "## A label left out (made-up cells)" in synthetic


def test_a_cross_validation_is_stated() -> None:
    pooled = METRICS["held_out"] | {
        "cells": 60,
        "per_label": [
            {"label": "alpha", "cells": 53, "precision": 0.9, "recall": 0.8, "f1": 0.7},
            {"label": "rare", "cells": 7, "precision": 0.6, "recall": 0.5, "f1": 0.4},
        ],
    }
    rows = [
        {"group": "human1", "cells": 30, "accuracy": 0.9, "macro_f1": 0.8},
        {"group": "a|b", "cells": 30, "accuracy": 1.0, "macro_f1": 1.0},
    ]
    spreads = {"accuracy": {"mean": 0.95, "std": 0.0707}, "macro_f1": {"mean": 0.9, "std": 0.1414}}
    validation = {"batch_key": "donor", "groups": rows, "pooled": pooled, **spreads}
    metrics = METRICS | {"cross_validation": validation}
    content = card("islets", LABELS, THRESHOLDS, metrics, PROVENANCE)
    assert "In a cross-validation, each donor was held out in turn" in content
    assert (
        "| held-out donor | cells | accuracy | macro-F1 |\n|---|---|---|---|\n| human1 | 30 | 0.900 | 0.800 |\n"
        in content
    )
    assert (
        "| a\\|b | 30 | 1.000 | 1.000 |\n| mean ± standard deviation | | 0.950 ± 0.071 | 0.900 ± 0.141 |\n\n" in content
    )
    # Figures of labels are computed over the held-out cells of all donors together.
    assert (
        "| alpha | CL:0000171 | 70 | 53 | 0.900 | 0.800 | 0.700 |\n| rare | - | 7 | 7 | 0.600 | 0.500 | 0.400 |\n"
        in content
    )
    assert "Over 30 cells, accuracy is 0.988" in content
    assert "cross-validation" not in text()
