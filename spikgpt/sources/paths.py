"""Paths made from words of a recipe or names in an archive: none leads out of its folder."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from spikgpt.errors import ConfigError

# Windows opens a device by these names, whatever the ending.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LONGEST_NAME = 200
# Not every system has these flags.
WITHOUT_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def check_file_name(field: str, name: str, *, ascii_only: bool = True) -> None:
    """Refuse a text that is not the name of one visible file or folder on every system.

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
    """Return the path of a file or folder within ``folder``, and refuse names or links that lead out of it.

    Parameters
    ----------
    links
        Whether links in ``folder`` may lead elsewhere, because the user made that folder.

    Raises
    ------
    ConfigError
        When the path leads elsewhere.
    """
    path = folder
    for name in names:
        if name in ("", ".", "..") or set(name) & set("/\\:\0"):
            msg = f"{name[:60]!r} is not the name of a file in {folder}. Correct the name in the recipe."
            raise ConfigError(msg)
        path /= name
    # Unlike Path.resolve(), this raises nothing for links that lead to themselves.
    if not links and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        msg = f"{path} is a link that leaves {folder}. Remove the link."
        raise ConfigError(msg)
    return path


def read_regular_file(path: Path, largest: int, *, links: bool = False) -> bytes:
    """Return the content of a regular file of at most ``largest`` bytes; a pipe or a device is never waited for.

    Parameters
    ----------
    links
        Whether ``path`` may be a symbolic link.

    Raises
    ------
    ConfigError
        When it is a link, no regular file, or too large.
    OSError
        When it cannot be read.
    """
    if path.is_symlink() and not links:
        msg = f"{path} is a link; expected a regular file. Copy the content there."
        raise ConfigError(msg)
    if not stat.S_ISREG(path.stat().st_mode):
        msg = f"{path} is not a regular file; expected a text file."
        raise ConfigError(msg)
    # Opened without following or waiting, and checked again: the path may have been replaced meanwhile.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | (0 if links else WITHOUT_LINKS)
    with os.fdopen(os.open(path, flags), "rb") as opened:
        content = opened.read(largest + 1) if stat.S_ISREG(os.fstat(opened.fileno()).st_mode) else None
    if content is None or len(content) > largest:
        found = "is not a regular file" if content is None else f"has more than {largest} bytes"
        msg = f"{path} {found}; expected a text file of at most {largest}."
        raise ConfigError(msg)
    return content
