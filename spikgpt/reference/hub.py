"""The Hugging Face Hub. Only this module and hub_errors talk to its client.

The client loads its parts when they are first used, which takes a third of a second; importing this module does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import huggingface_hub as client
from huggingface_hub import constants

from spikgpt.errors import ConfigError, DamagedReference, HubError, ReferenceNotFound
from spikgpt.options import HubOptions, PushOptions
from spikgpt.reference.hub_errors import Unreachable, explained, named, retried
from spikgpt.version import __version__

REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Tag of every card, by which references are found.
TAG = "spikgpt"
# Seconds to wait for an answer.
TIMEOUT = 10.0


@dataclass(frozen=True)
class Change:
    """What a push does to one file: ``new``, ``changed``, ``unchanged`` or ``removed``."""

    path: str
    size: int
    kind: str


@dataclass(frozen=True)
class Push:
    """What was pushed, or would be: ``commit`` and ``url`` are None after a dry run."""

    repository: str
    changes: tuple[Change, ...]
    commit: str | None = None
    url: str | None = None


@dataclass(frozen=True, order=True)
class Cached:
    """A commit of a repository in the local cache."""

    repository: str
    commit: str
    refs: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Hub:
    """How to reach the Hub; the fields are those of :class:`spikgpt.options.HubOptions`.

    The default token is the stored one, which is sent to the default endpoint only.
    """

    endpoint: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    @classmethod
    def of(cls, options: HubOptions) -> Hub:
        """Return the Hub that options describe."""
        return cls(options.endpoint, options.token, options.cache_dir, options.local_files_only)

    @cached_property
    def _token(self) -> str | bool | None:
        foreign = self.endpoint is not None and self.endpoint.rstrip("/") != constants.ENDPOINT
        return False if self.token is None and foreign else self.token

    @cached_property
    def _api(self) -> client.HfApi:
        return client.HfApi(self.endpoint, self._token, library_name="spikgpt", library_version=__version__)

    def snapshot(
        self, repo: str, revision: str | None, files: Collection[str], *, required: Collection[str], fresh: bool = False
    ) -> Path:
        """Return the folder, named after the commit, of some files of a repository, from the cache if they are there.

        ``revision`` is a branch, a tag or a commit; None is the main branch. A cached commit with all ``required``
        files is taken without asking the Hub, and what is cached of any revision when the Hub cannot be reached, but
        neither with ``fresh``. Of ``files``, those that the repository does not have are left out.

        Raises
        ------
        ReferenceNotFound
            When there is no such repository or revision, or it is not cached and the Hub may not be asked.
        DamagedReference
            When a file of the repository has a name that leaves its folder.
        HubError
            When the Hub refuses, or cannot be reached and nothing is cached.
        """
        if revision and ".." in revision:
            msg = f"{revision!r} is no revision, for git has none with '..'; name a branch, a tag or a commit."
            raise ReferenceNotFound(msg)
        found = self._cached_folder(repo, revision)
        if self.local_files_only:
            return found or self._download(repo, revision, files)
        pinned = revision is not None and COMMIT.fullmatch(revision)
        if found and pinned and not fresh and _has(found, required):
            return found
        try:
            info = self._info(repo, revision)
        except Unreachable as error:
            if found is None or fresh:
                msg = f"{named(repo, revision)} is not {'whole ' if found else ''}in the local cache. {error}"
                raise HubError(msg) from error
            return found
        there = {sibling.rfilename for sibling in info.siblings or ()}.intersection(files)
        if found and found.name == info.sha and _has(found, there):
            return found
        return self._download(repo, revision, files)

    def names(self, repo: str, revision: str | None) -> list[str]:
        """Return the names of all files of a repository."""
        return sorted(sibling.rfilename for sibling in self._info(repo, revision).siblings or ())

    def push(
        self, repo: str, files: Mapping[str, bytes], options: PushOptions, *, removable: Collection[str] = ()
    ) -> Push:
        """Bring a repository to hold these files, in one commit.

        The repository is made if there is none. Unchanged files are not sent again. Files of the repository whose
        names are in ``removable`` and not in ``files`` are removed; others stay. When the Hub refuses, or somebody else
        has committed meanwhile, nothing was committed.
        """
        if options.pull_request and (options.branch or options.tag):
            msg = "pull_request (--pull-request) goes to main and is no version yet; leave out branch and tag."
            raise ConfigError(msg)
        if not (match := REPOSITORY.fullmatch(repo)) or match["revision"]:
            msg = f"{repo!r} is no name of a repository; expected ORG/NAME."
            raise ConfigError(msg)
        with explained(repo, writing=True):
            before = self._before(repo, options)
            if options.dry_run:
                return Push(repo, _changes(before, files, removable))
            if before is None:
                self._api.create_repo(repo, private=options.private, exist_ok=True)
            if options.branch:
                self._api.create_branch(repo, branch=options.branch, exist_ok=True)
            pushed = self._commit(repo, files, options, removable)
            if options.tag:
                self._api.create_tag(repo, tag=options.tag, revision=pushed.commit)
        return pushed

    def cached(self, files: Collection[str]) -> list[Cached]:
        """Return the commits in the cache that have all of some files."""
        try:
            info = client.scan_cache_dir(self.cache_dir)
        except client.CacheNotFound:
            return []
        found = [(repo, revision) for repo in info.repos if repo.repo_type == "model" for revision in repo.revisions]
        return sorted(
            Cached(repo.repo_id, revision.commit_hash, tuple(sorted(revision.refs)), revision.snapshot_path)
            for repo, revision in found
            if _has(revision.snapshot_path, files)
        )

    def references(self, author: str) -> list[str]:
        """Return the repositories of a namespace that hold references."""
        if self.local_files_only:
            return []
        from huggingface_hub import utils

        with explained(f"the namespace {author}"):
            # The client's own list_models tries for half a minute before it says that it gets no answer.
            response = utils.get_session().get(
                f"{self._api.endpoint}/api/models",
                params={"author": author, "filter": TAG, "limit": 1000},
                headers=utils.build_hf_headers(token=self._token, library_name="spikgpt"),
                timeout=TIMEOUT,
            )
            utils.hf_raise_for_status(response)
            return sorted(str(model["id"]) for model in response.json())

    def forget(self, folder: Path, names: Collection[str]) -> None:
        """Delete some files of a cached commit, to get them again."""
        for name in names:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)

    def _before(self, repo: str, options: PushOptions) -> client.ModelInfo | None:
        """Return what a push finds: the branch, else the main branch it is made from, or None without a repository."""
        try:
            main = self._info(repo, None)
        except ReferenceNotFound:
            return None
        if options.private and not main.private:
            msg = f"{repo} exists and is public, so nothing private goes there. Change that on its page first."
            raise HubError(msg)
        branches = {ref.name for ref in self._api.list_repo_refs(repo).branches} if options.branch else ()
        return self._info(repo, options.branch) if options.branch in branches else main

    def _commit(self, repo: str, files: Mapping[str, bytes], options: PushOptions, removable: Collection[str]) -> Push:
        """Commit what differs, if anything does, on top of the commit that it was compared with."""
        there = self._info(repo, options.branch)
        changes = _changes(there, files, removable)
        operations: list[client.CommitOperationAdd | client.CommitOperationDelete] = []
        for change in changes:
            if change.kind == "removed":
                operations.append(client.CommitOperationDelete(change.path))
            elif change.kind != "unchanged":
                operations.append(client.CommitOperationAdd(change.path, files[change.path]))
        url = f"{self._api.endpoint}/{repo}/tree/{options.branch or 'main'}"
        if not operations:
            return Push(repo, changes, there.sha, url)
        made = self._api.create_commit(
            repo,
            operations,
            commit_message=options.message or "Push a reference",
            revision=options.branch,
            parent_commit=there.sha,
            create_pr=options.pull_request,
        )
        return Push(repo, changes, made.oid, made.pr_url or url)

    def _info(self, repo: str, revision: str | None) -> client.ModelInfo:
        """Ask for the commit and the files of a revision."""
        with explained(repo, revision):
            info = retried(lambda: self._api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT))
        for sibling in info.siblings or ():
            path = PurePosixPath(sibling.rfilename)
            if path.is_absolute() or ".." in path.parts or "\\" in sibling.rfilename or not path.name.isprintable():
                msg = f"{repo} has a file called {sibling.rfilename!r}, which leaves its folder. Do not use {repo}."
                raise DamagedReference(msg)
        return info

    def _download(self, repo: str, revision: str | None, files: Collection[str]) -> Path:
        download = partial(
            client.snapshot_download,
            repo,
            revision=revision,
            allow_patterns=list(files),
            cache_dir=self.cache_dir,
            endpoint=self.endpoint,
            token=self._token,
            local_files_only=self.local_files_only,
        )
        with explained(repo, revision):
            return Path(retried(download))

    def _cached_folder(self, repo: str, revision: str | None) -> Path | None:
        """Return the cached folder of a revision, whatever files it has."""
        storage = Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser() / f"models--{repo.replace('/', '--')}"
        ref = storage / "refs" / (revision or "main")
        commit = ref.read_text().strip() if ref.is_file() else revision
        folder = storage / "snapshots" / str(commit)
        return folder if commit and folder.is_dir() else None


def parse(name: str) -> tuple[str, str | None] | None:
    """Return the repository and the revision of ``org/repo[@revision]``, or None for anything else."""
    match = REPOSITORY.fullmatch(name)
    return (match["repo"], match["revision"]) if match else None


def altered(folder: Path, names: Collection[str]) -> list[str]:
    """Return which files of a cached commit differ from what the Hub listed.

    The cache calls each file by the sha256 (large files) or git's sha1 (small ones) that the Hub stated, and links to
    it. Where a cache has no links there is nothing to compare with.
    """
    return [name for name in names if (folder / name).is_symlink() and not _is_named_by_content(folder / name)]


def git_oid(content: bytes) -> str:
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _has(folder: Path, names: Collection[str]) -> bool:
    return all((folder / name).exists() for name in names)


def _is_named_by_content(link: Path) -> bool:
    file = link.resolve()
    if not file.is_file():
        return False
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest() if len(file.name) == 64 else git_oid(content)
    return found == file.name


def _changes(
    there: client.ModelInfo | None, files: Mapping[str, bytes], removable: Collection[str]
) -> tuple[Change, ...]:
    """Compare a repository with the files that it is to hold."""
    remote = {sibling.rfilename: sibling for sibling in (there.siblings or ())} if there else {}
    changes = []
    for path, content in files.items():
        kind = "new"
        if sibling := remote.get(path):
            oid = hashlib.sha256(content).hexdigest() if sibling.lfs else git_oid(content)
            kind = "unchanged" if oid == (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) else "changed"
        changes.append(Change(path, len(content), kind))
    gone = sorted(path for path in remote if path in removable and path not in files)
    return (*changes, *(Change(path, remote[path].size or 0, "removed") for path in gone))
