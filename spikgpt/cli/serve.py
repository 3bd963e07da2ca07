"""Command ``spikgpt serve``."""

from __future__ import annotations

from spikgpt.cli.flags import ScGPT, ServedModels, check_server, command
from spikgpt.cli.output import inform
from spikgpt.options import EngineOptions, HubOptions
from spikgpt.service.settings import ServeOptions

# Modules that the service needs, and the package that contains each module.
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
    model: ServedModels = None,
    scgpt: ScGPT = None,
) -> None:
    """Label cells over HTTP: POST an .h5ad file to /v1/annotate. The service has no login."""
    check_server("serve", PACKAGES)
    from spikgpt.service.messages import Setup
    from spikgpt.service.server import serve as run

    setup = Setup.from_options(model or (), engine, hub, scgpt, workers=settings.workers, max_cells=settings.max_cells)

    def on_start(address: str, names: list[str]) -> None:
        inform(f"Listening on {address}; references: {', '.join(names)}. Ctrl-C stops the service.")

    run(setup, settings, on_start)
    inform("The service has stopped.")
