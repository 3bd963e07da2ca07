"""The web server in front of Gradio: access, uploads, results and headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from spikgpt.app import web as module
from spikgpt.app.messages import REPORT, RESULTS, SUMMARY, TABLE
from spikgpt.app.sessions import Sessions
from spikgpt.app.settings import AppOptions
from spikgpt.app.web import Web
from tests.app.test_messages import summary

KEY = "the-key"
HERE = {"host": "127.0.0.1:7860"}


async def gradio(scope: Any, receive: Any, send: Any) -> None:
    """Stand in for Gradio: answer every request with its path."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Gradio: " + scope["path"].encode()})


def run_check(
    folder: Path, check: Callable[[httpx.AsyncClient, Sessions, Web], Awaitable[None]], **settings: Any
) -> None:
    """Run ``check`` with an HTTP client of the web server; for a local page, the client has the access key."""

    async def run() -> None:
        options = AppOptions(max_mb=1, concurrent=1, queue=1, **settings)
        sessions = Sessions(folder, options.most_runs)
        web = Web(gradio, sessions, options, KEY if options.is_local else None)
        transport = httpx.ASGITransport(app=web)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            if options.is_local:
                assert (await client.get(f"/?key={KEY}")).status_code == 303
            await check(client, sessions, web)

    asyncio.run(run())


def test_only_the_key_opens_a_local_page(tmp_path: Path) -> None:
    async def check(client: httpx.AsyncClient, sessions: Sessions, web: Web) -> None:
        assert (await client.get("/")).text == "Gradio: /"
        client.cookies.clear()
        for path in ("/", "/?key=other", "/?key=%C3%A9", "/config", "/results/a/labels.csv"):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (403, module.CLOSED)
        assert (await client.post("/upload")).status_code == 403
        answer = await client.get(f"/?key={KEY}")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert KEY not in answer.headers["location"]
        # Requests of another website are refused: with a foreign host name (DNS rebinding), or from another origin.
        assert (await client.get("/", headers={"host": "evil.example:7860"})).status_code == 403
        assert (await client.get("/", headers={"host": ""})).status_code == 403
        assert (await client.get("/", headers={"origin": "http://evil.example"})).status_code == 403
        assert (await client.get("/", headers={"origin": "null"})).status_code == 403
        for host in ("localhost:7860", "[::1]:7860", "127.0.0.1"):
            assert (await client.get("/", headers={"host": host, "origin": f"http://{host}"})).status_code == 200

    run_check(tmp_path, check)


def test_a_public_page_needs_no_key(tmp_path: Path) -> None:
    async def check(client: httpx.AsyncClient, sessions: Sessions, web: Web) -> None:
        answer = await client.get("/", headers={"host": "cells.example.org", "origin": "https://other.example.org"})
        assert answer.status_code == 200
        assert "frame-ancestors" not in answer.headers["content-security-policy"]

    run_check(tmp_path, check, host="0.0.0.0")


def test_only_what_the_page_needs_reaches_gradio(tmp_path: Path) -> None:
    async def check(client: httpx.AsyncClient, sessions: Sessions, web: Web) -> None:
        for path in ("/config", "/assets/a/b.js", "/theme.css", "/gradio_api/queue/join", "/gradio_api/queue/data"):
            assert (await client.get(path)).text == f"Gradio: {path}"
        for content, status in ((b"{}", 200), (bytes(module.LONGEST_CALL + 1), 413)):
            assert (await client.post("/gradio_api/queue/join", content=content)).status_code == status

        async def endless() -> AsyncIterator[bytes]:
            yield b"{}"

        assert (await client.post("/gradio_api/queue/join", content=endless())).status_code == 413
        for path in ("upload", "file=/etc/passwd", "proxy=http://a.example", "vibe-code", "stream/1", "run/predict"):
            assert (await client.get(f"/gradio_api/{path}")).status_code == 404
        for path in ("/monitoring", "/login", "/file/x", "/results/../../etc/passwd", "/results/a/summary.json"):
            assert (await client.get(path)).status_code == 404

    run_check(tmp_path, check)


def test_the_policy_lets_the_browser_contact_no_other_server(tmp_path: Path) -> None:
    async def check(client: httpx.AsyncClient, sessions: Sessions, web: Web) -> None:
        headers = (await client.get("/")).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "frame-ancestors 'self'" in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")

    run_check(tmp_path, check)


