"""Downloads over real HTTP, from a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spikgpt.hub import parse
from spikgpt.scgpt.checkpoint import load_checkpoint

CHECKPOINT = Path(__file__).parent / "data" / "scgpt_baron"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "islets/scgpt-small"
# What the client reads at import has to be in the environment of its own process.
PROGRAM = """
import sys
from spikgpt.embedders import open_scgpt
from spikgpt.errors import SpikGPTError
for name in sys.argv[1:]:
    try:
        embedder = open_scgpt(name, cache=None)
    except SpikGPTError as error:
        print(type(error).__name__, error)
    else:
        print(embedder.source, embedder.revision, embedder.checkpoint.sha256)
"""


class Hub(BaseHTTPRequestHandler):
    """Serves one model repository, by the routes that the client asks for."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        type(self).asked.append(f"{self.command} {path}")
        files = {file.name: file.read_bytes() for file in CHECKPOINT.iterdir()} | {"large.bin": b"0" * 1000}
        if path in {f"/api/models/{REPO}/revision/{name}" for name in ("main", "v1", COMMIT)}:
            siblings = [{"rfilename": name} for name in files]
            self._send(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode(), body=body)
        elif path.startswith(f"/api/models/{REPO}/tree/"):
            rows = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
            self._send(200, json.dumps(rows).encode(), body=body)
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/") and (name := path.rsplit("/", 1)[1]) in files:
            etag = hashlib.sha256(files[name]).hexdigest()
            self._send(200, files[name], body=body, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})
        elif path.startswith(f"/api/models/{REPO}/"):
            self._send(404, b"{}", body=body, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            self._send(404, b"{}", body=body, headers={"X-Error-Code": "RepoNotFound"})

    def _send(self, code: int, content: bytes, *, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Hub.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(endpoint: str, home: Path, *names: str) -> list[str]:
    """Open checkpoints in a process of its own, and return the line that it prints for each."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout.splitlines()


def test_checkpoints_are_pulled_and_kept(endpoint: str, tmp_path: Path) -> None:
    expected = f"{REPO} {COMMIT} {load_checkpoint(CHECKPOINT).sha256}"

    pulled, kept, nobody, revision, folder = opened(
        endpoint, tmp_path, f"{REPO}@v1", f"{REPO}@{COMMIT}", "nobody/nothing", f"{REPO}@v9", "no-such-folder"
    )

    assert pulled == kept == expected
    assert nobody.startswith("ReferenceNotFound There is no repository nobody/nothing on the Hub, or it is private")
    assert revision.startswith(f"ReferenceNotFound {REPO}@v9 cannot be downloaded")
    assert folder.startswith("CheckpointError no-such-folder is no folder")
    # Three files, each once, and no others.
    bodies = [path for path in Hub.asked if path.startswith("GET ") and "/resolve/" in path]
    assert sorted(path.rsplit("/", 1)[1] for path in bodies) == ["args.json", "model.safetensors", "vocab.json"]

    kept, missing = opened("http://127.0.0.1:9", tmp_path, f"{REPO}@{COMMIT}", "islets/other")

    assert kept == expected
    assert missing.startswith("ReferenceNotFound islets/other is not in the local cache and the Hub cannot be reached.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/repo", ("org/repo", None)),
        ("org/repo@v1.2", ("org/repo", "v1.2")),
        ("repo", None),
        ("/tmp/a/b", None),
        ("a/b/c", None),
        ("org/repo@", None),
    ],
)
def test_names_of_repositories(name: str, expected: tuple[str, str | None] | None) -> None:
    assert parse(name) == expected
