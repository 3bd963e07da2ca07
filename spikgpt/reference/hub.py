"""The Hugging Face Hub: the only module that talks to it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    constants,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from spikgpt.errors import ConfigError, DamagedReference, HubError, ReferenceNotFound
from spikgpt.version import __version__

REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Tag of every card, by which references are found.
TAG = "spikgpt"
# Seconds to wait for an answer, and how often a read is tried that may succeed the next time.
TIMEOUT = 10.0
TRIES = 3
# Answers that stay the same when asked again, and failures that do.
REFUSALS = (400, 401, 403, 404, 409, 412, 413, 416, 422)
HOPELESS = ("NoneType", "ConnectError", "OfflineModeIsEnabled", "UnsupportedProtocol")
# What the client raises for a broken connection, of httpx or httpx2 depending on its version.
NetworkError: type[Exception] = HfHubHTTPError.__bases__[0]

LOG_IN = "log in with hf auth login, or set HF_TOKEN"

T = TypeVar("T")


class _Unreachable(HubError):
    """The Hub cannot be asked now, so what is cached has to do."""


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


@dataclass(frozen=True)
class Cached:
    """A commit of a repository in the local cache."""

    repository: str
    commit: str
    refs: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Hub:
    """How to reach the Hub.

    ``endpoint`` is its address, by default ``HF_ENDPOINT`` or huggingface.co. ``token`` is a token, True for that of
    ``hf auth login``, False for none; None means the stored one, which is sent to the default endpoint only.
    ``cache_dir`` is where files are kept, by default the cache of huggingface_hub. With ``local_files_only`` nothing is
    asked of the Hub.
    """

    endpoint: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    @cached_property
    def _token(self) -> str | bool | None:
        foreign = self.endpoint is not None and self.endpoint.rstrip("/") != constants.ENDPOINT
        return False if self.token is None and foreign else self.token

    @cached_property
    def _api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=self._token, library_name="spikgpt", library_version=__version__)

    def snapshot(
        self, repo: str, revision: str | None, files: Collection[str], *, required: Collection[str], fresh: bool = False
    ) -> Path:
        """Get some files of a repository, all of one commit, from the cache where they are there.

        When the Hub cannot be reached, what is cached of the revision is taken.

        Parameters
        ----------
        revision
            A branch, a tag or a commit; None is the main branch. A cached commit is taken without asking the Hub.
        files
            Names of the files; those that the repository does not have are left out.
        required
            Those that make a cached commit good enough not to ask.
        fresh
            Ask the Hub in any case, and do not do without it.

        Returns
        -------
        Their folder, which is named after the commit.

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
        if found and pinned and not fresh and all((found / name).exists() for name in required):
            return found
        try:
            info = self._info(repo, revision)
        except _Unreachable as error:
            if found is None or fresh:
                msg = f"{_named(repo, revision)} is not {'whole ' if found else ''}in the local cache. {error}"
                raise HubError(msg) from error
            return found
        there = {sibling.rfilename for sibling in info.siblings or ()}.intersection(files)
        if found and found.name == info.sha and all((found / name).exists() for name in there):
            return found
        return self._download(repo, revision, files)

    def names(self, repo: str, revision: str | None) -> list[str]:
        """Return the names of all files of a repository."""
        return sorted(sibling.rfilename for sibling in self._info(repo, revision).siblings or ())

    def push(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        removable: Collection[str],
        message: str,
        private: bool = False,
        branch: str | None = None,
        tag: str | None = None,
        pull_request: bool = False,
        dry_run: bool = False,
    ) -> Push:
        """Bring a repository to hold these files, in one commit.

        The repository is made if there is none. Unchanged files are not sent again.

        Parameters
        ----------
        removable
            Names of files that are removed when they are in the repository and not among ``files``.
        private
            Make the repository private. One that is there keeps its visibility, so a public one is refused.
        branch
            Where to commit; made from main if there is none of that name.
        tag
            Name to give to the commit.
        pull_request
            Open a pull request instead of committing.
        dry_run
            Change nothing; only tell what would change.

        Raises
        ------
        ConfigError
            When options contradict each other.
        HubError
            When the Hub refuses, or somebody else has committed meanwhile. Nothing was committed then.
        """
        if pull_request and (branch or tag):
            msg = "A pull request goes to main and is no version yet; leave out the branch and the tag."
            raise ConfigError(msg)
        if not (match := REPOSITORY.fullmatch(repo)) or match["revision"]:
            msg = f"{repo!r} is no name of a repository; expected ORG/NAME."
            raise ConfigError(msg)
        with self._explained(repo, None, writing=True):
            try:
                before = self._info(repo, None)
            except ReferenceNotFound:
                before = None
            if before is not None and private and not before.private:
                msg = f"{repo} exists and is public, so nothing private goes there. Change that on its page first."
                raise HubError(msg)
            if branch and before is not None:
                heads = {ref.name for ref in self._api.list_repo_refs(repo).branches}
                before = self._info(repo, branch) if branch in heads else before
            if dry_run:
                return Push(repo, _changes(before, files, removable))
            if before is None:
                self._api.create_repo(repo, private=private, exist_ok=True)
            if branch:
                self._api.create_branch(repo, branch=branch, exist_ok=True)
            there = self._info(repo, branch)
            changes = _changes(there, files, removable)
            commit, url = there.sha, f"{self._api.endpoint}/{repo}/tree/{branch or 'main'}"
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(change.path, files[change.path])
                for change in changes
                if change.kind in ("new", "changed")
            ]
            operations += [CommitOperationDelete(change.path) for change in changes if change.kind == "removed"]
            if operations:
                made = self._api.create_commit(
                    repo,
                    operations,
                    commit_message=message,
                    revision=branch,
                    parent_commit=there.sha,
                    create_pr=pull_request,
                )
                commit, url = made.oid, made.pr_url or url
            if tag:
                self._api.create_tag(repo, tag=tag, revision=commit)
        return Push(repo, changes, commit, url)

    def cached(self, files: Collection[str]) -> list[Cached]:
        """Return the commits in the cache that have all of some files."""
        try:
            info = scan_cache_dir(self.cache_dir)
        except CacheNotFound:
            return []
        return sorted(
            (
                Cached(repo.repo_id, revision.commit_hash, tuple(sorted(revision.refs)), revision.snapshot_path)
                for repo in info.repos
                for revision in repo.revisions
                if repo.repo_type == "model" and all((revision.snapshot_path / name).exists() for name in files)
            ),
            key=lambda cached: (cached.repository, cached.commit),
        )

    def references(self, author: str) -> list[str]:
        """Return the repositories of a namespace that hold references.

        Raises
        ------
        HubError
            When the Hub cannot be reached.
        """
        if self.local_files_only:
            return []
        with self._explained(f"the namespace {author}", None):
            # The client's own list_models asks for half a minute before it says that nothing is there.
            response = get_session().get(
                f"{self._api.endpoint}/api/models",
                params={"author": author, "filter": TAG, "limit": 1000},
                headers=build_hf_headers(token=self._token, library_name="spikgpt"),
                timeout=TIMEOUT,
            )
            hf_raise_for_status(response)
            return sorted(str(model["id"]) for model in response.json())

    def forget(self, folder: Path, names: Collection[str]) -> None:
        """Delete some files of a cached commit, to get them again."""
        for name in names:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)

    def _info(self, repo: str, revision: str | None) -> ModelInfo:
        """Ask for the commit and the files of a revision."""
        with self._explained(repo, revision):
            info = _retried(lambda: self._api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT))
        for sibling in info.siblings or ():
            path = PurePosixPath(sibling.rfilename)
            if path.is_absolute() or ".." in path.parts or "\\" in sibling.rfilename or not path.name.isprintable():
                msg = f"{repo} has a file called {sibling.rfilename!r}, which leaves its folder. Do not use {repo}."
                raise DamagedReference(msg)
        return info

    def _download(self, repo: str, revision: str | None, files: Collection[str]) -> Path:
        with self._explained(repo, revision):
            return Path(
                _retried(
                    lambda: snapshot_download(
                        repo,
                        revision=revision,
                        allow_patterns=list(files),
                        cache_dir=self.cache_dir,
                        endpoint=self.endpoint,
                        token=self._token,
                        local_files_only=self.local_files_only,
                    )
                )
            )

    def _cached_folder(self, repo: str, revision: str | None) -> Path | None:
        """Return the cached folder of a revision, whatever files it has."""
        storage = Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser() / f"models--{repo.replace('/', '--')}"
        ref = storage / "refs" / (revision or "main")
        commit = ref.read_text().strip() if ref.is_file() else revision
        folder = storage / "snapshots" / str(commit)
        return folder if commit and folder.is_dir() else None

    @contextmanager
    def _explained(self, repo: str, revision: str | None, *, writing: bool = False) -> Iterator[None]:
        """Turn the client's errors into ours."""
        what = _named(repo, revision)
        try:
            yield
        except GatedRepoError as error:
            msg = f"{repo} is for those who ask: accept its terms on its page, then {LOG_IN}."
            raise HubError(msg) from error
        except RepositoryNotFoundError as error:
            if "Invalid credentials" in str(error):
                raise HubError(_refusal(what, error, writing=writing)) from error
            msg = f"There is no repository {repo} on the Hub, or it is private: {LOG_IN}."
            raise ReferenceNotFound(msg) from error
        except RevisionNotFoundError as error:
            msg = f"{repo} has no revision {revision!r}; name a branch, a tag or a commit that its page shows."
            raise ReferenceNotFound(msg) from error
        except LocalEntryNotFoundError as error:
            if _status(error.__cause__) is not None:
                raise _Unreachable(_refusal(what, error.__cause__, writing=writing)) from error
            msg = f"{what} is not in the local cache. Once online, spikgpt pull {what} --out FOLDER gets it."
            raise ReferenceNotFound(msg) from error
        except HFValidationError as error:
            msg = f"{what} is no name of a repository: {_first_line(error)}"
            raise ReferenceNotFound(msg) from error
        except (NetworkError, OSError, RuntimeError, ValueError) as error:
            # Uploads wrap what went wrong.
            cause = error.__cause__ if type(error) is RuntimeError else error
            refused = _status(cause) in REFUSALS
            raise (HubError if refused else _Unreachable)(_refusal(what, cause, writing=writing)) from error


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


