"""Storage of the loopback Hub: model repositories with branches, tags, pull requests, commits and large files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spikgpt.files import replacing
from spikgpt.reference.card import read_metadata
from spikgpt.reference.hub_cache import git_oid

LFS_SUFFIXES = (".safetensors", ".onnx", ".bin", ".pt", ".pkl", ".h5")
LFS_SIZE = 10 * 1024 * 1024
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
MAIN = "main"
STATE = "hub.json"


@dataclass(frozen=True)
class Commit:
    """The files of a repository by path, and the parent commit."""

    sha: str
    files: Mapping[str, bytes]
    title: str
    parent: str | None

    def listing(self) -> list[dict[str, Any]]:
        """Return the files in the form of the Hub's listings."""
        rows = []
        for path, content in self.files.items():
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if is_large(path, len(content)):
                oid = sha256(content)
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
                )
                row["oid"] = git_oid(pointer)
                row["lfs"] = {"oid": oid, "sha256": oid, "size": len(content), "pointerSize": len(pointer)}
            rows.append(row)
        return rows

    def tags(self) -> list[str]:
        """Return the tags of the card and its library, in the form of the Hub's repository tags."""
        values = read_metadata(self.files.get("README.md", b"").decode(errors="replace")) or {}
        return [*values.get("tags", []), values.get("library_name", "")]


@dataclass
class Repository:
    """A model repository: its refs (branches, tags and pull requests) name commits."""

    name: str
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, ref: str, files: Mapping[str, bytes], title: str, *, parent: str | None) -> Commit:
        """Add a commit to a ref."""
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

    def grouped_refs(self) -> dict[str, list[dict[str, str]]]:
        """Return the refs by kind, in the form of the Hub's listings."""
        rows: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for ref, sha in self.refs.items():
            kind = "tags" if ref in self.tags else "pullRequests" if ref.startswith("refs/pr/") else "branches"
            full = {"tags": f"refs/tags/{ref}", "branches": f"refs/heads/{ref}"}.get(kind, ref)
            rows[kind].append({"name": ref, "ref": full, "targetCommit": sha})
        return rows


class Store:
    """All repositories and uploads, in memory and in an optional folder, whose repositories are loaded first."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.lock = threading.RLock()
        if folder and (folder / STATE).is_file():
            self._load(folder)

    def put(self, name: str, files: Mapping[str, bytes], *, private: bool = False, ref: str = MAIN) -> str:
        """Commit files without a client and without checks; return the sha of the commit."""
        with self.lock:
            repository = self.repositories.setdefault(name, Repository(name, private))
            title = f"Commit {len(repository.commits)}"
            return repository.commit(ref, files, title, parent=repository.refs.get(ref)).sha

    def content(self, oid: str) -> bytes | None:
        """Return a large file by its sha256, from the uploads or from any commit."""
        if oid in self.uploads:
            return self.uploads[oid]
        commits = (commit for repository in self.repositories.values() for commit in repository.commits.values())
        files = (file for commit in commits for file in commit.files.items())
        return next((file for path, file in files if is_large(path, len(file)) and sha256(file) == oid), None)

    def save(self) -> None:
        """Write all repositories to the folder, if any."""
        if self.folder is None:
            return
        state = []
        for repository in self.repositories.values():
            commits = []
            for commit in repository.commits.values():
                names = {path: _save_content(self.folder, content) for path, content in commit.files.items()}
                commits.append({**vars(commit), "files": names})
            state.append({**vars(repository), "tags": sorted(repository.tags), "commits": commits})
        with replacing(self.folder / STATE) as temporary:
            temporary.write_text(json.dumps(state, indent=1))

    def _load(self, folder: Path) -> None:
        for row in json.loads((folder / STATE).read_text()):
            repository = Repository(row["name"], row["private"], row["refs"], set(row["tags"]))
            for commit in row["commits"]:
                files = {path: (folder / name).read_bytes() for path, name in commit["files"].items()}
                repository.commits[commit["sha"]] = Commit(**{**commit, "files": files})
            self.repositories[repository.name] = repository


def is_large(path: str, size: int) -> bool:
    """Return True if a file of ``size`` bytes is stored in LFS."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_SIZE


def sha256(content: bytes) -> str:
    """Return the sha256 of the content of a file, which is the name of the file in LFS."""
    return hashlib.sha256(content).hexdigest()


def _save_content(folder: Path, content: bytes) -> str:
    """Write a file named by its sha256, unless it exists, and return the name."""
    name = sha256(content)
    if not (folder / name).exists():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return name
