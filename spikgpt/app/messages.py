"""Messages between the page's server and its worker processes, and the names of files in their folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from spikgpt.app.folders import safe_name
from spikgpt.service.messages import JobProgress, LabelJob

# Folder of the results in a job's folder, and the files in this folder. Uploads lie beside this folder and never have a
# name that begins with a dot.
RESULTS = ".results"
SUMMARY, CELLS, TABLE, REPORT = "summary.json", "labelled.h5ad", "labels.csv", "report.html"

# Endings that state the format in the file name of a query, such as .csv.gz.
ENDINGS = re.compile(r"(\.(h5ad|h5|zarr|loom|mtx|csv|tsv|txt|parquet|tar|zip|gz))+$", re.IGNORECASE)


class PageJob(LabelJob, frozen=True, kw_only=True):
    """A file to label: ``query`` is its path, either absolute or relative to the job's folder."""

    query: str
    cluster_key: str | None = None
    # Largest file, in bytes, of which a labelled copy is written.
    max_bytes: int


class PageLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A row in the page's table of labels; ``confidence`` is the mean of the label's cells, None for Unknown."""

    label: str
    cells: int
    confidence: float | None
    color: str


class PageCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A row in the page's table of clusters.

    ``share`` is the share of the cluster's cells with its label, and ``unknown_share`` that of its Unknown cells.
    ``genes`` are its marker genes, or a sentence if there are none.
    """

    name: str
    cells: int
    label: str
    share: float
    unknown_share: float
    genes: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Result for a file, as the page shows it.

    ``query`` is the name of the file. ``verdict``, ``tone`` (good, fair or bad), ``explanation`` and ``evidence``
    describe the compatibility in the words of the report.
    """

    cells: int
    reference: str
    query: str
    verdict: str
    tone: str
    explanation: str
    evidence: str
    # Sentences on the choice of the reference; empty unless the user chose auto.
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
        """Read the summary from the folder of a job."""
        return msgspec.json.decode((folder / RESULTS / SUMMARY).read_bytes(), type=cls)


class Step(NamedTuple):
    """The current step of a run, and the seconds since the run began."""

    progress: JobProgress
    seconds: float


class Finished(NamedTuple):
    """Result of a finished run: its summary, the secret address of its files, and the seconds that the run took."""

    summary: Summary
    address: str
    seconds: float
