"""Annotated cells for reports, and texts that do harm unless they are escaped."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spikgpt import Annotation, SpikGPT
from spikgpt.explain.query import FittedQuery
from spikgpt.scoring.label_map import LabelMap
from tests.conftest import labelled

# Labels may not have control characters; values of obs may.
HOSTILE = (
    "</script><script>document.title='harm'</script>",
    "<img src=x onerror=\"document.title='harm'\">",
    "\" onmouseover='document.title=1' x=\"",
    "__proto__",
    "constructor",
    "{{ 7 * 7 }} {% raw %}",
    "\u05d0\u05d1\u05d2 right to left \u0627\u0644",
    "long " * 39 + "name",
    "<!-- <style>*{display:none}</style>",
    "&lt;b&gt; &amp; &#60;",
)
CONTROL = ("two\nlines", "\x1b[31mred\x00", "\u202eesrever", "\u2028separator", "tab\there")


@pytest.fixture(scope="session")
def annotated(shipped: SpikGPT, query: AnnData) -> Annotation:
    """Annotate the query by the shipped pancreas reference."""
    return labelled(shipped.reference, query, shipped.engine)


@pytest.fixture(scope="session")
def hostile(annotated: Annotation, query: AnnData) -> tuple[Annotation, AnnData]:
    """Return the annotation with hostile labels, and cells with hostile names, columns and values."""
    labels = (*HOSTILE, *(f"label {number}" for number in range(len(annotated.label_names))))
    labels = labels[: len(annotated.label_names)]
    names = LabelMap(labels, annotated.label_ids)
    fitted = annotated.query
    assert isinstance(fitted, FittedQuery)
    reference = dataclasses.replace(fitted.reference, labels=names, name=HOSTILE[0])
    adata = query.copy()
    texts = (*HOSTILE, *CONTROL)
    obs_names = [f"{texts[row % len(texts)]} {row}" for row in range(adata.n_obs)]
    adata.obs_names = obs_names
    values = [texts[row % len(texts)] for row in range(adata.n_obs)]
    columns: dict[str, Any] = dict.fromkeys((*HOSTILE[:5], "two\nlines", "leiden", "sample"), values)
    adata.obs = pd.DataFrame(columns, index=adata.obs_names)
    annotation = dataclasses.replace(
        annotated,
        obs_names=adata.obs_names,
        label_names=labels,
        broad_names=(*labels, *annotated.broad_names[len(labels) :]),
        reference_name=HOSTILE[0],
        reference_origin=HOSTILE[1],
        query=dataclasses.replace(fitted, reference=reference),
        input_report=dataclasses.replace(annotated.input_report, notes=texts),
        rejected=annotated.rejected | (np.arange(adata.n_obs) % 7 == 0),
    )
    return annotation, adata
