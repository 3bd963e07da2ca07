"""A file server on this machine that can fail as real servers do."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class FileServer:
    """Server of ``files`` by path; records the path and Range header of each request in ``requests``.

    ``faults`` holds the faults of the next requests in order. A fault is one of:

    - a number: this HTTP status;
    - ``cut``: half of the requested bytes, then a closed connection;
    - ``short``: half of the requested bytes, with a matching Content-Length;
    - ``slow``: half of the requested bytes at once, the rest byte by byte;
    - ``whole``: the whole file, although a part was requested;
    - ``other``: a Content-Range that starts one byte too late;
    - ``page``: the Content-Type of a web page;
    - ``late``: the requested part of the present version, although If-Range names an earlier version;
    - ``unsized``: no Content-Length;
    - ``to URL``: a redirect to this URL.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str] = []
        self.requests: list[tuple[str, str]] = []
        self.version = '"1"'
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_FileHandler,), {"files": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FileServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _FileHandler(BaseHTTPRequestHandler):
    files: FileServer

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        server, requested_range = self.files, self.headers.get("Range", "")
        server.requests.append((self.path, requested_range))
        fault = server.faults.pop(0) if server.faults else ""
        content = server.files.get(self.path)
        if isinstance(fault, int) or content is None:
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        if str(fault).startswith("to "):
            self.send_response(302)
            self.send_header("Location", str(fault).removeprefix("to "))
            self.end_headers()
            return
        match = re.fullmatch(r"bytes=(\d+)-", requested_range)
        same_version = fault == "late" or self.headers.get("If-Range", server.version) == server.version
        start = int(match[1]) if match and same_version else 0
        start = 0 if fault == "whole" else start
        if start >= len(content) and start:
            self.send_error(416)
            return
        body = content[start:]
        stated_start = start + 1 if fault == "other" else start
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {stated_start}-{len(content) - 1}/{len(content)}")
        if fault != "unsized":
            self.send_header("Content-Length", str(len(body) // 2 if fault == "short" else len(body)))
        self.send_header("Content-Type", "text/html; charset=utf-8" if fault == "page" else "application/x-gzip")
        if server.version:
            self.send_header("Last-Modified" if server.version.startswith("Mon") else "ETag", server.version)
        self.end_headers()
        half = len(body) // 2
        with suppress(ConnectionError):  # the client has closed the connection
            self.wfile.write(body[:half] if fault in ("cut", "short", "slow") else body)
            for position in range(half, len(body) if fault == "slow" else half):
                self.wfile.write(body[position : position + 1])
                time.sleep(0.02)
