"""JSON that is read by a schema."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from spikgpt.errors import DamagedReference, SpikGPTError, printable

T = TypeVar("T")


def parsed(content: bytes, name: str) -> Any:
    """Parse JSON that no two readers could understand differently: no key twice, no NaN, no endless nesting."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            msg = f"one of {', '.join(sorted(values))} stands there twice"
            raise ValueError(msg)
        return values

    def refuse(constant: str) -> None:
        msg = f"{constant} is no number"
        raise ValueError(msg)

    try:
        return json.loads(content, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        msg = f"{name} is not valid JSON ({printable(str(error))}). Get the reference again."
        raise DamagedReference(msg) from error


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
        raise DamagedReference(msg) from error


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
