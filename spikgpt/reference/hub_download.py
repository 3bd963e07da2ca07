"""Download files of the Hub into the cache of huggingface_hub, and compare each with the hash that the Hub lists."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spikgpt.errors import DamagedReference
from spikgpt.reference.hub_cache import cached_file, hashed
from spikgpt.reference.hub_errors import retried
from spikgpt.reference.hub_requests import ListedFile, Meter, run_concurrently, session

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def download(api: HfApi, repo: str, folder: Path, files: Sequence[ListedFile]) -> None:
    """Download files into ``folder``, which the cache has for their commit; the errors are the client's.

    Raises
    ------
    DamagedReference
        When a file arrives with another hash twice. The damaged file is deleted.
    """
    for file in files:
        if (link := folder / file.rfilename).is_symlink() and not cached_file(folder, file.rfilename):
            link.unlink()  # leads out of the cache, or nowhere
    left = list(files)
    for force in (False, True):
        if left:
            retried(partial(_attempt, api, repo, folder, left, force=force))
    for file in left:
        if damaged := cached_file(folder, file.rfilename):
            damaged.unlink()
    if left:
        names = ", ".join(sorted(file.rfilename for file in left))
        msg = (
            f"{repo} at {folder.name} does not hold what it lists, downloaded twice: {names}. Nothing of it was used; "
            "tell its owner."
        )
        raise DamagedReference(msg)
    folder.mkdir(parents=True, exist_ok=True)


def _attempt(api: HfApi, repo: str, folder: Path, left: list[ListedFile], *, force: bool) -> None:
    """Download the files in ``left`` concurrently, and remove those from the list that are whole.

    The client keeps a cached file unless it is forced to replace it.
    """
    from huggingface_hub import utils
    from tqdm import tqdm

    session()
    hidden, total = True if utils.are_progress_bars_disabled() else None, sum(file.length for file in left)
    with tqdm(desc=repo, total=total, unit="B", unit_scale=True, disable=hidden) as bar:
        fetch = partial(
            api.hf_hub_download,
            repo,
            revision=folder.name,
            cache_dir=folder.parents[2],
            tqdm_class=lambda **_: nullcontext(bar),  # one bar for all files
        )
        calls = [
            partial(fetch, file.rfilename, force_download=force or (folder / file.rfilename).exists()) for file in left
        ]
        try:
            run_concurrently(repo, calls, [Meter(file.length, folder.name, file.etag) for file in left])
        finally:
            left[:] = [file for file in left if not is_whole(folder, file)]


def is_whole(folder: Path, file: ListedFile) -> bool:
    """Return whether a cached file has the hash that the Hub lists."""
    path = cached_file(folder, file.rfilename)
    return path is not None and hashed(path.read_bytes(), large=file.lfs is not None) == file.etag
