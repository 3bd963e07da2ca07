"""Read and write JSON strictly: accept only JSON that all programs read alike, with values of known types."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from spikgpt.errors import DamagedReference, SpikGPTError, printable

T = TypeVar("T")

# Deepest nesting of lists and objects; files of references have 6 levels.
DEEPEST = 32
# Numbers must fit into 64 bits. A file can hold a larger number only if it contains one of the patterns in LARGE, where
# 0 stands for any digit.
LARGE, DIGITS = (b"0" * 19, b"e000", b"e+000", b"E000", b"E+000"), bytes.maketrans(b"123456789", b"000000000")
LARGEST = 2**63


def parsed(content: bytes, name: str) -> Any:
    """Return the values of JSON; refuse repeated keys, NaN, infinite and very large numbers, and deep nesting."""
    hooks: dict[str, Any] = {}
    # Checking each number in Python is slow, so only files that may hold a large number are checked.
    if any(large in content.translate(DIGITS) for large in LARGE):
        hooks = {"parse_int": _number, "parse_float": _number}
    try:
        values = json.loads(content.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant, **hooks)
        # Most files have too few lists and objects to exceed the depth, so counting the brackets is enough.
        if content.count(b"[") + content.count(b"{") > DEEPEST and _is_deeper(values, DEEPEST):
            msg = f"it has more than {DEEPEST} lists and objects within each other"
            raise ValueError(msg)
        return values
    except (ValueError, RecursionError) as error:
        msg = f"{name} is not valid JSON ({printable(str(error))}). Get the reference again."
        raise DamagedReference(msg) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        msg = f"one of {', '.join(sorted(values))} occurs twice"
        raise ValueError(msg)
    return values


def _refuse_constant(constant: str) -> None:
    msg = f"{constant} is no number"
    raise ValueError(msg)


def _number(text: str) -> float:
    if not abs(float(text)) < LARGEST:
        _refuse_constant(text[:20])
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def _is_deeper(values: Any, depth: int) -> bool:
    """Return True if lists and objects are nested more than ``depth`` levels deep."""
    if not isinstance(values, dict | list):
        return False
    parts = values.values() if isinstance(values, dict) else values
    return depth == 0 or any(_is_deeper(part, depth - 1) for part in parts if type(part) in (dict, list))


def decoded(content: bytes, name: str, kind: type[T]) -> T:
    """Parse JSON, as :func:`parsed` does, and return an object of the type ``kind``, such as a msgspec Struct."""
    return converted(parsed(content, name), name, kind)


def converted(values: Any, name: str, kind: type[T]) -> T:
    """Convert plain JSON values to an object of the type ``kind``; refuse values that do not have this type."""
    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, SpikGPTError) as error:
        reason, _, path = printable(str(error)).partition(" - at `$")
        location = _value_at(values, path.rstrip("`"))
        msg = f"{name} is not valid: {reason.rstrip('.')}{location}. Get the reference again."
        raise DamagedReference(msg) from None


def _value_at(values: Any, path: str) -> str:
    """Return a phrase with a path and the value at this path; empty without a path.

    ``path`` is written as msgspec does, such as ``.held_out.accuracy`` or ``[0].name``.
    """
    if not path or "[...]" in path:  # msgspec does not name the key of a dict
        return f", in {path[1:]}" if path else ""
    for key in re.findall(r"[^.\[\]]+", path):
        values = values[key if isinstance(values, dict) else int(key)]
    return f", in {path.lstrip('.')}" + ("" if isinstance(values, dict | list) else f": found {values!r}")


def dumped(value: object) -> bytes:
    """Return a value, such as a msgspec Struct, as JSON; equal values give the same bytes."""
    plain = msgspec.to_builtins(value)
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
