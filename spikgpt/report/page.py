"""Page of a report: one HTML file with its own style, script and data.

A Content-Security-Policy in the page forbids all connections, and all scripts except that of this package. The policy
names the hash of this script. The template engine escapes all texts. Arrays are compressed and written in base64.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Iterator
from functools import cache, partial
from importlib.resources import files
from typing import Any

import msgspec
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from spikgpt.errors import printable, with_noun
from spikgpt.report.columns import Categories, Column
from spikgpt.report.content import MapContent, ReportContent
from spikgpt.types import UNKNOWN
from spikgpt.version import __version__

# Files of the script; the page joins the files in this order.
SCRIPTS = ("data.js", "draw.js", "labels.js", "map.js", "page.js")
# Number of labels that a table shows; further labels are folded away, unless there are only a few of these.
FOLDED = 30
# Compression level of zlib. A faster level makes the arrays a tenth larger.
COMPRESSION = 4


def page(content: ReportContent) -> bytes:
    """Return the page of a report."""
    style = asset("page.css")
    script = "\n".join(['(() => {\n"use strict";', *map(asset, SCRIPTS), "})();"])
    arrays = dict[str, str]()
    meta = None if content.map is None else _meta(content.map, arrays)
    text = (
        _environment()
        .from_string(asset("page.html"))
        .render(
            report=content,
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
            meta=None if meta is None else as_json(meta),
            arrays=arrays,
            version=__version__,
            folded=FOLDED,
            unknown=UNKNOWN,
        )
    )
    return text.encode("utf-8", errors="replace")


def as_json(value: Any) -> str:
    """Return JSON that can stand in a script element: no ``<``, ``>``, ``&`` and no line separators."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def asset(name: str) -> str:
    """Return the text of a file of the folder ``assets``."""
    return files("spikgpt.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    """Return the template engine, which escapes all texts."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Any] = {"thousands": "{:,}".format, "percent": percent, "line": printable, "p_value": p_value}
    filters["with_noun"] = partial(with_noun, form=",")
    filters["breakable"] = breakable
    environment.filters |= filters
    return environment


def breakable(name: str) -> Markup:
    """Return a name as HTML that allows a line break after ``_``, ``.``, ``/`` and ``-`` between words."""
    return Markup(re.sub(r"(?<=\w)([_./-])(?=\w)", r"\1<wbr>", str(escape(name))))


def percent(share: float) -> str:
    """Return a share as a percentage with few digits."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1%"
    return f"{value:.1f}%" if value < 10 and value != round(value) else f"{value:.0f}%"


def p_value(value: float) -> str:
    """Return a p-value with one digit; "<1e-300" for a value that underflows to 0."""
    return f"{value:.1g}" if value > 0 else "<1e-300"


def _hash(text: str) -> str:
    """Return the hash of a style or a script for the Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _meta(content: MapContent, arrays: dict[str, str]) -> dict[str, Any]:
    """Return the description of the map's data as JSON values, and add the packed arrays of the map to ``arrays``."""
    arrays["positions"] = _packed(content.positions)
    if content.rows is not None:
        arrays["rows"] = _packed(content.rows)
    if content.names:
        arrays["names"] = _packed(content.names.encode("utf-8", errors="replace"))
    columns = list(_columns(content, arrays))
    return {"cells": len(content.positions), "columns": columns, "own": content.own, "map": content.name}


def _columns(content: MapContent, arrays: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the description of each column of the map, and add the packed array of the column to ``arrays``."""
    for number, column in enumerate(content.columns):
        values = _array(column)
        array = f"column-{number}"
        arrays[array] = _packed(values)
        described: dict[str, Any] = {"name": column.name, "array": array, "bytes": values.itemsize}
        if isinstance(column, Categories):
            yield described | {
                "kind": "categories",
                "values": column.values,
                "colors": column.colors,
                "counts": column.counts,
                "labels": column.labels,
            }
        else:
            yield described | {
                "kind": "numbers",
                "least": column.least,
                "largest": column.largest,
                "low": column.low,
                "high": column.high,
            }


def _array(column: Column) -> npt.NDArray[Any]:
    return column.codes if isinstance(column, Categories) else column.steps


def _packed(values: npt.NDArray[Any] | bytes) -> str:
    """Return values as little-endian bytes, compressed with zlib, in base64."""
    content = values if isinstance(values, bytes) else values.astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(content, COMPRESSION)).decode()
