"""Options of ``spikgpt serve``: address and limits."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from spikgpt.options import Count, Options, about, cores

MOST_WORKERS = 4


class ServeOptions(Options, frozen=True, kw_only=True):
    """Address and limits of the service."""

    host: Annotated[str, about("Address to listen on. The service has no login: put it behind a proxy.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535), about("Port to listen on; 0 takes a free port.")] = 8000
    max_bytes: Annotated[Count, about("Largest upload in bytes.")] = 256 * 1024 * 1024
    max_cells: Annotated[Count, about("Largest number of cells in a request.")] = 100_000
    timeout: Annotated[float, Meta(gt=0), about("Seconds for an upload, and again for waiting and labelling.")] = 300.0
    concurrent: Annotated[
        Count | None, about("Requests labelled at the same time, each in a process; default: one per core, at most 4.")
    ] = None
    queue: Annotated[int, Meta(ge=0), about("Largest number of waiting requests; further ones get status 503.")] = 16
    grace: Annotated[float, Meta(ge=0), about("Seconds to finish requests after SIGTERM or Ctrl-C.")] = 30.0

    @property
    def workers(self) -> int:
        """Number of worker processes: ``concurrent``, or one per core and at most 4."""
        return self.concurrent or min(MOST_WORKERS, cores())
