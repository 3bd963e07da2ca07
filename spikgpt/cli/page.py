"""Command ``spikgpt app``."""

from __future__ import annotations

from spikgpt.app.settings import AppOptions, setup_of
from spikgpt.cli.flags import ScGPT, ServedModels, check_server, command
from spikgpt.cli.output import inform, note
from spikgpt.options import EngineOptions, HubOptions

# Modules that the page needs, and the package that contains each module.
PACKAGES = {"gradio": "gradio", "starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


@command("The page was stopped.")
def app_(
    settings: AppOptions,
    engine: EngineOptions,
    hub: HubOptions,
    model: ServedModels = None,
    scgpt: ScGPT = None,
) -> None:
    """Label cells on a page in the browser, on this machine. Nothing is kept after the page is closed."""
    check_server("app", PACKAGES)
    from spikgpt.app.server import serve

    setup = setup_of(settings, model or (), engine, hub, scgpt)

    def on_start(address: str, names: list[str]) -> None:
        inform(f"Open {address} in a browser; references: {', '.join(names)}. Ctrl-C stops the page.")
        if not settings.is_local:
            note("Other machines can reach this page, and it has no login: put a proxy with a login in front of it.")

    serve(setup, settings, on_start)
    inform("The page has stopped.")
