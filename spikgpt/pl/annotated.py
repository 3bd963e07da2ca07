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
# Columns that an error names.
NAMED = 12
# Letters of a map's name that is an abbreviation, such as UMAP.
SHORT_NAME = 5


@dataclass(frozen=True)
class AnnotatedCells:
    """Cells with the columns of an annotation.

    Attributes
    ----------
    obs
        Columns of the cells.
    facts
        Facts on the annotation, as in ``uns``.
    key
        Prefix of the names of the annotation.
    known_colors
        Colours of labels that are fixed.
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
            When the object is neither, or the AnnData has no annotation under this key.
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
        # Joined objects lose their uns. The labels that occur then stand for those of the reference.
        facts = facts if isinstance(facts, Mapping) else {}
        present = pd.Categorical(annotated.obs[column].astype(object)).categories
        stated = facts.get("labels", [name for name in present if name != UNKNOWN])
        names = [str(name) for name in stated]
        known = dict(zip(names, palette(len(names)), strict=True))
        broad, stored = annotated.obs.get(f"{key}_{BROAD_LABEL}"), annotated.uns.get(f"{key}_{BROAD_LABEL}_colors")
        if broad is not None and stored is not None and isinstance(broad.dtype, pd.CategoricalDtype):
            categories = map(str, broad.cat.categories)
            if len(broad.cat.categories) == len(stored):
                # Labels come first, in the order of the reference.
                known |= dict(zip(categories, map(str, stored), strict=True)) | known
        return cls(annotated.obs, facts, key, known | {UNKNOWN: UNKNOWN_COLOR}, annotated)

    def column(self, column: Any, argument: str) -> pd.Series:
        """Return a column of obs, a column of the annotation by its name without the prefix, or values of all cells.

        Raises
        ------
        ConfigError
            When there is no such column, or the values are not one for each cell.
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
        """Return a column as categories of texts; cells without a value get a name of their own."""
        values = self.column(column, argument)
        if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.categories.is_unique:
            # As names of categories alone, the texts of a million cells take no time.
            names = [*map(str, values.cat.categories), MISSING]
            if len(set(names)) == len(names):
                return pd.Categorical.from_codes(
                    np.where(values.cat.codes < 0, len(names) - 1, values.cat.codes), pd.Index(names)
                ).remove_unused_categories()
        texts = np.where(values.isna().to_numpy(), MISSING, values.astype(object).map(str).to_numpy(dtype=object))
        return pd.Categorical(texts)

    def ordered(self, texts: Any) -> list[str]:
        """Return the categories of a column: labels in the order of the reference, then others, then Unknown."""
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
        # More names than colours: they are repeated.
        free = free or list(palette(len(uncoloured) or 1))
        return {name: colors.get(name) or free[uncoloured.index(name) % len(free)] for name in names}

    def coordinates(self, basis: Any) -> tuple[np.ndarray[Any, Any], str]:
        """Return two coordinates of each cell, shape (n, 2), and their name.

        Raises
        ------
        ConfigError
            When there are no such coordinates.
        DataError
            When a coordinate is not finite.
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
