"""Download files of the Hub into the cache of huggingface_hub, and compare each with the hash that the Hub lists."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikgpt.errors import DamagedReference
from spikgpt.reference.hub_cache import cached_file, hash_of_file
from spikgpt.reference.hub_errors import TRIES, retried
from spikgpt.reference.hub_requests import ListedFile, Meter, run_concurrently, session

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def download(api: HfApi, repo: str, folder: Path, files: Sequence[ListedFile]) -> None:
    """Download files into ``folder``, the cache folder of their commit; errors of the client are not translated.

    Raises
    ------
    DamagedReference
        When two downloads of a file have another hash than the Hub lists.
    """
    for file in files:
        if (link := folder / file.rfilename).is_symlink() and not cached_file(folder, file.rfilename):
            link.unlink()  # the link leads out of the cache, or nowhere
    remaining = list(files)
    for force in (False, True):
        if remaining:
            retried(partial(_attempt, api, repo, folder, remaining, force=force))
    if remaining:
        names = ", ".join(sorted(file.rfilename for file in remaining))
        msg = (
            f"{repo} at {folder.name} does not hold what it lists, downloaded twice: {names}. Nothing of it was used; "
            "tell its owner."
        )
        raise DamagedReference(msg)
    folder.mkdir(parents=True, exist_ok=True)


def _attempt(api: HfApi, repo: str, folder: Path, remaining: list[ListedFile], *, force: bool) -> None:
    """Download the files in ``remaining`` concurrently, and remove each undamaged file from this list.

    The client keeps a cached file unless ``force_download`` is True. The client moves a file into the cache before the
    hash is known. So the thread of each download deletes a damaged file itself, also if other downloads fail.
    """
    from huggingface_hub import utils
    from tqdm import tqdm

    session()
    hidden, total = True if utils.are_progress_bars_disabled() else None, sum(file.length for file in remaining)
    with tqdm(desc=repo, total=total, unit="B", unit_scale=True, disable=hidden) as bar:
        one_bar: Any = lambda **_: nullcontext(bar)  # noqa: E731, the client expects a class

        def fetch(file: ListedFile) -> None:
            for tries_left in reversed(range(TRIES)):
                try:
                    api.hf_hub_download(
                        repo,
                        file.rfilename,
                        revision=folder.name,
                        cache_dir=folder.parents[2],
                        force_download=force or (folder / file.rfilename).exists(),
                        tqdm_class=one_bar,
                    )
                    whole = is_whole(folder, file)
                    break
                except FileNotFoundError:
                    # Another process has just deleted the file, because its own download was damaged.
                    if not tries_left:
                        raise
            if whole:
                remaining.remove(file)
            else:
                _delete_damaged(folder, file)

        meters = [Meter(file.length, folder.name, file.etag) for file in remaining]
        run_concurrently(repo, [partial(fetch, file) for file in remaining], meters)


def _delete_damaged(folder: Path, file: ListedFile) -> None:
    """Delete a cached file if it is damaged; the client's lock keeps other processes from replacing it meanwhile."""
    from huggingface_hub.utils import WeakFileLock

    storage = folder.parents[1]
    lock = storage.parent / ".locks" / storage.name / f"{file.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if (path := cached_file(folder, file.rfilename)) and not is_whole(folder, file):
            path.unlink(missing_ok=True)


def is_whole(folder: Path, file: ListedFile) -> bool:
    """Return True if a cached file has the size and the hash that the Hub lists."""
    path = cached_file(folder, file.rfilename)
    if path is None or path.stat().st_size != file.length:
        return False
    return hash_of_file(path, large=file.lfs is not None) == file.etag
