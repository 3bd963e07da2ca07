"""Sphinx configuration; build with ``make docs``."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
# The benchmark, the export and the recipes are separate packages.
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("benchmarks", "export", "hub_cards"))]

from generate import write, write_reports  # noqa: E402

# Notebooks use only the Hub that they start themselves.
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Several threads are slower than one for small matrices.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

project = "SpikGPT"
author = "SpikGPT developers"
version = release = version_of("spikgpt")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "reference/_*.md"]
html_theme = "sphinx_book_theme"
html_title = f"SpikGPT {version}"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "navbar_persistent": []}
html_static_path = ["_static"]
# Folder of the generated example reports, copied to the site.
html_extra_path = ["_build/extra"]
html_css_files = ["site.css"]
toc_object_entries_show_parents = "hide"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 1800
nb_merge_streams = True
# Leave out progress bars, which are written to stderr.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = dict.fromkeys(("Bools", "Floats", "Integers", "Rows", "Strings"), "ndarray")
napoleon_attr_annotations = False
napoleon_google_docstring = False
napoleon_use_rtype = False

ARRAY = re.compile(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[\w+(\[Any\])?\]\]")


def shortened(_: Sphinx, kind: str, *more: Any) -> tuple[str | None, str | None]:
    """Return the signature and result type of a function, with array types shortened; empty for classes."""
    if kind == "class":  # Users get instances from methods, not from the constructor.
        return "", ""
    signature, result = (text and ARRAY.sub("ndarray", text) for text in more[-2:])
    return signature, result


def setup(app: Sphinx) -> None:
    """Generate the pages that are made from the code."""
    write(HERE / "reference")
    write_reports(HERE / "_build" / "extra" / "reports")
    app.connect("autodoc-process-signature", shortened)
