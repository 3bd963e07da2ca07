"""Progress bars show the number of cells and the time left; inner steps show a bar only on request."""

from __future__ import annotations

import pytest

from spikgpt.cells.progress import inner_bar, progress_bar, reporting, showing


def test_a_bar_has_cells_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Reading", 200, True) as bar:
        bar.update(100)
        bar.refresh()
    shown = capsys.readouterr().err
    assert "Reading" in shown
    assert "100/200" in shown
    assert "cells/s" in shown


def test_inner_steps_show_a_bar_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, None):
        with showing(progress), inner_bar("Sorting", 200) as bar:
            bar.update(200)
        assert capsys.readouterr().err == ""
    with showing(True), inner_bar("Sorting", 200) as bar:
        bar.update(200)
    assert "200/200" in capsys.readouterr().err
    with inner_bar("Sorting", 200) as bar:
        bar.update(200)
    assert capsys.readouterr().err == ""


def test_a_listener_gets_the_cells_instead_of_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    reports: list[tuple[str, int, int | None]] = []
    with reporting(lambda *report: reports.append(report)):
        with progress_bar("Reading", 200, True) as bar:
            bar.update(150)
            bar.update(50)
        with inner_bar("Sorting", 10) as bar:
            bar.update()
    with progress_bar("Writing", 5, False) as bar:
        bar.update(5)
    assert reports == [
        ("Reading", 0, 200),
        ("Reading", 150, 200),
        ("Reading", 200, 200),
        ("Sorting", 0, 10),
        ("Sorting", 1, 10),
    ]
    assert capsys.readouterr().err == ""