def _is_named_by_content(link: Path) -> bool:
    file = link.resolve()
    if not file.is_file():
        return False
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest() if len(file.name) == 64 else git_oid(content)
    return found == file.name


def _changes(there: ModelInfo | None, files: Mapping[str, bytes], removable: Collection[str]) -> tuple[Change, ...]:
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


def _retried(call: Callable[[], T]) -> T:
    """Call again when the Hub is busy, has an accident or breaks off, as it asks or after a moment."""
    for left in reversed(range(TRIES)):
        try:
            return call()
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except (NetworkError, LocalEntryNotFoundError) as error:
            cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
            if not left or type(cause).__name__ in HOPELESS or _status(cause) in REFUSALS:
                raise
            time.sleep(_wait(cause))
    raise AssertionError  # the last try returns or raises


def _wait(error: BaseException | None) -> float:
    """Return the seconds to wait before the next try; what the Hub asks for, within reason."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(asked), 60.0) if asked.isdecimal() else 1.0


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status that an error stands for, if it is one."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _refusal(what: str, error: BaseException | None, *, writing: bool) -> str:
    """Say why the Hub did not do what it was asked for, and what to do."""
    status = _status(error)
    done = "written" if writing else "read"
    if status == 401:
        return f"The Hub does not know this token, or wants one, so {what} was not {done}: {LOG_IN}."
    if status == 403:
        return f"This token may not {'write to' if writing else 'read'} {what}; use one that may."
    if status in (409, 412):
        return f"Somebody else has committed to {what} meanwhile, so nothing was pushed. Look at it, then push again."
    if status == 429:
        return f"The Hub asks for fewer requests, so {what} was not {done}. Try again in some minutes."
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {what} was not {done}. Unset it and connect."
    reason = f"it answered {status}" if status else f"{type(error).__name__}: {_first_line(error)}"
    return f"The Hub cannot be reached ({reason}), so {what} was not {done}. Check the connection and HF_ENDPOINT."


def _named(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo


def _first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [""])[0]
