"""HTTP server of the loopback Hub: the part of the Hub's protocol that huggingface_hub uses to share models.

The server has repositories, branches, tags, pull requests, atomic commits with a parent, large files through LFS and a
redirect to another host name, private repositories and tokens. Tests can add faults.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from spikgpt.reference.card import read_metadata
from spikgpt.reference.hub_cache import git_oid
from tests.hub_server.answers import HubAnswer
from tests.hub_server.metadata import errors_of, warnings_of
from tests.hub_server.store import ATTRIBUTES, MAIN, Commit, Repository, Store, is_large, sha256

# HTTP statuses of the faults that replace the answer.
ERRORS = {"error": HTTPStatus.INTERNAL_SERVER_ERROR, "rate limit": HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True)
class Fault:
    """A fault of the next ``times`` requests that match.

    ``request`` is a regular expression for method and path, such as ``GET .*safetensors``. ``kind`` is one of:
    ``damage``, a body of the right size with other bytes; ``cut``, half a body and a closed connection; ``error``,
    status 500; ``rate limit``, status 429 with ``Retry-After: 1``; ``race``, another commit comes first; ``slow``, an
    answer after ``seconds``.
    """

    kind: Literal["damage", "cut", "error", "rate limit", "race", "slow"]
    request: str
    times: int = 1
    seconds: float = 5.0


@dataclass(frozen=True)
class Request:
    """A request of a client; ``host`` is the host name in its address."""

    method: str
    path: str
    host: str
    authorization: str | None


class LoopbackHub(Store):
    """Server of a small Hub on this machine, for use as a context manager.

    ``tokens`` are users by token. Without tokens anyone may read and write everything. With tokens, writing and reading
    a private repository need the token of the namespace's owner. Repositories are saved in ``folder`` and loaded at the
    next start. Port 0 chooses a free port.
    """

    def __init__(
        self, *, tokens: Mapping[str, str] | None = None, folder: str | Path | None = None, port: int = 0
    ) -> None:
        super().__init__(Path(folder) if folder else None)
        self.tokens = dict(tokens or {})
        self.requests: list[Request] = []
        self.faults: tuple[Fault, ...] = ()
        # Function that changes the answer to a request, such as "GET /api/models/org/name".
        self.forge: Callable[[str, HubAnswer], HubAnswer] = lambda request, answer: answer
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_HubHandler,), {"hub": self}))

    @property
    def endpoint(self) -> str:
        """Address for the ``endpoint=`` or ``HF_ENDPOINT`` of clients."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def cdn(self) -> str:
        """Address of large files: the same server by another host name."""
        return f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, *faults: Fault) -> None:
        """Add faults to the end of the list of faults."""
        self.faults += faults

    def clear_faults(self) -> None:
        """Remove all faults."""
        self.faults = ()

    def fault(self, request: str) -> Fault | None:
        """Return the first fault that matches a request, and count the request."""
        with self.lock:
            for index, fault in enumerate(self.faults):
                if re.search(fault.request, request):
                    rest = (replace(fault, times=fault.times - 1),) if fault.times > 1 else ()
                    self.faults = (*self.faults[:index], *rest, *self.faults[index + 1 :])
                    return fault
        return None


