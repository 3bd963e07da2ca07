"""Imputation: estimate the genes that a query lacks from the genes that it has.

The model is a mixture of factor analysers with shared loadings (Ghahramani and Hinton, The EM Algorithm for Mixtures of
Factor Analyzers, 1996). A cell of label l has scores z on the principal components, normally distributed around the
mean m_l. The cell's scaled expression of a gene is the mean of the label, plus loadings times (z - m_l), plus noise.
The expected z, given the measured genes, has a closed form. The imputed value of a missing gene is the gene's
components times the expected z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from spikgpt.cells.genes import GeneList
from spikgpt.constants import CONSTANTS
from spikgpt.types import Bools, Floats, Rows

GENES = CONSTANTS.genes


@dataclass(frozen=True)
class GeneImputer:
    """Statistics of E further genes of a reference, from which missing genes of the principal components are imputed.

    The best genes for imputation come first. There are D components and L labels. ``mean`` and ``std``, shape (E,),
    scale log expression. ``loadings``, shape (E, D), are the slopes of each scaled gene on each score. ``label_means``
    and ``label_stds``, shape (L, E), describe the labels. These five arrays have half precision. ``centroids``, shape
    (L, D), are the mean scores of the labels, and ``scatter``, shape (D, D), is the covariance of scores within labels.
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
        """Return the tensors that ``model.safetensors`` stores."""
        return {f"more_{field.name}": getattr(self, field.name) for field in fields(self) if field.name != "genes"}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], genes: GeneList) -> Self:
        """Return the imputer from the tensors of ``model.safetensors`` and its genes."""
        return cls(genes, **{name.removeprefix("more_"): tensors[name] for name in shapes(0, 0, 0)})


def shapes(genes: int, dim: int, labels: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of :class:`GeneImputer`, from the numbers of genes, components and labels."""
    shapes: dict[str, tuple[int, ...]] = {"mean": (genes,), "std": (genes,), "loadings": (genes, dim)}
    shapes |= {"label_means": (labels, genes), "label_stds": (labels, genes)}
    shapes |= {"centroids": (labels, dim), "scatter": (dim, dim)}
    return {f"more_{name}": shape for name, shape in shapes.items()}


@dataclass(frozen=True)
class GeneStatistics:
    """Means, deviations and loadings of U genes of a reference; attributes as in :class:`GeneImputer`."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    loadings: npt.NDArray[np.float64]
    label_means: npt.NDArray[np.float64]
    label_stds: npt.NDArray[np.float64]

    def at(self, genes: Rows) -> GeneStatistics:
        """Return the statistics of the genes with the given indices."""
        by_label = self.label_means[:, genes], self.label_stds[:, genes]
        return GeneStatistics(self.mean[genes], self.std[genes], self.loadings[genes], *by_label)


@dataclass(frozen=True)
class FittedImputer:
    """Imputer for one query, which computes the expected scores of cells from the F genes that the query has.

    ``by_gene``, shape (F, D + L), maps scaled expression to evidence on the scores and on each label.
    """

    by_gene: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    posterior: npt.NDArray[np.float64]
    pulls: npt.NDArray[np.float64]
    centres: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, table: GeneStatistics, known: Bools, shares: Floats, more: GeneImputer) -> Self:
        """Fit to the genes that are True in ``known``, shape (U,), and to the shares of the labels, shape (L,)."""
        scatter = more.scatter.astype(np.float64)
        scatter = scatter + GENES.ridge * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
        loadings, std = table.loadings[known], table.std[known]
        within = shares @ (table.label_stds[:, known] / std) ** 2  # (F,)
        noise = np.maximum(within - np.einsum("gd,de,ge->g", loadings, scatter, loadings), GENES.least_noise)
        means = (table.label_means[:, known] - table.mean[known]) / std  # (L, F)
        weighted = loadings / noise[:, None]  # (F, D)
        posterior = np.linalg.inv(np.linalg.inv(scatter) + loadings.T @ weighted)  # (D, D)
        pulls = means @ weighted  # (L, D)
        quadratic = np.einsum("lf,f,lf->l", means, 1 / noise, means)
        offsets = 0.5 * (np.einsum("ld,de,le->l", pulls, posterior, pulls) - quadratic)
        offsets = GENES.evidence_weight * offsets + 0.5 * np.log(np.maximum(shares, 1e-12))
        by_gene = np.concatenate([weighted, (means / noise).T], axis=1)
        return cls(by_gene, offsets, posterior, pulls, more.centroids.astype(np.float64) - pulls @ posterior)

    def scores(self, scaled: Floats) -> npt.NDArray[np.float64]:
        """Return the expected scores of cells, shape (n, D), from scaled expression of known genes, shape (n, F)."""
        by_gene = scaled @ self.by_gene  # (n, D + L)
        of_scores, of_labels = by_gene[:, : len(self.posterior)], by_gene[:, len(self.posterior) :]
        shared = of_scores @ self.posterior  # (n, D)
        # Terms that are equal for all labels are left out.
        evidence = GENES.evidence_weight * (of_labels - shared @ self.pulls.T) + self.offsets  # (n, L)
        weights = np.exp(evidence - evidence.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.asarray(weights @ self.centres + shared)
