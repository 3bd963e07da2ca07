"""Uploads stop at the limits of bytes and time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from spikgpt.service import uploads
from spikgpt.service.messages import UPLOAD
from spikgpt.service.refusals import Kind, Refusal
from spikgpt.service.uploads import drop_body, noting_end, receive_upload


def request(parts: Iterable[bytes], *, ends: bool = True, **headers: str) -> Request:
    """Return a request whose body arrives in parts; with ``ends=False`` the body never ends."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if ends:
        messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        return await asyncio.get_running_loop().create_future()

    plain = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": plain}
    return Request(scope, noting_end(scope, receive))


def test_a_body_becomes_a_file(tmp_path: Path) -> None:
    asyncio.run(receive_upload(request([b"ab", b"c"]), tmp_path, 3, 1))
    assert (tmp_path / UPLOAD).read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (request([b"ab", b"cd"]), Kind.TOO_MANY_BYTES),
        (request([], content_length="4"), Kind.TOO_MANY_BYTES),
        (request([b"ab"], ends=False), Kind.UPLOAD_TIMEOUT),
        (request([]), Kind.BAD_REQUEST),
        (request([b"ab"], content_encoding="gzip"), Kind.COMPRESSED),
    ],
)
def test_a_body_beyond_a_limit_is_refused(refused: Request, kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as error:
        asyncio.run(receive_upload(refused, tmp_path, 3, 0.1))
    assert error.value.kind == kind


def test_the_rest_of_a_body_is_dropped_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rest_of(some: Request) -> int:
        await drop_body(some)
        n_bytes = 0
        while not some.scope.get(uploads.ENDED):
            n_bytes += len((await asyncio.wait_for(some.receive(), 0.1)).get("body", b""))
        return n_bytes

    monkeypatch.setattr(uploads, "DROPPED_BYTES", 4)
    assert asyncio.run(rest_of(request([b"ab"]))) == 0
    assert asyncio.run(rest_of(request([b"abcd", b"ef"]))) == 2
    assert asyncio.run(rest_of(request([b"ab"], expect="100-continue"))) == 2
    monkeypatch.setattr(uploads, "DROPPED_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        asyncio.run(rest_of(request([b"ab"], ends=False)))
