"""A small Hugging Face Hub on this machine, to try push and pull without an account: ``python -m spikgpt.testing.hub``.

It speaks as much of the Hub's HTTP protocol as the huggingface_hub client uses to share models: repositories, branches,
tags, pull requests, atomic commits with a parent, large files through LFS and a redirect to another host name, private
repositories and tokens. Everything is kept in memory, or in a folder. Faults can be asked for, which is what tests do.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from spikgpt.reference.hub import git_oid

LFS_SUFFIXES = (".safetensors", ".onnx", ".bin", ".pt", ".pkl", ".h5")
LFS_SIZE = 10 * 1024 * 1024
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
MAIN = "main"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    ``kind`` is one of: ``damage``, a body of the right size with other bytes; ``cut``, half a body and a closed
    connection; ``error``, status 500; ``rate limit``, status 429 with ``Retry-After: 1``; ``race``, somebody else
    commits first; ``slow``, an answer after ``seconds``. It hits the next ``times`` requests whose method and path
    match ``request``, a regular expression such as ``GET .*safetensors``.
    """

    kind: Literal["damage", "cut", "error", "rate limit", "race", "slow"]
    request: str
    times: int = 1
    seconds: float = 5.0


@dataclass(frozen=True)
class Request:
    """What a client asked for; ``host`` is the name by which it reached the server."""

    method: str
    path: str
    host: str
    authorization: str | None


@dataclass(frozen=True)
class Commit:
    """Files of a repository by path, and what was there before."""

    sha: str
    files: Mapping[str, bytes]
    title: str
    parent: str | None


