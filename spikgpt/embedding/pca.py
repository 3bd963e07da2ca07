"""Variable genes, scaling, principal components, unit length.

A query from another technology has other gene means than the reference, and the reference's own scaling then misplaces
its cells. Scaling the query by its own means corrects that, but takes a query of few cell types for one of all types.
``composition`` scaling tells the two apart. It estimates which share of the query each label has, asks which gene means
and deviations the reference's cells would have in these shares, and maps the query's onto them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells, log_normalise, mean_and_std
from spikgpt.cells.genes import GeneList
from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.labels.neighbours import OwnSpace, own_space

KIND = "pca"
TENSORS = ("mean", "std", "components", "label_means", "label_stds", "label_shares")
SCALINGS = ("auto", "reference", "query", "composition")

# Cells embedded at a time.
CHUNK = 4096
# Fewer cells than this say too little about their gene means, and auto keeps the reference's.
MINIMUM_CELLS = 100
# Composition scaling is found from the query's own scaling. Started from the reference's instead, it should end in the
# same labels; between human and mouse it does for 30% to 80% of cells, and then the user is told.
MINIMUM_AGREEMENT = 0.9
# Softens the ratio of two small deviations of log expression, and bounds it.
SPREAD_FLOOR, SPREAD_RANGE = 0.3, (0.3, 3.0)

Floats = npt.NDArray[np.floating[Any]]
Scale = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
# From cells that are not empty, n of them, and the scale to see them in, to label probabilities, shape (n, L).
Classify = Callable[[AlignedCells, Scale], Floats]


@dataclass(frozen=True)
class PCAProjection:
    """Principal components of a reference's variable genes.

    G genes, D components, L labels. ``mean`` and ``std``, shape (G,), scale log expression; ``components``, shape
    (G, D), projects it; ``label_means`` and ``label_stds``, shape (L, G), and ``label_shares``, shape (L,), describe
    the labels. All float32, so that a stored projection is the one that was trained with.
    """

    genes: GeneList
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]
    label_means: npt.NDArray[np.float32]
    label_stds: npt.NDArray[np.float32]
    label_shares: npt.NDArray[np.float32]
    clip: float
    target_sum: float = 1e4

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return int(self.components.shape[1])

    def project(
        self,
        values: sparse.csr_matrix | Floats,
        totals: npt.NDArray[np.float64],
        scale: Scale | None = None,
        on_cells: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Turn aligned linear values, shape (n, G), and totals, shape (n,), into vectors, shape (n, dim).

        Parameters
        ----------
        scale
            Gene means and deviations, each of shape (G,); by default the reference's.
        """
        mean, std = scale or self.reference_scale()
        rows = sparse.csr_matrix(values)
        vectors = np.empty((rows.shape[0], self.dim))
        components = self.components.astype(np.float64)
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            logs = log_normalise(rows[part], totals[part], self.target_sum).toarray().astype(np.float64)  # (chunk, G)
            scaled = np.clip((logs - mean) / std, -self.clip, self.clip)  # (chunk, G)
            vectors[part] = scaled @ components  # (chunk, dim)
            if on_cells:
                on_cells(len(scaled))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, 1e-12)
        return vectors

    def logs(self, cells: AlignedCells) -> sparse.csr_matrix:
        """Return the log expression of cells for the genes that the query has, shape (n, found genes)."""
        return sparse.csr_matrix(log_normalise(cells.values, cells.totals, self.target_sum)[:, cells.found])

    def profiles(self, found: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Return each label's mean log expression of the genes that a query has, shape (L, found genes)."""
        return self.label_means[:, found]

    def own_space(self, cells: AlignedCells) -> OwnSpace:
        """Return the space in which the neighbours of a query's cells are sought, learned from a sample of them."""
        return own_space(self.logs(cells))

    def reference_scale(self, found: npt.NDArray[np.bool_] | None = None) -> Scale:
        """Return the reference's gene means and deviations; the mean of a gene that was not found is 0, its value."""
        mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        return (mean if found is None else np.where(found, mean, 0.0)), std

    def query_scale(
        self, cells: AlignedCells, scaling: str, classify: Classify | None = None
    ) -> tuple[Scale, str, tuple[str, ...]]:
        """Return the gene means and deviations to scale a query with, the scaling that was used, and notes on it.

        Parameters
        ----------
        cells
            Cells of the query, or a sample of them, without empty ones.
        scaling
            ``reference``: the reference's gene means and deviations. ``query``: the query's own. ``composition``: the
            query's, corrected for its label composition. ``auto``: composition, or reference for small queries.
        classify
            Needed for ``auto`` and ``composition``.

        Raises
        ------
        ConfigError
            When there is no such scaling.
        """
        if scaling not in SCALINGS:
            msg = f"There is no scaling {scaling!r}; choose one of {', '.join(SCALINGS)}."
            raise ConfigError(msg)
        n_cells = len(cells.totals)
        reference = self.reference_scale(cells.found)
        too_few = n_cells < 2 or (scaling == "auto" and (n_cells < MINIMUM_CELLS or classify is None))
        if scaling == "reference" or too_few:
            return reference, "reference", ()
        mean, std = mean_and_std(log_normalise(cells.values, cells.totals, self.target_sum))
        own = self._composition_scale(self.label_shares.astype(np.float64), mean, std, cells.found)
        if scaling == "query":
            return own, "query", ()
        if classify is None:
            msg = "Composition scaling needs a classifier; name another scaling."
            raise ConfigError(msg)

        def best(scale: Scale) -> npt.NDArray[np.int64]:
            return np.asarray(classify(cells, scale).argmax(axis=1))

        def settle(start: Scale) -> tuple[Scale, npt.NDArray[np.int64]]:
            # Counted labels, not mean probabilities, in which every label seems present. Once, not again and again:
            # within a species that changes nothing, and across a large shift the rounds drift from the truth.
            shares = np.bincount(best(start), minlength=len(self.label_means)) / n_cells
            scale = self._composition_scale(shares, mean, std, cells.found)
            return scale, best(scale)

        settled, labels = settle(own)
        agreement = float((settle(reference)[1] == labels).mean())
        if agreement >= MINIMUM_AGREEMENT:
            return settled, "composition", ()
        note = (
            f"Gene expression differs so much from the reference's that the labels of {100 * (1 - agreement):.0f}% of "
            "the cells depend on how it is scaled; check the species and the tissue, and trust no label blindly."
        )
        return settled, "composition", (note,)

    def _composition_scale(self, shares: Floats, mean: Floats, std: Floats, found: npt.NDArray[np.bool_]) -> Scale:
        """Return the scale that maps a query onto reference cells of the same label shares, shape (L,)."""
        label_means = self.label_means.astype(np.float64)
        expected_mean = shares @ label_means
        within = shares @ self.label_stds.astype(np.float64) ** 2
        expected_std = np.sqrt(within + shares @ (label_means - expected_mean) ** 2)
        ratio = np.clip((std + SPREAD_FLOOR) / (expected_std + SPREAD_FLOOR), *SPREAD_RANGE)
        corrected = mean - (expected_mean - self.mean) * ratio
        return np.where(found, corrected, 0.0), self.std.astype(np.float64) * np.where(found, ratio, 1.0)

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder."""
        return {"kind": KIND, "clip": self.clip, "target_sum": self.target_sum}

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps of the embedder."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList) -> Self:
        """Rebuild a stored embedder.

        Raises
        ------
        DamagedReference
            When a setting or a tensor is missing, or shapes do not fit each other.
        """
        numbers = [settings.get("clip"), settings.get("target_sum")]
        if tensors.keys() != set(TENSORS) or not all(isinstance(number, float) and number > 0 for number in numbers):
            found = f"{sorted(tensors)} and {settings}"
            msg = f"The pca embedder holds {found}; expected {sorted(TENSORS)}, clip and target_sum."
            raise DamagedReference(msg)
        if flat := [name for name in ("label_means", "label_stds", "components") if tensors[name].ndim != 2]:
            msg = f"The tensor embedder.{flat[0]} has {tensors[flat[0]].ndim} dimensions; expected 2."
            raise DamagedReference(msg)
        size, labels = len(genes), len(tensors["label_means"])
        shapes = {"mean": (size,), "std": (size,), "label_means": (labels, size), "label_stds": (labels, size)}
        shapes["label_shares"] = (labels,)
        shapes["components"] = (size, tensors["components"].shape[-1])
        for name, shape in shapes.items():
            if tensors[name].shape != shape or tensors[name].dtype != np.float32:
                found = f"{tensors[name].dtype} {tensors[name].shape}"
                msg = f"The tensor embedder.{name} is {found}; expected float32 {shape}."
                raise DamagedReference(msg)
        if any((tensors[name] < 0).any() for name in ("std", "label_stds", "label_shares")) or not tensors["std"].all():
            msg = "The pca embedder holds standard deviations or shares that are negative, or a deviation of 0."
            raise DamagedReference(msg)
        return cls(genes, **tensors, clip=settings["clip"], target_sum=settings["target_sum"])
