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

from spikgpt.cells.align import AlignedCells, aligned_chunks, log_normalise, mean_and_std
from spikgpt.cells.expression import Cells, find_expression
from spikgpt.cells.genes import GeneList, match_genes
from spikgpt.embedding.base import QueryCells, Run, Scaled
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Floats, InputReport, NetworkOutput, Profiles, Scale

KIND = "pca"
TENSORS = ("mean", "std", "components", "label_means", "label_stds", "label_shares")

# Cells embedded at a time.
CHUNK = 1024
# Fewer cells than this say too little about their gene means, and auto keeps the reference's.
TELLING_CELLS = 100
# Composition scaling is found from the query's own scaling. Started from the reference's instead, it should end in the
# same labels; between human and mouse it does for 30% to 80% of cells, and then the user is told. So many are asked.
MINIMUM_AGREEMENT, ASKED_CELLS = 0.9, 1000
# Softens the ratio of two small deviations of log expression, and bounds it.
SPREAD_FLOOR, SPREAD_RANGE = 0.3, (0.3, 3.0)


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
    def kind(self) -> str:
        """Name on the command line."""
        return KIND

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

    def profiles(self, found: npt.NDArray[np.bool_]) -> Profiles:
        """Return what the labels express of the genes that a query has."""
        means, stds = (array[:, found].astype(np.float64) for array in (self.label_means, self.label_stds))
        return Profiles(means, np.sqrt(self.label_shares.astype(np.float64) @ stds**2))

    def reference_scale(self, found: npt.NDArray[np.bool_] | None = None) -> Scale:
        """Return the reference's gene means and deviations; the mean of a gene that was not found is 0, its value."""
        mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        return (mean if found is None else np.where(found, mean, 0.0)), std

    def read(self, cells: Cells, *, layer: str | None = None, scaling: str = "auto") -> QueryCells:
        """Return the cells' values of the reference's genes, to be read a few at a time.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        """
        expression = find_expression(cells, layer=layer)
        match = match_genes(expression.var, self.genes)
        report = InputReport(
            source=expression.source,
            values=expression.kind,
            scaling=scaling,
            genes_matched=int(match.found.sum()),
            genes_total=len(self.genes),
            notes=expression.notes + match.notes,
        )
        return QueryCells(expression.n_cells, aligned_chunks(expression, match), report)

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return the gene means and deviations to scale a query with.

        Parameters
        ----------
        sample
            Cells of the query, none of them empty.
        scaling
            ``reference``: the reference's gene means and deviations. ``query``: the query's own. ``composition``: the
            query's, corrected for its label composition. ``auto``: composition, or reference for small queries.
        """
        n_cells = len(sample.totals)
        reference = self.reference_scale(sample.found)
        too_few = n_cells < 2 or (scaling == "auto" and n_cells < TELLING_CELLS)
        if scaling == "reference" or too_few:
            return Scaled(reference, "reference")
        mean, std = mean_and_std(log_normalise(sample.values, sample.totals, self.target_sum))
        own = self._composition_scale(self.label_shares.astype(np.float64), mean, std, sample.found)
        if scaling == "query":
            return Scaled(own, "query")

        def composed(cells: AlignedCells, start: Scale) -> tuple[Scale, NetworkOutput]:
            # Counted labels, not mean probabilities, in which every label seems present. Once, not again and again:
            # within a species that changes nothing, and across a large shift the rounds drift from the truth.
            best = run(cells, start).probabilities.argmax(axis=1)
            shares = np.bincount(best, minlength=len(self.label_means)) / len(best)
            scale = self._composition_scale(shares, mean, std, sample.found)
            return scale, run(cells, scale)

        scale, output = composed(sample, own)
        # Started from the reference's scale instead, the labels should be the same. Some of the cells tell.
        asked = sample_of(content_keys(sample.values), min(ASKED_CELLS, n_cells // 2))
        other = composed(sample.part(asked), reference)[1].probabilities.argmax(axis=1)
        agreement = float((other == output.probabilities[asked].argmax(axis=1)).mean())
        if agreement >= MINIMUM_AGREEMENT:
            return Scaled(scale, "composition", (), output, agreement)
        note = (
            f"Gene expression differs so much from the reference's that the labels of {100 * (1 - agreement):.0f}% of "
            "the cells depend on how it is scaled; check the species and the tissue, and trust no label blindly."
        )
        return Scaled(scale, "composition", (note,), output, agreement)

    def _composition_scale(self, shares: Floats, mean: Floats, std: Floats, found: npt.NDArray[np.bool_]) -> Scale:
        """Return the scale that maps a query onto reference cells of the same label shares, shape (L,)."""
        label_means = self.label_means.astype(np.float64)
        expected_mean = shares @ label_means
        within = shares @ self.label_stds.astype(np.float64) ** 2
        expected_std = np.sqrt(within + shares @ (label_means - expected_mean) ** 2)
        ratio = np.clip((std + SPREAD_FLOOR) / (expected_std + SPREAD_FLOOR), *SPREAD_RANGE)
        corrected = mean - (expected_mean - self.mean) * ratio
        return np.where(found, corrected, 0.0), self.std.astype(np.float64) * np.where(found, ratio, 1.0)

    @property
    def stored_genes(self) -> GeneList:
        """What ``genes.json`` keeps: the genes of the projection."""
        return self.genes

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder."""
        return {"kind": KIND, "clip": self.clip, "target_sum": self.target_sum}

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps of the embedder."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList) -> Self:
        """Rebuild a stored embedder, whose settings and tensors were checked when the reference was read."""
        return cls(genes, **tensors, clip=settings["clip"], target_sum=settings["target_sum"])