@dataclass
class Repository:
    """A model repository: refs (branches, tags and pull requests) and the commits that they name."""

    name: str
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, ref: str, files: Mapping[str, bytes], title: str, *, parent: str | None) -> Commit:
        """Put a commit on a ref."""
        digest = hashlib.sha1(f"{self.name} {parent} {title}".encode(), usedforsecurity=False)
        for path, content in sorted(files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
        commit = Commit(digest.hexdigest(), dict(files), title, parent)
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit

    def at(self, revision: str) -> Commit | None:
        """Return the commit of a branch, a tag, a pull request or a sha."""
        return self.commits.get(self.refs.get(revision, revision))


class LoopbackHub:
    """The server. Use it as a context manager.

    Parameters
    ----------
    tokens
        Users by token. Without tokens anyone may read and write everything; with them writing needs the token of the
        namespace's owner, and so does reading a private repository.
    folder
        Where to keep repositories, to find them again at the next start.
    port
        0 takes a free one.
    """

    def __init__(
        self, *, tokens: Mapping[str, str] | None = None, folder: str | Path | None = None, port: int = 0
    ) -> None:
        self.tokens = dict(tokens or {})
        self.folder = Path(folder) if folder else None
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        if self.folder:
            self._load(self.folder)

    @property
    def endpoint(self) -> str:
        """Address to give to clients as ``endpoint=`` or ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def cdn(self) -> str:
        """Address of large files: the same server by another name, so that clients take it for another host."""
        return f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, *faults: Fault) -> None:
        """Let something go wrong from now on."""
        with self._lock:
            self._faults.extend(faults)

    def forgive(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._faults.clear()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is still to go wrong."""
        return tuple(self._faults)

    def put(self, name: str, files: Mapping[str, bytes], *, private: bool = False, ref: str = MAIN) -> str:
        """Commit files without a client, whatever they are and are called; return the commit."""
        with self._lock:
            repository = self.repositories.setdefault(name, Repository(name, private))
            parent = repository.refs.get(ref)
            return repository.commit(ref, files, f"Commit {len(repository.commits)}", parent=parent).sha

    def fault(self, request: str) -> Fault | None:
        """Return the fault that hits a request, and count it."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if re.search(fault.request, request):
                    left = fault.times - 1
                    rest = [Fault(fault.kind, fault.request, left, fault.seconds)] if left else []
                    self._faults[index : index + 1] = rest
                    return fault
        return None

    def content(self, oid: str) -> bytes | None:
        """Return a large file by its sha256, from the uploads or from any commit."""
        if oid in self.uploads:
            return self.uploads[oid]
        for repository in self.repositories.values():
            for commit in repository.commits.values():
                for path, content in commit.files.items():
                    if is_large(path, content) and hashlib.sha256(content).hexdigest() == oid:
                        return content
        return None

    def keep(self) -> None:
        """Write every repository to the folder, where there is one."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = []
        for repository in self.repositories.values():
            commits = []
            for commit in repository.commits.values():
                files = {}
                for path, content in commit.files.items():
                    digest = hashlib.sha256(content).hexdigest()
                    files[path] = digest
                    if not (self.folder / digest).exists():
                        _write(self.folder / digest, content)
                commits.append({"sha": commit.sha, "files": files, "title": commit.title, "parent": commit.parent})
            state.append({**vars(repository), "tags": sorted(repository.tags), "commits": commits})
        _write(self.folder / "hub.json", json.dumps(state, indent=1).encode())

    def _load(self, folder: Path) -> None:
        if not (folder / "hub.json").is_file():
            return
        for row in json.loads((folder / "hub.json").read_text()):
            repository = Repository(row["name"], row["private"], row["refs"], set(row["tags"]))
            for commit in row["commits"]:
                files = {path: (folder / digest).read_bytes() for path, digest in commit["files"].items()}
                repository.commits[commit["sha"]] = Commit(commit["sha"], files, commit["title"], commit["parent"])
            self.repositories[repository.name] = repository


def is_large(path: str, content: bytes) -> bool:
    """Whether a file goes through LFS."""
    return path.endswith(LFS_SUFFIXES) or len(content) > LFS_SIZE


class _Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class _Handler(BaseHTTPRequestHandler):
    """Answers one request. Every route is a line of ``ROUTES``."""

    hub: LoopbackHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def _answer(self) -> None:
        split = urlsplit(self.path)
        path = unquote(split.path)
        self.query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization")
        host = (self.headers.get("Host") or "").split(":")[0]
        self.hub.requests.append(Request(self.command, path, host, authorization))
        self.failing = self.hub.fault(f"{self.command} {path}")
        try:
            if self.failing and self.failing.kind == "slow":
                time.sleep(self.failing.seconds)
            if self.failing and self.failing.kind == "error":
                raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "The server had an accident")
            if self.failing and self.failing.kind == "rate limit":
                raise _Refused(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests")
            self.user = self._authorised(authorization)
            for method, pattern, action in ROUTES:
                if self.command in method and (match := re.fullmatch(pattern, path)):
                    with self.hub._lock:
                        answer = action(self, *match.groups())
                    if answer is not None:
                        self._send(HTTPStatus.OK, json.dumps(answer).encode(), {"Content-Type": "application/json"})
                    return
            raise _Refused(HTTPStatus.NOT_FOUND, f"No such page: {self.command} {path}", code="EntryNotFound")
        except _Refused as refused:
            wait = {"Retry-After": "1"} if refused.status == HTTPStatus.TOO_MANY_REQUESTS else {}
            self._send(refused.status, json.dumps({"error": str(refused)}).encode(), refused.headers | wait)
        except (BrokenPipeError, ConnectionResetError):
            # The client has given up.
            self.close_connection = True

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.failing is not None and self.failing.kind == "cut"
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def _authorised(self, authorization: str | None) -> str | None:
        """Return the user that the token names; a token that names nobody is refused, as on the real Hub."""
        if authorization is None or not self.hub.tokens:
            return None
        user = self.hub.tokens.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise _Refused(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        return user

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(name)
        owner = not self.hub.tokens or self.user == name.split("/")[0]
        if repository is None or (repository.private and not owner):
            status = HTTPStatus.NOT_FOUND if self.user or not self.hub.tokens else HTTPStatus.UNAUTHORIZED
            raise _Refused(status, "Repository not found", code="RepoNotFound")
        if write:
            self._may_write(name)
        return repository

    def _may_write(self, name: str) -> None:
        if not self.hub.tokens:
            return
        if self.user is None:
            raise _Refused(HTTPStatus.UNAUTHORIZED, "Log in to write")
        if self.user != name.split("/")[0]:
            raise _Refused(HTTPStatus.FORBIDDEN, f"{self.user} has no right to write to {name}")

    def _commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.at(revision)
        if commit is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return commit

    def _json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"Bad JSON: {error}") from error

    def who(self) -> Any:
        if self.hub.tokens and self.user is None:
            raise _Refused(HTTPStatus.UNAUTHORIZED, "Log in first")
        return {"type": "user", "name": self.user or "anyone", "orgs": [], "auth": {"type": "access_token"}}

    def create(self) -> Any:
        asked = self._json()
        owner = asked.get("organization") or self.user or "anyone"
        name = f"{owner}/{asked['name']}"
        self._may_write(name)
        url = f"{self.hub.endpoint}/{name}"
        if name in self.hub.repositories:
            self._send(HTTPStatus.CONFLICT, json.dumps({"url": url, "error": "exists"}).encode(), {})
            return None
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repository = self.hub.repositories[name] = Repository(name, private)
        repository.commit(MAIN, {".gitattributes": ATTRIBUTES}, "initial commit", parent=None)
        self.hub.keep()
        return {"url": url, "name": name, "id": name}

    def validate_yaml(self) -> Any:
        parts = re.match(r"---\r?\n(.*?)\r?\n---", self._json().get("content", ""), re.DOTALL)
        try:
            valid = parts is not None and isinstance(yaml.safe_load(parts[1]), dict)
        except yaml.YAMLError:
            valid = False
        errors = [] if valid else [{"message": "The metadata is no YAML mapping between two lines of ---"}]
        answer = {"errors": errors, "warnings": []}
        if errors:
            self._send(HTTPStatus.BAD_REQUEST, json.dumps(answer).encode(), {})
            return None
        return answer

    def models(self) -> Any:
        def shown(repository: Repository) -> bool:
            owner = repository.name.split("/")[0]
            allowed = not repository.private or not self.hub.tokens or self.user == owner
            return allowed and self.query.get("author") in (None, owner)

        rows = [self._model(r, self._commit(r, MAIN)) for r in self.hub.repositories.values() if shown(r)]
        return [row for row in rows if self.query.get("filter") in (None, *row["tags"])]

    def model(self, name: str, revision: str | None) -> Any:
        repository = self._repository(name)
        return self._model(repository, self._commit(repository, revision or MAIN))

    def _model(self, repository: Repository, commit: Commit) -> dict[str, Any]:
        return {
            "id": repository.name,
            "modelId": repository.name,
            "sha": commit.sha,
            "private": repository.private,
            "tags": _tags(commit.files.get("README.md", b"")),
            "siblings": [
                {"rfilename": row.pop("path"), "blobId": row.pop("oid"), **row} for row in _tree(commit.files)
            ],
        }

    def tree(self, name: str, revision: str) -> Any:
        return _tree(self._commit(self._repository(name), revision).files)

    def refs(self, name: str) -> Any:
        repository = self._repository(name)
        rows: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for ref, sha in repository.refs.items():
            group = "tags" if ref in repository.tags else "pullRequests" if ref.startswith("refs/pr/") else "branches"
            full = {"tags": f"refs/tags/{ref}", "branches": f"refs/heads/{ref}"}.get(group, ref)
            rows[group].append({"name": ref, "ref": full, "targetCommit": sha})
        return rows

    def branch(self, name: str, branch: str) -> Any:
        repository = self._repository(name, write=True)
        if branch in repository.refs:
            raise _Refused(HTTPStatus.CONFLICT, f"{branch} exists")
        repository.refs[branch] = self._commit(repository, self._json().get("startingPoint") or MAIN).sha
        self.hub.keep()
        return {}

    def tag(self, name: str, revision: str) -> Any:
        repository = self._repository(name, write=True)
        tag = self._json()["tag"]
        if tag in repository.refs:
            raise _Refused(HTTPStatus.CONFLICT, f"{tag} exists")
        repository.refs[tag] = self._commit(repository, revision).sha
        repository.tags.add(tag)
        self.hub.keep()
        return {}

    def preupload(self, name: str, revision: str) -> Any:
        repository = self._repository(name, write=True)
        there = {row["path"]: row for row in _tree(self._commit(repository, revision).files)}
        rows = []
        for file in self._json()["files"]:
            path, size = file["path"], file["size"]
            large = path.endswith(LFS_SUFFIXES) or size > LFS_SIZE
            row = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if path in there:
                row["oid"] = there[path]["lfs"]["oid"] if large and "lfs" in there[path] else there[path]["oid"]
            rows.append(row)
        return {"files": rows}

    def batch(self, name: str) -> Any:
        self._repository(name, write=True)
        rows = []
        for asked in self._json()["objects"]:
            row: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if self.hub.content(asked["oid"]) is None:
                verify = {"href": f"{self.hub.endpoint}/lfs/verify", "header": {}}
                row["actions"] = {
                    "upload": {"href": f"{self.hub.cdn}/lfs/{asked['oid']}", "header": {}},
                    "verify": verify,
                }
            rows.append(row)
        return {"transfer": "basic", "objects": rows}

    def upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(HTTPStatus.BAD_REQUEST, "The content does not have that sha256")
        self.hub.uploads[oid] = self.body
        return {}

    def verify(self) -> Any:
        asked = self._json()
        content = self.hub.uploads.get(asked["oid"])
        if content is None or len(content) != asked["size"]:
            raise _Refused(HTTPStatus.NOT_FOUND, "No such upload")
        return {}

    def commit(self, name: str, revision: str) -> Any:
        repository = self._repository(name, write=True)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if self.failing and self.failing.kind == "race":
            there = self._commit(repository, revision)
            repository.commit(revision, {**there.files, "note.txt": b"first\n"}, "Somebody else", parent=there.sha)
        parent = self._commit(repository, revision)
        if header.get("parentCommit") not in (None, parent.sha):
            message = f"A commit has happened since: expected {parent.sha}, got {header['parentCommit']}"
            raise _Refused(HTTPStatus.PRECONDITION_FAILED, message)
        files = dict(parent.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                try:
                    files[value["path"]] = base64.b64decode(value["content"], validate=True)
                except binascii.Error as error:
                    raise _Refused(HTTPStatus.BAD_REQUEST, "Bad base64") from error
            elif line["key"] == "lfsFile":
                content = self.hub.content(value["oid"])
                if content is None:
                    raise _Refused(HTTPStatus.BAD_REQUEST, f"{value['path']} was not uploaded")
                files[value["path"]] = content
            elif line["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                raise _Refused(HTTPStatus.NOT_FOUND, "A file with this name doesn't exist", code="EntryNotFound")
        if "create_pr" in self.query:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
            made = repository.commit(f"refs/pr/{number}", files, header["summary"], parent=parent.sha)
            url = {"pullRequestUrl": f"{self.hub.endpoint}/{name}/discussions/{number}"}
        else:
            made = repository.commit(revision, files, header["summary"], parent=parent.sha)
            url = {}
        self.hub.keep()
        return {
            "success": True,
            "commitOid": made.sha,
            "commitUrl": f"{self.hub.endpoint}/{name}/commit/{made.sha}",
        } | url

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self._commit(self._repository(name), revision)
        content = commit.files.get(path)
        if content is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"{path} does not exist", code="EntryNotFound")
        headers = {"X-Repo-Commit": commit.sha}
        if is_large(path, content):
            oid = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            self._send(HTTPStatus.FOUND, b"", headers | {"Location": f"{self.hub.cdn}/cdn/{oid}/{path}"})
        else:
            self._send_file(content, headers | {"ETag": f'"{git_oid(content)}"'})

    def cdn(self, oid: str) -> None:
        content = self.hub.content(oid)
        if content is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "No such file")
        self._send_file(content, {"ETag": f'"{oid}"'})

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        """Send a file or the part of it that a Range asks for."""
        if self.failing and self.failing.kind == "damage":
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
    (("GET",), r"/api/whoami-v2", _Handler.who),
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), r"/api/validate-yaml", _Handler.validate_yaml),
    (("GET",), r"/api/models", _Handler.models),
    (("GET",), rf"/api/models/{NAME}(?:/revision/(.+))?", _Handler.model),
    (("GET",), rf"/api/models/{NAME}/tree/([^/]+|refs/pr/\d+)", _Handler.tree),
    (("GET",), rf"/api/models/{NAME}/refs", _Handler.refs),
    (("POST",), rf"/api/models/{NAME}/branch/(.+)", _Handler.branch),
    (("POST",), rf"/api/models/{NAME}/tag/(.+)", _Handler.tag),
    (("POST",), rf"/api/models/{NAME}/preupload/(.+)", _Handler.preupload),
    (("POST",), rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), r"/lfs/([0-9a-f]{64})", _Handler.upload),
    (("POST",), r"/lfs/verify", _Handler.verify),
    (("POST",), rf"/api/models/{NAME}/commit/(.+)", _Handler.commit),
    (("GET", "HEAD"), rf"/{NAME}/resolve/(refs/pr/\d+|[^/]+)/(.+)", _Handler.resolve),
    (("GET", "HEAD"), r"/cdn/([0-9a-f]{64})/.*", _Handler.cdn),
]


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return one row a file, as the Hub lists them."""
    rows: list[dict[str, Any]] = []
    for path, content in files.items():
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if is_large(path, content):
            digest = hashlib.sha256(content).hexdigest()
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
            row["oid"] = git_oid(pointer)
            row["lfs"] = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": len(pointer)}
        rows.append(row)
    return rows


def _tags(card: bytes) -> Iterable[str]:
    """Return what the Hub makes tags of: those of the card, and its library."""
    parts = re.match(r"---\n(.*?)\n---", card.decode(errors="replace"), re.DOTALL)
    try:
        values = yaml.safe_load(parts[1]) if parts else {}
    except yaml.YAMLError:
        values = {}
    return [*values.get("tags", []), values.get("library_name", "")] if isinstance(values, dict) else []


def _write(path: Path, content: bytes) -> None:
    """Write a file, all of it or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a small Hugging Face Hub on this machine.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--folder", type=Path, help="keep repositories here; by default they are gone at the end")
    options = parser.parse_args()
    with LoopbackHub(folder=options.folder, port=options.port) as hub:
        sys.stdout.write(
            f"A Hub at {hub.endpoint}. In another terminal, before anything else:\n\n"
            f"export HF_ENDPOINT={hub.endpoint} HF_HUB_DISABLE_XET=1\n\nStop it with Ctrl-C.\n"
        )
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("Stopped.\n")


if __name__ == "__main__":
    main()
