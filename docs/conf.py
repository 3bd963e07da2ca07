"""How the documentation is built: ``make docs``."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Notebooks run in folders of their own; they find the cells of the tests here, and no Hub that they do not start.
os.environ["SPIKGPT_DOCS_DATA"] = str(HERE.parent / "tests" / "data")
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

project = "SpikGPT"
author = "the SpikGPT authors"
version = release = version_of("spikgpt")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "reference/_command_line.md"]
html_theme = "sphinx_book_theme"
html_title = f"SpikGPT {version}"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
# Progress bars and the like are for terminals.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_rtype = False


def command_line_reference() -> None:
    """Write the reference of the command line from the commands themselves."""
    made = subprocess.run(
        [sys.executable, "-m", "typer", "spikgpt.cli.main", "utils", "docs", "--name", "spikgpt"],
        capture_output=True,
        text=True,
        check=True,
    )
    (HERE / "reference" / "_command_line.md").write_text(made.stdout)


command_line_reference()
