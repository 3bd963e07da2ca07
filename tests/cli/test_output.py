"""What the command line prints, and where."""

from __future__ import annotations

import pytest

from spikgpt.cli.output import Bars, note, say, show


def test_a_sentence_is_one_line_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say("Wrote [bold]x[/]\n" + 200 * "y")
    note("odd")
    captured = capsys.readouterr()
    assert captured.err == f"Wrote [bold]x[/] {200 * 'y'}\nNote: odd\n"
    assert captured.out == ""


def test_nothing_that_is_printed_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb\x9b31m\u202ec")
    show(("label",), [("d\x1b]0;title\x07e\rf",)], result=True)
    captured = capsys.readouterr()
    assert captured.err == "a\\x1b[2Jb\\x9b31m\\u202ec\n"
    assert "d\\x1b]0;title\\x07e\\rf" in captured.out


@pytest.mark.parametrize("result", [True, False])
def test_results_go_to_standard_output(capsys: pytest.CaptureFixture[str], result: bool) -> None:
    show(("label", "cells"), [("T [CD4]", 3)], "a [title]", result=result)
    captured = capsys.readouterr()
    said, silent = (captured.out, captured.err) if result else (captured.err, captured.out)
    assert "T [CD4]" in said
    assert "a [title]" in said
    assert silent == ""


def test_bars_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars("Training", 3, "epochs", done=2, figures="loss 1")
        bars("Embedding", None, "cells", 5)
    assert capsys.readouterr() == ("", "")
