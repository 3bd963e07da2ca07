"""Command ``spikgpt serve``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from msgspec import structs

from spikgpt.cli.flags import MODEL, ScGPT, command, escaped
from spikgpt.cli.output import inform
from spikgpt.errors import ConfigError, install_command, listed
from spikgpt.options import EngineOptions, HubOptions, cores
from spikgpt.service.settings import ServeOptions

# Modules that the service needs, and the packages that bring them.
PACKAGES = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
}


@command("The service was stopped.")
def serve(
    settings: ServeOptions,
    engine: EngineOptions,
    hub: HubOptions,
    model: Annotated[
        list[str] | None,
        typer.Option(help=escaped(f"{MODEL} Repeatable; default: the references shipped with this package.")),
    ] = None,
    scgpt: ScGPT = None,
) -> None:
    """Label cells over HTTP: POST an .h5ad file to /v1/annotate. The service has no login."""
    if sys.platform == "win32":
        msg = "spikgpt serve needs Linux or macOS; use spikgpt annotate here, or a container."
        raise ConfigError(msg)
    if missing := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        msg = f"spikgpt serve needs the extra 'serve' (not here: {listed(missing)}). Run: {install_command(*missing)}"
        raise ConfigError(msg)
    from spikgpt.reference.registry import shipped_references
    from spikgpt.service.messages import Model, Setup
    from spikgpt.service.server import serve as run

    if engine.threads is None:
        engine = structs.replace(engine, threads=max(1, cores() // settings.workers))
    keywords = structs.asdict(engine) | structs.asdict(hub) | {"scgpt": scgpt}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in keywords.items()}
    sources = dict.fromkeys(model or shipped_references())
    setup = Setup(models=tuple(map(Model, sources)), keywords=plain, max_cells=settings.max_cells)

    def on_start(address: str, names: list[str]) -> None:
        inform(f"Listening on {address}; references: {', '.join(names)}. Ctrl-C stops the service.")

    run(setup, settings, on_start)
    inform("The service has stopped.")
