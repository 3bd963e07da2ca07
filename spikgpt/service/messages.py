"""Messages between the server and its worker processes, one line of JSON each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from spikgpt.options import EngineOptions, HubOptions, cores

# Name of the upload in a job's folder.
UPLOAD = "upload"


class Model(msgspec.Struct, frozen=True):
    """A reference to load; ``digest`` is the digest that it must have, None for the first worker, which accepts any."""

    source: str
    digest: str | None = None


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """First message to a worker: its references, and the keywords of ``SpikGPT.from_pretrained``."""

    models: tuple[Model, ...]
    keywords: dict[str, Any]
    max_cells: int

    @classmethod
    def from_options(
        cls,
        models: Iterable[str],
        engine: EngineOptions,
        hub: HubOptions,
        scgpt: Path | None,
        *,
        workers: int,
        max_cells: int,
        more: Mapping[str, Any] | None = None,
    ) -> Setup:
        """Return the setup for a number of workers that share the CPU cores.

        ``models`` names the references to load. If ``models`` is empty, all references shipped with spikgpt are loaded.
        ``more`` has further keywords for the workers, in addition to the options.
        """
        from spikgpt.reference.registry import shipped_references

        if engine.threads is None:
            engine = msgspec.structs.replace(engine, threads=max(1, cores() // workers))
        asdict = msgspec.structs.asdict
        keywords = asdict(engine) | asdict(hub) | {"scgpt": scgpt, **(more or {})}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in keywords.items()}
        sources = dict.fromkeys(models) or dict.fromkeys(shipped_references())
        return cls(models=tuple(map(Model, sources)), keywords=plain, max_cells=max_cells)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a reference that the workers have loaded."""

    name: str
    digest: str
    origin: str | None
    labels: tuple[str, ...]
    cell_ontology_ids: tuple[str | None, ...]
    engine: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Answer of a worker to the setup, once its references are loaded."""

    references: tuple[Served, ...]


class LabelJob(msgspec.Struct, frozen=True, kw_only=True):
    """Upload to label: its folder, the name of the reference, options of annotate, and media type of the answer."""

    folder: str
    model: str
    options: dict[str, Any]
    media: str


class Begun(msgspec.Struct, frozen=True, tag=True):
    """First answer to a job, before its upload is opened."""


class JobProgress(msgspec.Struct, frozen=True, tag=True):
    """Progress of a running job: the step, the number of cells done, and the number of all cells, None if unknown."""

    step: str
    done: int = 0
    total: int | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer to a job that succeeded: name of the result file in its folder, HTTP headers, and number of cells."""

    file: str
    headers: dict[str, str]
    cells: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Answer to a setup or a job that failed: the kind of the error, and its message."""

    kind: str
    error: str


Reply = Ready | Begun | JobProgress | Done | Failed
