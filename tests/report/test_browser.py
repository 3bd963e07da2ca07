"""The page in a real browser: drawn without network, with pointer and keyboard, in light and dark."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest
from anndata import AnnData

from spikgpt import Annotation
from spikgpt.options import AnnotateOptions
from spikgpt.report.columns import Categories
from spikgpt.report.content import report_content
from spikgpt.report.page import page as render
from tests.report.conftest import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
# CSS selectors of the texts whose contrast with the background is measured.
TEXTS = ("h1", ".verdict h2", ".verdict li", ".facts dt", ".hint", "#legend .value", "#legend .count", ".labels td")
CONTRAST = """(selector) => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const element = document.querySelector(selector);
  let paper = element;
  while (numbers(getComputedStyle(paper).backgroundColor)[3] === 0) paper = paper.parentElement;
  const colors = [getComputedStyle(element).color, getComputedStyle(paper).backgroundColor];
  const [one, other] = colors.map((color) => light(numbers(color)));
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}"""
OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll("#map-labels span")]
    .filter((one) => getComputedStyle(one).visibility === "visible").map((one) => one.getBoundingClientRect());
  let overlaps = 0;
  boxes.forEach((a, i) => boxes.slice(0, i).forEach((b) => {
    if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) overlaps++;
  }));
  return [boxes.length, overlaps];
}"""


