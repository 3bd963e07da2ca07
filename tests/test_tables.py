"""Tables and texts for terminals and notebooks."""

from __future__ import annotations

from spikgpt.tables import by_number, html_table, html_view, text_table, unbroken

ROWS = [("<b>&", "\x1b[2J")]


def test_tables_escape_markup_and_control_characters() -> None:
    assert "\\x1b[2J" in text_table(("a", "b"), ROWS, numbers=1)
    assert text_table(("name",), [], numbers=1) == "name"
    page = html_table(("a", "b"), ROWS, numbers=1)
    assert "&lt;b&gt;&amp;" in page
    assert "\x1b" not in page


def test_rows_can_start_with_a_coloured_square() -> None:
    page = html_table(("label", "cells"), [("alpha", "3"), ("beta", "4")], numbers=1, colors=["#e69f00", "#56b4e9"])
    assert page.count("&#9632;") == 2
    assert '<span style="color:#56b4e9">&#9632;</span> beta</td><td style="text-align:right">4</td>' in page


def test_names_are_not_broken_across_lines() -> None:
    page = html_table(("genes",), [(unbroken(["-PPY", "<b>", "A" * 200]),)], numbers=1)
    assert '<span style="white-space:nowrap">-PPY</span>, ' in page
    assert '<span style="white-space:nowrap">&lt;b&gt;</span>, AAA' in page


def test_a_view_has_heading_texts_tables_and_notes_in_this_order() -> None:
    page = html_view("<i>head", ["one\u202e", "two"], ["<table></table>"], ["n<b>"])
    assert page == (
        "<p><strong>&lt;i&gt;head</strong></p><p>one\\u202e</p><p>two</p><table></table><p>Note: n&lt;b&gt;</p>"
    )


def test_numbers_are_sorted_by_value_before_other_names() -> None:
    # Python cannot convert a text of 5,000 digits to a number.
    names = ["b", "9" * 5000, "10", "9", "-1", "a", "\u00b2"]
    assert sorted(names, key=by_number) == ["9", "10", "-1", "9" * 5000, "a", "b", "\u00b2"]
