"""Options of ``spikgpt app``: address, limits, and the references of the page."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from spikgpt.options import Count, EngineOptions, HubOptions, Options, about, cores
from spikgpt.service.messages import Setup

MOST_WORKERS = 2
MEGABYTE = 1024 * 1024


class AppOptions(Options, frozen=True, kw_only=True):
    """Address and limits of the page."""

    host: Annotated[str, about("Address to listen on. Only 127.0.0.1 lets the page open local files.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535), about("Port to listen on; 0 takes a free port.")] = 7860
    max_mb: Annotated[Count, about("Largest upload in MB.")] = 2048
    max_cells: Annotated[Count, about("Largest number of cells of a file.")] = 1_000_000
    timeout: Annotated[float, Meta(gt=0), about("Seconds for an upload, and again for waiting and labelling.")] = 1800.0
    concurrent: Annotated[
        Count | None, about("Files labelled at the same time, each in a process; default: one per core, at most 2.")
    ] = None
    queue: Annotated[int, Meta(ge=0), about("Largest number of waiting files; further files are refused.")] = 16

    @property
    def workers(self) -> int:
        """Number of worker processes: ``concurrent``, or one per core and at most 2."""
        return self.concurrent or min(MOST_WORKERS, cores())

    @property
    def max_bytes(self) -> int:
        """Largest upload in bytes."""
        return self.max_mb * MEGABYTE

    @property
    def most_runs(self) -> int:
        """Largest number of files that are labelled or wait at the same time."""
        return self.workers + self.queue

    @property
    def is_local(self) -> bool:
        """True if only programs on this machine can reach the page."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def setup_of(
    settings: AppOptions,
    models: Sequence[str] = (),
    engine: EngineOptions | None = None,
    hub: HubOptions | None = None,
    scgpt: Path | None = None,
) -> Setup:
    """Return the setup of the page's workers; ``models`` names the references; by default, all in this package."""
    return Setup.from_options(
        models,
        engine or EngineOptions(),
        hub or HubOptions(),
        scgpt,
        workers=settings.workers,
        max_cells=settings.max_cells,
        more={"is_open": settings.is_local},
    )
