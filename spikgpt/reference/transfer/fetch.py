"""Files from the Hub into the cache."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from spikgpt.errors import DamagedReference
from spikgpt.reference.hub_errors import explained, retried
from spikgpt.reference.transfer.cache import Cache, writable
from spikgpt.reference.transfer.requests import Listed, download, side_by_side


def fetch(cache: Cache, repo: str, commit: str, urls: Mapping[Listed, str], headers: Mapping[str, str]) -> None:
    """Get files of a commit into the cache.

    Raises
    ------
    DamagedReference
        When a file arrives twice with another hash than the Hub listed.
    HubError
        When the Hub refuses, or cannot be reached.
    ConfigError
        When the cache cannot be written.
    """
    left = dict(urls)
    for _ in range(2):
        if left:
            with explained(repo, commit):
                retried(lambda: _fetch(cache, repo, commit, left, headers))
    if left:
        names = ", ".join(sorted(file.rfilename for file in left))
        kept = "Nothing of it was used; tell its owner."
        msg = f"{repo} at {commit} does not hold what it lists, fetched twice: {names}. {kept}"
        raise DamagedReference(msg)


def _fetch(cache: Cache, repo: str, commit: str, left: dict[Listed, str], headers: Mapping[str, str]) -> None:
    """Get files side by side; those that arrive with the hash that the Hub listed are no longer ``left``."""
    from huggingface_hub import constants, utils
    from tqdm import tqdm

    files, failures = tuple(left), list[Exception]()
    hidden, size = True if utils.are_progress_bars_disabled() else None, sum(file.bytes for file in files)
    with (
        cache.arriving(*(file.rfilename for file in files)) as opened,
        tqdm(desc=repo, total=size, unit="B", unit_scale=True, disable=hidden) as bar,
    ):
        calls, timeout = [], constants.HF_HUB_DOWNLOAD_TIMEOUT
        for file in files:
            into = opened[file.rfilename][1]
            calls.append(partial(download, left[file], headers, file=file, into=into, timeout=timeout))
        for number, found in side_by_side(repo, calls, progress=bar.update):
            file = files[number]
            if isinstance(found, OSError) and found.errno:  # of a file; the client's errors have none
                with writable(cache.storage):
                    raise found
            elif isinstance(found, Exception):
                failures.append(found)
            elif found:
                path, into = opened[file.rfilename]
                into.close()
                cache.keep(commit, file, path)
                del left[file]
    if failures:
        raise failures[0]
