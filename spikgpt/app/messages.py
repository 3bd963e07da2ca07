"""Messages between the page's server and its worker processes, and the names of files in their folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from spikgpt.app.folders import safe_name
from spikgpt.service.messages import JobProgress, LabelJob

# Folder of the results in a job's folder, and the files in it. No upload has a name that begins with a dot.
RESULTS = ".results"
SUMMARY, CELLS, TABLE, REPORT = "summary.json", "labelled.h5ad", "labels.csv", "report.html"

# Endings of a query's name.
ENDINGS = re.compile(r"(\.(h5ad|h5|zarr|loom|mtx|csv|tsv|txt|parquet|tar|zip|gz))+$", re.IGNORECASE)


class PageJob(LabelJob, frozen=True, kw_only=True):
    """A file to label: ``query`` is its path, from the job's folder or from the root."""

    query: str
    cluster_key: str | None = None
    # Largest file, in bytes, of which a labelled copy is written.
    max_bytes: int


class PageLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A label of the result, with its number of cells."""

    label: str
    cells: int
    confidence: float | None
    color: str


class PageCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster of the result, with its label."""

    name: str
    cells: int
    label: str
    share: float
    unknown_share: float
    genes: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Labels of a file as the page shows them.

    ``query`` is the name of the file. ``verdict``, ``tone`` (good, fair or bad), ``explanation`` and ``evidence`` are
    the compatibility in the words of the report.
    """

    cells: int
    reference: str
    query: str
    verdict: str
    tone: str
    explanation: str
    evidence: str
    # Sentences on the choice of the reference, for auto.
    choice: list[str]
    sentences: list[str]
    notes: list[str]
    rows: list[PageLabel]
    clusters: list[PageCluster]
    files: list[str]

    def saved_as(self, file: str) -> str:
        """Return the name of a download, such as ``cells-labels.csv`` for the query ``cells.h5ad``."""
        return f"{safe_name(ENDINGS.sub('', self.query))}-{file}"

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """Return the summary in the results of a job."""
        return msgspec.json.decode((folder / RESULTS / SUMMARY).read_bytes(), type=cls)


class Step(NamedTuple):
    """The step of a run, with its seconds up to now."""

    progress: JobProgress
    seconds: float


class Finished(NamedTuple):
    """The end of a run: its labels, and the address of its files."""

    summary: Summary
    address: str
    seconds: float
