"""Files that are whole or not there, and JSON that is read by a schema."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from spikgpt.errors import DamagedReference, SpikGPTError

T = TypeVar("T")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``: a file or a folder that takes its name when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if path.is_dir():
            path.replace(Path(folder) / "replaced")
        temporary.replace(path)


def parsed(content: bytes, name: str) -> Any:
    """Parse JSON: no key twice, no NaN, no endless nesting.

    Raises
    ------
    DamagedReference
        When it is not JSON, or JSON that two readers could understand differently.
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

    try:
        return json.loads(content, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        msg = f"{name} is not valid JSON ({error}). Get the reference again."
        raise DamagedReference(msg) from error


def decoded(content: bytes, name: str, kind: type[T]) -> T:
    """Parse JSON of a known form, such as a msgspec Struct or ``dict[str, int]``; see :func:`parsed`.

    Raises
    ------
    DamagedReference
        When it is not JSON, or of another form.
    """
    return converted(parsed(content, name), name, kind)


def converted(values: Any, name: str, kind: type[T]) -> T:
    """Return plain JSON values as an object of a known form.

    Raises
    ------
    DamagedReference
        When they are of another form.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        # A check of the object's own, raised in its __post_init__, says it better.
        reason = error.__cause__ if isinstance(error.__cause__, SpikGPTError) else error
        msg = f"{name} is not what it should be: {reason} Get the reference again."
        raise DamagedReference(msg) from error


def dumped(value: object) -> bytes:
    """Return JSON that is the same bytes for the same value, a Struct included."""
    plain = msgspec.to_builtins(value)
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
