"""Download from the Hugging Face Hub, and push to the Hub.

Only this module and the modules ``hub_*`` send requests with the client, huggingface_hub. The client loads its parts
when they are first used, which takes a third of a second. Importing this module does not load these parts.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import quote

import huggingface_hub as client
from huggingface_hub import constants

from spikgpt.errors import ConfigError, DamagedReference, HubError, ReferenceNotFound, SpikGPTError, SpikGPTWarning
from spikgpt.options import HubOptions, PushOptions
from spikgpt.reference.format import LARGEST
from spikgpt.reference.hub_cache import COMMIT, RepositoryCache, cached_file, hashed
from spikgpt.reference.hub_download import download, is_whole
from spikgpt.reference.hub_errors import (
    Offline,
    Unreachable,
    check_endpoint,
    check_token,
    named,
    retried,
    status_of,
    translated_errors,
)
from spikgpt.reference.hub_metadata import TAGS
from spikgpt.reference.hub_requests import SPEED, Listing, RepositoryEntry, get_json, pushing, session, with_timeout
from spikgpt.version import __version__

REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Names of branches, tags and commits that git allows and that can be file names.
REVISION = re.compile(r"(?!.*(//|\.\.|/\.|\.lock(/|\Z)))[A-Za-z0-9_]([A-Za-z0-9_./+-]{0,198}[A-Za-z0-9_+-])?")
# Seconds to wait for an answer, and seconds for one step of a push. The time to send the files is added.
TIMEOUT, PUSH_PATIENCE = 10.0, 300.0
# Seconds to wait for the list of references on the Hub. The wait is short, because machines without internet list
# references too.
LIST_TIMEOUT = 4.0

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """The change of one file by a push; ``kind`` is ``new``, ``changed``, ``unchanged`` or ``removed``."""

    path: str
    size: int
    kind: str


@dataclass(frozen=True)
class Push:
    """The result of a push; ``commit`` and ``url`` are None after a dry run."""

    repository: str
    changes: tuple[Change, ...]
    commit: str | None = None
    url: str | None = None


@dataclass(frozen=True, order=True)
class CachedCommit:
    """A commit of a repository in the local cache."""

    repository: str
    commit: str
    refs: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Hub:
    """Client of the Hugging Face Hub; the fields are the options of :class:`spikgpt.options.HubOptions`.

    If ``token`` is None, the token that is stored on this machine is used, and is sent to the default endpoint only.
    """

    endpoint: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    @classmethod
    def from_options(cls, options: HubOptions) -> Hub:
        """Return a client with these options."""
        return cls(options.endpoint, options.token, options.cache_dir, options.local_files_only)

    @cached_property
    def _token(self) -> str | bool | None:
        other = self.endpoint is not None and self.endpoint.rstrip("/") != constants.ENDPOINT
        return False if self.token is None and other else self.token

    @cached_property
    def _api(self) -> client.HfApi:
        return client.HfApi(self._endpoint, self._token, library_name="spikgpt", library_version=__version__)

    def snapshot(self, repo: str, revision: str | None, files: Collection[str], *, required: Collection[str]) -> Path:
        """Download files of a revision into the cache, and return their folder, whose name is the commit.

        ``revision`` is a branch, a tag or a commit; None for the main branch. A commit that is cached with all
        ``required`` files needs no request. If the Hub cannot be reached, the cached files are used. ``files`` that the
        repository lacks are left out. A download is deleted if its hash differs from the hash that the Hub lists.

        Raises
        ------
        ReferenceNotFound
            When there is no such repository or revision, or it is not cached and requests are turned off.
        DamagedReference
            When the name of a file leads out of the folder, or a download has another hash than the Hub lists.
        HubError
            When the Hub refuses the request, or cannot be reached and the revision is not cached.
        """
        _check_names(repo, revision)
        cache, name = self._cache(repo), named(repo, revision)
        cached = cache.folder(revision)
        if self.local_files_only:
            if cached is None:
                msg = f"{name} is not in the local cache. Once online, spikgpt pull {name} --out FOLDER gets it."
                raise ReferenceNotFound(msg)
            return cached
        pinned = revision is not None and COMMIT.fullmatch(revision)
        if cached and pinned and all(cached_file(cached, file) for file in required):
            return cached
        try:
            listing = self._listing(repo, revision)
        except Unreachable as error:
            if cached is None:
                msg = f"{name} is not in the local cache. {error}"
                raise HubError(msg) from None
            if not isinstance(error, Offline):
                msg = f"{error} The cached commit {cached.name} of {repo} is used."
                warnings.warn(msg, SpikGPTWarning, stacklevel=7)
            return cached
        folder = cache.storage / "snapshots" / listing.sha
        needed = [file for name, file in listing.files.items() if name in files]
        with translated_errors(repo, listing.sha):
            download(self._api, repo, folder, [file for file in needed if not cached_file(folder, file.rfilename)])
        cache.write_ref(revision or "main", listing.sha)
        return folder

    def repair(self, repo: str, commit: str, files: Collection[str]) -> bool:
        """Download damaged files of the cache again; return True if a file was damaged.

        A file is damaged if its hash differs from the hash that the Hub lists.
        """
        folder = self._cache(repo).storage / "snapshots" / commit
        try:
            listing = self._listing(repo, commit)
        except Unreachable as error:
            msg = f"{named(repo, commit)} is not whole in the local cache. {error}"
            raise HubError(msg) from None
        damaged = [file for name, file in listing.files.items() if name in files and not is_whole(folder, file)]
        with translated_errors(repo, commit):
            download(self._api, repo, folder, damaged)
        return bool(damaged)

    def has_cached(self, repo: str) -> bool:
        """Return True if the local cache has the main branch of a repository."""
        return self._cache(repo).folder(None) is not None

    def names(self, repo: str, revision: str | None) -> list[str]:
        """Return the sorted names of all files at a revision of a repository; None for the main branch."""
        return sorted(self._listing(repo, revision).files)

    def push(
        self, repo: str, files: Mapping[str, bytes], options: PushOptions, *, removable: Collection[str] = ()
    ) -> Push:
        """Push files to a repository in one commit, and return the changes.

        A missing repository is created. Unchanged files are not sent again. Files of the repository that are in
        ``removable`` and not in ``files`` are removed; other files stay. Nothing is committed if the Hub refuses, or if
        somebody else has committed meanwhile.
        """
        if options.pull_request and (options.branch or options.tag):
            msg = "pull_request (--pull-request) goes to main and is no version yet; leave out branch and tag."
            raise ConfigError(msg)
        check_repository(repo)
        for name in (options.branch, options.tag):
            if name is not None and not REVISION.fullmatch(name):
                msg = f"{name!r} is no name of a branch or a tag; use letters, digits and . _ - /"
                raise ConfigError(msg)
        with translated_errors(repo, writing=True):
            before, tagged = self._state_before(repo, options)
            changes = _changes(before, files, removable)
            moves = any(change.kind != "unchanged" for change in changes)
            if tagged and before and (moves or tagged != before.sha):
                msg = f"{repo} has the tag {options.tag} at commit {tagged}, so nothing was pushed. Choose another tag."
                raise HubError(msg)
            if options.dry_run:
                return Push(repo, changes)
            if before is None:
                self._push_step(lambda: self._api.create_repo(repo, private=options.private, exist_ok=True))
            if branch := options.branch:
                self._push_step(lambda: self._api.create_branch(repo, branch=branch, exist_ok=True))
            pushed = self._commit(repo, files, options, removable)
        if options.tag and pushed.commit and not tagged:
            self._tag(repo, options.tag, pushed.commit)
        return pushed

    def cached(self, files: Collection[str]) -> list[CachedCommit]:
        """Return the cached commits that contain all of ``files``, sorted by repository."""
        try:
            info = client.scan_cache_dir(self._cache_folder)
        except client.CacheNotFound:
            return []
        except ValueError as error:
            folder = self.cache_dir or constants.HF_HUB_CACHE
            msg = f"{folder} is no cache ({error}). Name a folder: cache_dir=, --cache-dir or HF_HOME."
            raise ConfigError(msg) from None
        return sorted(
            CachedCommit(repo.repo_id, revision.commit_hash, tuple(sorted(revision.refs)), revision.snapshot_path)
            for repo in info.repos
            for revision in repo.revisions
            if repo.repo_type == "model" and all(cached_file(revision.snapshot_path, name) for name in files)
        )

    def references(self, author: str) -> list[RepositoryEntry]:
        """Return the repositories with references in a namespace, sorted by name; none if requests are turned off."""
        if self.local_files_only:
            return []
        parameters = {"author": author, "filter": TAGS[0], "limit": 1000}
        with translated_errors(f"the namespace {author}"):
            url = f"{self._endpoint}/api/models"
            rows = get_json(
                url,
                list[RepositoryEntry],
                self._headers(),
                timeout=LIST_TIMEOUT,
                patience=LIST_TIMEOUT,
                parameters=parameters,
            )
        return sorted(rows, key=lambda row: row.id)

    def _state_before(self, repo: str, options: PushOptions) -> tuple[Listing | None, str | None]:
        """Return the listing of the branch before a push, and the commit that the tag of the push names already.

        A new branch starts from the main branch, so its listing is that of the main branch. The listing is None if
        the repository does not exist. The commit is None if the tag does not exist.
        """
        try:
            main = self._listing(repo, None)
        except ReferenceNotFound:
            return None, None
        if options.private and not main.private:
            msg = f"{repo} exists and is public, so nothing private goes there. Change that on its page first."
            raise HubError(msg)
        if not (options.branch or options.tag):
            return main, None
        refs = self._refs(repo)
        tagged = next((ref.target_commit for ref in refs.tags if ref.name == options.tag), None)
        has_branch = any(ref.name == options.branch for ref in refs.branches)
        return self._listing(repo, options.branch) if has_branch else main, tagged

    def _tag(self, repo: str, tag: str, commit: str) -> None:
        """Tag a pushed commit; if this fails, raise an error which says that the commit was pushed without the tag."""
        try:
            with translated_errors(repo, writing=True):
                self._push_step(lambda: self._api.create_tag(repo, tag=tag, revision=commit))
        except SpikGPTError as error:
            taken = status_of(error.__context__) == 409
            if taken and any((ref.name, ref.target_commit) == (tag, commit) for ref in self._refs(repo).tags):
                return
            remedy = (
                "Somebody else used that tag. Push with another tag." if taken else f"{error} Push again with that tag."
            )
            msg = f"{repo} is at commit {commit}, but has no tag {tag} there. {remedy}"
            raise HubError(msg) from None

    def _refs(self, repo: str) -> client.GitRefs:
        session()
        with translated_errors(repo):
            return retried(lambda: with_timeout(f"the refs of {repo}", lambda: self._api.list_repo_refs(repo)))

    def _commit(self, repo: str, files: Mapping[str, bytes], options: PushOptions, removable: Collection[str]) -> Push:
        """Commit the changed files; the parent is the commit with which they were compared."""
        parent = self._listing(repo, options.branch)
        changes = _changes(parent, files, removable)
        operations: list[client.CommitOperationAdd | client.CommitOperationDelete] = []
        for change in changes:
            if change.kind == "removed":
                operations.append(client.CommitOperationDelete(change.path))
            elif change.kind != "unchanged":
                operations.append(client.CommitOperationAdd(change.path, files[change.path]))
        url = f"{self._endpoint}/{repo}/tree/{options.branch or 'main'}"
        if not operations:
            return Push(repo, changes, parent.sha, url)
        made = self._push_step(
            lambda: self._api.create_commit(
                repo,
                operations,
                commit_message=options.message or "Push a reference",
                revision=options.branch,
                parent_commit=parent.sha,
                create_pr=options.pull_request,
            ),
            sum(change.size for change in changes),
        )
        return Push(repo, changes, made.oid, made.pr_url or url)

    def _push_step(self, call: Callable[[], T], size: int = 0) -> T:
        """Run one step of a push; the timeout grows with ``size``, the number of bytes to send."""

        def step() -> T:
            with pushing():
                return call()

        session()
        return with_timeout("a push, which may have arrived", step, patience=PUSH_PATIENCE + size / SPEED)

    @property
    def _endpoint(self) -> str:
        endpoint = (self.endpoint or constants.ENDPOINT).rstrip("/")
        check_endpoint(endpoint, "The endpoint" if self.endpoint else "HF_ENDPOINT")
        return endpoint

    def _headers(self) -> dict[str, str]:
        from huggingface_hub import utils

        headers = utils.build_hf_headers(token=self._token, library_name="spikgpt", library_version=__version__)
        stored = "HF_TOKEN" if os.environ.get("HF_TOKEN") else f"The token in {constants.HF_TOKEN_PATH}"
        check_token(headers.get("authorization", ""), "The token given" if isinstance(self._token, str) else stored)
        return headers

    def _cache(self, repo: str) -> RepositoryCache:
        return RepositoryCache(self._cache_folder / f"models--{repo.replace('/', '--')}")

    @property
    def _cache_folder(self) -> Path:
        folder = Path(self.cache_dir or constants.HF_HUB_CACHE)
        try:
            return folder.expanduser()
        except RuntimeError:
            msg = f"There is no home folder for {folder}; name a folder: cache_dir=, --cache-dir or HF_HOME."
            raise ConfigError(msg) from None

    def _listing(self, repo: str, revision: str | None) -> Listing:
        """Return the commit and the files of a revision from the Hub; refuse unsafe file names and too large files."""
        with translated_errors(repo, revision):
            url = f"{self._endpoint}/api/models/{repo}"
            url += f"/revision/{quote(revision, safe='')}" if revision else ""
            listing = retried(
                lambda: get_json(url, Listing, self._headers(), timeout=TIMEOUT, parameters={"blobs": True})
            )
        for name, file in listing.files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
                msg = f"{repo} has a file called {name!r}, which leaves its folder. Do not use {repo}."
                raise DamagedReference(msg)
            if file.length > (limit := LARGEST.get(name, file.length)):
                msg = f"{repo} lists {file.length} bytes of {name}; expected at most {limit}. Do not use {repo}."
                raise DamagedReference(msg)
        if revision and COMMIT.fullmatch(revision) and listing.sha != revision:
            msg = f"The Hub answered with the commit {listing.sha} of {repo}; expected {revision}. Nothing was used."
            raise HubError(msg)
        return listing


def parse(name: str) -> tuple[str, str | None] | None:
    """Split ``org/repo[@revision]`` into repository and revision (None if absent); return None for other texts."""
    match = REPOSITORY.fullmatch(name)
    return (match["repo"], match["revision"]) if match else None


def check_repository(repo: str) -> None:
    """Refuse a name of a repository that does not have the form ``ORG/NAME``."""
    if not (match := REPOSITORY.fullmatch(repo)) or match["revision"]:
        msg = f"{repo!r} is no name of a repository; expected ORG/NAME."
        raise ConfigError(msg)


def _check_names(repo: str, revision: str | None) -> None:
    """Refuse malformed names of repositories and revisions, because paths of the cache are made of both."""
    from huggingface_hub import utils

    if revision is not None and not REVISION.fullmatch(revision):
        msg = f"{revision!r} is no revision; name a branch, a tag or a commit."
        raise ReferenceNotFound(msg)
    with translated_errors(repo, revision):
        utils.validate_repo_id(repo)


def _changes(before: Listing | None, files: Mapping[str, bytes], removable: Collection[str]) -> tuple[Change, ...]:
    """Compare files with the listing of a repository, None for a new repository; return the change of each file."""
    remote = before.files if before else {}
    changes = []
    for path, content in files.items():
        kind = "new"
        if listed := remote.get(path):
            same = hashed(content, large=listed.lfs is not None) == listed.etag
            kind = "unchanged" if same else "changed"
        changes.append(Change(path, len(content), kind))
    gone = sorted(path for path in remote if path in removable and path not in files)
    return (*changes, *(Change(path, remote[path].length, "removed") for path in gone))
