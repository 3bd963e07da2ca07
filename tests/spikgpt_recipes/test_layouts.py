"""Layouts of files are checked before any download."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spikgpt_recipes.layouts import Csv, StudyFile, Tar, compile_pattern
from spikgpt_recipes.recipe import find_recipe, read_recipe
from tests.spikgpt_recipes.study_files import READERS

TABLE = {"format": "csv", "cells": "rows"}


def file_of(layout: dict[str, Any], **changed: Any) -> StudyFile:
    facts = {"name": "a.csv", "url": "https://example.org/a.csv", "reader": layout, **changed}
    return msgspec.convert(facts, StudyFile)


@pytest.mark.parametrize("study", READERS)
def test_every_layout_can_be_written_and_read_back(study: str) -> None:
    for name, layout in READERS[study].items():
        file = file_of(layout, name=name, size=5, sha256="0" * 64)
        assert msgspec.convert(msgspec.to_builtins(file), StudyFile) == file


def test_layouts_in_the_guide_are_valid() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guides" / "sources.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    shown = [file for block in blocks for file in msgspec.yaml.decode(block, type=list[StudyFile])]
    studies = {name: layout for study in READERS.values() for name, layout in study.items()}
    readers = {name: file_of(layout).reader for name, layout in studies.items()}
    recipe = read_recipe(find_recipe("rpe-choroid"))
    readers |= {file.name: file.reader for study in recipe.sources for file in study.files}
    assert len(shown) == 8
    for file in shown:
        assert file.reader == readers[file.name]


def test_layouts_have_defaults() -> None:
    assert file_of(TABLE).reader == Csv(cells="rows", delimiter=",", names=1, values="counts")
    reader = file_of({"format": "tar", "members": ".*", "reader": TABLE}).reader
    assert isinstance(reader, Tar)
    assert reader.reader == Csv(cells="rows")


@pytest.mark.parametrize(
    ("layout", "changed", "message"),
    [
        (TABLE | {"nmaes": 2}, {}, r"unknown field `nmaes` - at `\$\.reader`"),
        (TABLE | {"names": 0}, {}, r"`int` >= 1 - at `\$\.reader\.names`"),
        (TABLE | {"cells": "row"}, {}, r"Invalid enum value 'row'"),
        (TABLE | {"delimiter": "|"}, {}, r"Invalid enum value '\|'"),
        (TABLE | {"values": "tpm"}, {}, r"Invalid enum value 'tpm'"),
        (TABLE | {"block": 1}, {}, "block is 1; expected 0 to 0"),
        (TABLE | {"cells": "columns", "obs": {"a": "b"}}, {}, r"describe its cells by an annotation"),
        (TABLE | {"name_pattern": "("}, {}, r"'\(' is no regular expression of RE2: "),
        ({"format": "tar", "members": "[", "reader": TABLE}, {}, r"'\[' is no regular expression of RE2: "),
        ({"format": "tar", "members": ".*", "reader": {"format": "tar"}}, {}, r"Invalid value 'tar'"),
        ({"format": "annotation", "obs": {}, "rename": {"*": ""}}, {}, r"'\*' is no regular expression of RE2"),
        ({"format": "series_matrix", "obs": {}, "rename": {"*": ""}}, {}, r"'\*' is no regular expression"),
        ({"format": "rds"}, {}, r"Invalid value 'rds' - at `\$\.reader\.format`"),
        ({"format": "part"}, {"name": "cells.rds"}, r"cells\.rds cannot be read here; convert it to \.h5ad in R, with"),
        ({"format": "part"}, {"name": "x.RData.gz"}, r"convert it to \.h5ad in R, with zellkonverter"),
        ({"format": "part"}, {"name": "cells.loom"}, r"with scanpy\.read_loom"),
        (TABLE, {"url": "ftp://example.org/a/b"}, r"GEO and EBI have the same files at https://example\.org/a/b"),
        (TABLE, {"url": "file:///etc/passwd"}, r"matching regex"),
        (TABLE, {"name": "../a"}, r"name is .*; expected a plain file name"),
        (TABLE, {"name": "a/b"}, r"name is .*; expected a plain file name"),
        (TABLE, {"name": ".a"}, r"name is .*; expected a plain file name"),
        (
            TABLE | {"genes": {"file": "../a", "id": "a", "name": "b"}},
            {},
            r"file is '\.\./a'; expected a plain file name",
        ),
        ({"format": "mtx", "barcodes": "../a"}, {}, r"barcodes is '\.\./a'; expected a plain file name"),
        (TABLE, {"sha256": "abc"}, r"matching regex"),
        (TABLE, {"size": -1}, r"`int` >= 0"),
    ],
)
def test_invalid_layouts_are_refused(layout: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        file_of(layout, **changed)


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(.*)*x", "((a*)*)*b", ".*" * 30 + "x"])
def test_patterns_match_in_linear_time(pattern: str) -> None:
    pytest.importorskip("re2")
    assert compile_pattern(pattern).fullmatch("a" * 100_000) is None


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "((a{1,99}){1,99}){1,99}", "(" * 5000])
def test_patterns_that_re2_does_not_support_are_refused(pattern: str) -> None:
    pytest.importorskip("re2")
    with pytest.raises(ValueError, match="is no regular expression of RE2"):
        compile_pattern(pattern)
