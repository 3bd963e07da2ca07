"""Gene front: the part of a reference's network from log expression to the input of the classifier, with gradients.

Log expression is scaled and clipped gene by gene, then projected onto the components. The resulting vector is scaled to
unit length. Missing genes are imputed from the genes that the query has, so a gradient also passes through the
imputation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.constants import CONSTANTS
from spikgpt.embedding.base import Engine
from spikgpt.embedding.imputation import FittedImputer
from spikgpt.embedding.pca import PCAProjection
from spikgpt.errors import ConfigError, printable
from spikgpt.explain.network import Pullback
from spikgpt.explain.query import FittedQuery
from spikgpt.reference.files import Reference
from spikgpt.types import Floats

EVIDENCE_WEIGHT = CONSTANTS.genes.evidence_weight
SHORTEST = 1e-12


@dataclass(frozen=True)
class GeneFront:
    """Map from the U genes that a query shares with a reference to vectors of D components.

    Attributes
    ----------
    mean, std
        Mean and standard deviation by which the query's log expression is scaled, each of shape (U,).
    clip
        Largest absolute value of scaled expression.
    components
        Components of the genes, shape (U, D); 0 for genes that serve only the imputation.
    missing
        Components of the genes that are imputed, shape (M, D).
    imputer
        Imputer of the missing genes; None if no gene is imputed.
    profiles
        Mean scaled expression of each label of the reference, shape (L, U).
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    clip: float
    components: npt.NDArray[np.float64]
    missing: npt.NDArray[np.float64]
    imputer: FittedImputer | None
    profiles: npt.NDArray[np.float64]

    @classmethod
    def from_query(cls, query: FittedQuery) -> Self:
        """Build the gene front of a query's reference.

        Raises
        ------
        ConfigError
            When the reference reads an embedding instead of genes, or stores no profiles of its labels.
        """
        embedding, template = expression_embedding(query.reference, query.engine), query.template
        size, present = len(embedding.genes), template.genes_present
        reference_mean, reference_std = embedding.reference_scale(template)
        mean, std = query.model.scale or (reference_mean, reference_std)
        own = embedding.components.astype(np.float64)
        components = np.concatenate([own, np.zeros((len(present) - size, own.shape[1]))])[present]
        imputer = embedding.fitted_imputer(template)
        lost = np.flatnonzero(~present[:size]) if imputer else np.empty(0, dtype=np.int64)
        means = embedding.profiles(template).means
        profiles = np.clip((means - reference_mean[present]) / reference_std[present], -embedding.clip, embedding.clip)
        return cls(mean[present], std[present], embedding.clip, components, own[lost], imputer, profiles)

    def scaled(self, logs: sparse.csr_matrix | Floats) -> npt.NDArray[np.float64]:
        """Return the scaled expression of cells from their log expression, both of shape (n, U)."""
        dense = logs.toarray() if isinstance(logs, sparse.csr_matrix) else logs
        return np.clip((dense.astype(np.float64) - self.mean) / self.std, -self.clip, self.clip)

    def vectors(self, scaled: Floats) -> npt.NDArray[np.float64]:
        """Return vectors of unit length, shape (n, D), from scaled expression, shape (n, U)."""
        return self.forward(scaled)[0]

    def forward(self, scaled: Floats) -> tuple[npt.NDArray[np.float64], Pullback]:
        """Return the vectors of cells, shape (n, D), and a function for gradients.

        The function maps gradients with respect to the vectors to gradients with respect to ``scaled``.
        """
        rows = scaled @ self.components  # (n, D)
        pull_imputed: Pullback | None = None
        if self.imputer is not None:
            expected, pull_expected = _expected_scores(self.imputer, scaled)  # (n, D)
            imputed = expected @ self.missing.T  # (n, M)
            inside = np.abs(imputed) < self.clip
            rows = rows + np.clip(imputed, -self.clip, self.clip) @ self.missing

            def pull_imputed(gradient: Floats) -> npt.NDArray[np.float64]:
                return pull_expected((gradient @ self.missing.T * inside) @ self.missing)

        lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST)
        vectors = rows / lengths

        def pull(gradient: Floats) -> npt.NDArray[np.float64]:
            along = (gradient * vectors).sum(axis=1, keepdims=True)
            of_rows = (gradient - vectors * along) / lengths  # (n, D)
            of_scaled = of_rows @ self.components.T  # (n, U)
            return np.asarray(of_scaled if pull_imputed is None else of_scaled + pull_imputed(of_rows))

        return vectors, pull


def expression_embedding(reference: Reference, engine: Engine) -> PCAProjection:
    """Return the embedding of a reference that reads genes.

    Raises
    ------
    ConfigError
        When the reference reads an embedding, or stores no profiles of its labels.
    """
    embedding, name = engine.embedding, printable(reference.name)
    if not isinstance(embedding, PCAProjection):
        msg = (
            f"The reference {name} reads the embedding {embedding.kind}; expected a reference that reads genes, of the "
            "embedding pca. Train one with embedder='pca' (--embedder pca) to see the genes behind its labels."
        )
        raise ConfigError(msg)
    if reference.familiarity is None:
        msg = (
            f"The reference {name} has format 1, which stores no profiles of its labels; expected format 2 or newer. "
            "Train it again to see the genes behind its labels."
        )
        raise ConfigError(msg)
    return embedding


def _expected_scores(imputer: FittedImputer, scaled: Floats) -> tuple[npt.NDArray[np.float64], Pullback]:
    """Return the component scores of :meth:`FittedImputer.scores`, shape (n, D), and a function for gradients.

    The function maps gradients with respect to the scores to gradients with respect to ``scaled``.
    """
    size = len(imputer.posterior)
    by_gene = scaled @ imputer.by_gene  # (n, D + L)
    shared = by_gene[:, :size] @ imputer.posterior  # (n, D)
    evidence = EVIDENCE_WEIGHT * (by_gene[:, size:] - shared @ imputer.pulls.T) + imputer.offsets  # (n, L)
    weights = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)

    def pull(gradient: Floats) -> npt.NDArray[np.float64]:
        of_weights = gradient @ imputer.centres.T  # (n, L)
        of_evidence = weights * (of_weights - (weights * of_weights).sum(axis=1, keepdims=True))
        of_evidence = EVIDENCE_WEIGHT * of_evidence
        of_scores = (gradient - of_evidence @ imputer.pulls) @ imputer.posterior.T  # (n, D)
        return np.asarray(np.concatenate([of_scores, of_evidence], axis=1) @ imputer.by_gene.T)

    return weights @ imputer.centres + shared, pull
