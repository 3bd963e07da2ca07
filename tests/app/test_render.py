"""Texts from files are escaped in the HTML; the compatibility comes first."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from spikgpt.app import render
from spikgpt.app.messages import CELLS, REPORT, TABLE, Finished, PageCluster, Step
from spikgpt.report.page import asset
from spikgpt.service.messages import JobProgress
from tests.app.test_messages import summary
from tests.app.test_page import HOSTILE

KNOWN = {"div", "p", "b", "h2", "h3", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "i", "bdi", "a", "span"}


class Elements(HTMLParser):
    """Parser that collects the elements and the attributes of an HTML text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.attributes, self.text = set[str](), set[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_compatibility_comes_before_files_and_labels() -> None:
    html = render.result(Finished(summary("alpha", "Unknown", files=(CELLS, TABLE)), "ADDRESS", 2.5))
    positions = [html.index(text) for text in ("Like the reference", CELLS, TABLE, "alpha", "Unknown", "2.5 s")]
    assert positions == sorted(positions)
    assert 'href="results/ADDRESS/labels.csv?download=1" download="kang-labels.csv"' in html
    assert render.report(Finished(summary("alpha", files=(CELLS,)), "ADDRESS", 1)) == ""


@pytest.mark.parametrize("tone", ["good", "fair", "bad"])
def test_the_compatibility_has_the_colour_and_text_of_the_report(tone: str) -> None:
    html = render.result(Finished(summary("alpha", tone=tone), "ADDRESS", 1))
    assert f'<div class="sg-verdict sg-{tone}">' in html
    assert "<h2>Like the reference</h2><p>An explanation.</p><p>Made up.</p>" in html


@pytest.mark.parametrize("scheme", [0, 1])
def test_amber_is_the_colour_of_the_report(scheme: int) -> None:
    sheet = files("spikgpt.app").joinpath("static", "page.css").read_text()
    assert re.findall(r"--sg-fair: (#\w+);", sheet)[scheme] == re.findall(r"--fair: (#\w+);", asset("page.css"))[scheme]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(name: str) -> None:
    shown = summary(name, "Unknown", query=name, files=(TABLE,))
    shown.sentences.append(name)
    shown.notes.append(name)
    shown.clusters.append(PageCluster(name=name, cells=1, label=name, share=1, unknown_share=0, genes=name))
    html = render.result(Finished(shown, "ADDRESS", 1)) + render.error(name)
    html += render.progress(Step(JobProgress(name, 1, 2), 1))
    elements = Elements(html)
    assert elements.names <= KNOWN | {"progress"}
    assert not {name for name in elements.attributes if name.startswith("on")}
    # The HTML has no Gradio template syntax, and no Unicode character that reverses or hides text.
    assert not set("{}$`@\\") & set(html)
    assert all(character.isprintable() for character in html)
    if name.isprintable():
        assert name in elements.text


def test_the_report_cannot_reach_the_page() -> None:
    html = render.report(Finished(summary("alpha", files=(REPORT,)), "ADDRESS", 1))
    assert 'src="results/ADDRESS/report.html"' in html
    assert 'sandbox="allow-scripts allow-downloads"' in html
    assert "allow-same-origin" not in html


def test_progress_has_a_bar_if_the_number_of_cells_is_known() -> None:
    html = render.progress(Step(JobProgress("Labelling", 1500, 3000), 7.4))
    assert '<progress value="1500" max="3000">' in html
    assert "Labelling, 1,500 of 3,000 " in html
    assert "7 s" in html
    assert "<progress></progress>" in render.progress(Step(JobProgress("Reading"), 0))