class _Refused(Exception):
    """Exception that becomes an answer with an error status."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.headers["Retry-After"] = "1"


class _HubHandler(BaseHTTPRequestHandler):
    """Handler of one request. Every route is a line of ``ROUTES``; a route that returns None has sent its answer."""

    hub: LoopbackHub

    def do_GET(self) -> None:
        try:
            try:
                self._answer()
            except _Refused as refused:
                self._send_json({"error": str(refused)}, refused.status, refused.headers)
            # The answer is sent without the lock, because an altered answer can take long.
            answer = self.hub.forge(f"{self.command} {urlsplit(self.path).path}", self._ready)
            answer.send(self.wfile, head_only=self.command == "HEAD")  # type: ignore[arg-type]
        except (BrokenPipeError, ConnectionResetError):
            # The client has closed the connection.
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def _answer(self) -> None:
        split, path = urlsplit(self.path), unquote(urlsplit(self.path).path)
        self.query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization")
        host = (self.headers.get("Host") or "").split(":")[0]
        self.hub.requests.append(Request(self.command, path, host, authorization))
        fault = self.hub.fault(f"{self.command} {path}")
        self._fault = fault and fault.kind
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
        if self._fault in ERRORS:
            raise _Refused(ERRORS[self._fault], f"The server failed: {self._fault}")
        self.user = self._authorised(authorization)
        for methods, pattern, action in ROUTES:
            if self.command in methods and (match := re.fullmatch(pattern, path)):
                with self.hub.lock:
                    answer = action(self, *match.groups())
                if answer is not None:
                    self._send_json(answer)
                return
        raise _Refused(HTTPStatus.NOT_FOUND, f"No such page: {self.command} {path}", code="EntryNotFound")

    def _send_json(self, answer: Any, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        headers = {"Content-Length": str(len(body)), **headers}
        self._ready = HubAnswer(status, headers, body[: len(body) // 2] if self._fault == "cut" else body)

    def _authorised(self, authorization: str | None) -> str | None:
        """Return the user of a token; an unknown token is refused, as on the real Hub."""
        if authorization is None or not self.hub.tokens:
            return None
        if (user := self.hub.tokens.get(authorization.removeprefix("Bearer "))) is None:
            raise _Refused(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        return user

    def _owns(self, name: str) -> bool:
        return not self.hub.tokens or self.user == name.split("/")[0]

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._owns(name)):
            status = HTTPStatus.NOT_FOUND if self.user or not self.hub.tokens else HTTPStatus.UNAUTHORIZED
            raise _Refused(status, "Repository not found", code="RepoNotFound")
        if write:
            self._may_write(name)
        return repository

    def _may_write(self, name: str) -> None:
        if not self._owns(name):
            status = HTTPStatus.FORBIDDEN if self.user else HTTPStatus.UNAUTHORIZED
            raise _Refused(status, f"{self.user or 'Nobody'} has no right to write to {name}")

    def _commit(self, repository: Repository, revision: str) -> Commit:
        if (commit := repository.at(revision)) is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return commit

    def _json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"Bad JSON: {error}") from error

    def who(self) -> Any:
        if self.hub.tokens and not self.user:
            raise _Refused(HTTPStatus.UNAUTHORIZED, "Log in first")
        return {"type": "user", "name": self.user or "anyone", "orgs": [], "auth": {"type": "access_token"}}

    def create(self) -> Any:
        body = self._json()
        name = f"{body.get('organization') or self.user or 'anyone'}/{body['name']}"
        self._may_write(name)
        url = f"{self.hub.endpoint}/{name}"
        if name in self.hub.repositories:
            return self._send_json({"url": url, "error": "exists"}, HTTPStatus.CONFLICT)
        private = bool(body.get("private")) or body.get("visibility") == "private"
        repository = self.hub.repositories[name] = Repository(name, private)
        repository.commit(MAIN, {".gitattributes": ATTRIBUTES}, "initial commit", parent=None)
        self.hub.save()
        return {"url": url, "name": name, "id": name}

    def validate_yaml(self) -> Any:
        values = read_metadata(self._json().get("content", ""))
        errors = ["The metadata is no YAML mapping between two lines of ---"] if values is None else errors_of(values)
        answer = {
            "errors": [{"message": error} for error in errors],
            "warnings": [{"message": warning} for warning in warnings_of(values or {})],
        }
        return self._send_json(answer, HTTPStatus.BAD_REQUEST) if errors else answer

    def models(self) -> Any:
        shown = [r for r in self.hub.repositories.values() if not r.private or self._owns(r.name)]
        rows = [self._row(r, MAIN) for r in shown if self.query.get("author") in (None, r.name.split("/")[0])]
        return [row for row in rows if self.query.get("filter") in (None, *row["tags"])]

    def model(self, name: str, revision: str | None) -> Any:
        return self._row(self._repository(name), revision or MAIN)

    def _row(self, repository: Repository, revision: str) -> dict[str, Any]:
        commit = self._commit(repository, revision)
        files = [{"rfilename": row.pop("path"), "blobId": row.pop("oid"), **row} for row in commit.listing()]
        row = {"id": repository.name, "sha": commit.sha, "private": repository.private}
        return row | {"tags": commit.tags(), "siblings": files}

    def tree(self, name: str, revision: str) -> Any:
        return self._commit(self._repository(name), revision).listing()

    def refs(self, name: str) -> Any:
        return self._repository(name).grouped_refs()

    def branch(self, name: str, branch: str) -> Any:
        return self._name(self._repository(name, write=True), branch, self._json().get("startingPoint") or MAIN)

    def tag(self, name: str, revision: str) -> Any:
        repository, tag = self._repository(name, write=True), self._json()["tag"]
        return self._name(repository, tag, revision, tag=True)

    def _name(self, repository: Repository, ref: str, revision: str, *, tag: bool = False) -> Any:
        if ref in repository.refs:
            raise _Refused(HTTPStatus.CONFLICT, f"{ref} exists")
        repository.refs[ref] = self._commit(repository, revision).sha
        if tag:
            repository.tags.add(ref)
        self.hub.save()
        return {}

    def preupload(self, name: str, revision: str) -> Any:
        listing = {row["path"]: row for row in self._commit(self._repository(name, write=True), revision).listing()}
        rows = []
        for file in self._json()["files"]:
            path, large = file["path"], is_large(file["path"], file["size"])
            row = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if path in listing:
                row["oid"] = listing[path].get("lfs", listing[path])["oid"] if large else listing[path]["oid"]
            rows.append(row)
        return {"files": rows}

    def batch(self, name: str) -> Any:
        self._repository(name, write=True)
        rows = []
        for file in self._json()["objects"]:
            row: dict[str, Any] = {"oid": file["oid"], "size": file["size"]}
            if self.hub.content(file["oid"]) is None:
                upload, verify = f"{self.hub.cdn}/lfs/{file['oid']}", f"{self.hub.endpoint}/lfs/verify"
                row["actions"] = {"upload": {"href": upload, "header": {}}, "verify": {"href": verify, "header": {}}}
            rows.append(row)
        return {"transfer": "basic", "objects": rows}

    def upload(self, oid: str) -> Any:
        if sha256(self.body) != oid:
            raise _Refused(HTTPStatus.BAD_REQUEST, "The content does not have that sha256")
        self.hub.uploads[oid] = self.body
        return {}

    def verify(self) -> Any:
        file = self._json()
        if len(self.hub.uploads.get(file["oid"], b"")) != file["size"]:
            raise _Refused(HTTPStatus.NOT_FOUND, "No such upload")
        return {}

    def commit(self, name: str, revision: str) -> Any:
        repository = self._repository(name, write=True)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if self._fault == "race":
            head = self._commit(repository, revision)
            repository.commit(revision, {**head.files, "note.txt": b"first\n"}, "Another commit", parent=head.sha)
        parent = self._commit(repository, revision)
        if header.get("parentCommit") not in (None, parent.sha):
            message = f"A commit has happened since: expected {parent.sha}, got {header['parentCommit']}"
            raise _Refused(HTTPStatus.PRECONDITION_FAILED, message)
        files = dict(parent.files)
        for line in lines:
            self._apply(line["key"], line["value"], files)
        answer = {}
        if "create_pr" in self.query:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
            revision = f"refs/pr/{number}"
            answer = {"pullRequestUrl": f"{self.hub.endpoint}/{name}/discussions/{number}"}
        sha = repository.commit(revision, files, header["summary"], parent=parent.sha).sha
        self.hub.save()
        return answer | {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}"}

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, bytes]) -> None:
        """Apply one line of a commit to the files of its parent."""
        if key == "file":
            try:
                files[value["path"]] = base64.b64decode(value["content"], validate=True)
            except binascii.Error as error:
                raise _Refused(HTTPStatus.BAD_REQUEST, "Bad base64") from error
        elif key == "lfsFile":
            if (content := self.hub.content(value["oid"])) is None:
                raise _Refused(HTTPStatus.BAD_REQUEST, f"{value['path']} was not uploaded")
            files[value["path"]] = content
        elif key == "deletedFile" and files.pop(value["path"], None) is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "A file with this name doesn't exist", code="EntryNotFound")

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self._commit(self._repository(name), revision)
        if (content := commit.files.get(path)) is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"{path} does not exist", code="EntryNotFound")
        headers = {"X-Repo-Commit": commit.sha}
        if is_large(path, len(content)):
            oid = sha256(content)
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            self._send(HTTPStatus.FOUND, b"", headers | {"Location": f"{self.hub.cdn}/cdn/{oid}/{path}"})
        else:
            self._send_file(content, headers | {"ETag": f'"{git_oid(content)}"'})

    def cdn(self, oid: str) -> None:
        if (content := self.hub.content(oid)) is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "No such file")
        self._send_file(content, {"ETag": f'"{oid}"'})

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        """Send a file, or the part in the Range header."""
        if self._fault == "damage":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        status, length = HTTPStatus.OK, len(content)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), min(int(match[2] or length - 1), length - 1)
            status, content = HTTPStatus.PARTIAL_CONTENT, content[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{length}"
        self._send(status, content, headers | {"Accept-Ranges": "bytes"})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[tuple[str, ...], str, Callable[..., Any]]] = [
    (("GET",), r"/api/whoami-v2", _HubHandler.who),
    (("POST",), r"/api/repos/create", _HubHandler.create),
    (("POST",), r"/api/validate-yaml", _HubHandler.validate_yaml),
    (("GET",), r"/api/models", _HubHandler.models),
    (("GET",), rf"/api/models/{NAME}(?:/revision/(.+))?", _HubHandler.model),
    (("GET",), rf"/api/models/{NAME}/tree/([^/]+|refs/pr/\d+)", _HubHandler.tree),
    (("GET",), rf"/api/models/{NAME}/refs", _HubHandler.refs),
    (("POST",), rf"/api/models/{NAME}/branch/(.+)", _HubHandler.branch),
    (("POST",), rf"/api/models/{NAME}/tag/(.+)", _HubHandler.tag),
    (("POST",), rf"/api/models/{NAME}/preupload/(.+)", _HubHandler.preupload),
    (("POST",), rf"/{NAME}\.git/info/lfs/objects/batch", _HubHandler.batch),
    (("PUT",), r"/lfs/([0-9a-f]{64})", _HubHandler.upload),
    (("POST",), r"/lfs/verify", _HubHandler.verify),
    (("POST",), rf"/api/models/{NAME}/commit/(.+)", _HubHandler.commit),
    (("GET", "HEAD"), rf"/{NAME}/resolve/(refs/pr/\d+|[^/]+)/(.+)", _HubHandler.resolve),
    (("GET", "HEAD"), r"/cdn/([0-9a-f]{64})/.*", _HubHandler.cdn),
]