@pytest.fixture(scope="module")
def report(annotated: Annotation, query: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    adata = query.copy()
    adata.obs["depth"] = np.asarray(query.X.sum(axis=1)).ravel()
    return annotated.report(tmp_path_factory.mktemp("page") / "report.html", adata)


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Open]:
    """Open a file; in the end, assert that the browser reported no error and sent no other request."""
    complaints, requests, contexts = list[str](), set[str](), []

    def open_page(
        path: Path, *, width: int = 1400, scheme: Any = "light", script: str = "", touch: bool = False
    ) -> Page:
        size: Any = {"width": width, "height": 900}
        context = chromium.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.add(request.url))
        if script:
            page.add_init_script(script)
        page.goto(path.as_uri())
        page.wait_for_selector("#canvas[data-drawn]", timeout=20_000)
        requests.discard(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert requests == set()


def wait_until_drawn(page: Page) -> None:
    """Wait until the page has drawn the last change."""
    frame = "requestAnimationFrame"
    page.evaluate(f"new Promise((done) => {frame}(() => {frame}(() => {frame}(() => {frame}(done)))))")


def pixels(page: Page) -> np.ndarray[tuple[int, int, int], np.dtype[np.int64]]:
    """Return the pixels of the map without the focus ring, shape (height, width, 3), RGB from 0 to 255."""
    wait_until_drawn(page)
    picture = page.locator("#canvas").screenshot()
    return np.asarray(np.rint(255 * matplotlib.image.imread(io.BytesIO(picture))[8:-8, 8:-8, :3]), dtype=np.int64)


def count_pixels_near(picture: np.ndarray[Any, np.dtype[np.int64]], color: str, reach: int = 40) -> int:
    """Return the number of pixels whose colour is close to a colour."""
    return int((np.abs(picture - list(bytes.fromhex(color[1:]))).max(axis=2) < reach).sum())


def map_box(page: Page) -> tuple[float, float, float, float]:
    """Return the box of the map: left, top, width, height."""
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


def draw_lasso(page: Page, inset: float = 4) -> None:
    """Draw a lasso around the whole map."""
    page.click("#lasso")
    x, y, width, height = map_box(page)
    page.mouse.move(x + inset, y + inset)
    page.mouse.down()
    corners = ((width - inset, inset), (width - inset, height - inset), (inset, height - inset), (inset, inset))
    for right, down in corners:
        page.mouse.move(x + right, y + down, steps=3)
    page.mouse.up()


def selected_counts(page: Page) -> dict[str, int]:
    """Return the numbers of selected cells of each label."""
    rows = page.locator("#selection table").first.locator("tbody tr")
    texts = [row.locator("th, td").all_inner_texts() for row in rows.all()]
    return {label.strip(): int(cells.replace(",", "")) for label, cells, _ in texts}


def test_the_map_is_drawn_in_the_colours_of_the_labels(opened: Open, report: Path, annotated: Annotation) -> None:
    page = opened(report)
    assert page.locator("#canvas").get_attribute("data-drawn") == "webgl"
    assert page.locator("#map-message").is_hidden()
    picture = pixels(page)
    for label in ("alpha", "beta", "ductal"):
        (color,) = annotated.colors([label])
        assert count_pixels_near(picture, color) > 300, label
    assert count_pixels_near(picture, "#ffffff", 2) > 0.7 * picture.shape[0] * picture.shape[1]


def test_the_legend_is_readable_and_makes_labels_stand_out(opened: Open, report: Path, annotated: Annotation) -> None:
    page = opened(report)
    buttons = page.locator("#legend button")
    counts_by_label = {
        button.locator(".value").inner_text(): button.locator(".count").inner_text() for button in buttons.all()
    }
    assert counts_by_label == {label: str(cells) for label, cells in annotated.counts().items()}
    assert buttons.last.locator(".value").inner_text() == "Unknown"
    alpha, beta = annotated.colors(["alpha", "beta"])
    before = pixels(page)
    buttons.filter(has_text="alpha").click()
    after = pixels(page)
    assert count_pixels_near(after, alpha) >= 0.8 * count_pixels_near(before, alpha)
    assert count_pixels_near(after, beta) < 0.2 * count_pixels_near(before, beta)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_texts_have_contrast_and_the_page_fits(opened: Open, report: Path, scheme: str, width: int) -> None:
    page = opened(report, width=width, scheme=scheme)
    for selector in TEXTS:
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
    assert dark == (scheme == "dark")
    shown, overlaps = page.evaluate(OVERLAPS)
    assert shown >= 5
    assert overlaps == 0


@pytest.mark.slow
def test_names_never_overlap_while_zooming(opened: Open, annotated: Annotation, query: AnnData, tmp_path: Path) -> None:
    # The cells have 100 different labels with long names, and lie in a small area.
    names = tuple(f"cell type {number} of a long name" for number in range(100))
    best = (np.arange(300) % 100).astype(np.int16)
    probabilities = np.eye(100, dtype=np.float32)[best]
    changes: dict[str, Any] = {
        "label_ids": (None,) * 100,
        "broad": best,
        "broad_names": names,
        "broad_ids": ("unknown",) * 100,
    }
    many = dataclasses.replace(annotated, label_names=names, best=best, probabilities=probabilities, **changes)
    page = opened(many.report(tmp_path / "many.html", query))
    seen = []
    for _ in range(6):
        wait_until_drawn(page)
        shown, overlaps = page.evaluate(OVERLAPS)
        assert overlaps == 0
        seen.append(shown)
        page.click("#zoom-in")
    assert max(seen) >= 10
    assert page.locator("#legend button").count() == len(many.counts())


def test_hover_shows_the_facts_of_a_cell(opened: Open, report: Path, annotated: Annotation) -> None:
    page = opened(report)
    tooltip = page.locator("#tooltip")
    row = annotated.labels.tolist().index("beta")
    page.locator("#find").fill(str(annotated.obs_names[row]))
    page.keyboard.press("Enter")
    tooltip.filter(has_text=str(annotated.obs_names[row])).wait_for()
    text = tooltip.inner_text().split("\n")
    assert text[0] == annotated.obs_names[row]
    facts = dict(zip(text[1::2], text[2::2], strict=True))
    assert facts["Label"] == "beta"
    assert float(facts["Confidence"]) == pytest.approx(annotated.confidence[row], abs=0.01)
    assert {"Typicality", "OOD score", "donor", "depth"} <= facts.keys()
    unknown = int(np.flatnonzero(annotated.rejected)[0])
    page.locator("#find").fill(str(annotated.obs_names[unknown]))
    page.keyboard.press("Enter")
    tooltip.filter(has_text=str(annotated.obs_names[unknown])).wait_for()
    text = tooltip.inner_text().split("\n")
    assert text[1:3] == ["Label", "Unknown"]
    assert "Confidence" not in text
    # The same cell is now in the middle of the map, under the pointer.
    x, y, width, height = map_box(page)
    page.mouse.move(x + 2, y + 2)
    assert tooltip.is_hidden()
    page.mouse.move(x + width / 2, y + height / 2)
    assert tooltip.inner_text().split("\n")[0] == text[0]
    page.locator("#find").fill("no such cell")
    page.keyboard.press("Enter")
    assert "No label and no cell has this name" in page.locator("#map-message").inner_text()


def test_a_lasso_counts_labels(opened: Open, report: Path, annotated: Annotation) -> None:
    page = opened(report)
    draw_lasso(page)
    assert page.locator("#selection h3").inner_text() == "300 cells selected"
    assert selected_counts(page) == annotated.counts()
    page.select_option("#color-by", label="donor")
    assert page.locator("#selection table").count() == 2
    page.locator("#selection button").click()
    assert page.locator("#selection").is_hidden()


def test_the_keyboard_reaches_everything(opened: Open, report: Path, annotated: Annotation) -> None:
    page = opened(report)
    page.keyboard.press("Tab")
    reached, active = list[str](), "document.activeElement"
    for _ in range(40):
        reached.append(page.evaluate(f"{active}.id || {active}.className || {active}.tagName"))
        page.keyboard.press("Tab")
    ids = ("skip", "color-by", "find", "lasso", "select-view", "zoom-in", "zoom-out", "reset", "canvas")
    assert set(ids) <= set(reached)
    assert reached.count("BUTTON") == len(annotated.counts())
    page.locator("#color-by").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#legend-title").inner_text() == "Best label"
    page.locator("#canvas").focus()
    before = pixels(page)
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    assert (pixels(page) != before).any()
    page.keyboard.press("0")
    # Two pictures of the same page may differ in the last bit of a colour.
    np.testing.assert_allclose(pixels(page), before, atol=2)
    page.keyboard.press("Enter")
    assert page.locator("#selection h3").inner_text() == "300 cells selected"
    page.keyboard.press("Escape")
    assert page.locator("#selection").is_hidden()
    nameless = "(all) => all.filter((one) => !(one.ariaLabel || one.innerText || one.labels?.length)).length"
    assert page.locator("a, button, select, input, canvas[tabindex]").evaluate_all(nameless) == 0


def test_without_webgl_the_map_works_and_shows_a_note(opened: Open, report: Path, annotated: Annotation) -> None:
    block = """const get = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
      return kind.startsWith("webgl") ? null : get.call(this, kind, ...more);
    };"""
    page = opened(report, script=block)
    assert page.locator("#canvas").get_attribute("data-drawn") == "canvas"
    assert "no WebGL" in page.locator("#map-message").inner_text()
    picture = pixels(page)
    for label in ("alpha", "beta"):
        (color,) = annotated.colors([label])
        assert count_pixels_near(picture, color) > 300
    draw_lasso(page)
    assert selected_counts(page) == annotated.counts()


@pytest.mark.slow
def test_all_of_many_cells_are_drawn_after_each_move(opened: Open, annotated: Annotation, tmp_path: Path) -> None:
    content = report_content(annotated, None, AnnotateOptions())
    assert content.map is not None
    size, random = 300_000, np.random.default_rng(0)
    rows = random.integers(0, 300, size)
    positions = np.clip(random.normal(32_000, 9_000, (size, 2)), 0, 65_535).astype(np.uint16)
    label = content.map.columns[0]
    assert isinstance(label, Categories)
    columns = (dataclasses.replace(label, codes=label.codes[rows]),)
    many = dataclasses.replace(content.map, positions=positions, columns=columns, own=1, names="")
    path = tmp_path / "many.html"
    path.write_bytes(render(dataclasses.replace(content, map=many)))
    page = opened(path)
    before = pixels(page)
    page.locator("#canvas").focus()
    for key in ("+", "ArrowLeft", "0"):
        page.keyboard.press(key)
    # The order in which threads blend points changes the last bit.
    np.testing.assert_allclose(pixels(page), before, atol=3)
    page.keyboard.press("Enter")
    assert page.locator("#selection h3").inner_text() == "300,000 cells selected"
    assert sum(selected_counts(page).values()) == size


def test_find_searches_all_labels(opened: Open, report: Path) -> None:
    page = opened(report)
    for column in ("study", "Confidence"):
        page.select_option("#color-by", label=column)
        page.locator("#find").fill("delta")
        assert "Press Enter to search all labels" in page.locator("#legend").inner_text()
        page.locator("#find").press("Enter")
        assert page.locator("#color-by option:checked").inner_text() == "Label"
        assert page.locator("#legend [aria-pressed=true] .value").inner_text() == "delta"
        assert page.locator("#map-message").is_hidden()
    page.locator("#find").fill("")
    assert page.locator("#legend li").count() == page.locator("#legend li:visible").count() > 1


def test_on_a_phone_names_and_rows_are_not_cut(
    opened: Open, annotated: Annotation, query: AnnData, tmp_path: Path
) -> None:
    adata = query.copy()
    adata.obs["donor"] = [f"donor{row % 2}_peripheral_blood_of_one_study" for row in range(adata.n_obs)]
    adata.obs["lane"] = [f"lane {row % 150}" for row in range(adata.n_obs)]
    path = annotated.report(tmp_path / "report.html", adata, cluster_key="lane")
    page = opened(path, width=420)
    size = "(legend) => legend.scrollHeight - legend.clientHeight"
    assert page.locator("#legend").evaluate(size) == 0
    assert page.locator("#legend li").last.inner_text().startswith("Unknown")
    names = page.locator(".stacks bdi", has_text="peripheral")
    assert names.count() == 2
    lines = "(name) => new Set([...name.getClientRects()].map((box) => Math.round(box.top))).size"
    assert [name.evaluate(lines) for name in names.all()] == [1, 1]
    # Shadows at the edges show that a list or table can be scrolled.
    page.select_option("#color-by", label="lane")
    assert page.locator("#legend").evaluate(size) > 100
    for selector in ("#legend", ".scroll"):
        shadows = page.locator(selector).first.evaluate("(element) => getComputedStyle(element).backgroundAttachment")
        assert shadows == "local, local, scroll, scroll"


def test_numbers_colour_the_map(opened: Open, report: Path) -> None:
    page = opened(report)
    page.select_option("#color-by", label="Confidence")
    assert "Unknown cells, which have no confidence" in page.locator("#legend").inner_text()
    assert count_pixels_near(pixels(page), "#fde725") > 300
    page.select_option("#color-by", label="depth")
    assert page.locator("#legend .ticks").inner_text().strip()
    assert page.evaluate(OVERLAPS) == [0, 0]


@pytest.mark.slow
def test_hostile_texts_do_no_harm(opened: Open, hostile: tuple[Annotation, AnnData], tmp_path: Path) -> None:
    annotation, adata = hostile
    path = annotation.report(tmp_path / "hostile.html", adata, title=HOSTILE[0], cluster_key="leiden")
    page = opened(path)
    assert page.title() == HOSTILE[0]
    legend = page.locator("#legend .value").all_inner_texts()
    assert set(legend) == {name.rstrip() for name in annotation.counts()}
    for number in range(page.locator("#color-by option").count()):
        page.select_option("#color-by", index=number)
    page.select_option("#color-by", index=0)
    draw_lasso(page)
    assert sum(selected_counts(page).values()) == adata.n_obs
    x, y, width, height = map_box(page)
    for step in range(0, int(width), 7):
        page.mouse.move(x + step, y + height / 2)
    page.locator("#find").fill("__proto__")
    page.keyboard.press("Enter")
    assert page.title() == HOSTILE[0]
    assert page.locator("img, iframe").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert page.evaluate("getComputedStyle(document.body).display") == "block"


def test_the_policy_forbids_connections(chromium: Browser, report: Path) -> None:
    page = chromium.new_page()
    requests = list[str]()
    page.goto(report.as_uri())
    page.on("request", lambda request: requests.append(request.url))
    refused = "fetch('http://127.0.0.1:9/').then(() => 'answered', (error) => error.name)"
    assert page.evaluate(refused) == "TypeError"
    assert requests == []
    page.close()
