"""Explanations as text, HTML, tables and JSON, and written into an AnnData."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData, read_h5ad

from spikgpt.errors import DataError
from spikgpt.explain.explanation import ABOVE, MINUS_LINE, NOT_MEASURED_LINE, Explanation
from spikgpt.explain.groups import explain
from spikgpt.options import ExplainOptions
from spikgpt.reference.files import Reference
from tests.conftest import labelled

HOSTILE = '<script>alert("x")</script>\x1b[31m\u202eevil' + "A" * 200


@pytest.fixture(scope="module")
def explanation(small: Reference, query: AnnData) -> Explanation:
    return explain(labelled(small, query, exclude=["alpha"]), query, ExplainOptions())


def test_text_names_labels_and_genes(explanation: Explanation) -> None:
    text = repr(explanation)
    assert text.startswith(f"Explanation of {len(explanation.groups)} labels by small:")
    assert "  beta (" in text
    beta = next(line for line in text.splitlines() if line.startswith("  beta ("))
    assert "INS" in beta


def test_genes_that_the_query_lacks_are_marked(small: Reference, query: AnnData) -> None:
    lacking = query[:, ~query.var_names.isin(["GCG", "CHGA"])].copy()
    explanation = explain(labelled(small, lacking), lacking, ExplainOptions(labels=["alpha"]))
    alpha = next(line for line in repr(explanation).splitlines() if line.startswith("  alpha ("))
    assert "not measured: GCG" in alpha.partition("; missing: ")[2]
    html = explanation._repr_html_()
    assert 'not measured: <span style="white-space:nowrap">GCG</span>' in html
    for text in (repr(explanation), html):
        assert NOT_MEASURED_LINE.split(".")[1] in text
    table = explanation.table()
    assert not table[table["gene"] == "GCG"]["measured"].any()
    assert table[table["mean"].notna()]["measured"].all()
    genes = {gene["gene"]: gene for gene in explanation.to_dict()["groups"][0]["genes"]}
    assert genes["GCG"]["measured"] is False


def test_marks_are_explained_only_where_they_are_shown(explanation: Explanation) -> None:
    (group,) = (group for group in explanation.groups if group.name == "beta")
    genes = tuple(replace(gene, absent=False) for gene in group.genes.genes if gene.mean is not None)
    plain = replace(explanation, groups=(replace(group, genes=replace(group.genes, genes=genes)),))
    for text in (repr(plain), plain._repr_html_()):
        assert MINUS_LINE not in text
        assert NOT_MEASURED_LINE.split(".")[1] not in text
    genes = (replace(genes[0], absent=True), *genes[1:])
    marked = replace(explanation, groups=(replace(group, genes=replace(group.genes, genes=genes)),))
    for text in (repr(marked), marked._repr_html_()):
        assert MINUS_LINE in text
        assert f"-{genes[0].gene}" in text


def test_no_column_appears_twice(explanation: Explanation) -> None:
    head = explanation._repr_html_().partition("</thead>")[0]
    assert head.count(">label<") == 1
    cluster = replace(explanation, kind="cluster", groups=(replace(explanation.groups[0], size=90, share=0.54),))
    assert f">{cluster.groups[0].genes.label}, 54%<" in cluster._repr_html_()
    assert f"(90 cells, {cluster.groups[0].genes.label}, 54%, runner-up " in repr(cluster)


@pytest.mark.parametrize(("share", "text"), [(1, "100%"), (0.999, ">99%"), (0.5, "50%"), (0.001, "<1%"), (0, "0%")])
def test_shares_are_not_rounded_to_all_or_none(explanation: Explanation, share: float, text: str) -> None:
    group = replace(explanation.groups[0], share=share)
    assert group.label_text("cluster").endswith(f", {text}")
    assert group.label_text("cell").endswith(" (not its label)") == (share == 0)


def test_table_has_a_row_for_each_gene(explanation: Explanation) -> None:
    table = explanation.table()
    beta = table[(table["group"] == "beta") & (table["gene"] == "INS")].iloc[0]
    assert (beta["role"], beta["label"], bool(beta["unknown"])) == ("supporting", "beta", False)
    assert beta["attribution"] > 0
    assert beta["mean"] > beta["runner_up_mean"]
    above = table[table["role"] == ABOVE]
    assert "GCG" in set(above["gene"])
    assert above["unknown"].all()
    measures = explanation.unknown_table()
    assert set(measures["measure"]) >= {"profile correlation", "distance", "energy", "OOD score"}
    assert measures["unusual"].any()


def test_plain_values_are_json(explanation: Explanation) -> None:
    plain = json.loads(json.dumps(explanation.to_dict(), allow_nan=False))
    assert [group["name"] for group in plain["groups"]] == [group.name for group in explanation.groups]
    unknown = next(group for group in plain["groups"] if group["unknown"])
    assert unknown["unknown"]["sentences"]


def test_results_are_written_and_read_again(explanation: Explanation, query: AnnData, tmp_path: Path) -> None:
    cells = query[:, ::-1].copy()
    explanation.write_to(cells)
    cells.write_h5ad(tmp_path / "explained.h5ad")
    read = read_h5ad(tmp_path / "explained.h5ad")
    values = read.varm["spikgpt_attributions"]
    assert values.shape == (query.n_vars, len(explanation.groups))
    groups = list(read.uns["spikgpt_attribution_groups"])
    assert groups == [group.name for group in explanation.groups]
    beta = explanation.groups[groups.index("beta")].genes
    expected = beta.attributions[explanation.gene_names.index("INS")]
    assert values[read.var_names.get_loc("INS"), groups.index("beta")] == pytest.approx(expected)
    assert np.isnan(values).any()
    assert read.uns["spikgpt_genes"]["gene"].tolist() == explanation.table()["gene"].tolist()
    assert len(read.uns["spikgpt_unknown"]) == len(explanation.unknown_table())


def test_other_cells_are_refused(explanation: Explanation, query: AnnData) -> None:
    other = AnnData(query.X[:, :2].copy())
    with pytest.raises(DataError, match="This AnnData has none of the"):
        explanation.write_to(other)
    assert not other.uns


def test_hostile_names_do_no_harm(explanation: Explanation) -> None:
    group = explanation.groups[0]
    genes = tuple(replace(gene, gene=HOSTILE) for gene in group.genes.genes)
    evil = replace(group, name=HOSTILE, genes=replace(group.genes, genes=genes, label=HOSTILE, runner_up=HOSTILE))
    last = explanation.groups[-1]
    assert last.unknown is not None
    unknown = replace(last, unknown=replace(last.unknown, nearest=HOSTILE))
    hostile = replace(explanation, groups=(evil, unknown), reference=HOSTILE, notes=(HOSTILE,))
    html = hostile._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    for text in (html, repr(hostile)):
        assert "\x1b" not in text
        assert "\u202e" not in text
