"""Temporary folder of the page's server, which never outlives the server.

The folder is removed when the server ends. If the server is killed, its :mod:`spikgpt.app.reaper` removes the folder.
If the reaper was killed too, the next server removes the folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spikgpt.app import reaper
from spikgpt.files import lock_folder, locked_folder

PREFIX = "spikgpt-app-"
# Largest number of characters of a file's name that are kept.
LONGEST_NAME = 100
# Name for an upload whose own name has no usable characters.
NAMELESS = "query"


@contextmanager
def server_folder() -> Iterator[Path]:
    """Yield a new folder that only this user can open, and remove it at the end, also if this process is killed."""
    parent = Path(tempfile.gettempdir())
    remove_leftovers(parent)
    program = [sys.executable, "-I", "-S", str(Path(reaper.__file__))]
    with (
        locked_folder(parent, PREFIX) as folder,
        subprocess.Popen(
            [*program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ),
    ):
        yield folder


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of servers that were killed together with their reapers."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
        if (lock := lock_folder(folder)) is None:
            continue
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def safe_name(name: str) -> str:
    """Return a safe file name for an upload: unusual characters of the user's name become underscores."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    name = re.sub(r"[^\w. -]", "_", name).strip(" ._-")
    # Shorten the name at its start, because its end states the format, such as .csv.gz. File names have at most 255
    # bytes.
    while len(name) > LONGEST_NAME or len(os.fsencode(name)) > 2 * LONGEST_NAME:
        name = name[1:].lstrip(" ._-")
    return name or NAMELESS
