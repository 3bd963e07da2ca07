"""JSON that is read by a schema."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from spikgpt.errors import DamagedReference, SpikGPTError, printable

T = TypeVar("T")

# Lists and objects within each other; references have 6.
DEEPEST, NESTING = 32, frozenset((dict, list))
# What may be a number that is larger than any that a reference has, with 0 for every digit: most files hold none.
LARGE, DIGITS = (b"0" * 19, b"e000", b"e+000", b"E000", b"E+000"), bytes.maketrans(b"123456789", b"000000000")
LARGEST = 2**63


def parsed(content: bytes, name: str) -> Any:
    """Parse JSON that no two readers could understand differently: no key twice, no NaN, no endless nesting.

    Numbers have the size of numbers: none is infinite or takes more than 64 bits.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            msg = f"one of {', '.join(sorted(values))} stands there twice"
            raise ValueError(msg)
        return values

    def refuse(constant: str) -> None:
        msg = f"{constant} is no number"
        raise ValueError(msg)

    def number(text: str) -> float:
        value = float(text)
        if not abs(value) < LARGEST:
            refuse(text[:20])
        return int(text) if text.lstrip("-").isdecimal() else value

    zeros = content.translate(DIGITS)
    hooks: dict[str, Any] = {}
    if any(large in zeros for large in LARGE):
        hooks = {"parse_int": number, "parse_float": number}
    try:
        values = json.loads(content.decode(), object_pairs_hook=once, parse_constant=refuse, **hooks)
        # Most files have too few lists and objects to be as deep.
        if content.count(b"[") + content.count(b"{") > DEEPEST and _deeper(values, DEEPEST):
            msg = f"it has lists and objects within each other, more than {DEEPEST}"
            raise ValueError(msg)
        return values
    except (ValueError, RecursionError) as error:
        msg = f"{name} is not valid JSON ({printable(str(error))}). Get the reference again."
        raise DamagedReference(msg) from None


def _deeper(values: Any, depth: int) -> bool:
    """Return whether lists and objects lie within each other more than so many times."""
    level = [values] if type(values) in NESTING else []
    while level and depth:
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        # By type, which is quicker: most values are the names of genes.
        level, depth = [value for part in parts for value in part if type(value) in NESTING], depth - 1
    return bool(level)


def decoded(content: bytes, name: str, kind: type[T]) -> T:
    """Parse JSON of a known form, such as a msgspec Struct or ``dict[str, int]``; see :func:`parsed`."""
    return converted(parsed(content, name), name, kind)


def converted(values: Any, name: str, kind: type[T]) -> T:
    """Return plain JSON values as an object of a known form; values of another form are refused."""
    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, SpikGPTError) as error:
        what, _, place = printable(str(error)).partition(" - at `$")
        what = what.rstrip(".") + _found(values, place.rstrip("`"))
        msg = f"{name} is not what it should be: {what}. Get the reference again."
        raise DamagedReference(msg) from None


def _found(values: Any, place: str) -> str:
    """Say what stands at a place as msgspec names it, such as ``.held_out.accuracy`` or ``[0].name``."""
    if not place or "[...]" in place:  # some value of an object; which one, msgspec does not say
        return f", in {place[1:]}" if place else ""
    for key in re.findall(r"[^.\[\]]+", place):
        values = values[key if isinstance(values, dict) else int(key)]
    return f", in {place.lstrip('.')}" + ("" if isinstance(values, dict | list) else f": found {values!r}")


def dumped(value: object) -> bytes:
    """Return JSON that is the same bytes for the same value, a Struct included."""
    plain = msgspec.to_builtins(value)
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
