"""The Gradio page: fields, buttons, and the areas for progress, labels and report.

Gradio reads its settings from the environment when it is imported. So the server sets the environment variables before
it imports this module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio

from spikgpt.app import render
from spikgpt.app.messages import Finished
from spikgpt.app.runs import LabelRequest, Runs, RunStopped
from spikgpt.app.sessions import Sessions
from spikgpt.app.settings import AppOptions
from spikgpt.errors import SpikGPTError
from spikgpt.reference.registry import AUTO

STATIC = Path(__file__).parent / "static"
TITLE = "SpikGPT: cell types of single-cell RNA-seq"
ZONE = """
<label class="sg-zone" data-state="empty" data-most="{most}">
<input type="file" aria-label="File of cells">
<b>Drop a file of cells here</b>, or click to choose one.<br>
<span class="sg-soft">.h5ad, 10x .h5, or a .csv table of counts; up to {megabytes:,} MB</span>
<span class="sg-file" role="status"></span>
<progress max="1" hidden></progress>
</label>
<button type="button" class="sg-remove" hidden>Remove the file</button>
"""
# Script that scrolls to the progress, which is below the fields on a narrow screen.
SHOW = "() => document.querySelector('#status').scrollIntoView({behavior: 'smooth', block: 'nearest'})"
HEAD = """<h1>SpikGPT</h1><p>Cell types for single-cell RNA-seq. {privacy}</p>"""
LOCAL = "The cells stay on this machine."
PUBLIC = "Files are deleted when you close this page."
EMPTY = """<div class="sg-empty sg-soft">The labels appear here: the compatibility of reference and cells first, then a
table of cell types, the downloads and the report.</div>"""


class GradioPage:
    """The Gradio page: its fields, its buttons, and the functions that they call.

    Parameters
    ----------
    runs
        Starts the runs that label files.
    """

    def __init__(self, runs: Runs, sessions: Sessions, settings: AppOptions) -> None:
        self._runs, self._sessions, self._settings = runs, sessions, settings

    def blocks(self) -> gradio.Blocks:
        """Return the page as Gradio blocks."""
        blocks = gradio.Blocks(title=TITLE, analytics_enabled=False)
        with blocks:
            gradio.HTML(
                HEAD.format(privacy=LOCAL if self._settings.is_local else PUBLIC),
                elem_classes="sg-title",
                js_on_load=None,
            )
            with gradio.Row():
                with gradio.Column(scale=2, min_width=350):
                    upload, fields, start, stop = self._fields()
                with gradio.Column(scale=5, min_width=350):
                    status = gradio.HTML(EMPTY, js_on_load=None, elem_id="status")
                    labels = gradio.HTML("", js_on_load=None, elem_id="labels", elem_classes="sg-result")
            report = gradio.HTML("", js_on_load=None, elem_id="report")
            blocks.load(self.begin, None, upload, api_name="begin", show_progress="hidden", concurrency_limit=None)
            start.click(
                self.annotate,
                fields,
                [status, labels, report, start, stop],
                api_name="annotate",
                show_progress="hidden",
                concurrency_limit=None,
            )
            start.click(None, None, None, js=SHOW)
            stop.click(self.stop, None, None, api_name="stop", show_progress="hidden", concurrency_limit=None)
            # Gradio keeps a connection to each open page only if there is a function for this event. The server ends
            # the session when the connection ends.
            blocks.unload(lambda: None)
        blocks.queue(max_size=None)
        return blocks

    def _fields(self) -> tuple[Any, list[Any], Any, Any]:
        """Return the upload, the other fields in the order of a request, and the two buttons."""
        local, settings = self._settings.is_local, self._settings
        upload = gradio.HTML(
            "",
            html_template=ZONE.format(most=settings.max_bytes, megabytes=settings.max_mb),
            js_on_load=(STATIC / "upload.js").read_text(),
            elem_id="upload",
        )
        path = gradio.Textbox(
            label="Or the path of a file or folder on this machine", placeholder="/data/QUERY.h5ad", visible=local
        )
        names = [(f"{name} ({labels} cell types)", name) for name, labels in self._runs.names.items()]
        choices = [("auto: the best for these cells", AUTO), *names] if len(names) > 1 or local else names
        reference = gradio.Dropdown(
            choices,
            value=choices[0][1],
            label="Reference",
            info="Other references: a folder, ORG/REPO on the Hub, or A,B for several tissues." if local else None,
            allow_custom_value=local,
        )
        with gradio.Accordion("Options", open=False):
            cluster_key = gradio.Textbox(
                label="Column with clusters", info="Each cluster gets its most frequent label.", placeholder="leiden"
            )
            batch_key = gradio.Textbox(
                "auto",
                label="Column with batches",
                info="auto: a column such as sample or donor, else inferred batches. Empty: all cells are one batch.",
            )
            unknown = gradio.Checkbox(
                True,
                label="Unknown",
                info="Cells of types that the reference lacks are Unknown. Off: every cell gets a label.",
            )
        with gradio.Row():
            start = gradio.Button("Annotate", variant="primary", elem_id="annotate")
            stop = gradio.Button("Stop", interactive=False, elem_id="stop", min_width=80)
        return upload, [reference, path, cluster_key, batch_key, unknown], start, stop

    async def begin(self, request: gradio.Request) -> str:
        """Begin a session, and return the token for its uploads; an empty text if there are too many sessions."""
        try:
            return (await self._sessions.session_of(str(request.session_hash))).token
        except SpikGPTError:
            return ""

    async def annotate(
        self,
        reference: str,
        path: str,
        cluster_key: str,
        batch_key: str,
        unknown: bool,
        request: gradio.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Label the file of a session; yield the progress, then labels and report, or an error message of one line."""
        busy = gradio.Button(interactive=False), gradio.Button(interactive=True)
        idle = gradio.Button(interactive=True), gradio.Button(interactive=False)
        # Programs that call the page's functions may send values of other types than the page does.
        reference, path, cluster_key, batch_key = (
            str(text or "") for text in (reference, path, cluster_key, batch_key)
        )
        label_request = LabelRequest(reference, path, cluster_key, batch_key, bool(unknown))
        status, labels, report = "", "", ""
        try:
            session = await self._sessions.session_of(str(request.session_hash))
            async for step in self._runs.run(session, label_request):
                if isinstance(step, Finished):
                    labels, report = render.result(step), render.report(step)
                else:
                    yield render.progress(step), "", "", *busy
        except SpikGPTError as error:
            status = render.error(error)
        except RunStopped:
            status = render.stopped()
        yield status, labels, report, *idle

    async def stop(self, request: gradio.Request) -> None:
        """Stop the run of a session."""
        await (await self._sessions.session_of(str(request.session_hash))).stop()
