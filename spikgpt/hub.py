"""The Hugging Face Hub: the only module that talks to it."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from spikgpt.errors import ReferenceNotFound

REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def parse(name: str) -> tuple[str, str | None] | None:
    """Return the repository and the revision of ``org/repo[@revision]``, or None for anything else."""
    match = REPOSITORY.fullmatch(name)
    return (match["repo"], match["revision"]) if match else None


def download(repo: str, revision: str | None, files: list[str]) -> tuple[Path, str]:
    """Get some files of a model repository, from the cache where they are there.

    Returns
    -------
    Their folder, and the commit that the revision stands for.

    Raises
    ------
    ReferenceNotFound
        When there is no such repository or revision, or the Hub cannot be reached.
    """
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=files))
    except RepositoryNotFoundError as error:
        msg = f"There is no repository {repo} on the Hub, or it is private: log in with hf auth login, or set HF_TOKEN."
        raise ReferenceNotFound(msg) from error
    except LocalEntryNotFoundError as error:
        msg = f"{repo} is not in the local cache and the Hub cannot be reached. Check the connection and HF_ENDPOINT."
        raise ReferenceNotFound(msg) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        at = f"@{revision}" if revision else ""
        msg = f"{repo}{at} cannot be downloaded: {str(error).splitlines()[0]}"
        raise ReferenceNotFound(msg) from error
    # The cache keeps each commit in a folder of its name.
    return folder, folder.name