def test_uploads_are_received_limited_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(client: httpx.AsyncClient, sessions: Sessions, web: Web) -> None:
        session = await sessions.session_of("one")
        address = {"session": session.token, "name": "../cells.h5ad"}
        answer = await client.post("/upload", params=address, content=b"cells")
        assert (answer.status_code, answer.json()) == (200, {"size": 5})
        assert session.upload is not None
        assert (session.upload.name, session.upload.read_bytes()) == ("cells.h5ad", b"cells")
        for params, content, method, kind in (
            (address | {"session": "other"}, b"cells", "POST", "NotFound"),
            ({}, b"cells", "POST", "NotFound"),
            (address, b"", "POST", "BadRequest"),
            (address, bytes(1024 * 1024 + 1), "POST", "TooManyBytes"),
            (address, b"cells", "GET", "MethodNotAllowed"),
        ):
            refused = await client.request(method, "/upload", params=params, content=content)
            assert refused.status_code >= 400
            assert refused.json()["kind"] == kind
        assert session.upload.read_bytes() == b"cells"
        assert (await client.delete("/upload", params=address)).status_code == 200
        assert session.upload is None
        # With one running and one queued run allowed, at most two sessions may hold an upload.
        other_sessions = [await sessions.session_of(key) for key in ("two", "three", "four")]
        sent = [
            await client.post("/upload", params={"session": other.token}, content=b"cells") for other in other_sessions
        ]
        assert [response.status_code for response in sent] == [200, 200, 503]

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "receive_upload", full)
        failed = await client.post("/upload", params={"session": other_sessions[0].token}, content=b"cells")
        assert failed.status_code == 500
        assert "The disk is full" in failed.json()["error"]

    run_check(tmp_path, check)


def test_results_are_files_of_their_session(tmp_path: Path) -> None:
    async def check(client: httpx.AsyncClient, sessions: Sessions, web: Web) -> None:
        session = await sessions.session_of("one")
        folder = session.new_folder()
        (folder / RESULTS).mkdir()
        (folder / RESULTS / TABLE).write_text("cell,spikgpt_label")
        (folder / RESULTS / REPORT).write_text("<p>report</p>")
        (folder / "labels.csv").write_text("another file")
        (folder / RESULTS / SUMMARY).write_bytes(msgspec.json.encode(summary("alpha", query="kang \u00e9.h5ad")))
        address = session.keep_results(folder)
        table = await client.get(f"/results/{address}/{TABLE}")
        assert table.text == "cell,spikgpt_label"
        name = "attachment; filename*=utf-8''kang%20%C3%A9-labels.csv"
        assert table.headers["content-disposition"] == name
        assert table.headers["cache-control"] == "no-store"
        report = await client.get(f"/results/{address}/{REPORT}")
        policy = report.headers["content-security-policy"]
        assert policy.startswith("sandbox allow-scripts allow-downloads; default-src 'none'")
        assert "'self'" not in policy
        assert "unsafe-eval" not in policy
        assert "connect-src" not in policy
        assert "content-disposition" not in report.headers
        download = await client.get(f"/results/{address}/{REPORT}?download=1")
        assert download.headers["content-disposition"].startswith("attachment")
        assert (await client.get(f"/results/{address}/labelled.h5ad")).status_code == 404
        await sessions.close("one")
        gone = await client.get(f"/results/{address}/{TABLE}")
        assert (gone.status_code, "Label the cells again" in gone.text) == (404, True)

    run_check(tmp_path, check)


def test_a_session_ends_after_its_last_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)

    async def check(client: httpx.AsyncClient, sessions: Sessions, web: Web) -> None:
        await sessions.session_of("one")
        assert (await client.get("/gradio_api/heartbeat/one")).text == "Gradio: /gradio_api/heartbeat/one"
        # The page reconnects before the session ends.
        sessions.connect("one")
        await asyncio.sleep(0.3)
        assert len(sessions) == 1
        sessions.disconnect("one")
        await client.get("/gradio_api/heartbeat/one")
        await asyncio.sleep(0.3)
        assert len(sessions) == 0

    run_check(tmp_path, check)
