"""Evaluation of an annotation: the figures, and labels that have another name in the query."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.errors import ConfigError, LabelsError
from spikgpt.scoring.compatibility import OTHER, Compatibility
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.rejection import RejectionRule
from spikgpt.training.evaluation import evaluate, read_label_map
from spikgpt.types import InputReport


def annotated(best: list[str], confidence: list[float], names: tuple[str, ...] = ("a", "b")) -> Annotation:
    rejected = np.array(confidence) < 0.5
    return Annotation(
        obs_names=pd.Index([f"cell{i}" for i in range(len(best))]),
        best=np.array([names.index(name) for name in best], dtype=np.int16),
        broad=np.zeros(len(best), dtype=np.int16),
        broad_names=("a",),
        broad_ids=("unknown",),
        label_ids=(None,) * len(names),
        rejected=rejected,
        typicality=None,
        rule=RejectionRule("a probability below 0.5000", threshold=0.5),
        compatibility=None,
        confidence=np.array(confidence, dtype=np.float32),
        probabilities=np.zeros((len(best), 2), dtype=np.float32),
        empty=np.zeros(len(best), dtype=bool),
        label_names=names,
        smoothed=True,
        reference_origin=None,
        reference_name="hand-made",
        input_report=InputReport("X", "counts", "reference", 10, 10),
    )


def cells(labels: list[Any]) -> AnnData:
    return AnnData(
        np.ones((len(labels), 1), dtype=np.float32),
        obs=pd.DataFrame({"type": labels}, index=[f"c{i}" for i in range(len(labels))]),
    )


def test_figures_of_a_small_example_are_correct() -> None:
    annotation = annotated(["a", "a", "b", "b", "a", "b"], [0.9, 0.4, 0.8, 0.9, 0.3, 0.9])
    evaluation = evaluate(annotation, cells(["a", "a", "a", "b", "z", None]), "type")
    assert evaluation.metrics.cells == 4
    assert evaluation.metrics.accuracy == 0.75
    assert evaluation.accuracy_after_rejection == 0.5
    assert evaluation.open_set_accuracy == evaluation.to_dict()["share_right"] == pytest.approx(3 / 5)
    with pytest.warns(DeprecationWarning, match="open_set_accuracy"):
        assert evaluation.share_right == evaluation.open_set_accuracy
    assert evaluation.known_unknown_fraction == 0.25
    assert evaluation.unseen_unknown_fraction == 1
    assert evaluation.unknown_fraction == pytest.approx(2 / 5)
    assert evaluation.auroc_unknown == 1
    assert evaluation.unseen_labels == {"z": 1}
    assert evaluation.unlabelled_cells == 1


def test_without_unseen_types_there_is_no_auroc() -> None:
    evaluation = evaluate(annotated(["a", "b"], [0.9, 0.9]), cells(["a", "b"]), "type")
    assert evaluation.notes == ()
    assert evaluation.auroc_unknown is None
    assert evaluation.unseen_unknown_fraction is None
    assert {
        "accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "unknown_rate",
        "unknown_fraction",
        "known_unknown_rate",
        "auroc_unknown",
        "notes",
        "per_label",
    } <= (evaluation.to_dict().keys())


def test_labels_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(
        LabelsError,
        match=r"None of the query's labels \(A, B\) is .*reference \(a, b\).*'A' as 'a' .* add: --label-map",
    ):
        evaluate(annotated(["a", "b"], [0.9, 0.9]), cells(["A", "B"]), "type")


def test_the_error_on_a_missing_column_lists_the_columns() -> None:
    with pytest.raises(LabelsError, match=r"obs has no column 'types'; it has .*type.*Did you mean 'type'"):
        evaluate(annotated(["a", "b"], [0.9, 0.9]), cells(["a", "b"]), "types")


ISLETS = ("alpha", "beta", "activated_stellate")
SURE = [0.9] * 3


def test_a_label_map_translates_labels_of_the_query() -> None:
    annotation = annotated(["alpha", "alpha", "beta"], SURE, ISLETS)
    query = cells(["pancreatic A cell", "A", "beta"])
    evaluation = evaluate(annotation, query, "type", {"pancreatic A cell": "alpha", "A": "alpha", "D": "beta"})
    assert (evaluation.metrics.accuracy, evaluation.metrics.cells, evaluation.unseen_labels) == (1, 3, {})
    assert evaluation.notes == ("label_map names 'D', which no cell has.",)
    with pytest.raises(LabelsError, match="label_map names 'Alpha', which the reference does not have; near names are"):
        evaluate(annotation, query, "type", {"A": "Alpha"})


@pytest.mark.parametrize("name", ["Alpha", "ALPHA", "alpha cell", "Alpha_Cells", "alpha-cells", "alphas"])
def test_labels_in_another_spelling_are_suggested_but_not_matched(name: str) -> None:
    evaluation = evaluate(annotated(["alpha", "alpha", "beta"], SURE, ISLETS), cells([name, "alpha", "beta"]), "type")
    assert evaluation.unseen_labels == {name: 1}
    (note,) = evaluation.notes
    assert f"{name!r} as 'alpha'" in note
    assert note.endswith(f"""--label-map '{{"{name}": "alpha"}}'""")


def test_other_labels_are_not_suggested() -> None:
    query = cells(["alphabet", "activated stellate cell", "beta"])
    evaluation = evaluate(annotated(["alpha", "activated_stellate", "beta"], SURE, ISLETS), query, "type")
    near, unseen = evaluation.notes
    assert "'activated stellate cell' as 'activated_stellate'" in near
    assert "no label like alphabet." in unseen


@pytest.mark.parametrize("column", ["cell_ontology_id", "cell_type_ontology_term_id"])
def test_labels_of_the_same_term_are_matched(column: str) -> None:
    labels = LabelMap(ISLETS, ("CL:0000171", "CL:0000169", None))
    annotation = annotated(["alpha", "beta", "beta"], SURE, ISLETS)
    query = cells(["pancreatic A cell", "beta", "type B pancreatic cell"])
    query.obs[column] = ["CL:0000171", "CL:0000169", "CL:0000173"]
    evaluation = evaluate(annotation, query, "type", labels=labels)
    assert evaluation.unseen_labels == {"type B pancreatic cell": 1}
    counted, _ = evaluation.notes
    assert counted == "'pancreatic A cell' counts as 'alpha': both are CL:0000171 in the Cell Ontology."
    # The label map of the user has priority. A term that two labels share is ambiguous.
    assert evaluate(annotation, query, "type", {"pancreatic A cell": "beta"}, labels=labels).metrics.accuracy == 0.5
    shared = LabelMap(ISLETS, ("CL:0000171", "CL:0000169", "CL:0000171"))
    assert not any("counts as" in note for note in evaluate(annotation, query, "type", labels=shared).notes)


def test_a_label_map_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"Alpha cells": "alpha"}')
    assert read_label_map('{"Alpha cells": "alpha", "Stroma": null}') == {"Alpha cells": "alpha"}
    assert read_label_map(str(path)) == read_label_map(path.read_text()) == {"Alpha cells": "alpha"}
    for content in ('{"Alpha cells": 1}', "{"):
        with pytest.raises(ConfigError, match="is no label map .*expected JSON such as"):
            read_label_map(content)
    for content in ("[1]", '{"Alpha cells": 1}', "{"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="map.json is no label map .*expected JSON such as"):
            read_label_map(str(path))
    with pytest.raises(ConfigError, match="no label map"):
        read_label_map(str(tmp_path / "missing.json"))


def test_an_evaluation_shows_its_figures_and_escapes_names() -> None:
    annotation = annotated(["a", "a", "b", "b"], [0.9, 0.4, 0.8, 0.9])
    evaluation = evaluate(annotation, cells(["a", "a", "b", "<b>z\x1b"]), "type")
    assert repr(evaluation) == (
        "Evaluation: 50.0% of all labelled cells have the right answer. 3 cells of known types: accuracy 1.000, "
        "macro-F1 1.000 before rejection. 33.3% of them are Unknown."
    )
    page = evaluation._repr_html_()
    assert page.startswith("<p><strong>50.0% of all labelled cells have the right answer.</strong></p>")
    assert "0.0% of the cells of missing types are Unknown: &lt;b&gt;z\\x1b (1)." in page
    assert page.count("<tr>") == 3
    refused = replace(annotation, compatibility=Compatibility(OTHER, "it <s>barks", {}))
    page = evaluate(refused, cells(["a", "a", "b", None]), "type")._repr_html_()
    assert page.startswith(
        "<p><strong>The cells are of another tissue or species; do not use the labels: it &lt;s&gt;barks.</strong></p>"
    )
    assert "Cells without a true type were left out: 1." in page
    assert "verdict" not in evaluation.to_dict()
