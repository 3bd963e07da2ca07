"""The Hugging Face Hub. Only this module and hub_errors talk to its client.

The client loads its parts when they are first used, which takes a third of a second; importing this module does not.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote

import huggingface_hub as client
from huggingface_hub import constants

from spikgpt.errors import (
    ConfigError,
    DamagedReference,
    HubError,
    ReferenceNotFound,
    SpikGPTError,
    SpikGPTWarning,
)
from spikgpt.options import HubOptions, PushOptions
from spikgpt.reference.hub_errors import (
    Offline,
    Unreachable,
    explained,
    named,
    retried,
    status_of,
    wrong_endpoint,
    wrong_token,
)
from spikgpt.reference.layout import LARGEST
from spikgpt.reference.transfer.cache import COMMIT, Cache, hashed, place, writable
from spikgpt.reference.transfer.fetch import fetch
from spikgpt.reference.transfer.requests import Listing, Named, Refs, answer, bounded, in_time
from spikgpt.version import __version__

REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# What git allows, and a file can be called by.
REVISION = re.compile(r"(?!.*(//|\.\.|/\.|\.lock(/|\Z)))[A-Za-z0-9_]([A-Za-z0-9_./+-]{0,198}[A-Za-z0-9_+-])?")
# Tag of every card, by which references are found.
TAG = "spikgpt"
# Seconds to wait for an answer, and those that one step of a push may take, apart from what it sends.
TIMEOUT, PUSH_PATIENCE = 10.0, 300.0

T = TypeVar("T")


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
        self,
        repo: str,
        revision: str | None,
        files: Collection[str],
        *,
        required: Collection[str],
        again: Collection[str] = (),
    ) -> Path:
        """Return the folder, named after the commit, of some files of a repository, from the cache if they are there.

        ``revision`` is a branch, a tag or a commit; None is the main branch. A cached commit with all ``required``
        files is taken without asking the Hub, and what is cached of any revision when the Hub cannot be reached, but
        neither where files are to be fetched ``again``. Of ``files``, those that the repository does not have are left
        out. What arrives has the hash that the Hub listed, or is not kept.

        Raises
        ------
        ReferenceNotFound
            When there is no such repository or revision, or it is not cached and the Hub may not be asked.
        DamagedReference
            When a file of the repository has a name that leaves its folder, or arrives with another hash.
        HubError
            When the Hub refuses, or cannot be reached and nothing is cached.
        """
        _check_names(repo, revision)
        cache = self._cache(repo)
        found = cache.folder(revision)
        if self.local_files_only:
            if found is None:
                what = named(repo, revision)
                msg = f"{what} is not in the local cache. Once online, spikgpt pull {what} --out FOLDER gets it."
                raise ReferenceNotFound(msg)
            return found
        pinned = revision is not None and COMMIT.fullmatch(revision)
        if found and pinned and not again and all(place(found, name) for name in required):
            return found
        try:
            listing = self._listing(repo, revision)
        except Unreachable as error:
            if found is None or again:
                msg = f"{named(repo, revision)} is not {'whole ' if found else ''}in the local cache. {error}"
                raise HubError(msg) from None
            if not isinstance(error, Offline):
                msg = f"{error} The cached commit {found.name} of {repo} is used."
                warnings.warn(msg, SpikGPTWarning, stacklevel=7)
            return found
        if pinned and listing.sha != revision:
            msg = f"The Hub answered with the commit {listing.sha} of {repo}, not {revision}. Nothing of it was used."
            raise HubError(msg)
        folder = cache.storage / "snapshots" / listing.sha
        wanted = [file for name, file in listing.files.items() if name in files]
        missing = [file for file in wanted if file.rfilename in again or not place(folder, file.rfilename)]
        missing = [file for file in missing if file.rfilename in again or not cache.link(listing.sha, file)]
        url = partial(client.hf_hub_url, repo, revision=listing.sha, endpoint=self._endpoint)
        fetch(cache, repo, listing.sha, {file: url(file.rfilename) for file in missing}, self._headers())
        with writable(cache.storage):
            folder.mkdir(parents=True, exist_ok=True)
        cache.name(revision or "main", listing.sha)
        return folder

    def has_cached(self, repo: str) -> bool:
        """Return whether the local cache has the main branch of a repository."""
        return self._cache(repo).folder(None) is not None

    def names(self, repo: str, revision: str | None) -> list[str]:
        """Return the names of all files of a repository."""
        return sorted(self._listing(repo, revision).files)

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
        check_repository(repo)
        for name in (options.branch, options.tag):
            if name is not None and not REVISION.fullmatch(name):
                msg = f"{name!r} is no name of a branch or a tag; use letters, digits and . _ - /"
                raise ConfigError(msg)
        with explained(repo, writing=True):
            before, tagged = self._before(repo, options)
            changes = _changes(before, files, removable)
            moves = any(change.kind != "unchanged" for change in changes)
            if tagged and before and (moves or tagged != before.sha):
                msg = f"{repo} has the tag {options.tag} at commit {tagged}, so nothing was pushed. Choose another tag."
                raise HubError(msg)
            if options.dry_run:
                return Push(repo, changes)
            if before is None:
                self._patiently(lambda: self._api.create_repo(repo, private=options.private, exist_ok=True))
            if branch := options.branch:
                self._patiently(lambda: self._api.create_branch(repo, branch=branch, exist_ok=True))
            pushed = self._commit(repo, files, options, removable)
        if options.tag and pushed.commit and not tagged:
            self._tag(repo, options.tag, pushed.commit)
        return pushed

    def cached(self, files: Collection[str]) -> list[Cached]:
        """Return the commits in the cache that have all of some files."""
        try:
            info = client.scan_cache_dir(self._cache_folder)
        except client.CacheNotFound:
            return []
        except ValueError as error:
            where = self.cache_dir or constants.HF_HUB_CACHE
            msg = f"{where} is no cache ({error}). Name a folder: cache_dir=, --cache-dir or HF_HOME."
            raise ConfigError(msg) from None
        found = [(repo, revision) for repo in info.repos if repo.repo_type == "model" for revision in repo.revisions]
        return sorted(
            Cached(repo.repo_id, revision.commit_hash, tuple(sorted(revision.refs)), revision.snapshot_path)
            for repo, revision in found
            if all(place(revision.snapshot_path, name) for name in files)
        )

    def references(self, author: str) -> list[str]:
        """Return the repositories of a namespace that hold references."""
        if self.local_files_only:
            return []
        url = f"{self._endpoint}/api/models"
        asked = {"author": author, "filter": TAG, "limit": 1000}
        with explained(f"the namespace {author}"):
            found = answer(url, list[Named], self._headers(), timeout=TIMEOUT, parameters=asked)
        return sorted(row.id for row in found)

    def _before(self, repo: str, options: PushOptions) -> tuple[Listing | None, str | None]:
        """Return what a push finds: the branch, else the main branch it is made from, and the commit of its tag.

        None stands for no repository, and for no tag.
        """
        try:
            main = self._listing(repo, None)
        except ReferenceNotFound:
            return None, None
        if options.private and not main.private:
            msg = f"{repo} exists and is public, so nothing private goes there. Change that on its page first."
            raise HubError(msg)
        refs = self._refs(repo) if options.branch or options.tag else Refs([], [])
        branches = {ref.name for ref in refs.branches}
        tagged = next((ref.targetCommit for ref in refs.tags if ref.name == options.tag), None)
        return self._listing(repo, options.branch) if options.branch in branches else main, tagged

    def _tag(self, repo: str, tag: str, commit: str) -> None:
        """Name a commit that was pushed, or say that it has no name."""
        try:
            with explained(repo, writing=True):
                self._patiently(lambda: self._api.create_tag(repo, tag=tag, revision=commit))
        except SpikGPTError as error:
            if status_of(error.__context__) == 409:
                if any((ref.name, ref.targetCommit) == (tag, commit) for ref in self._refs(repo).tags):
                    return
                msg = (
                    f"{repo} is at commit {commit}, but somebody gave the tag {tag} to another. Push with another tag."
                )
            else:
                msg = f"{repo} is at commit {commit}, but has no tag {tag}: {error} Push again with that tag."
            raise HubError(msg) from None

    def _commit(self, repo: str, files: Mapping[str, bytes], options: PushOptions, removable: Collection[str]) -> Push:
        """Commit what differs, if anything does, on top of the commit that it was compared with."""
        there = self._listing(repo, options.branch)
        changes = _changes(there, files, removable)
        operations: list[client.CommitOperationAdd | client.CommitOperationDelete] = []
        for change in changes:
            if change.kind == "removed":
                operations.append(client.CommitOperationDelete(change.path))
            elif change.kind != "unchanged":
                operations.append(client.CommitOperationAdd(change.path, files[change.path]))
        url = f"{self._endpoint}/{repo}/tree/{options.branch or 'main'}"
        if not operations:
            return Push(repo, changes, there.sha, url)
        made = self._patiently(
            lambda: self._api.create_commit(
                repo,
                operations,
                commit_message=options.message or "Push a reference",
                revision=options.branch,
                parent_commit=there.sha,
                create_pr=options.pull_request,
            ),
            sum(change.size for change in changes),
        )
        return Push(repo, changes, made.oid, made.pr_url or url)

    def _patiently(self, call: Callable[[], T], size: int = 0) -> T:
        """Let the client do one step of a push, which sends so many bytes, in the time that it may take."""
        what = "a push, which may have arrived all the same"
        with bounded():
            return in_time(what, lambda meter: call(), patience=PUSH_PATIENCE, size=size)

    @property
    def _endpoint(self) -> str:
        endpoint = (self.endpoint or constants.ENDPOINT).rstrip("/")
        if wrong := wrong_endpoint(endpoint, "The endpoint" if self.endpoint else "HF_ENDPOINT"):
            raise Unreachable(wrong)
        return endpoint

    def _headers(self) -> dict[str, str]:
        from huggingface_hub import utils

        headers = utils.build_hf_headers(token=self._token, library_name="spikgpt", library_version=__version__)
        stored = "HF_TOKEN" if os.environ.get("HF_TOKEN") else f"The token in {constants.HF_TOKEN_PATH}"
        source = "The token given" if isinstance(self._token, str) else stored
        if wrong := wrong_token(headers.get("authorization", ""), source):
            raise Unreachable(wrong)
        return headers

    def _cache(self, repo: str) -> Cache:
        """Return what is cached of a repository."""
        return Cache(self._cache_folder / f"models--{repo.replace('/', '--')}")

    @property
    def _cache_folder(self) -> Path:
        folder = Path(self.cache_dir or constants.HF_HUB_CACHE)
        try:
            return folder.expanduser()
        except RuntimeError:
            msg = f"{folder} is nowhere, as you have no home folder; name a folder: cache_dir=, --cache-dir or HF_HOME."
            raise ConfigError(msg) from None

    def _refs(self, repo: str) -> Refs:
        with explained(repo):
            return retried(lambda: answer(f"{self._about(repo)}/refs", Refs, self._headers(), timeout=TIMEOUT))

    def _about(self, repo: str) -> str:
        return f"{self._endpoint}/api/models/{repo}"

    def _listing(self, repo: str, revision: str | None) -> Listing:
        """Ask for the commit and the files of a revision."""
        url = self._about(repo) + (f"/revision/{quote(revision, safe='')}" if revision else "")
        with explained(repo, revision):
            listing = retried(
                lambda: answer(url, Listing, self._headers(), timeout=TIMEOUT, parameters={"blobs": True})
            )
        for name, file in listing.files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
                msg = f"{repo} has a file called {name!r}, which leaves its folder. Do not use {repo}."
                raise DamagedReference(msg)
            if file.bytes > (limit := LARGEST.get(name, file.bytes)):
                msg = f"{repo} lists {file.bytes} bytes of {name}; expected at most {limit}. Do not use {repo}."
                raise DamagedReference(msg)
        return listing


def parse(name: str) -> tuple[str, str | None] | None:
    """Return the repository and the revision of ``org/repo[@revision]``, or None for anything else."""
    match = REPOSITORY.fullmatch(name)
    return (match["repo"], match["revision"]) if match else None


def check_repository(repo: str) -> None:
    """Refuse what is no name of a repository to push to."""
    if not (match := REPOSITORY.fullmatch(repo)) or match["revision"]:
        msg = f"{repo!r} is no name of a repository; expected ORG/NAME."
        raise ConfigError(msg)


def _check_names(repo: str, revision: str | None) -> None:
    """Refuse what can be no repository or no revision before anything is called by it."""
    from huggingface_hub import utils

    if revision is not None and not REVISION.fullmatch(revision):
        msg = f"{revision!r} is no revision; name a branch, a tag or a commit."
        raise ReferenceNotFound(msg)
    with explained(repo, revision):
        utils.validate_repo_id(repo)


def _changes(there: Listing | None, files: Mapping[str, bytes], removable: Collection[str]) -> tuple[Change, ...]:
    """Compare a repository with the files that it is to hold."""
    remote = there.files if there else {}
    changes = []
    for path, content in files.items():
        kind = "new"
        if listed := remote.get(path):
            same = hashed(content, large=listed.lfs is not None) == listed.oid
            kind = "unchanged" if same else "changed"
        changes.append(Change(path, len(content), kind))
    gone = sorted(path for path in remote if path in removable and path not in files)
    return (*changes, *(Change(path, remote[path].bytes, "removed") for path in gone))
