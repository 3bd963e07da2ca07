"""SpikGPT as a Hugging Face Space: ``make space`` puts the folder ``spikgpt`` beside this file."""

import os

from spikgpt.app.server import serve
from spikgpt.app.settings import AppOptions, setup_of

port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
settings = AppOptions(host="0.0.0.0", port=port, max_mb=512, max_cells=100_000, timeout=600.0)
serve(setup_of(settings), settings, lambda *_: None)
