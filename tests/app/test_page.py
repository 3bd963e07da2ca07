"""The page in a real browser: upload, labels, downloads, user errors and malicious files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT
from spikgpt.report.texts import verdict as words
from tests.app.conftest import App, User, with_map
from tests.cells.conftest import endless
from tests.cli.conftest import Run
from tests.cli.conftest import run as command_line_run

# The fixture ``run`` of tests/cli, so that tests here can run the command line too.
run = command_line_run
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</td></table><script>alert(2)</script>",
    "{{value}} ${alert(3)} {{#each value}} @children",
    "\u202egnp.exe\u202c \u0627\u0644\u062e\u0644\u0627\u064a\u0627",
    "\x1b[31mred\x07",
    "long " * 40,
)


def message_of_the_command_line(run: Run, query: Path, folder: Path) -> str:
    """Return the error message of ``spikgpt annotate``, with the folder removed from the path of the file."""
    ran = run("annotate", query, "--model", "pancreas", "--table", folder / "labels.csv")
    assert ran.code == 2
    return ran.err.strip().replace(f"{query.parent}/", "")


def test_a_file_is_labelled_and_downloaded(user: User, few_file: Path, expected: Annotation, tmp_path: Path) -> None:
    user.upload(few_file)
    user.begin()
    assert user.counts() == expected.counts()
    # The compatibility is shown above the table of labels.
    verdict = user.page.locator(".sg-verdict")
    assert words(expected).title in verdict.inner_text()
    assert verdict.bounding_box()["y"] < user.page.locator(".sg-labels").bounding_box()["y"]
    path = user.download(".csv", tmp_path)
    assert path.name == "few-labels.csv"
    table = pd.read_csv(path, index_col=0)
    assert table["spikgpt_label"].tolist() == expected.labels.tolist()
    # The report is shown in a sandboxed frame, so its script cannot access the page.
    report = user.page.frame_locator(".sg-report")
    assert f"Cell types of {few_file.name}" in report.locator("body").inner_text()
    frame = user.page.query_selector(".sg-report").content_frame()
    assert frame.evaluate("window.origin") == "null"
    assert user.download(".html", tmp_path).read_text().startswith("<!DOCTYPE html>")
    labelled = anndata.read_h5ad(user.download(".h5ad", tmp_path))
    assert labelled.obs["spikgpt_label"].astype(str).tolist() == expected.labels.tolist()
    assert labelled.obs["leiden"].tolist() == [str(row % 3) for row in range(120)]
    assert labelled.uns["spikgpt"]["reference"] == "pancreas"


def test_mistakes_are_reported_in_one_line_and_the_page_still_works(
    user: User, damaged_file: Path, few_file: Path, expected: Annotation, run: Run, tmp_path: Path
) -> None:
    user.page.click("#annotate")
    assert user.error() == "Error: No file is named. Drop a file of cells on the page, or name the path of one."
    user.upload(damaged_file)
    user.begin()
    user.page.wait_for_function("document.querySelector('.sg-error')?.innerText.includes('damaged.h5ad')")
    assert user.error() == message_of_the_command_line(run, damaged_file, tmp_path)
    assert not user.page.locator(".sg-labels").count()
    user.upload(few_file)
    user.page.click("#annotate")
    assert user.counts() == expected.counts()
    assert not user.page.locator(".sg-error").count()
    user.page.get_by_text("Options").click()
    user.page.get_by_label("Column with clusters").fill("nowhere")
    user.page.click("#annotate")
    assert "nowhere" in user.error()
    assert "leiden" in user.error()


def test_the_options_change_the_labels(
    user: User, few_file: Path, shipped: SpikGPT, few: AnnData, app: App, tmp_path: Path
) -> None:
    adata = few.copy()
    adata.obs["leiden"] = pd.Categorical([str(row % 3) for row in range(adata.n_obs)])
    annotation = shipped.annotate(adata, unknown_rate=0, cluster_key="leiden", batch_key=None, progress=False)
    user.page.get_by_label("Or the path of a file").fill(str(few_file))
    user.page.get_by_text("Options").click()
    user.page.get_by_label("Column with clusters").fill("leiden")
    user.page.get_by_label("Column with batches").fill("")
    user.page.get_by_role("checkbox", name="Unknown").uncheck()
    user.begin()
    assert user.counts() == annotation.counts()
    assert "Unknown" not in annotation.counts()
    assert user.page.locator(".sg-clusters tbody tr").count() == 3
    # A file on this machine is read in place; the server makes no copy.
    assert few_file.name not in [path.name for path in app.files() if path.parent.name != ".results"]
    table = pd.read_csv(user.download(".csv", tmp_path), index_col=0)
    assert table["spikgpt_cluster_label"].tolist() == list(adata.obs["spikgpt_cluster_label"])


@pytest.mark.slow
def test_the_reference_is_chosen(user: User, few_file: Path, expected: Annotation) -> None:
    user.upload(few_file)
    user.begin("auto")
    assert user.counts() == expected.counts()
    assert "reference pancreas" in user.page.inner_text(".sg-verdict")
    assert "pbmc" in user.page.text_content(".sg-more")
    user.begin("pbmc")
    user.page.wait_for_selector(".sg-bad")
    assert "Do not use" in user.page.inner_text(".sg-verdict h2")


def test_hostile_names_do_no_harm(user: User, few: AnnData, tmp_path: Path) -> None:
    adata = few.copy()
    adata.obs["<b>clusters"] = pd.Categorical([HOSTILE[row % len(HOSTILE)] for row in range(adata.n_obs)])
    adata.obs_names = [f"{HOSTILE[row % len(HOSTILE)]}{row}" for row in range(adata.n_obs)]
    adata.obsm["X_umap"] = np.zeros((adata.n_obs, 2), dtype=np.float32)
    path = tmp_path / "<img src=x onerror=alert(9)>\u202e.h5ad"
    adata.write_h5ad(path)
    user.upload(path)
    user.page.get_by_text("Options").click()
    user.page.get_by_label("Column with clusters").fill("<b>clusters")
    user.begin()
    user.page.wait_for_selector(".sg-clusters")
    names = [row.locator("td").first.inner_text() for row in user.page.locator(".sg-clusters tbody tr").all()]
    assert len(names) == len(HOSTILE)
    assert {HOSTILE[0], HOSTILE[2].strip()} <= set(names)
    assert not any("\u202e" in name or "\x1b" in name for name in names)
    # Names in the file create no HTML elements, and no element is wider than the page.
    assert user.page.locator("#labels img, #labels script, #labels b, .sg-file img").count() == 0
    assert user.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    table = pd.read_csv(user.download(".csv", tmp_path), index_col=0)
    assert len(table) == adata.n_obs


def test_an_upload_that_is_too_large_is_refused(user: User, few_file: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.h5ad"
    large.write_bytes(bytes(4 * 1024 * 1024))
    user.page.set_input_files(".sg-zone input", large)
    user.page.wait_for_selector('.sg-zone[data-state="failed"]')
    assert "4.2 MB; expected at most 3.1 MB" in user.page.inner_text(".sg-file")
    user.upload(few_file)
    user.page.click(".sg-remove")
    user.page.click("#annotate")
    assert "No file is named" in user.error()


@pytest.mark.slow
def test_a_run_is_stopped_and_another_one_begins(
    user: User, few: AnnData, few_file: Path, expected: Annotation, tmp_path: Path
) -> None:
    hanging = tmp_path / "hanging.h5ad"
    few.write_h5ad(hanging)
    endless(hanging)
    user.upload(hanging)
    user.begin()
    user.page.wait_for_selector(".sg-status progress")
    user.page.wait_for_selector("#stop:not([disabled])")
    user.page.click("#stop")
    user.page.get_by_text("Stopped. Nothing was kept").wait_for()
    user.upload(few_file)
    user.page.click("#annotate")
    assert user.counts() == expected.counts()


@pytest.mark.slow
def test_a_closed_page_leaves_no_files(chromium: Any, app: App, few_file: Path) -> None:
    app.wait_until(lambda: not app.files())
    user = User(chromium, app)
    user.upload(few_file)
    user.begin()
    user.counts()
    assert {"few.h5ad", "labels.csv"} <= {path.name for path in app.files()}
    user.leave()
    app.wait_until(lambda: not app.files())


@pytest.mark.slow
def test_ten_users_at_once_get_their_own_labels(
    chromium: Any, app: App, query: AnnData, shipped: SpikGPT, tmp_path: Path
) -> None:
    users, wanted = [], []
    for number in range(10):
        # The files have the same name and different cells.
        cells = with_map(query[np.arange(number, 300, 2 + number % 3)])
        path = tmp_path / str(number) / "cells.h5ad"
        path.parent.mkdir()
        cells.write_h5ad(path)
        wanted.append(shipped.annotate(cells, progress=False))
        users.append(User(chromium, app))
        users[-1].upload(path)
    for user in users:
        user.begin()
    for user, annotation in zip(users, wanted, strict=True):
        assert user.counts() == annotation.counts()
        table = pd.read_csv(user.download(".csv", tmp_path), index_col=0)
        assert table.index.tolist() == list(annotation.obs_names)
        assert table["spikgpt_label"].tolist() == annotation.labels.tolist()
        user.leave()
    app.wait_until(lambda: not app.files())


def test_other_users_are_refused_and_no_other_server_is_contacted(app: App) -> None:
    assert httpx.get(app.address).status_code == 403
    with httpx.Client(follow_redirects=True) as client:
        page = client.get(app.url)
        assert page.status_code == 200
        assert "fonts.googleapis.com" not in page.text
        config = client.get(f"{app.address}config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("is_space")
    # The server listens on one port only, so Gradio opened no share link and no second server.
    process = psutil.Process(app.process.pid)
    ports = {
        connection.laddr.port
        for child in (process, *process.children())
        for connection in child.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ports == {int(app.address.rstrip("/").rpartition(":")[2])}
