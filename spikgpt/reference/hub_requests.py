"""Limits on the requests of huggingface_hub: time, size, and the headers that the client builds paths from.

Hooks on the session of the client refuse answers outside the limits. The hooks apply in threads that
:func:`run_concurrently` started and, during a push, in the threads that the client starts to upload files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from spikgpt.errors import HubError, printable
from spikgpt.reference.hub_errors import Unreachable, cause_of, setting_error

# Longest time of a call in seconds. For each SPEED bytes that arrive, the call may take one more second.
PATIENCE, SPEED = 60.0, 2048
# Longest wait in seconds for another process that downloads the same file.
LOCK_PATIENCE = 3600.0
# Seconds that abandoned downloads have to delete their temporary files.
GRACE = 2.0
# Largest answer in bytes if a request succeeds, and if it fails. The listing of a repository with 50,000 files has
# 16 MB; other answers are short.
LARGEST_ANSWER, LARGEST_NOTICE = 32 * 1024 * 1024, 1024 * 1024

Commit = Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, lt=2**53)]

T = TypeVar("T")


class LargeFile(msgspec.Struct, frozen=True):
    """A file that git keeps in large file storage (LFS)."""

    sha256: Sha256
    size: Size


class ListedFile(msgspec.Struct, frozen=True):
    """A file in the listing of a repository; for a large file, ``blobId`` and ``size`` describe its LFS pointer."""

    rfilename: str
    blobId: Commit
    size: Size
    lfs: LargeFile | None = None

    @property
    def etag(self) -> str:
        """The hash of the content, which names the file in the cache."""
        return self.lfs.sha256 if self.lfs else self.blobId

    @property
    def length(self) -> int:
        """Size of the content in bytes."""
        return self.lfs.size if self.lfs else self.size


class Listing(msgspec.Struct):
    """Answer of the Hub on a revision of a repository: its commit and its files."""

    sha: Commit
    siblings: list[ListedFile]
    private: bool = False

    @property
    def files(self) -> dict[str, ListedFile]:
        """The files by name."""
        return {file.rfilename: file for file in self.siblings}


class RepositoryEntry(msgspec.Struct):
    """A repository in a list of repositories; ``tags`` are the tags of its card."""

    id: Annotated[str, Meta(pattern=r"\A(?!\.)[A-Za-z0-9_.-]+/(?!\.)[A-Za-z0-9_.-]+\Z", max_length=200)]
    tags: tuple[str, ...] = ()


class ImproperAnswer(HubError):
    """The Hub's answer exceeds a limit or contradicts the listing; ``problem`` describes the answer."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The Hub answered with {problem}. Check HF_ENDPOINT, or tell the owner of that Hub.")
        self.problem = problem


class FailedDownload(Exception):
    """A download was answered with an HTTP error status; the cause is the client's error."""


@dataclass
class Meter:
    """Bytes and seconds that the HTTP requests of one call have used, and the limits of both.

    ``limit`` is the largest answer in bytes. ``commit`` and ``etag`` are those of the file that is downloaded; both are
    empty if the call is no download. Between the requests of a download, the client may wait for another process that
    downloads the same file. This idle time does not count.
    """

    limit: int = field(default_factory=lambda: LARGEST_ANSWER)
    commit: str = ""
    etag: str = ""
    received: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    start: float = field(default_factory=time.monotonic)
    idle: float = 0.0
    idle_since: float | None = None

    def add(self, size: int) -> None:
        """Count bytes that arrived; raise InterruptedError if the caller has stopped waiting."""
        if self.stopped.is_set():
            raise InterruptedError
        self.received += size

    def begin(self) -> None:
        """Start counting the time of a request."""
        self.add(0)
        self.idle, self.idle_since = self.idle_seconds(), None

    def end(self) -> None:
        """Stop counting the time of a download until its next request."""
        if self.etag and self.idle_since is None:
            self.idle_since = time.monotonic()

    def idle_seconds(self) -> float:
        """Return the idle seconds so far: the time between the requests of the call."""
        return self.idle + (0.0 if self.idle_since is None else time.monotonic() - self.idle_since)

    def busy_seconds(self) -> float:
        """Return the seconds that the requests of the call have taken so far."""
        return time.monotonic() - self.start - self.idle_seconds()

    def seconds_left(self, patience: float) -> float:
        """Return the seconds that the call may still take; negative if the call has taken too long."""
        return min(patience + self.received / SPEED - self.busy_seconds(), LOCK_PATIENCE - self.idle_seconds())


