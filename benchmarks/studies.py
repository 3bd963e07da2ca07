"""Pairs of studies, a reference and a query each: some to choose rules on, others to report on; also see :mod:`pooled`.

DIR holds the files that :mod:`travel` names. Nothing is fitted here.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import scanpy
from anndata import AnnData, read_h5ad
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage

from spikgpt.benchmark.suites import LABEL, PBMC_LABELS, enough

# Cells of the query that a type needs to be left out of the reference.
CELLS_TO_LEAVE_OUT = 20
# Coarser names for the types of blood, of the 700 sorted cells that ship with scanpy, and of tumours.
COARSE_LABELS = {
    **dict.fromkeys(("CD4 T", "CD8 T", "tT cells", "bT cells", "CD4+/CD25 T Reg", "CD4+/CD45RO+ Memory"), "T"),
    **dict.fromkeys(("CD4+/CD45RA+/CD25- Naive T", "CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic"), "T"),
    **dict.fromkeys(("B", "CD19+ B", "tB cells", "bB cells"), "B"),
    **dict.fromkeys(("NK", "CD56+ NK", "tNK cells", "bNK cells"), "NK"),
    **dict.fromkeys(("CD14 Mono", "CD16 Mono", "CD14+ Monocyte", "bMonocytes"), "Mono"),
    **dict.fromkeys(("DC", "Dendritic"), "DC"),
}


@dataclass(frozen=True)
class Task:
    """A reference and a query of the same tissue, with ``obs["cell_type"]``; the query has types of the reference."""

    name: str
    reference: AnnData
    query: AnnData

    def without(self, left_out: str | None) -> tuple[AnnData, AnnData]:
        """Return the reference without a type, and the query, which has it still; with None, nothing is missing."""
        return enough(self.reference[self.reference.obs[LABEL] != left_out]), self.query

    @property
    def types(self) -> list[str]:
        """The types that can be left out, in alphabetical order."""
        counts = self.query.obs[LABEL].value_counts()
        return sorted(counts.index[counts >= CELLS_TO_LEAVE_OUT])


def panel(query: AnnData, n_genes: int, seed: int = 0) -> AnnData:
    """Return a query as a panel of genes would show it: some of its 2000 most variable ones, drawn at random."""
    counts = sparse.csr_matrix(query.X, dtype=np.float64)
    if np.all(counts.data == np.round(counts.data)):
        factors = 1e4 / np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
        counts = sparse.csr_matrix(sparse.diags(factors) @ counts)
        counts.data = np.log1p(counts.data)
    mean = np.asarray(counts.mean(axis=0)).ravel()
    variance = np.asarray(counts.multiply(counts).mean(axis=0)).ravel() - mean**2
    variable = np.argsort(-variance, kind="stable")[:2000]
    chosen = np.sort(np.random.default_rng(seed).choice(variable, min(n_genes, len(variable)), replace=False))
    return query[:, chosen].copy()


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a command line with what benchmarks on studies share: their folder, a file of figures, kept references."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SPIKGPT_DATA"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path, help="folder for references, to go on where a run ended")
    return parser


@contextmanager
def options_and_cache(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.Namespace, Path]]:
    """Parse the command line; give the options and the folder for references, a temporary one if none is named."""
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the folder of the studies with --data or SPIKGPT_DATA")
    options.data = Path(options.data)
    with tempfile.TemporaryDirectory() as folder:
        yield options, options.cache or Path(folder)


def tasks_to_report(data: Path) -> Iterator[Task]:
    """Give the tasks that rules are never chosen on."""
    blood, stimulated = pbmc_3k(data), kang(data)
    human = read_h5ad(data / "pancreas_baron_human.h5ad")
    xin = read_h5ad(data / "pancreas_xin_980genes.h5ad")
    donors = human.obs["donor"].isin(["human1", "human3"]).to_numpy()
    cells = read_h5ad(data / "lung_cancer_celllines_scmixology.h5ad")
    dropseq = (cells.obs["platform"] == "Drop-seq").to_numpy()
    yield task_of("pbmc: 3k to Kang", blood, stimulated)
    yield task_of("unstimulated: 3k to Kang CTRL", blood, stimulated[stimulated.obs["condition"] == "CTRL"])
    yield task_of("Kang to 3k", stimulated, blood)
    yield task_of("baron: two donors to two", human[donors], human[~donors])
    yield task_of("xin: Baron to Xin", human, xin)
    yield task_of("Xin to Baron", xin, human)
    yield task_of("scmix: CEL-seq2 to Drop-seq", cells[~dropseq], cells[dropseq])


def tasks_to_choose(data: Path) -> Iterator[Task]:
    """Give the tasks that rules are chosen on: other donors, mice, species, batches, and made-up shifts."""
    human = read_h5ad(data / "pancreas_baron_human.h5ad")
    first, third = (human[human.obs["donor"] == name] for name in ("human1", "human3"))
    mouse = mouse_pancreas(data)
    mice = [mouse[mouse.obs["donor"] == name] for name in ("mouse1", "mouse2")]
    yield task_of("human1 to human3", first, third)
    yield task_of("human3 to human1", third, first)
    yield task_of("mouse1 to mouse2", *mice)
    yield task_of("mouse2 to mouse1", *reversed(mice))
    both = human[human.obs["donor"].isin(["human1", "human3"])]
    yield task_of("human to mouse", both, mouse)
    yield task_of("mouse to human", mouse, both)
    cells = read_h5ad(data / "lung_cancer_celllines_scmixology.h5ad")
    batches = {name: cells[cells.obs["study"] == name] for name in cells.obs["study"].unique()}
    first_batch, second = batches["scmix_sc_celseq2"], batches["scmix_sc_celseq2_5cl_p1"]
    yield task_of("scmix: batch to batch", first_batch, second)
    yield task_of("scmix: Drop-seq to CEL-seq2", batches["scmix_sc_dropseq"], batches["scmix_sc_celseq2_5cl_p2"])
    blood = pbmc_3k(data)
    coarse = mapped(blood, COARSE_LABELS)
    yield task_of("3k to 68k", coarse, mapped(pbmc_68k(), COARSE_LABELS))
    yield task_of("3k to tumour", coarse, mapped(read_h5ad(data / "lung_nsclc_zilionis300.h5ad"), COARSE_LABELS))
    half = np.random.default_rng(1).random(blood.n_obs) < 0.5
    reference, rest = blood[half], blood[~half]
    for name, change in SHIFTS.items():
        yield task_of(f"3k halves, {name}", reference, change(rest, 2))
    for name in ("platform", "treatment of each type", "genes switched on", "culture", "another lab", "one lineage"):
        yield task_of(f"human1 to human3, {name}", first, SHIFTS[name](third, 3))


def task_of(name: str, reference: AnnData, query: AnnData) -> Task:
    """Return a task of the labels that have enough cells in the reference; the query keeps those types alone."""
    reference = enough(reference)
    types = reference.obs[LABEL].unique()
    return Task(name, reference, query[query.obs[LABEL].isin(types)].copy())


def mapped(cells: AnnData, names: dict[str, str]) -> AnnData:
    """Return the cells whose label has another name, under that name."""
    labels = cells.obs[LABEL].astype(str).map(names)
    mapped = cells[labels.notna().to_numpy()].copy()
    mapped.obs[LABEL] = labels.dropna()
    return mapped


def mouse_pancreas(data: Path) -> AnnData:
    """Return the pancreas cells of Baron's mice, with gene symbols in upper case."""
    mouse = read_h5ad(data / "pancreas_baron_mouse.h5ad")
    mouse.var_names = mouse.var_names.str.upper()
    return mouse[:, ~mouse.var_names.duplicated()].copy()


