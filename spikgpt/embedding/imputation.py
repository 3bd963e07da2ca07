"""Genes that a query lacks, inferred from those that it has.

The network of a reference reads G genes of its choice. A query of another lab, or a panel of some hundred genes, has
but few of them. So a reference keeps, beside those, what its cells look like in all other genes that they express, and
the missing genes are inferred from all that are there.

A cell of label l has scores z on the principal components, normal around the label's, and its scaled expression of any
gene is the label's mean, plus the gene's loadings times z less the label's scores, plus noise. That is a mixture of
factor analysers with shared loadings (Ghahramani and Hinton, The EM Algorithm for Mixtures of Factor Analyzers, 1996),
of which the expected z, given some genes, is known in closed form. A missing gene is its components times that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from spikgpt.cells.genes import GeneList
from spikgpt.types import Bools, Floats, Rows

# Weight of the evidence for a label: genes are not as independent as noise is taken to be.
EVIDENCE = 0.5
# Least variance of a scaled gene around what its loadings say, and what the variance of scores is softened by.
LEAST_NOISE, RIDGE = 0.05, 1e-6


@dataclass(frozen=True)
class GeneImputer:
    """What a reference's cells express beside the genes of its components, best genes first.

    E genes, D components, L labels. ``mean`` and ``std``, shape (E,), scale log expression; ``loadings``, shape (E, D),
    is what each scaled gene gains with each score; ``label_means`` and ``label_stds``, shape (L, E), describe the
    labels; all of half precision. ``centroids``, shape (L, D), are the labels' mean scores, and ``scatter``, shape
    (D, D), the covariance of scores within labels.
    """

    genes: GeneList
    mean: npt.NDArray[np.float16]
    std: npt.NDArray[np.float16]
    loadings: npt.NDArray[np.float16]
    label_means: npt.NDArray[np.float16]
    label_stds: npt.NDArray[np.float16]
    centroids: npt.NDArray[np.float32]
    scatter: npt.NDArray[np.float32]

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps."""
        return {f"more_{field.name}": getattr(self, field.name) for field in fields(self) if field.name != "genes"}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], genes: GeneList) -> Self:
        """Rebuild what was stored."""
        return cls(genes, **{name.removeprefix("more_"): tensors[name] for name in shapes(0, 0, 0)})


def shapes(genes: int, dim: int, labels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors, for E genes, D components and L labels."""
    shapes: dict[str, tuple[int, ...]] = {"mean": (genes,), "std": (genes,), "loadings": (genes, dim)}
    shapes |= {"label_means": (labels, genes), "label_stds": (labels, genes)}
    shapes |= {"centroids": (labels, dim), "scatter": (dim, dim)}
    return {f"more_{name}": shape for name, shape in shapes.items()}


@dataclass(frozen=True)
class GeneTable:
    """Some genes, U of them, of a reference: scaled by ``mean`` and ``std``, shape (U,); see :class:`GeneImputer`."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    loadings: npt.NDArray[np.float64]
    label_means: npt.NDArray[np.float64]
    label_stds: npt.NDArray[np.float64]

    def at(self, genes: Rows) -> GeneTable:
        """Return some of the genes, by their places."""
        by_label = self.label_means[:, genes], self.label_stds[:, genes]
        return GeneTable(self.mean[genes], self.std[genes], self.loadings[genes], *by_label)


@dataclass(frozen=True)
class FittedImputer:
    """Expected scores of cells of which F genes are known.

    ``by_gene``, shape (F, D + L), takes scaled expression to what is said of the scores and of each label.
    """

    by_gene: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    posterior: npt.NDArray[np.float64]
    pulls: npt.NDArray[np.float64]
    centres: npt.NDArray[np.float64]

    @classmethod
    def of(cls, table: GeneTable, known: Bools, shares: Floats, more: GeneImputer) -> Self:
        """Prepare for the known ones of the genes, shape (U,); ``shares`` are those of the labels, shape (L,)."""
        scatter = more.scatter.astype(np.float64)
        scatter = scatter + RIDGE * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
        loadings, std = table.loadings[known], table.std[known]
        within = shares @ (table.label_stds[:, known] / std) ** 2  # (F,)
        noise = np.maximum(within - np.einsum("gd,de,ge->g", loadings, scatter, loadings), LEAST_NOISE)
        means = (table.label_means[:, known] - table.mean[known]) / std  # (L, F)
        weighted = loadings / noise[:, None]  # (F, D)
        posterior = np.linalg.inv(np.linalg.inv(scatter) + loadings.T @ weighted)  # (D, D)
        pulls = means @ weighted  # (L, D)
        quadratic = np.einsum("lf,f,lf->l", means, 1 / noise, means)
        offsets = 0.5 * (np.einsum("ld,de,le->l", pulls, posterior, pulls) - quadratic)
        offsets = EVIDENCE * offsets + 0.5 * np.log(np.maximum(shares, 1e-12))
        by_gene = np.concatenate([weighted, (means / noise).T], axis=1)
        return cls(by_gene, offsets, posterior, pulls, more.centroids.astype(np.float64) - pulls @ posterior)

    def scores(self, scaled: Floats) -> npt.NDArray[np.float64]:
        """Return the expected scores of cells, from scaled expression: (n, F) to (n, D)."""
        said = scaled @ self.by_gene  # (n, D + L)
        of_scores, of_labels = said[:, : len(self.posterior)], said[:, len(self.posterior) :]
        drawn = of_scores @ self.posterior  # (n, D)
        # What is the same for all labels is left out.
        evidence = EVIDENCE * (of_labels - drawn @ self.pulls.T) + self.offsets  # (n, L)
        weights = np.exp(evidence - evidence.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.asarray(weights @ self.centres + drawn)