_METER: ContextVar[Meter | None] = ContextVar("_METER", default=None)
# One object for each step of a push that is running now.
_PUSHES: list[object] = []


@contextmanager
def pushing() -> Iterator[None]:
    """While this context is open, limit answers also in the threads that the client starts to upload files."""
    step = object()
    _PUSHES.append(step)
    try:
        yield
    finally:
        _PUSHES.remove(step)


def with_timeout(name: str, call: Callable[[], T], *, patience: float | None = None, meter: Meter | None = None) -> T:
    """Run one call that makes requests, within the limits of :func:`run_concurrently`, and return its result."""
    return run_concurrently(name, [call], [meter or Meter()], patience=patience)[0]


def run_concurrently(
    name: str, calls: Sequence[Callable[[], T]], meters: Sequence[Meter], *, patience: float | None = None
) -> list[T]:
    """Run calls that make requests, each in its own thread and within the limits of its meter; return the results.

    A thread that takes too long is abandoned, because nothing else ends a request whose headers arrive byte by byte.
    The first error is raised after all calls have ended. ``patience`` is in seconds; None for 60 seconds.

    Raises
    ------
    Unreachable
        When the requests of a call take longer than ``patience`` plus one second for each ``SPEED`` bytes received.
    """
    patience = PATIENCE if patience is None else patience
    running = {_start(call, meter): meter for call, meter in zip(calls, meters, strict=True)}
    futures = list(running)
    try:
        while running:
            slowest = min(running.values(), key=lambda meter: meter.seconds_left(patience))
            ended = wait(running, max(slowest.seconds_left(patience), 0.0), FIRST_COMPLETED).done
            if not ended and slowest.seconds_left(patience) <= 0:
                raise Unreachable(_delay(name, slowest))
            for future in ended:
                del running[future]
    finally:
        for meter in meters:
            meter.stopped.set()
        # Give downloads time to check and delete their files, also after Ctrl-C.
        wait([future for future, meter in running.items() if meter.etag], GRACE)
    return [future.result() for future in futures]


def _delay(name: str, meter: Meter) -> str:
    """Return a message which says why a call took too long, and what to do."""
    if meter.idle_seconds() >= LOCK_PATIENCE:
        seconds = f"{meter.idle_seconds():.0f} s"
        return f"Another process has been downloading {name} for {seconds}. End that process, or try again later."
    speed = f"{meter.received} bytes in {meter.busy_seconds():.0f} s"
    return f"The Hub is too slow: {speed} of {name}. Check the connection, or try again later."


def _start(call: Callable[[], T], meter: Meter) -> Future[T]:
    """Start a call in a daemon thread; ``meter`` limits the requests of this thread."""
    future: Future[T] = Future()

    def run() -> None:
        _METER.set(meter)
        try:
            future.set_result(call())
        except FailedDownload as error:
            future.set_exception(error.__cause__)
        except Exception as error:  # noqa: BLE001, raised in the thread that waits
            future.set_exception(cause_of(error))

    threading.Thread(target=run, daemon=True).start()
    return future


