"""Output of the command line on standard output and standard error."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from spikgpt.cli.output import Bars, annotate_command, inform, note, show, show_markdown, warnings_as_notes
from spikgpt.errors import SpikGPTWarning


def test_a_sentence_is_one_line_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    inform("Wrote [bold]x[/]\n" + 200 * "y")
    note("odd")
    captured = capsys.readouterr()
    assert captured.err == f"Wrote [bold]x[/] {200 * 'y'}\nNote: odd\n"
    assert captured.out == ""


def test_printed_text_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    inform("a\x1b[2Jb\x9b31m\u202ec")
    show(("label",), [("d\x1b]0;title\x07e\rf",)], result=True)
    captured = capsys.readouterr()
    assert captured.err == "a\\x1b[2Jb\\x9b31m\\u202ec\n"
    assert "d\\x1b]0;title\\x07e\\rf" in captured.out


@pytest.mark.parametrize("result", [True, False])
def test_results_go_to_standard_output(capsys: pytest.CaptureFixture[str], result: bool) -> None:
    show(("label", "cells"), [("T [CD4]", 3)], "a [title]", result=result)
    captured = capsys.readouterr()
    printed, silent = (captured.out, captured.err) if result else (captured.err, captured.out)
    assert "T [CD4]" in printed
    assert "a [title]" in printed
    assert silent == ""


def test_a_wide_table_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        (name, f"human {name}", 31, "120,345", "0.970", "0.910", "13.1", "shipped")
        for name in ("pancreas", "heart-sinoatrial", "my-lab/kidney-nuclei@0123456789ab", *"abcdefghi")
    ]
    show(("name", "cells of", "types", "cells", "acc.", "F1", "MB", "source"), rows, result=True, numbers=range(2, 8))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 1 + len(rows) + 6
    assert all(name in "".join(lines) for name in ("heart-sinoatrial", "my-lab/kidney-nuclei"))
    assert sum(line.endswith("shipped") for line in lines) == len(rows)


def test_markdown_is_formatted_on_terminals_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "# islets\n\n- a \x1b[2J\n"
    show_markdown(page)
    assert capsys.readouterr().out == "# islets\n\n- a \\x1b[2J\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show_markdown(page)
    out = capsys.readouterr().out
    assert "islets" in out
    assert "# islets" not in out
    assert "\x1b[2J" not in out


def test_bars_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars("Training", 3, "epochs", done=2, figures="loss 1")
        bars("Embedding", None, "cells", 5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        (Path("pancreas"), "./pancreas"),
        (Path("lab/islets"), "./lab/islets"),
        (Path("../my islets"), "'../my islets'"),
        (Path("/tmp/pancreas"), "/tmp/pancreas"),
        ("lab/islets", "lab/islets"),
    ],
    ids=str,
)
def test_a_folder_is_shown_as_a_path_quoted_for_the_shell(model: Path | str, shown: str) -> None:
    assert annotate_command(model) == f"spikgpt annotate QUERY.h5ad --model {shown} --out OUT.h5ad"


def test_own_warnings_become_notes_and_other_warnings_stay(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        with warnings_as_notes():
            warnings.warn("ours", SpikGPTWarning, stacklevel=1)
            warnings.warn("theirs", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="^theirs$"):
        warn()
    assert capsys.readouterr().err == "Note: ours\n"
