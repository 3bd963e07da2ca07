"""Simulate batch effects and treatments by changes to the counts of real cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage

from spikgpt_benchmark.studies.datasets import LABEL


def _platform(cells: AnnData, seed: int) -> AnnData:
    """Simulate another platform: a capture efficiency for each gene, fewer counts, ambient RNA."""
    random = np.random.default_rng(seed)
    return resample_counts(
        cells, np.ones((1, 1)) * random.lognormal(0, 0.8, cells.n_vars), random, depth=0.5, ambient=0.1
    )


def _treatment(cells: AnnData, seed: int) -> AnnData:
    """Simulate a treatment: 200 genes go up or down by a factor of about 5, equally in all types."""
    random = np.random.default_rng(seed)
    return resample_counts(cells, _response(cells, random), random)


def _treatment_of_each(cells: AnnData, seed: int) -> AnnData:
    """Simulate a treatment: 100 genes change equally in all types, and 60 further genes in each type."""
    random = np.random.default_rng(seed)
    factors = np.ones((cells.n_obs, cells.n_vars)) * _response(cells, random, 100)
    labels = cells.obs[LABEL].to_numpy()
    for name in sorted(set(labels)):
        factors[labels == name] *= _response(cells, random, 60)
    return resample_counts(cells, factors, random)


def _half_treated(cells: AnnData, seed: int) -> AnnData:
    """Simulate :func:`_treatment_of_each` for half of the cells."""
    random = np.random.default_rng(seed)
    treated = _treatment_of_each(cells, seed)
    other = random.random(cells.n_obs) < 0.5
    values = sparse.csr_matrix(treated.X).tolil()
    values[other] = sparse.csr_matrix(cells.X)[other]
    return AnnData(sparse.csr_matrix(values), obs=cells.obs.copy(), var=cells.var.copy())


def _induced(cells: AnnData, seed: int) -> AnnData:
    """Simulate induction: 80 silent genes become expressed in all types, and 80 more in half of the types."""
    random = np.random.default_rng(seed)
    counts = sparse.csr_matrix(cells.X).astype(np.float64)
    seen = np.asarray((counts > 0).mean(axis=0)).ravel()
    silent = random.choice(np.flatnonzero((seen > 0) & (seen < 0.02)), 160, replace=False)
    strength = random.lognormal(-0.5, 1.0, 160)
    labels = cells.obs[LABEL].to_numpy()
    names = sorted(set(labels))
    respond = np.isin(labels, random.choice(names, len(names) // 2, replace=False))
    totals = np.asarray(counts.sum(axis=1)) / np.median(np.asarray(counts.sum(axis=1)))
    rates = totals * strength * np.where(np.arange(160) < 80, 1.0, respond[:, None])
    added = sparse.lil_matrix(cells.shape)
    added[:, silent] = random.poisson(rates)
    values = sparse.csr_matrix(counts + sparse.csr_matrix(added), dtype=np.float32)
    return AnnData(values, obs=cells.obs.copy(), var=cells.var.copy())


def _culture(cells: AnnData, seed: int, strengths: tuple[float, ...] = (1.0, 1.0, 1.0)) -> AnnData:
    """Simulate culture: many genes change equally in all types, and further genes in each of three lineages.

    ``strengths`` has the strength of the response of each lineage, in random order.
    """
    random = np.random.default_rng(seed)
    counts = sparse.csr_matrix(cells.X).astype(np.float64)
    seen = np.asarray((counts > 0).mean(axis=0)).ravel()
    lineage = _lineages(cells, len(strengths))
    strengths = (1.0, *random.permutation(strengths))
    logs, added = np.zeros((4, cells.n_vars)), np.zeros((4, cells.n_vars))
    for response, strength in enumerate(strengths):  # first that of all types, then that of each lineage
        changed = random.choice(np.flatnonzero(seen > 0.02), 400, replace=False)
        logs[response, changed] = random.normal(0, strength, 400)
        switched_on = random.choice(np.flatnonzero((seen > 0) & (seen < 0.02)), 100, replace=False)
        added[response, switched_on] = strength * random.lognormal(-0.7, 1.0, 100)
    factors = np.exp(np.clip(logs[0] + logs[1 + lineage], -2.5, 2.5))
    totals = np.asarray(counts.sum(axis=1)) / np.median(np.asarray(counts.sum(axis=1)))
    changed_counts = counts.toarray() * factors + totals * (added[0] + added[1 + lineage]) / 2
    return resample_counts(AnnData(sparse.csr_matrix(changed_counts), obs=cells.obs, var=cells.var), np.ones(1), random)


def _one_lineage(cells: AnnData, seed: int) -> AnnData:
    """Simulate culture in which one lineage changes much more than the other lineages."""
    return _culture(cells, seed, (0.2, 0.4, 1.6))


def _lineages(cells: AnnData, number: int) -> npt.NDArray[np.int64]:
    """Return the lineage of each cell, shape (n,): a group of types with similar mean expression."""
    labels = cells.obs[LABEL].to_numpy()
    names = sorted(set(labels))
    means = np.stack([np.asarray(sparse.csr_matrix(cells.X)[labels == name].mean(axis=0)).ravel() for name in names])
    means = np.log1p(1e4 * means / means.sum(axis=1, keepdims=True))
    groups = fcluster(linkage(means, "average", "correlation"), number, "maxclust") - 1
    lineages: npt.NDArray[np.int64] = groups[np.searchsorted(names, labels)]
    return lineages


def _another_lab(cells: AnnData, seed: int) -> AnnData:
    """Simulate another lab with another platform: :func:`_culture`, then :func:`_platform`."""
    return _platform(_culture(cells, seed), seed)


def _same(cells: AnnData, seed: int) -> AnnData:
    """Return a copy of the cells without any shift, as from the same study."""
    return cells.copy()


SHIFTS: dict[str, Callable[[AnnData, int], AnnData]] = {
    "the same study": _same,
    "platform": _platform,
    "treatment": _treatment,
    "treatment of each type": _treatment_of_each,
    "half treated": _half_treated,
    "genes switched on": _induced,
    "culture": _culture,
    "another lab": _another_lab,
    "one lineage": _one_lineage,
}


def _response(cells: AnnData, random: np.random.Generator, n_genes: int = 200) -> npt.NDArray[np.float64]:
    """Return the factor of each gene, shape (G,); some genes change, and most of these genes go up."""
    factors = np.ones(cells.n_vars)
    expressed = np.flatnonzero(np.asarray(sparse.csr_matrix(cells.X).sum(axis=0)).ravel() > 0.05 * cells.n_obs)
    chosen = random.choice(expressed, n_genes, replace=False)
    up = random.random(n_genes) < 0.7
    factors[chosen] = np.where(up, 1, -1) * random.lognormal(np.log(1.6), 0.5, n_genes)
    factors[chosen] = np.exp(factors[chosen])
    return factors


def resample_counts(
    cells: AnnData,
    factors: npt.NDArray[np.float64],
    random: np.random.Generator,
    *,
    depth: float = 1.0,
    ambient: float = 0.0,
) -> AnnData:
    """Multiply counts by ``factors``, shape (n, G) or (G,), keep each cell's total, and draw Poisson counts.

    The totals are multiplied by ``depth``. ``ambient`` is the share of ambient RNA in each cell.
    """
    counts = sparse.csr_matrix(cells.X).toarray().astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    changed = counts * factors
    changed *= totals / np.maximum(changed.sum(axis=1, keepdims=True), 1)
    profile = changed.sum(axis=0) / changed.sum()
    resampled = random.poisson(depth * ((1 - ambient) * changed + ambient * totals * profile))
    values = sparse.csr_matrix(resampled.astype(np.float32))
    return AnnData(values, obs=cells.obs.copy(), var=cells.var.copy())