def pbmc_3k(data: Path) -> AnnData:
    """Return PBMC 3k with the type names that the PBMC studies share."""
    return mapped(read_h5ad(data / "pbmc_10x_3k.h5ad"), PBMC_LABELS)


def kang(data: Path) -> AnnData:
    """Return the cells of Kang et al., both conditions, with the type names that the PBMC studies share."""
    return mapped(read_h5ad(data / "pbmc_kang_ifnb.h5ad"), PBMC_LABELS)


def pbmc_68k() -> AnnData:
    """Return the 700 cells of PBMC 68k that ship with scanpy: log values of 765 genes."""
    cells = scanpy.datasets.pbmc68k_reduced()
    obs = pd.DataFrame({LABEL: cells.obs["bulk_labels"].astype(str)})
    return AnnData(sparse.csr_matrix(cells.raw.X), obs=obs, var=cells.raw.var[[]])


def _platform(cells: AnnData, seed: int) -> AnnData:
    """Show cells as another platform might: each gene found better or worse, fewer counts, ambient RNA."""
    random = np.random.default_rng(seed)
    return drawn(cells, np.ones((1, 1)) * random.lognormal(0, 0.8, cells.n_vars), random, depth=0.5, ambient=0.1)


def _treatment(cells: AnnData, seed: int) -> AnnData:
    """Treat all cells: 200 genes go up or down by a factor of about 5, in all types alike."""
    random = np.random.default_rng(seed)
    return drawn(cells, _response(cells, random), random)


def _treatment_of_each(cells: AnnData, seed: int) -> AnnData:
    """Treat all cells: 100 genes change in all types alike, and 60 more in each type alone."""
    random = np.random.default_rng(seed)
    factors = np.ones((cells.n_obs, cells.n_vars)) * _response(cells, random, 100)
    labels = cells.obs[LABEL].to_numpy()
    for name in sorted(set(labels)):
        factors[labels == name] *= _response(cells, random, 60)
    return drawn(cells, factors, random)


