"""Reading from the Hub within limits: of time, of size, and of what an answer may look like.

The client's own downloads name files as the server's headers say, unpack answers of any size and wait for a server that
sends a byte a second. Here a file is known by the hash that the Hub listed before anything of it is written.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec
from msgspec import Meta

from spikgpt.errors import HubError, printable
from spikgpt.reference.hub_errors import Unreachable, wrong_setting

# Seconds that a request may take, and the bytes a second that add to them as they arrive.
PATIENCE, SPEED = 60.0, 2048
# Bytes of an answer about a repository at most: the listing of 50,000 files has 16 MB.
LARGEST_ANSWER = 32 * 1024 * 1024
REDIRECTS = 5
# What errors are told from. Nothing else of a failed answer is read.
TELLING = ("X-Error-Code", "X-Error-Message", "Retry-After", "RateLimit", "RateLimit-Reset", "Date")

Commit = Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, lt=2**53)]

T = TypeVar("T")


class LargeFile(msgspec.Struct, frozen=True):
    """What the Hub says of a file that git keeps elsewhere."""

    sha256: Sha256
    size: Size


class Listed(msgspec.Struct, frozen=True):
    """What the Hub says of a file: git's hash of it, or of the pointer to a large one."""

    rfilename: str
    blobId: Commit
    size: Size
    lfs: LargeFile | None = None

    @property
    def oid(self) -> str:
        """The hash of its content, by which the cache calls it."""
        return self.lfs.sha256 if self.lfs else self.blobId

    @property
    def bytes(self) -> int:
        """How many there are."""
        return self.lfs.size if self.lfs else self.size


class Listing(msgspec.Struct):
    """What the Hub says of a revision."""

    sha: Commit
    siblings: list[Listed]
    private: bool = False

    @property
    def files(self) -> dict[str, Listed]:
        """The files by name."""
        return {file.rfilename: file for file in self.siblings}


class Ref(msgspec.Struct):
    """A branch or a tag."""

    name: str
    targetCommit: Commit


class Refs(msgspec.Struct):
    """The branches and tags of a repository."""

    branches: list[Ref]
    tags: list[Ref]


class Named(msgspec.Struct):
    """A repository in a list of them."""

    id: Annotated[str, Meta(pattern=r"\A(?!\.)[A-Za-z0-9_.-]+/(?!\.)[A-Za-z0-9_.-]+\Z", max_length=200)]


