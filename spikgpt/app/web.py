"""The page's web server in front of Gradio: access, uploads, results, and security headers.

Only the addresses that the page needs reach Gradio. Uploads and results do not pass through Gradio, which would keep
copies of both beside those in the folder of the session.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from spikgpt.app.messages import CELLS, REPORT, RESULTS, TABLE, Summary
from spikgpt.app.sessions import Sessions
from spikgpt.app.settings import AppOptions
from spikgpt.errors import fault, printable
from spikgpt.service.messages import UPLOAD
from spikgpt.service.refusals import Kind, Refusal
from spikgpt.service.uploads import Message, Receive, Scope, Send, drop_body, noting_end, receive_upload

# Paths of Gradio's page, and of the requests that the page sends.
GRADIO = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.*"
    r"|gradio_api/(info|startup-events|theme\.css|queue/(join|data)))/?"
)
FILES = "|".join(map(re.escape, (CELLS, TABLE, REPORT)))
RESULT = re.compile(rf"/results/(?P<address>[\w-]+)/(?P<file>{FILES})")
MEDIA = {CELLS: "application/x-hdf5", TABLE: "text/csv; charset=utf-8", REPORT: "text/html; charset=utf-8"}
# Content security policy of the page: the browser contacts no other server. Gradio compiles its templates at run time,
# which needs unsafe-eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; frame-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
# Content security policy of the report, which has a web origin of its own and contacts no server.
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:"
)
# Path of the connection that an open page keeps. The session ends GRACE seconds after this connection, because the page
# may connect again.
HEARTBEAT = re.compile(r"/gradio_api/heartbeat/(\w+)")
GRACE = 2.0
# Largest request in bytes that the page sends to Gradio: the texts of its fields.
LONGEST_CALL = 64 * 1024
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
CLOSED = "Open the whole address that spikgpt app printed when it started, with its key."


class Web:
    """ASGI application of the page, which answers some requests itself and lets Gradio answer the other requests.

    Parameters
    ----------
    gradio
        ASGI application of Gradio.
    key
        Secret in the address of a local page, which other users of the machine do not know; None for a public page.
    """

    def __init__(self, gradio: Any, sessions: Sessions, settings: AppOptions, key: str | None) -> None:
        self._gradio, self._sessions, self._settings, self._key = gradio, sessions, settings, key
        self._cookie = f"spikgpt-{secrets.token_hex(4)}"
        # Tasks that end the sessions of pages which have disconnected.
        self._ending = set[asyncio.Task[None]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._gradio(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, noting_end(scope, receive), send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, path = Request(scope, receive), scope["path"]
        answer: Response
        if (refused := self._refused(request)) is not None:
            answer = refused
        elif match := RESULT.fullmatch(path):
            answer = self._result(match["address"], match["file"], "download" in request.query_params)
        elif path == "/upload":
            answer = await self._upload(request)
        elif match := HEARTBEAT.fullmatch(path):
            await self._keep(match[1], scope, receive, send)
            return
        elif GRADIO.fullmatch(path) and request.method == "POST" and not _is_short(request):
            answer = PlainTextResponse(f"The request is too long; expected at most {LONGEST_CALL} bytes.", 413)
        elif GRADIO.fullmatch(path):
            await self._gradio(scope, receive, self._with_headers(send))
            return
        else:
            answer = PlainTextResponse("There is no such page.", 404)
        await answer(scope, receive, self._with_headers(send))

    async def _keep(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio serve the connection that an open page keeps, and end the session after this connection.

        Gradio's own event for the end of a connection is lost if the page is closed while Gradio writes.
        """
        self._sessions.connect(key)
        try:
            await self._gradio(scope, receive, self._with_headers(send))
        finally:
            self._sessions.disconnect(key)
            ending = asyncio.get_running_loop().create_task(self._end(key))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, key: str) -> None:
        """End a session, unless its page has connected again."""
        await asyncio.sleep(GRACE)
        if not self._sessions.is_connected(key):
            await self._sessions.close(key)

    def _refused(self, request: Request) -> Response | None:
        """Return the answer to a forbidden request, or to a request with the key; None for other requests."""
        if self._key is None:
            return None
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        # The host name of another site may resolve to this machine (DNS rebinding). A page of that site could then read
        # this page.
        if re.sub(r":\d+$", "", host) not in (*LOCAL_HOSTS, self._settings.host):
            return PlainTextResponse("This page answers only on this machine.", 403)
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("This page answers only its own requests.", 403)
        given = request.query_params.get("key")
        if given is not None and secrets.compare_digest(given.encode(), self._key.encode()):
            answer = RedirectResponse("./", 303)
            answer.set_cookie(self._cookie, self._key, httponly=True, samesite="strict")
            return answer
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            cookie = None
        if cookie is None or not secrets.compare_digest(cookie.value.encode(), self._key.encode()):
            return PlainTextResponse(CLOSED, 403)
        return None

    def _result(self, address: str, file: str, as_download: bool) -> Response:
        """Return the answer with a file of the results that have a secret address."""
        folder = self._sessions.results(address)
        if folder is None or not (path := folder / RESULTS / file).is_file():
            return PlainTextResponse("These results are no longer kept. Label the cells again.", 404)
        headers = {"Cache-Control": "no-store"}
        if file == REPORT and not as_download:
            headers["Content-Security-Policy"] = REPORT_POLICY
            return FileResponse(path, media_type=MEDIA[file], headers=headers)
        name = Summary.read(folder).saved_as(file)
        return FileResponse(path, media_type=MEDIA[file], headers=headers, filename=name)

    async def _upload(self, request: Request) -> Response:
        """Receive the upload of a session or, for the method DELETE, remove the upload."""
        try:
            if request.method not in ("POST", "DELETE"):
                msg = f"The method is {request.method[:20]!r}; expected POST."
                raise Refusal(Kind.METHOD_NOT_ALLOWED, msg)
            session = self._sessions.by_token(request.query_params.get("session", ""))
            if request.method == "DELETE":
                session.forget_upload()
                return JSONResponse({})
            await self._sessions.check_room(session)

            async def write(folder: Path) -> Path:
                await receive_upload(request, folder, self._settings.max_bytes, self._settings.timeout)
                return folder / UPLOAD

            await session.receive(request.query_params.get("name", ""), write)
            return JSONResponse({"size": session.upload.stat().st_size if session.upload else 0})
        except Refusal as refusal:
            await drop_body(request)
            return JSONResponse(refusal.body(), refusal.status, refusal.headers)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            text = (
                f"The upload could not be written: {error.strerror or error}. {fault(error) or 'Load the page again.'}"
            )
            return JSONResponse({"error": printable(text)}, 500)

    def _with_headers(self, send: Send) -> Send:
        """Return a sender that adds the security headers to each answer."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault(
                    "Content-Security-Policy", POLICY + ("; frame-ancestors 'self'" if self._settings.is_local else "")
                )
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        return sent


def _is_short(request: Request) -> bool:
    """Return True if a request states a body size within the limit; the server reads no more than the stated size."""
    declared = request.headers.get("content-length", "")
    return declared.isdecimal() and int(declared) <= LONGEST_CALL
