"""Build paths from names in recipes and archives, and refuse names that lead out of their folder."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from spikgpt.errors import ConfigError

# Windows opens a device by each of these names, with any file extension.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LONGEST_NAME = 200
# Not every system has these flags.
WITHOUT_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def check_file_name(field: str, name: str, *, ascii_only: bool = True) -> None:
    """Refuse a name that is not allowed for a visible file or folder on every operating system.

    Raises
    ------
    ValueError
        The message names the field of the recipe.
    """
    plain = re.fullmatch(r"[\w+-][\w.+-]*", name) and (name.isascii() or not ascii_only)
    short = len(name.encode(errors="replace")) <= LONGEST_NAME
    if not plain or not short or name.endswith(".") or DEVICES.fullmatch(name):
        expected = f"at most {LONGEST_NAME} letters, digits and + - . _, without a dot at either end"
        msg = f"{field} is {name[:60]!r}; expected a plain file name: {expected}"
        raise ValueError(msg)


def path_within(folder: Path, *names: str, links: bool = False) -> Path:
    """Return the path of a file or folder within ``folder``.

    Parameters
    ----------
    links
        True for a folder that the user made: its links may lead out of it.

    Raises
    ------
    ConfigError
        When a name or a link leaves the folder.
    """
    path = folder
    for name in names:
        if name in ("", ".", "..") or set(name) & set("/\\:\0"):
            msg = f"{name[:60]!r} is not the name of a file in {folder}. Correct the name in the recipe."
            raise ConfigError(msg)
        path /= name
    # Unlike Path.resolve(), realpath raises nothing for circular links.
    if not links and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        msg = f"{path} is a link that leaves {folder}. Remove the link."
        raise ConfigError(msg)
    return path


def read_regular_file(path: Path, largest: int, *, links: bool = False) -> bytes:
    """Return the content of a regular file, without blocking on pipes and devices.

    Parameters
    ----------
    largest
        Largest size of the file in bytes.
    links
        True if ``path`` may be a symbolic link.

    Raises
    ------
    ConfigError
        When the path is a link or no regular file, or the file is too large.
    OSError
        When the file cannot be read.
    """
    mode, content = (path.stat() if links else path.lstat()).st_mode, None
    if stat.S_ISREG(mode):
        # The path may have been replaced since: open it without following links or waiting, and check again.
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | (0 if links else WITHOUT_LINKS)
        with os.fdopen(os.open(path, flags), "rb") as file:
            content = file.read(largest + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    if content is not None and len(content) <= largest:
        return content
    kind = "is a link" if stat.S_ISLNK(mode) else "is not a regular file"
    kind = kind if content is None else f"has more than {largest} bytes"
    msg = f"{path} {kind}; expected a regular text file of at most {largest} bytes. Copy the content there."
    raise ConfigError(msg)