def get_json(
    url: str,
    kind: type[T],
    headers: Mapping[str, str],
    *,
    timeout: float,
    patience: float | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> T:
    """Request a URL of the Hub and return the JSON answer as an object of the type ``kind``; refuse other answers.

    ``timeout`` and ``patience`` are in seconds; ``patience`` is that of :func:`run_concurrently`.
    """
    from huggingface_hub import utils

    def get() -> bytes:
        response = session().get(url, headers=dict(headers), params=dict(parameters or {}), timeout=timeout)
        utils.hf_raise_for_status(response)
        return bytes(response.content)

    name = printable(url.partition("/api/")[2])
    content = with_timeout(name, get, patience=patience)
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if content.lstrip()[:1] == b"<":
            msg = (
                "The Hub answered with a web page; expected JSON. A login page or a proxy of the network may have sent "
                "the page: log in to the network in a browser, or check HF_ENDPOINT."
            )
            raise Unreachable(msg) from None
        msg = f"The Hub answered {name} with {printable(str(error))[:200]}. Check HF_ENDPOINT."
        raise HubError(msg) from None


def session() -> Any:
    """Return the HTTP session of huggingface_hub, with the hooks that check its answers.

    The client's factory of sessions adds the hooks, because the client replaces its session after a failed connection.
    Xet, a transfer protocol of the Hub, is turned off, because it transfers files outside of this session. Files that
    are stored with Xet can be downloaded over HTTP too.
    """
    from huggingface_hub import constants, set_client_factory, utils
    from huggingface_hub.utils import _http

    constants.HF_HUB_DISABLE_XET = True
    try:
        if _check_response not in utils.get_session().event_hooks["response"]:
            make = _http._GLOBAL_CLIENT_FACTORY

            def with_hooks() -> Any:
                made = make()
                hooks = made.event_hooks
                made.event_hooks = {
                    "request": [*hooks["request"], _prepare_request],
                    "response": [*hooks["response"], _check_response],
                }
                return made

            set_client_factory(with_hooks)
        return utils.get_session()
    except Exception as error:  # noqa: BLE001, the libraries for certificates, proxies and addresses raise many kinds
        raise Unreachable(setting_error(error)) from None


def _meter(request: Any) -> Meter | None:
    """Return the meter that limits a request; None for a request without limits.

    Threads of :func:`run_concurrently` have a meter. During a push, requests of other threads get a new meter, because
    the client uploads files in such threads. GET requests of other threads have no limits: the client's threads send
    none, so they are downloads of other libraries.
    """
    if (meter := _METER.get()) is None and _PUSHES and request.method != "GET":
        return Meter()
    return meter


def _prepare_request(request: Any) -> None:
    """Ask for an uncompressed answer, because a compressed answer could expand to any size."""
    if meter := _meter(request):
        meter.begin()
        request.headers["Accept-Encoding"] = "identity"


def _check_response(response: Any) -> None:
    """Refuse an answer that exceeds the limits of the request's meter; the body is checked while it arrives."""
    if not (meter := _meter(response.request)):
        return
    if response.headers.get("Content-Encoding", "identity") != "identity":
        _refuse("a compressed body; expected an uncompressed one")
    limit = meter.limit if response.status_code in (200, 206) else LARGEST_NOTICE
    body = response.stream

    def chunks(_: object) -> Iterator[bytes]:
        received = 0
        for chunk in body:
            received += len(chunk)
            if received > limit:
                _refuse(f"more than {limit} bytes")
            meter.add(len(chunk))
            yield chunk

    def close(_: object) -> None:
        meter.end()
        body.close()

    # The client uses either httpx or httpx2, whose classes of streams differ.
    methods = {"__iter__": chunks, "close": close}
    response.stream = type("BoundedStream", (type(body).__bases__[0],), methods)()
    if meter.etag:
        _check_download(response, meter)


def _check_download(response: Any, meter: Meter) -> None:
    """Refuse an error status, and headers that name another commit or content than the listing."""
    from huggingface_hub import utils

    try:
        utils.hf_raise_for_status(response)
    except Exception as error:
        raise FailedDownload from error
    if response.request.method != "HEAD":
        return
    etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag", "")
    headers = {"ETag": etag.removeprefix("W/").strip('"'), "X-Repo-Commit": response.headers.get("X-Repo-Commit", "")}
    for name, expected in (("ETag", meter.etag), ("X-Repo-Commit", meter.commit)):
        if headers[name] not in ("", expected):
            _refuse(f"the {name} {ascii(headers[name])[:80]}; expected {expected}")


def _refuse(problem: str) -> None:
    raise ImproperAnswer(problem)
