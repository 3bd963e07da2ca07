"""Writer of reports and explanations of an annotation. A report is one HTML file that needs no network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikgpt.errors import ConfigError, with_noun
from spikgpt.files import check_target, replacing
from spikgpt.options import READING, AnnotateOptions, ExplainOptions, options_of
from spikgpt.scoring.annotation import Annotation

if TYPE_CHECKING:
    from anndata import AnnData

    from spikgpt.explain.explanation import Explanation
    from spikgpt.report.clusters import ClusterReport
    from spikgpt.report.map import MapSource

# Allowed endings of the file name of a report.
ENDINGS = (".html", ".htm")


@dataclass(frozen=True)
class ReportWriter:
    """Writer of reports and explanations of annotations.

    Attributes
    ----------
    options
        Options of the annotation, which the report lists. Explanations read cells with these options.
    source
        Sample that places the cells on the map; None for the sample of the annotation.
    """

    options: AnnotateOptions
    source: MapSource | None = None

    def write(
        self,
        annotation: Annotation,
        path: str | Path,
        adata: AnnData | None,
        *,
        map_key: str | None = None,
        cluster_key: str | None = None,
        title: str | None = None,
        clusters: ClusterReport | None = None,
    ) -> None:
        """Write a report; see :meth:`spikgpt.Annotation.report`.

        Parameters
        ----------
        clusters
            Clusters of ``cluster_key`` with the marker genes of candidates. None computes them.
        """
        # Imported here, because annotation needs no templates.
        from spikgpt.report.content import report_content
        from spikgpt.report.map import check_map_key
        from spikgpt.report.page import page

        path = _checked(path)
        if adata is not None:
            _check_same_cells(annotation, adata)
        if map_key is not None:
            check_map_key(adata, map_key)  # a wrong key is refused before the report is computed
        content = report_content(
            annotation,
            adata,
            self.options,
            map_key=map_key,
            cluster_key=cluster_key,
            title=title,
            clusters=clusters,
            source=self.source,
        )
        text = page(content)
        with replacing(path) as temporary:
            temporary.write_bytes(text)

    def explain(
        self,
        annotation: Annotation,
        adata: AnnData | None,
        cells: Sequence[str | int] | None,
        chosen: Mapping[str, Any],
    ) -> Explanation:
        """Return the genes behind the labels; see :meth:`spikgpt.Annotation.explain`."""
        from spikgpt.explain.groups import explain_annotation

        reading = {name: getattr(self.options, name) for name in READING}
        if adata is not None:
            _check_same_cells(annotation, adata)
        return explain_annotation(annotation, adata, options_of(ExplainOptions, {**chosen, **reading}), cells=cells)


def _checked(path: str | Path) -> Path:
    """Return the path of a report; raise ConfigError for a folder, a wrong ending, or a value that is no path."""
    if not isinstance(path, str | os.PathLike):
        msg = (
            f"The path is of the type {type(path).__name__}; expected a name: annotation.report('report.html', adata)."
        )
        raise ConfigError(msg)
    path = Path(path)
    check_target(path)
    if path.is_dir():
        msg = f"{path} is a folder; name a file for the report, such as report.html."
    elif path.suffix.lower() not in ENDINGS:
        problem = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        msg = f"{path} {problem}; expected a name that ends in {' or '.join(ENDINGS)}."
    else:
        return path
    raise ConfigError(msg)


def _check_same_cells(annotation: Annotation, adata: AnnData) -> None:
    """Raise ConfigError if ``adata`` is no AnnData, or its cells or their order differ from the annotation."""
    if not hasattr(adata, "obs_names"):
        msg = f"adata is of the type {type(adata).__name__}; expected the AnnData that was annotated, or None."
        raise ConfigError(msg)
    names, present = (np.asarray(names[:], dtype=object) for names in (annotation.obs_names, adata.obs_names))
    if not np.array_equal(names, present):
        msg = (
            f"The AnnData ({with_noun(adata.n_obs, 'cell')}) has other cells than the annotation "
            f"({with_noun(len(names), 'cell')}), or another order of cells. Pass the AnnData that was annotated."
        )
        raise ConfigError(msg)
