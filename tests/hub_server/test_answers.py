"""HTTP answers of the loopback Hub, sent at once or byte by byte."""

from __future__ import annotations

import time
from io import BytesIO

from tests.hub_server.answers import HubAnswer


def test_an_answer_has_its_status_headers_and_repeated_body() -> None:
    file = BytesIO()
    HubAnswer(200, {"ETag": "../x"}, b"ab", repeat=2).send(file)
    assert file.getvalue() == b"HTTP/1.0 200 Answer\r\nETag: ../x\r\n\r\nabab"
    file = BytesIO()
    HubAnswer(404, {}, b"ab").send(file, head_only=True)
    assert file.getvalue() == b"HTTP/1.0 404 Answer\r\n\r\n"


def test_an_answer_can_wait_and_pause() -> None:
    start, file = time.monotonic(), BytesIO()
    HubAnswer(200, {}, b"abc", wait=0.05, pause=0.002).send(file)
    assert time.monotonic() - start > 0.05 + 26 * 0.002
