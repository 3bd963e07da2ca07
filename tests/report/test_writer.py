"""Reports are written completely or not at all, and for the annotated cells alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT
from spikgpt.cli.paths import HTML
from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions
from spikgpt.report import content as content_module
from spikgpt.report import page as page_module
from spikgpt.report.writer import ENDINGS, ReportWriter
from spikgpt.several import NamedModel, annotate_by_several
from tests.conftest import labelled


def test_the_same_cells_have_the_same_report(annotated: Annotation, query: AnnData, tmp_path: Path) -> None:
    before = query.obs.copy()
    first = annotated.report(tmp_path / "one.html", query)
    second = annotated.report(str(tmp_path / "other.html"), query)
    assert first == tmp_path / "one.html"
    assert first.read_bytes() == second.read_bytes()
    assert query.obs.equals(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "other.html"]


def test_a_file_is_replaced_only_by_a_complete_one(
    annotated: Annotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(content: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(page_module, "page", fail)
    with pytest.raises(KeyboardInterrupt):
        annotated.report(path)
    assert path.read_text() == "old"


def test_other_cells_are_refused(annotated: Annotation, query: AnnData, tmp_path: Path) -> None:
    for cells in (query[:10], query[::-1]):
        with pytest.raises(ConfigError, match=r"has other cells than the annotation \(300 cells\), or another"):
            annotated.report(tmp_path / "report.html", cells)
    file: Any = tmp_path / "query.h5ad"
    with pytest.raises(ConfigError, match="adata is of the type .*Path; expected the AnnData that was annotated"):
        annotated.report(tmp_path / "report.html", file)
    assert not list(tmp_path.iterdir())


def test_a_folder_and_an_annotation_made_by_hand_are_refused(
    annotated: Annotation, annotation: Annotation, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        annotated.report(tmp_path)
    with pytest.raises(ConfigError, match=r"was not made by SpikGPT\.annotate"):
        annotation.report(tmp_path / "report.html")


def test_paths_are_those_of_the_command_line(annotated: Annotation, query: AnnData, tmp_path: Path) -> None:
    swapped: Any = (query, "x.html")
    with pytest.raises(ConfigError, match=r"expected a name: annotation\.report\('report\.html', adata\)\."):
        annotated.report(*swapped)
    with pytest.raises(ConfigError, match=r"o\.txt ends in '\.txt'; expected a name that ends in \.html or \.htm\."):
        annotated.report(tmp_path / "o.txt")
    with pytest.raises(ConfigError, match="o has no ending"):
        annotated.report(tmp_path / "o")
    assert ENDINGS == HTML
    assert annotated.report(tmp_path / "o.HTM").exists()


def test_a_map_is_checked_before_the_work(
    annotated: Annotation, query: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr(content_module, "report_content", fail)
    adata = query.copy()
    adata.obsm["X_bad"] = np.ones((adata.n_obs, 1))
    with pytest.raises(ConfigError, match=r"obsm\['X_bad'\] is no map"):
        annotated.report(tmp_path / "report.html", adata, map_key="X_bad")


def test_the_report_names_the_options(shipped: SpikGPT, query: AnnData, tmp_path: Path) -> None:
    some = labelled(shipped.reference, query, shipped.engine, unknown_rate=0.1, cluster_key="cell_type")
    text = some.report(tmp_path / "report.html", query).read_text()
    assert "--unknown-rate 0.1, --cluster-key cell_type" in text
    assert "obs[&#39;cell_type&#39;]" in text


def test_few_cells_and_several_references_have_a_report(shipped: SpikGPT, query: AnnData, tmp_path: Path) -> None:
    few = labelled(shipped.reference, query[:30].copy(), shipped.engine)
    assert "two principal components" in few.report(tmp_path / "few.html").read_text()
    other = dataclasses.replace(shipped.reference, name="other")
    models = [
        NamedModel(name, reference, shipped.engine) for name, reference in (("a", shipped.reference), ("b", other))
    ]
    several = annotate_by_several(models, query, AnnotateOptions())
    assert several.query is None
    text = several.report(tmp_path / "several.html", query).read_text()
    assert "a UMAP of the query&#39;s own principal components, computed for 300 cells" in text
    by_hand = dataclasses.replace(several, reporter=ReportWriter(AnnotateOptions()))
    text = by_hand.report(tmp_path / "by_hand.html", query).read_text()
    assert "principal components of the label probabilities" in text
