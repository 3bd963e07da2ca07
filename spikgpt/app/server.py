"""Run the page until a signal ends it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from spikgpt.app.folders import server_folder
from spikgpt.app.runs import Runs
from spikgpt.app.sessions import Sessions
from spikgpt.app.settings import AppOptions
from spikgpt.app.web import Web
from spikgpt.service.http import HTTPServer, bound
from spikgpt.service.messages import Setup
from spikgpt.service.pool import WorkerPool

WORKER = "spikgpt.app.worker"
# Settings of Gradio: no requests to other servers, no public link, and no second server.
ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_ALLOWED_PATHS": "",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def serve(setup: Setup, settings: AppOptions, on_start: Callable[[str, list[str]], None]) -> None:
    """Load references and show the page until SIGTERM or Ctrl-C.

    Parameters
    ----------
    on_start
        Called with the address and the names of the references.

    Raises
    ------
    ConfigError
        When the address cannot be used.
    SpikGPTError
        When a reference cannot be loaded.
    """
    logging.basicConfig(format="%(asctime)s %(message)s")
    with bound(settings.host, settings.port) as listener, server_folder() as folder:
        asyncio.run(_serve(setup, settings, listener, folder, on_start))


async def _serve(
    setup: Setup,
    settings: AppOptions,
    listener: socket.socket,
    folder: Path,
    on_start: Callable[[str, list[str]], None],
) -> None:
    """Show the page on a socket."""
    pool, sessions = WorkerPool(setup, settings.workers, WORKER), Sessions(folder, settings.most_runs)
    try:
        os.environ.update(ENVIRONMENT | {"GRADIO_TEMP_DIR": str(folder / "gradio")})
        # Loading the references and importing Gradio take seconds each.
        await asyncio.gather(pool.start(), asyncio.to_thread(importlib.import_module, "gradio"))
        key = secrets.token_urlsafe(16) if settings.is_local else None
        web = Web(_gradio_app(Runs(pool, settings), sessions, settings), sessions, settings, key)
        names = [reference.name for reference in pool.references]

        def announce(address: str) -> None:
            on_start(address + "/" + (f"?key={key}" if key else ""), names)

        await _PageServer(web, listener, announce).run_until_stopped()
    finally:
        await sessions.close_all()
        await pool.close()


def _gradio_app(runs: Runs, sessions: Sessions, settings: AppOptions) -> Any:
    """Return the ASGI application of Gradio with the page."""
    import gradio
    from fastapi import FastAPI

    from spikgpt.app.page import STATIC, GradioPage

    fonts = [gradio.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gradio.themes.Font(name) for name in ("ui-monospace", "monospace")]
    theme = gradio.themes.Default(primary_hue="teal", neutral_hue="zinc", font=fonts, font_mono=mono)
    # Background colours that are dark enough for white letters.
    dark = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    theme.set(**dark, **{f"{name}_dark": value for name, value in dark.items()})
    return gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        GradioPage(runs, sessions, settings).blocks(),
        path="/",
        footer_links=[],
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        run_history=False,
        theme=theme,
        css=(STATIC / "page.css").read_text(),
    )


class _PageServer(HTTPServer):
    """A server that stops after the first signal; files that are being labelled are dropped."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the server; after a second signal, stop at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        # Hide the errors of uvicorn about the connections of open pages, which are cut on purpose.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
