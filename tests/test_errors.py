from __future__ import annotations

import inspect
import re

from spikgpt import errors


def test_the_family_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(found[1]) // 4
            above[depth] = found[2]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    family = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SpikGPTError)
    }
    assert drawn == family
    assert len(family) == 12


def test_every_error_says_when_it_is_raised() -> None:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        assert (kind.__doc__ or "").endswith("."), name
