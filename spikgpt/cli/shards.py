"""``spikgpt annotate SHARD... --out-dir DIR``: label several files as one query."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from spikgpt.cli.output import describe, inform, interruptible, show
from spikgpt.errors import ConfigError, needs, with_noun
from spikgpt.options import Count, Options, about

if TYPE_CHECKING:
    from spikgpt.embedding.base import Engine
    from spikgpt.options import AnnotateOptions
    from spikgpt.reference.files import Reference
    from spikgpt.shards.run import ShardedAnnotation

# Seconds to wait for the scheduler.
CONNECT_SECONDS = 30


class ShardOptions(Options, frozen=True, kw_only=True):
    """Several files as one query."""

    out_dir: Annotated[
        Path | None, about("Output folder: QUERY may be several files, and each part of them gets a Parquet file.")
    ] = None
    workers: Annotated[Count | None, about("Number of processes with one thread each; default: this process.")] = None
    scheduler: Annotated[str | None, about("Address of a Dask scheduler, such as tcp://HOST:8786.")] = None
    shard_size: Annotated[Count, about("Largest number of cells of a part; larger files are divided.")] = 100_000
    dashboard: Annotated[bool, about("Show the dashboard of Dask at http://localhost:8787.", "--dashboard")] = False

    def __post_init__(self) -> None:
        if self.workers and self.scheduler:
            msg = "--workers starts processes here, and --scheduler names those of a cluster; choose one."
            raise ConfigError(msg)
        if self.out_dir is None and (self.workers or self.scheduler or self.dashboard or self.shard_size != 100_000):
            msg = "--workers, --scheduler, --shard-size and --dashboard need --out-dir DIR, the folder for the labels."
            raise ConfigError(msg)


def label_shards(
    queries: list[str],
    reference: Reference,
    engine: Engine,
    options: AnnotateOptions,
    shards: ShardOptions,
) -> ShardedAnnotation:
    """Label the shards of a query, and print the number of cells of each label."""
    with needs():
        from spikgpt.shards.run import annotate_shards
    assert shards.out_dir is not None
    folder = shards.out_dir
    with interruptible(lambda: _finished(folder)), _client(shards) as client:
        annotation = annotate_shards(
            reference, engine, queries, folder, options, client=client, shard_size=shards.shard_size
        )
    rows = ((label, cells, f"{100 * cells / annotation.n_cells:.1f}%") for label, cells in annotation.counts().items())
    show(("label", "cells", "share"), rows, f"{with_noun(len(queries), 'shard')} by {reference.name}", result=False)
    describe(annotation.sentences(), engine.name, annotation.notes())
    resumed = f", {annotation.resumed} of them by an earlier run" if annotation.resumed else ""
    inform(f"Wrote {with_noun(len(annotation.parts), 'part')} into {folder}{resumed}")
    return annotation


@contextmanager
def _client(shards: ShardOptions) -> Iterator[Any]:
    """Yield a client of Dask, or None for this process."""
    if not shards.workers and not shards.scheduler:
        yield None
        return
    with needs("distributed"):
        import distributed
    client_of: Any = distributed.Client
    local_cluster: Any = distributed.LocalCluster
    if shards.scheduler:
        try:
            client = client_of(shards.scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            msg = f"--scheduler {shards.scheduler} cannot be reached ({error}). Check the address, and start it first."
            raise ConfigError(msg) from None
        with client:
            yield client
        return
    cluster: Any = local_cluster(
        n_workers=shards.workers,
        threads_per_worker=1,
        dashboard_address=":8787" if shards.dashboard else "127.0.0.1:0",
        scheduler_kwargs={"dashboard": shards.dashboard},
        # Dask logs the end of every worker, which users need not see. Errors are reported for each shard.
        silence_logs=logging.CRITICAL,
    )
    with cluster, client_of(cluster, set_as_default=False) as client:
        yield client


def _finished(folder: Path) -> str:
    """Return a sentence with the number of finished parts, for a user who interrupted the command."""
    from spikgpt.shards.manifest import MANIFEST, ShardManifest

    if not (folder / MANIFEST).is_file():
        return "Nothing was written."
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ShardManifest)
    total = len(manifest.shards) or "the"
    return f"{len(manifest.parts)} of {total} parts are finished in {folder}; the same command resumes."
