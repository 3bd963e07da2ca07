"""HTTP answers of the loopback Hub, at once or byte by byte."""

from __future__ import annotations

import time
from io import BytesIO

from tests.hub_server.answers import Answer


def test_an_answer_is_what_it_is_made_of() -> None:
    file = BytesIO()
    Answer(200, {"ETag": "../x"}, b"ab", repeat=2).send(file)
    assert file.getvalue() == b"HTTP/1.0 200 Answer\r\nETag: ../x\r\n\r\nabab"
    file = BytesIO()
    Answer(404, {}, b"ab").send(file, head_only=True)
    assert file.getvalue() == b"HTTP/1.0 404 Answer\r\n\r\n"


def test_an_answer_takes_its_time() -> None:
    start, file = time.monotonic(), BytesIO()
    Answer(200, {}, b"abc", wait=0.05, pause=0.002).send(file)
    assert time.monotonic() - start > 0.05 + 26 * 0.002
