"""The service as an ASGI application: endpoints, admission of requests, and answers to errors."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from spikgpt.errors import SpikGPTError, with_noun
from spikgpt.service.messages import LabelJob
from spikgpt.service.metrics import ServiceMetrics
from spikgpt.service.pool import STOPPING, WorkerPool
from spikgpt.service.refusals import INTERNAL, Kind, Refusal
from spikgpt.service.requests import MEDIA_TYPES, media_type, read_parameters
from spikgpt.service.settings import ServeOptions
from spikgpt.service.uploads import Message, Receive, Scope, Send, drop_body, noting_end, receive_upload
from spikgpt.version import __version__

ANNOTATE, REFERENCES, HEALTH, METRICS = "/v1/annotate", "/v1/references", "/health", "/metrics"
KINDS = {404: Kind.NOT_FOUND, 405: Kind.METHOD_NOT_ALLOWED}
PAGE = """SpikGPT {version}: cell types for single-cell RNA-seq.

POST {annotate}?model=NAME   an .h5ad file, or a table of counts (cells x genes) as JSON or Parquet
GET  {references}           references with their digests and labels
GET  {health}                  200 once the references are loaded
GET  {metrics}                 metrics for Prometheus

References: {names}.
Answers: {media}, by the Accept header. Options of spikgpt annotate are query parameters.
Example: curl --data-binary @QUERY.h5ad '{address}{annotate}?model={first}'
Limits: {bytes} bytes and {cells} cells a request, {seconds:g} s. No upload is kept.
"""


class Service:
    """Endpoints of the service, and the number of requests that it has admitted.

    Parameters
    ----------
    pool
        Worker processes, already started.
    folder
        Folder for the uploads.
    """

    def __init__(self, pool: WorkerPool, settings: ServeOptions, folder: Path) -> None:
        self.stopping = False
        self.admitted = 0
        self._pool, self._settings, self._folder = pool, settings, folder
        self._metrics = ServiceMetrics()
        self._idle = asyncio.Event()
        self._idle.set()

    def app(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Return the ASGI application."""
        routes = [
            Route("/", self._page),
            Route(ANNOTATE, _Endpoint(self._annotate), methods=["POST"]),
            Route(REFERENCES, self._references),
            Route(HEALTH, self._health),
            Route(METRICS, self._text_of_metrics),
        ]
        handlers: dict[Any, Any] = {
            SpikGPTError: self._refused,
            HTTPException: self._refused,
            ClientDisconnect: self._client_closed,
            Exception: self._failed,
        }
        self._paths = {route.path for route in routes}
        return _Counted(Starlette(routes=routes, exception_handlers=handlers), self._count)

    async def drained(self, seconds: float) -> None:
        """Refuse new requests, and wait until all admitted requests are answered, but at most ``seconds``."""
        self.stopping = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            self._pool.refuse_all()

    async def _annotate(self, request: Request, send: Send) -> None:
        """Label an upload, and send the labels."""
        started = time.monotonic()
        try:
            with self._admission():
                media = media_type(request.headers.get("accept", ""))
                model, options = read_parameters(request.query_params.multi_items())
                name = self._reference(model)
                # The folder is removed in every case, together with the upload and the answer.
                with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
                    await receive_upload(request, Path(folder), self._settings.max_bytes, self._settings.timeout)
                    job = LabelJob(folder=folder, model=name, options=options, media=media)
                    done = await self._pool.submit(job, self._settings.timeout, request.is_disconnected)
                    self._metrics.cells.labels(name).inc(done.cells)
                    answer = FileResponse(Path(folder) / done.file, media_type=media, headers=done.headers)
                    with suppress(OSError):  # the client closed the connection
                        # Send the whole file, also to a client that asks for a range.
                        await answer(dict(request.scope) | {"headers": []}, request.receive, send)
        finally:
            self._metrics.seconds.observe(time.monotonic() - started)

    @contextmanager
    def _admission(self) -> Iterator[None]:
        """Count a request while it is handled; refuse the request if the service is full or is stopping."""
        if self.stopping:
            raise Refusal(Kind.STOPPING, STOPPING, retry_after=5)
        if self.admitted >= (most := self._settings.workers + self._settings.queue):
            msg = f"The service has {with_noun(most, 'request')} already. Send this one again later."
            raise Refusal(Kind.BUSY, msg, retry_after=2)
        self.admitted += 1
        self._metrics.in_flight.inc()
        self._idle.clear()
        try:
            yield
        finally:
            self.admitted -= 1
            self._metrics.in_flight.dec()
            if not self.admitted:
                self._idle.set()

    def _reference(self, name: str | None) -> str:
        """Return the name of a served reference; None stands for the only served reference."""
        names = [reference.name for reference in self._pool.references]
        if name in names:
            return name
        if name is None and len(names) == 1:
            return names[0]
        problem = "No reference is named" if name is None else f"There is no reference {name!r} here"
        msg = f"{problem}; pass model=NAME, with one of {', '.join(names)}."
        raise Refusal(Kind.CONFIG_ERROR if name is None else Kind.REFERENCE_NOT_FOUND, msg)

    async def _page(self, request: Request) -> Response:
        names = [reference.name for reference in self._pool.references]
        page = PAGE.format(
            version=__version__,
            annotate=ANNOTATE,
            references=REFERENCES,
            health=HEALTH,
            metrics=METRICS,
            names=", ".join(names),
            first=names[0],
            media=", ".join(MEDIA_TYPES),
            address=str(request.base_url).rstrip("/"),
            bytes=self._settings.max_bytes,
            cells=self._settings.max_cells,
            seconds=self._settings.timeout,
        )
        return PlainTextResponse(page)

    async def _references(self, _: Request) -> Response:
        listed = [
            {
                "name": reference.name,
                "digest": reference.digest,
                "origin": reference.origin,
                "engine": reference.engine,
                "labels": [
                    {"name": label, "cell_ontology_id": term}
                    for label, term in zip(reference.labels, reference.cell_ontology_ids, strict=True)
                ],
            }
            for reference in self._pool.references
        ]
        return JSONResponse({"references": listed})

    async def _health(self, _: Request) -> Response:
        state = "stopping" if self.stopping else "ready" if self._pool.is_loaded else "loading"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    async def _text_of_metrics(self, _: Request) -> Response:
        pool = self._pool
        text = self._metrics.text(pids=pool.pids, waiting=pool.waiting, replaced=pool.replaced)
        return Response(text, media_type=self._metrics.content_type)

    async def _refused(self, request: Request, error: Exception) -> Response:
        """Answer an error of this library or of HTTP with its status and a message."""
        if isinstance(error, HTTPException):
            refusal = Refusal(KINDS.get(error.status_code, Kind.BAD_REQUEST), error.detail)
        else:
            assert isinstance(error, SpikGPTError)
            refusal = Refusal.from_error(error)
        await drop_body(request)
        self._metrics.errors.labels(refusal.kind).inc()
        return JSONResponse(refusal.body(), refusal.status, refusal.headers)

    async def _failed(self, _: Request, __: Exception) -> Response:
        """Answer an unexpected error of the service; the log of the server has the details."""
        refusal = Refusal(Kind.INTERNAL_ERROR, INTERNAL)
        self._metrics.errors.labels(refusal.kind).inc()
        return JSONResponse(refusal.body(), refusal.status)

    async def _client_closed(self, _: Request, __: Exception) -> Response:
        """Return an answer that nobody reads, because the client closed the connection."""
        return Response(status_code=400)

    def _count(self, path: str, status: int) -> None:
        """Count an answer by path and status; all paths that do not exist are counted together, as ``other``."""
        self._metrics.requests.labels(path if path in self._paths else "other", str(status)).inc()


class _Endpoint:
    """ASGI endpoint that calls a method, which handles the request and sends the answer itself."""

    def __init__(self, method: Callable[[Request, Send], Awaitable[None]]) -> None:
        self._method = method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._method(Request(scope, receive), send)


class _Counted:
    """ASGI application that calls ``count`` with the path and the status of each answer."""

    def __init__(self, app: Any, count: Callable[[str, int], None]) -> None:
        self._app, self._count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope["path"], message["status"])
            await send(message)

        await self._app(scope, noting_end(scope, receive), counted)
