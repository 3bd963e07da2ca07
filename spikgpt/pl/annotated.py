"""Columns and colours of an annotated AnnData, or of an Annotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from spikgpt.errors import ConfigError, DataError, listed, with_noun
from spikgpt.scoring.annotation import BROAD_LABEL, LABEL, Annotation
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from spikgpt.tables import by_number
from spikgpt.types import UNKNOWN

# Name and colour of cells without a value.
MISSING, MISSING_COLOR = "no value", "#e4e4e4"
# Largest number of columns that an error message names.
NAMED = 12
# Names of maps with at most this many letters are written in capitals, such as UMAP.
SHORT_NAME = 5


@dataclass(frozen=True)
class AnnotatedCells:
    """Cells with the columns of an annotation.

    Attributes
    ----------
    obs
        Table of the cells, with the columns of the annotation.
    facts
        Facts on the annotation, as in ``uns``.
    key
        Prefix of the names of the annotation's columns.
    known_colors
        Colour of each label by name, the same in all pictures.
    adata
        The annotated AnnData; None for an Annotation.
    """

    obs: pd.DataFrame
    facts: Mapping[str, Any]
    key: str
    known_colors: Mapping[str, str]
    adata: AnnData | None = None

    @classmethod
    def read(cls, annotated: AnnData | Annotation, key: str) -> AnnotatedCells:
        """Return the cells of an annotated AnnData, or of an Annotation.

        Raises
        ------
        ConfigError
            When the object is neither an AnnData nor an Annotation, or the AnnData has no annotation under this key.
        """
        if isinstance(annotated, Annotation):
            every = dict.fromkeys((*annotated.label_names, *annotated.broad_names))
            colors = dict(zip(every, annotated.colors(every).tolist(), strict=True))
            facts = annotated.uns()[annotated.key_added]
            return cls(annotated.obs(), facts, annotated.key_added, colors)
        if not isinstance(annotated, AnnData):
            msg = f"This is a {type(annotated).__name__}; expected an annotated AnnData, or the result of annotate()."
            raise ConfigError(msg)
        facts, column = annotated.uns.get(key), f"{key}_{LABEL}"
        if column not in annotated.obs:
            msg = (
                f"obs has no labels in {column!r}; expected an annotated AnnData. Run SpikGPT.annotate(adata) before, "
                "or name the key_added of the annotation: key='NAME'."
            )
            raise ConfigError(msg)
        # anndata.concat drops uns. The labels that occur are then used in place of the labels of the reference.
        facts = facts if isinstance(facts, Mapping) else {}
        present = pd.Categorical(annotated.obs[column].astype(object)).categories
        stated = facts.get("labels", [name for name in present if name != UNKNOWN])
        names = [str(name) for name in stated]
        known = dict(zip(names, palette(len(names)), strict=True))
        broad, stored = annotated.obs.get(f"{key}_{BROAD_LABEL}"), annotated.uns.get(f"{key}_{BROAD_LABEL}_colors")
        if broad is not None and stored is not None and isinstance(broad.dtype, pd.CategoricalDtype):
            categories = map(str, broad.cat.categories)
            if len(broad.cat.categories) == len(stored):
                # Labels of the reference come first, in their order there, and keep their colours.
                known |= dict(zip(categories, map(str, stored), strict=True)) | known
        return cls(annotated.obs, facts, key, known | {UNKNOWN: UNKNOWN_COLOR}, annotated)

    def column(self, column: Any, argument: str) -> pd.Series:
        """Return a column of the cells.

        ``column`` is the name of a column of obs, with or without the prefix of the annotation, or a list with one
        value for each cell.

        Raises
        ------
        ConfigError
            When there is no column of this name, or the number of values differs from the number of cells.
        """
        if isinstance(column, str):
            for name in (column, f"{self.key}_{column}"):
                if name in self.obs:
                    values = self.obs[name]
                    return values if isinstance(values, pd.Series) else values.iloc[:, 0]
            msg = f"{argument} is {column!r}, but obs has no such column; it has {listed(self.obs.columns[:NAMED])}."
            raise ConfigError(msg)
        if np.shape(column) != (len(self.obs),):
            msg = f"{argument} has the shape {np.shape(column)}; expected one value for each of {len(self.obs)} cells."
            raise ConfigError(msg)
        return pd.Series(np.asarray(column), index=self.obs.index)

    def texts(self, column: Any, argument: str) -> Any:
        """Return a column as categories that are texts; cells without a value get the category "no value"."""
        values = self.column(column, argument)
        if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.categories.is_unique:
            # Only the names of the categories are converted to text, which is fast for a million cells.
            names = [*map(str, values.cat.categories), MISSING]
            if len(set(names)) == len(names):
                return pd.Categorical.from_codes(
                    np.where(values.cat.codes < 0, len(names) - 1, values.cat.codes), pd.Index(names)
                ).remove_unused_categories()
        texts = np.where(values.isna().to_numpy(), MISSING, values.astype(object).map(str).to_numpy(dtype=object))
        return pd.Categorical(texts)

    def ordered(self, texts: Any) -> list[str]:
        """Return the categories of a column in order: labels as in the reference, other names, Unknown, "no value"."""
        ranks = {name: rank for rank, name in enumerate(self.known_colors)}
        last = {UNKNOWN: 1, MISSING: 2}
        return sorted(
            map(str, texts.categories),
            key=lambda name: (last.get(name, 0), ranks.get(name, len(ranks)), by_number(name)),
        )

    def colors(self, names: Iterable[str]) -> dict[str, str]:
        """Return the colour of each name: fixed for the labels of the reference, grey for Unknown."""
        colors = {MISSING: MISSING_COLOR} | dict(self.known_colors)
        uncoloured = [name for name in names if name not in colors]
        used = set(colors.values())
        free = [color for color in palette(len(used) + len(uncoloured)) if color not in used]
        # If there are more names than colours, colours are repeated.
        free = free or list(palette(len(uncoloured) or 1))
        return {name: colors.get(name) or free[uncoloured.index(name) % len(free)] for name in names}

    def coordinates(self, basis: Any) -> tuple[np.ndarray[Any, Any], str]:
        """Return two coordinates of each cell, shape (n, 2), and their name.

        Raises
        ------
        ConfigError
            When obsm has no coordinates of this name, or their shape does not fit the cells.
        DataError
            When a coordinate is NaN or infinite.
        """
        if isinstance(basis, str):
            keys = [name for name in (basis, f"X_{basis}") if self.adata is not None and name in self.adata.obsm]
            if self.adata is None:
                msg = "An Annotation has no map; pass the AnnData, or coordinates: basis=adata.obsm['X_umap']."
                raise ConfigError(msg)
            if not keys:
                msg = (
                    f"obsm has no {basis!r}; it has {listed(list(self.adata.obsm)[:NAMED])}. Compute a map with "
                    "sc.pp.neighbors and sc.tl.umap, or name another one: basis='X_tsne'."
                )
                raise ConfigError(msg)
            points, name = np.asarray(self.adata.obsm[keys[0]]), keys[0].removeprefix("X_")
            name = name.upper() if len(name) <= SHORT_NAME else name
        else:
            points, name = np.asarray(basis), "map"
        if points.ndim != 2 or points.shape[0] != len(self.obs) or points.shape[1] < 2:
            msg = f"The coordinates have the shape {points.shape}; expected ({len(self.obs)}, 2)."
            raise ConfigError(msg)
        points = points[:, :2].astype(np.float64)
        if not np.isfinite(points).all():
            not_finite = int((~np.isfinite(points)).any(axis=1).sum())
            msg = (
                f"{with_noun(not_finite, 'cell has', 'cells have')} NaN or infinite coordinates; remove such cells "
                "from adata first."
            )
            raise DataError(msg)
        return points, name
