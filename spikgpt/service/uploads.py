"""Receive uploads: write the body of a request to a file in a folder of its own, up to a largest size."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from starlette.requests import Request

from spikgpt.service.messages import UPLOAD
from spikgpt.service.refusals import Kind, Refusal

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Scope: TypeAlias = Any
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# Before a refusal, the rest of the body is read and dropped, up to this number of bytes and seconds. Many clients read
# the answer only after they have sent the whole body.
DROPPED_BYTES, DROPPED_SECONDS = 16 * 1024 * 1024, 2.0
# Largest number of bytes in a form beside the file.
FORM_BYTES = 64 * 1024
MULTIPART = "multipart/form-data"
# Key in the ASGI scope of a request. Its value is True once the whole body has been received.
ENDED = "spikgpt.ended"


async def receive_upload(request: Request, folder: Path, max_bytes: int, timeout: float) -> None:
    """Write the body of a request, or the one file of a form, to the file ``upload`` in a folder.

    Raises
    ------
    Refusal
        When there are too many bytes or none, the upload takes too long, or the form has no file.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        msg = f"Content-Encoding is {encoding[:40]!r}; expected none. Send the bytes of the file."
        raise Refusal(Kind.COMPRESSED, msg)
    in_form = request.headers.get("content-type", "").lower().startswith(MULTIPART)
    most = max_bytes + FORM_BYTES * in_form
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_many(max_bytes)
    try:
        async with asyncio.timeout(timeout):
            if in_form:
                size = await _write_form(Request(request.scope, limited(request.receive, most, max_bytes)), folder)
            else:
                size = await _write_body(request, folder, max_bytes)
    except TimeoutError:
        msg = f"The upload was not complete within {timeout:g} s; send it faster, or fewer cells."
        raise Refusal(Kind.UPLOAD_TIMEOUT, msg) from None
    if not size:
        msg = "The request has no bytes; expected an .h5ad file, or a table of counts as JSON or Parquet."
        raise Refusal(Kind.BAD_REQUEST, msg)
    if size > max_bytes:
        raise _too_many(max_bytes)


def noting_end(scope: MutableMapping[str, Any], receive: Receive) -> Receive:
    """Return a receiver that records in the ASGI scope when the body has ended, for :func:`drop_body`."""

    async def receive_noted() -> Message:
        message = await receive()
        scope[ENDED] = not message.get("more_body", False)
        return message

    return receive_noted


async def drop_body(request: Request) -> None:
    """Read and drop the rest of a body, up to ``DROPPED_BYTES`` bytes and ``DROPPED_SECONDS`` seconds."""
    dropped = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DROPPED_SECONDS):
            # A client that expects "100 Continue" has not begun to send, and reads the answer first.
            while dropped < DROPPED_BYTES and not request.scope.get(ENDED) and "expect" not in request.headers:
                dropped += len((await request.receive()).get("body", b""))


def limited(receive: Receive, most: int, max_bytes: int) -> Receive:
    """Return a receiver that refuses a body of more than ``most`` bytes; the message names ``max_bytes``."""
    received = 0

    async def receive_some() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise _too_many(max_bytes)
        return message

    return receive_some


async def _write_body(request: Request, folder: Path, max_bytes: int) -> int:
    """Write the body of a request to a file in ``folder``, and return its size in bytes."""
    size = 0
    with (folder / UPLOAD).open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise _too_many(max_bytes)
            file.write(part)
    return size


async def _write_form(request: Request, folder: Path) -> int:
    """Write the one file of a form to a file in ``folder``, and return its size in bytes."""
    async with request.form(max_files=1, max_fields=0) as form:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        if len(files) != 1:
            msg = "The form has no file; send one, such as curl --form file=@QUERY.h5ad. Options are query parameters."
            raise Refusal(Kind.BAD_REQUEST, msg)
        with (folder / UPLOAD).open("wb") as target:
            await asyncio.to_thread(shutil.copyfileobj, files[0].file, target)
            return target.tell()


def _too_many(max_bytes: int) -> Refusal:
    msg = f"The upload has more than {max_bytes} bytes. Send fewer cells, or use spikgpt annotate."
    return Refusal(Kind.TOO_MANY_BYTES, msg)