class Improper(HubError):
    """An answer that no server should give, and ``what`` it was."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The Hub answered with {what}. Check HF_ENDPOINT, or tell the owner of that Hub.")
        self.what = what


@dataclass
class Meter:
    """How much has arrived for a request, and whether anybody still waits for it."""

    received: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    progress: Callable[[int], object] = id

    def take(self, size: int) -> None:
        """Count what has arrived; where nobody waits any more, the request ends."""
        if self.stopped.is_set():
            raise InterruptedError
        self.received += size
        self.progress(size)


def side_by_side(
    what: str,
    calls: Sequence[Callable[[Meter], T]],
    progress: Callable[[int], object] = id,
    *,
    patience: float | None = None,
) -> Iterator[tuple[int, T | Exception]]:
    """Give what each of some requests returns or raises, as they end, with its place among them.

    Each runs in a thread of its own, which is left alone when it takes too long: nothing else ends a request whose
    headers arrive a byte at a time. So a call writes nothing but what it was handed.
    """
    ended = queue.SimpleQueue[tuple[int, T | Exception]]()
    patience = PATIENCE if patience is None else patience
    waiting = {place: Meter(progress=progress) for place in range(len(calls))}

    def run(place: int, meter: Meter) -> None:
        try:
            ended.put((place, calls[place](meter)))
        except Exception as error:  # noqa: BLE001, it is raised where somebody waits for it
            ended.put((place, error))

    start = time.monotonic()
    for item in waiting.items():
        threading.Thread(target=run, args=item, daemon=True).start()
    try:
        while waiting:
            received = min(meter.received for meter in waiting.values())
            left = start + patience + received / SPEED - time.monotonic()
            try:
                place, found = ended.get(timeout=max(left, 0.0))
            except queue.Empty:
                if received < min(meter.received for meter in waiting.values()):
                    continue
                told = f"{received} bytes in {time.monotonic() - start:.0f} s of {what}"
                msg = f"The Hub is too slow: {told}. Check the connection, or try again later."
                raise Unreachable(msg) from None
            del waiting[place]
            yield place, found
    finally:
        for meter in waiting.values():
            meter.stopped.set()


def in_time(what: str, call: Callable[[Meter], T], *, patience: float | None = None, size: int = 0) -> T:
    """Return what a request returns that sends so many bytes, or raise what it raises; see :func:`side_by_side`."""
    patience = (PATIENCE if patience is None else patience) + size / SPEED
    ((_, found),) = side_by_side(what, [call], patience=patience)
    if isinstance(found, Exception):
        raise found
    return found


def answer(
    url: str, kind: type[T], headers: Mapping[str, str], *, timeout: float, parameters: Mapping[str, Any] | None = None
) -> T:
    """Return what the Hub answers, as JSON of a known form."""
    parts: list[bytes] = []
    what = printable(url.partition("/api/")[2])
    in_time(
        what, lambda meter: stream(url, headers, meter, parts.append, timeout, parameters or {}, limit=LARGEST_ANSWER)
    )
    content = b"".join(parts)
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if content.lstrip()[:1] == b"<":
            msg = (
                "A web page came instead of an answer of the Hub, as from a login page or a proxy of the network. "
                "Log in to the network in a browser, or check HF_ENDPOINT."
            )
            raise Unreachable(msg) from None
        msg = f"The Hub answered {what} with something else than expected: {printable(str(error))[:200]}."
        raise HubError(msg) from None


def download(
    url: str, headers: Mapping[str, str], meter: Meter, *, file: Listed, into: BinaryIO, timeout: float
) -> bool:
    """Write a file of the Hub and return whether it has the hash that the Hub listed."""
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)

    def write(chunk: bytes) -> None:
        digest.update(chunk)
        into.write(chunk)

    stream(url, headers, meter, write, timeout, {}, limit=file.bytes)
    into.flush()
    return digest.hexdigest() == file.oid


def stream(
    url: str,
    headers: Mapping[str, str],
    meter: Meter,
    write: Callable[[bytes], object],
    timeout: float,
    parameters: Mapping[str, Any],
    *,
    limit: int,
    check: Callable[[Any], object] | None = None,
) -> None:
    """Hand on the body of an answer as it arrives, ``limit`` bytes at most.

    ``check`` sees the answer first and may refuse it; by default any success but 200.
    """
    from huggingface_hub import utils

    session = open_session()
    # Packed answers could unpack to any size.
    headers = {**headers, "Accept-Encoding": "identity"}
    request = session.build_request("GET", url, headers=headers, params=parameters or None, timeout=timeout)
    for _ in range(REDIRECTS):
        response = session.send(request, stream=True, follow_redirects=False)
        try:
            if response.next_request is not None:  # without the token, if it leads elsewhere
                request = response.next_request
                continue
            told = {name: ascii(response.headers.get(name, ""))[1:201].rstrip("'") for name in TELLING}
            utils.hf_raise_for_status(type(response)(response.status_code, headers=told, request=response.request))
            (check or whole)(response)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                _refuse("a packed body, which was not asked for")
            received = 0
            for chunk in response.iter_raw():
                received += len(chunk)
                if received > limit:
                    _refuse(f"more than {limit} bytes")
                meter.take(len(chunk))
                write(chunk)
            return
        finally:
            response.close()
    _refuse(f"more than {REDIRECTS} redirects")


def open_session() -> Any:
    """Return the client's session, or say which setting of this machine keeps it from being made."""
    from huggingface_hub import utils

    try:
        return utils.get_session()
    except Exception as error:  # noqa: BLE001, whatever the libraries for certificates, proxies and addresses raise
        raise Unreachable(wrong_setting(error)) from None


def whole(response: Any) -> None:
    """Refuse an answer that is no whole file."""
    if response.status_code != 200:
        _refuse(f"status {response.status_code}")


@contextmanager
def bounded() -> Iterator[None]:
    """Bound the answers to what the client sends meanwhile: it reads and unpacks them whole, whatever their size."""
    session = open_session()
    hooks = session.event_hooks

    def ask(request: Any) -> None:
        if request.method != "GET":
            request.headers["Accept-Encoding"] = "identity"

    def check(response: Any) -> None:
        if response.request.method == "GET":
            return
        if response.headers.get("Content-Encoding", "identity") != "identity":
            _refuse("a packed body, which was not asked for")
        stream = response.stream

        def parts(_: object) -> Iterator[bytes]:
            received = 0
            for part in stream:
                received += len(part)
                if received > LARGEST_ANSWER:
                    _refuse(f"more than {LARGEST_ANSWER} bytes")
                yield part

        methods = {"__iter__": parts, "close": lambda _: stream.close()}
        response.stream = type("Bounded", (type(stream).__bases__[0],), methods)()

    session.event_hooks = {name: [*hooks[name], more] for name, more in (("request", ask), ("response", check))}
    try:
        yield
    finally:
        session.event_hooks = hooks


def _refuse(what: str) -> None:
    raise Improper(what)