def _half_treated(cells: AnnData, seed: int) -> AnnData:
    """Treat every other cell, as :func:`_treatment_of_each` does."""
    random = np.random.default_rng(seed)
    treated = _treatment_of_each(cells, seed)
    other = random.random(cells.n_obs) < 0.5
    values = sparse.csr_matrix(treated.X).tolil()
    values[other] = sparse.csr_matrix(cells.X)[other]
    return AnnData(sparse.csr_matrix(values), obs=cells.obs.copy(), var=cells.var.copy())


def _induced(cells: AnnData, seed: int) -> AnnData:
    """Treat all cells: 80 genes, silent before, are switched on in all types, and 80 more in half of the types."""
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
    """Keep all cells in culture: much changes in all types alike, and more in each of three lineages by itself.

    ``strengths`` says how much each lineage responds, in random order.
    """
    random = np.random.default_rng(seed)
    counts = sparse.csr_matrix(cells.X).astype(np.float64)
    seen = np.asarray((counts > 0).mean(axis=0)).ravel()
    lineage = _lineages(cells, len(strengths))
    strengths = (1.0, *random.permutation(strengths))
    logs, added = np.zeros((4, cells.n_vars)), np.zeros((4, cells.n_vars))
    for response, strength in enumerate(strengths):  # of all types, and of each lineage
        changed = random.choice(np.flatnonzero(seen > 0.02), 400, replace=False)
        logs[response, changed] = random.normal(0, strength, 400)
        switched_on = random.choice(np.flatnonzero((seen > 0) & (seen < 0.02)), 100, replace=False)
        added[response, switched_on] = strength * random.lognormal(-0.7, 1.0, 100)
    factors = np.exp(np.clip(logs[0] + logs[1 + lineage], -2.5, 2.5))
    totals = np.asarray(counts.sum(axis=1)) / np.median(np.asarray(counts.sum(axis=1)))
    changed_counts = counts.toarray() * factors + totals * (added[0] + added[1 + lineage]) / 2
    return drawn(AnnData(sparse.csr_matrix(changed_counts), obs=cells.obs, var=cells.var), np.ones(1), random)


def _one_lineage(cells: AnnData, seed: int) -> AnnData:
    """Keep all cells in culture, where one lineage changes much more than the others."""
    return _culture(cells, seed, (0.2, 0.4, 1.6))


def _lineages(cells: AnnData, number: int) -> npt.NDArray[np.int64]:
    """Return the lineage of each cell: types whose mean expression is alike, shape (n,)."""
    labels = cells.obs[LABEL].to_numpy()
    names = sorted(set(labels))
    means = np.stack([np.asarray(sparse.csr_matrix(cells.X)[labels == name].mean(axis=0)).ravel() for name in names])
    means = np.log1p(1e4 * means / means.sum(axis=1, keepdims=True))
    groups = fcluster(linkage(means, "average", "correlation"), number, "maxclust") - 1
    return groups[np.searchsorted(names, labels)]


def _another_lab(cells: AnnData, seed: int) -> AnnData:
    """Show cells as another lab with another platform might: :func:`_culture`, then :func:`_platform`."""
    return _platform(_culture(cells, seed), seed)


def _same(cells: AnnData, seed: int) -> AnnData:
    """Leave cells as they are: the same study."""
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
    """Return by how much each gene changes: some do, most of them up, shape (G,)."""
    factors = np.ones(cells.n_vars)
    expressed = np.flatnonzero(np.asarray(sparse.csr_matrix(cells.X).sum(axis=0)).ravel() > 0.05 * cells.n_obs)
    chosen = random.choice(expressed, n_genes, replace=False)
    up = random.random(n_genes) < 0.7
    factors[chosen] = np.where(up, 1, -1) * random.lognormal(np.log(1.6), 0.5, n_genes)
    factors[chosen] = np.exp(factors[chosen])
    return factors


def drawn(
    cells: AnnData,
    factors: npt.NDArray[np.float64],
    random: np.random.Generator,
    *,
    depth: float = 1.0,
    ambient: float = 0.0,
) -> AnnData:
    """Draw counts again after each gene has changed by a factor, shape (n, G) or (G,)."""
    counts = sparse.csr_matrix(cells.X).toarray().astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    changed = counts * factors
    changed *= totals / np.maximum(changed.sum(axis=1, keepdims=True), 1)
    profile = changed.sum(axis=0) / changed.sum()
    drawn = random.poisson(depth * ((1 - ambient) * changed + ambient * totals * profile))
    values = sparse.csr_matrix(drawn.astype(np.float32))
    return AnnData(values, obs=cells.obs.copy(), var=cells.var.copy())
