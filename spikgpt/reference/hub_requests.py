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

# Seconds that a request may take, and bytes that extend this time by a second as they arrive.
PATIENCE, SPEED = 60.0, 2048
# Seconds to wait for another process that downloads the same file.
LOCK_PATIENCE = 3600.0
# Seconds for abandoned downloads to delete their temporary files.
GRACE = 2.0
# Bytes of an answer about a repository at most: the listing of 50,000 files has 16 MB. Other answers are short.
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
    """A file in the listing of a repository; ``blobId`` and ``size`` of a large file are those of its LFS pointer."""

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
        """The bytes of the content."""
        return self.lfs.size if self.lfs else self.size


class Listing(msgspec.Struct):
    """The commit and the files of a revision."""

    sha: Commit
    siblings: list[ListedFile]
    private: bool = False

    @property
    def files(self) -> dict[str, ListedFile]:
        """The files by name."""
        return {file.rfilename: file for file in self.siblings}


class RepositoryEntry(msgspec.Struct):
    """A repository in a list of repositories; ``tags`` are those of its card."""

    id: Annotated[str, Meta(pattern=r"\A(?!\.)[A-Za-z0-9_.-]+/(?!\.)[A-Za-z0-9_.-]+\Z", max_length=200)]
    tags: tuple[str, ...] = ()


class ImproperAnswer(HubError):
    """An answer that no server should give; ``problem`` describes the answer."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The Hub answered with {problem}. Check HF_ENDPOINT, or tell the owner of that Hub.")
        self.problem = problem


class FailedDownload(Exception):
    """An answer with an error status to a download; the cause is the client's error."""


@dataclass
class Meter:
    """The bytes that arrived for a call that makes requests, the seconds that its requests took, and their limits.

    ``commit`` and ``etag`` are those of the file that is downloaded; without them the call is no download. Between the
    requests of a download, the client may wait for a process that downloads the same file; that time does not count.
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
        """Count bytes that arrived; end the request when the caller has stopped waiting."""
        if self.stopped.is_set():
            raise InterruptedError
        self.received += size

    def begin(self) -> None:
        """Count the time of a request from now on."""
        self.add(0)
        self.idle, self.idle_since = self.idle_seconds(), None

    def end(self) -> None:
        """Count no time of a download until its next request."""
        if self.etag and self.idle_since is None:
            self.idle_since = time.monotonic()

    def idle_seconds(self) -> float:
        """Return the seconds between requests."""
        return self.idle + (0.0 if self.idle_since is None else time.monotonic() - self.idle_since)

    def busy_seconds(self) -> float:
        """Return the seconds of requests."""
        return time.monotonic() - self.start - self.idle_seconds()

    def seconds_left(self, patience: float) -> float:
        """Return the seconds until the call takes too long."""
        return min(patience + self.received / SPEED - self.busy_seconds(), LOCK_PATIENCE - self.idle_seconds())


_METER: ContextVar[Meter | None] = ContextVar("_METER", default=None)
# The steps of pushes that run now.
_PUSHES: list[object] = []


@contextmanager
def pushing() -> Iterator[None]:
    """Limit the size of answers in the client's own threads too, which upload the files of a push."""
    step = object()
    _PUSHES.append(step)
    try:
        yield
    finally:
        _PUSHES.remove(step)


def with_timeout(name: str, call: Callable[[], T], *, patience: float | None = None, meter: Meter | None = None) -> T:
    """Return the result of a call that makes requests; see :func:`run_concurrently`."""
    return run_concurrently(name, [call], [meter or Meter()], patience=patience)[0]


def run_concurrently(
    name: str, calls: Sequence[Callable[[], T]], meters: Sequence[Meter], *, patience: float | None = None
) -> list[T]:
    """Return the results of calls that make requests, each in a thread of its own and within the limits of its meter.

    A thread that takes too long is abandoned, as nothing else ends a request whose headers arrive a byte at a time.
    The first error is raised after all calls have ended.

    Raises
    ------
    Unreachable
        When the requests of a call take longer than ``patience`` seconds and a second for each ``SPEED`` bytes.
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
        # After Ctrl-C too, downloads have time to check and delete their files.
        wait([future for future, meter in running.items() if meter.etag], GRACE)
    return [future.result() for future in futures]


def _delay(name: str, meter: Meter) -> str:
    """Return why a call took too long, and what to do."""
    if meter.idle_seconds() >= LOCK_PATIENCE:
        seconds = f"{meter.idle_seconds():.0f} s"
        return f"Another process has been downloading {name} for {seconds}. End that process, or try again later."
    speed = f"{meter.received} bytes in {meter.busy_seconds():.0f} s"
    return f"The Hub is too slow: {speed} of {name}. Check the connection, or try again later."


def _start(call: Callable[[], T], meter: Meter) -> Future[T]:
    """Start a call in a daemon thread whose requests keep the limits of a meter."""
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
    """Return an answer of the Hub, which is JSON of a known type; ``patience`` is that of :func:`run_concurrently`."""
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
    """Return the session of huggingface_hub, with our hooks.

    The hooks are part of the client's factory, as the client replaces its session after a failed connection. Xet is
    turned off, as Xet transfers files outside of this session. Every such file can be had over HTTP too.
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
    """Return the meter of this thread; the client's own threads have a meter during a push.

    The client's threads do not send GET. So downloads of other libraries in other threads keep their own limits.
    """
    if (meter := _METER.get()) is None and _PUSHES and request.method != "GET":
        return Meter()
    return meter


def _prepare_request(request: Any) -> None:
    """Ask for an answer that is not compressed, as a compressed one could unpack to any size."""
    if meter := _meter(request):
        meter.begin()
        request.headers["Accept-Encoding"] = "identity"


def _check_response(response: Any) -> None:
    """Refuse an answer that breaks the limits of the thread's meter; its body is checked as it arrives."""
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

    # The stream classes of httpx and httpx2 differ; the client has either.
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
