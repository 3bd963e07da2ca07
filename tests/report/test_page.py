"""The page is one file that loads no other file, and shows untrusted texts safely."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.options import AnnotateOptions
from spikgpt.report import page as page_module
from spikgpt.report.content import report_content
from spikgpt.report.page import SCRIPTS, as_json, asset, breakable, p_value, page, percent
from tests.report.conftest import HOSTILE


class Page(HTMLParser):
    """Elements of a page: names, attributes, texts, and the contents of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = str(dict(attrs).get("id", tag)) if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.raw[self.inside] = self.raw.get(self.inside, "") + data
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def ordinary(annotated: Annotation, query: AnnData) -> Page:
    return Page(page(report_content(annotated, query, AnnotateOptions(), cluster_key="cell_type")).decode())


@pytest.fixture(scope="module")
def hostile_page(hostile: tuple[Annotation, AnnData]) -> Page:
    annotation, adata = hostile
    content = report_content(annotation, adata, AnnotateOptions(), title=HOSTILE[0], cluster_key="leiden")
    return Page(page(content).decode())


def policy(parsed: Page) -> str:
    (content,) = [
        dict_["content"] for _, dict_ in parsed.elements if dict_.get("http-equiv") == "Content-Security-Policy"
    ]
    return str(content)


def test_the_policy_allows_only_the_script_and_style_of_the_page(ordinary: Page) -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in policy(ordinary).split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    for rule, kind in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(ordinary.raw[kind].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


@pytest.mark.parametrize("kind", ["ordinary", "hostile_page"])
def test_nothing_is_loaded_and_nothing_runs_inline(kind: str, request: pytest.FixtureRequest) -> None:
    parsed: Page = request.getfixturevalue(kind)
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert [script.get("type") for script in scripts].count(None) == 1
    for tag, attributes in parsed.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not attributes.get("src")
        assert str(attributes.get("href", "#")).startswith(("#", "data:"))
    # The page holds no web address, except the namespaces of SVG and MathML.
    style, script = parsed.raw["style"], parsed.raw["script"]
    assert "http" not in style
    assert not re.search(r"https?://|\beval\b|new Function|innerHTML|insertAdjacentHTML|document\.write", script)


def test_untrusted_texts_are_readable(hostile_page: Page) -> None:
    whole = "".join(hostile_page.texts)
    for text in HOSTILE[:5]:
        assert text in whole
    assert "{{ 7 * 7 }}" in whole
    # Control characters and characters that change the direction of text are spelled out.
    assert "\\u202eesrever" in whole
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", whole)


def test_the_data_of_the_map_are_complete(ordinary: Page, annotated: Annotation, query: AnnData) -> None:
    meta = json.loads(ordinary.raw["meta"])
    assert meta["cells"] == 300

    def array(name: str) -> bytes:
        return zlib.decompress(base64.b64decode(ordinary.raw[f"array-{name}"]))

    assert np.frombuffer(array("positions"), dtype="<u2").shape == (600,)
    assert array("names").decode().split("\n") == query.obs_names.tolist()
    label = meta["columns"][0]
    codes = np.frombuffer(array(label["array"]), dtype=f"<u{label['bytes']}")
    assert [label["values"][code] for code in codes] == annotated.labels.tolist()
    assert label["colors"] == annotated.colors(label["values"]).tolist()
    assert sum(label["counts"]) == 300


def test_untrusted_texts_in_the_data_cannot_end_the_script(hostile_page: Page) -> None:
    meta = json.loads(hostile_page.raw["meta"])
    assert not re.search("[<>&\u2028\u2029]", hostile_page.raw["meta"])
    assert HOSTILE[1] in meta["columns"][0]["values"]
    assert HOSTILE[0] in [column["name"] for column in meta["columns"]]
    assert as_json({"a": "</script>&\u2028"}) == '{"a":"\\u003c/script\\u003e\\u0026\\u2028"}'


def test_sections_are_in_order(ordinary: Page) -> None:
    titles = [str(attributes["id"]) for tag, attributes in ordinary.elements if tag == "h2"]
    sections = ("verdict", "map", "composition", "scores", "agreement", "dots", "genes", "run")
    assert titles == [f"{section}-title" for section in sections]


def test_rare_labels_are_folded_except_unknown(
    annotated: Annotation, query: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = report_content(annotated, query, AnnotateOptions())
    monkeypatch.setattr(page_module, "FOLDED", 3)
    text = page(content).decode()
    shown, folded = text.split("rarer labels</summary>")
    rare = min((row for row in content.labels if row.cells), key=lambda row: row.cells)
    assert f"<bdi>{rare.label}</bdi></span>" in folded
    assert f"<bdi>{rare.label}</bdi></span>" not in shown
    assert "<bdi>Unknown</bdi></span>" in shown
    monkeypatch.setattr(page_module, "FOLDED", 30)
    assert "rarer labels" not in page(content).decode()


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (0.0004, "<0.1%"), (0.031, "3.1%"), (0.05, "5%"), (0.5, "50%"), (1, "100%")]
)
def test_percentages(share: float, text: str) -> None:
    assert percent(share) == text


def test_names_break_between_words_and_stay_escaped() -> None:
    assert str(breakable("donor1_peripheral.x")) == "donor1_<wbr>peripheral.<wbr>x"
    assert str(breakable("<b>a_b</b>")) == "&lt;b&gt;a_<wbr>b&lt;/b&gt;"


def test_a_p_value_of_zero_is_below_the_smallest_number() -> None:
    assert (p_value(0.0321), p_value(4e-12), p_value(0.0)) == ("0.03", "4e-12", "<1e-300")


def test_assets_are_small_and_in_the_package() -> None:
    folder = files("spikgpt.report").joinpath("assets")
    names = {file.name for file in folder.iterdir() if file.is_file()}
    assert names == {*SCRIPTS, "page.html", "page.css"}
    assert sum(len(asset(name)) for name in names) < 200_000
