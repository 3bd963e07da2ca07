"""Files of a study from where it published them, or from a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spikgpt.sources.spec import SourceFile


def download(files: Sequence[SourceFile], cache: Path, mirror: str | None, *, accession: str) -> dict[str, Path]:
    """Get files of a study into ``cache/ACCESSION/NAME``, or find them there, and return their paths by name.

    Parameters
    ----------
    mirror
        A folder or an address that has the files as ``ACCESSION/NAME``; it is asked instead of their own addresses.
    """
    raise NotImplementedError
