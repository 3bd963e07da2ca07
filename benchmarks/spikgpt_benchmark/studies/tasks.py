"""Pairs of a reference and a query of the same tissue, for tuning or testing rejection rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt_benchmark.studies.datasets import (
    COARSE_LABELS,
    LABEL,
    cell_line_plates,
    mouse_pancreas,
    pbmc_68k,
    read_study,
    rename_types,
    split_by,
    with_frequent_labels,
)
from spikgpt_benchmark.studies.shifts import SHIFTS

# Smallest number of query cells of a type that is left out of the reference.
CELLS_TO_LEAVE_OUT = 20
# Number of most variable genes that gene panels are drawn from.
VARIABLE_GENES = 2000


@dataclass(frozen=True)
class StudyTask:
    """A reference and a query of the same tissue; the query has only types that the reference has."""

    name: str
    reference: AnnData
    query: AnnData

    @classmethod
    def from_cells(cls, name: str, reference: AnnData, query: AnnData) -> StudyTask:
        """Return a task of the labels that have enough cells in the reference."""
        reference = with_frequent_labels(reference)
        types = reference.obs[LABEL].unique()
        return cls(name, reference, query[query.obs[LABEL].isin(types)].copy())

    def reference_without(self, left_out: str | None) -> AnnData:
        """Return the reference without a type; with None, the whole reference."""
        return with_frequent_labels(self.reference[self.reference.obs[LABEL] != left_out])

    @property
    def types(self) -> list[str]:
        """The types that can be left out, in alphabetical order."""
        counts = self.query.obs[LABEL].value_counts()
        return sorted(counts.index[counts >= CELLS_TO_LEAVE_OUT])


def gene_panel(query: AnnData, n_genes: int, seed: int = 0) -> AnnData:
    """Return a query with ``n_genes`` of its 2000 most variable genes, drawn at random."""
    values = sparse.csr_matrix(query.X, dtype=np.float64)
    if are_counts(query):
        # Float64 throughout: rounding to float32 would change the order of genes of nearly equal variance.
        totals = np.maximum(np.asarray(values.sum(axis=1)).ravel(), 1)
        values = sparse.csr_matrix(sparse.diags(1e4 / totals) @ values).log1p()
    mean = np.asarray(values.mean(axis=0)).ravel()
    variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
    variable = np.argsort(-variance, kind="stable")[:VARIABLE_GENES]
    chosen = np.sort(np.random.default_rng(seed).choice(variable, min(n_genes, len(variable)), replace=False))
    return query[:, chosen].copy()


def are_counts(cells: AnnData) -> bool:
    """Return True if all values are whole numbers."""
    values = sparse.csr_matrix(cells.X).data
    return bool(np.all(values == np.round(values)))


def evaluation_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield the test tasks: no rule of SpikGPT is ever tuned on these tasks."""
    blood, stimulated = read_study(data, "3k"), read_study(data, "kang")
    human, xin, cells = (read_study(data, name) for name in ("baron", "xin", "cell lines"))
    donors = human.obs["donor"].isin(["human1", "human3"]).to_numpy()
    dropseq = (cells.obs["platform"] == "Drop-seq").to_numpy()
    yield StudyTask.from_cells("pbmc: 3k to Kang", blood, stimulated)
    control = stimulated[stimulated.obs["condition"] == "CTRL"]
    yield StudyTask.from_cells("unstimulated: 3k to Kang CTRL", blood, control)
    yield StudyTask.from_cells("Kang to 3k", stimulated, blood)
    yield StudyTask.from_cells("baron: two donors to two", human[donors], human[~donors])
    yield StudyTask.from_cells("xin: Baron to Xin", human, xin)
    yield StudyTask.from_cells("Xin to Baron", xin, human)
    yield StudyTask.from_cells("scmix: CEL-seq2 to Drop-seq", cells[~dropseq], cells[dropseq])


def tuning_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield the tasks that SpikGPT's rules are tuned on: other donors, mice, species, batches, simulated shifts."""
    human, mouse, blood = read_study(data, "baron"), mouse_pancreas(data), read_study(data, "3k")
    donors, mice = split_by(human, "donor"), split_by(mouse, "donor")
    first, third = donors["human1"], donors["human3"]
    yield StudyTask.from_cells("human1 to human3", first, third)
    yield StudyTask.from_cells("human3 to human1", third, first)
    yield StudyTask.from_cells("mouse1 to mouse2", mice["mouse1"], mice["mouse2"])
    yield StudyTask.from_cells("mouse2 to mouse1", mice["mouse2"], mice["mouse1"])
    both = human[human.obs["donor"].isin(["human1", "human3"])]
    yield StudyTask.from_cells("human to mouse", both, mouse)
    yield StudyTask.from_cells("mouse to human", mouse, both)
    plates = cell_line_plates(data)
    yield StudyTask.from_cells("scmix: batch to batch", plates["celseq2"], plates["celseq2_5cl_p1"])
    yield StudyTask.from_cells("scmix: Drop-seq to CEL-seq2", plates["dropseq"], plates["celseq2_5cl_p2"])
    coarse = rename_types(blood, COARSE_LABELS)
    yield StudyTask.from_cells("3k to 68k", coarse, pbmc_68k())
    yield StudyTask.from_cells("3k to tumour", coarse, rename_types(read_study(data, "lung tumour"), COARSE_LABELS))
    half = np.random.default_rng(1).random(blood.n_obs) < 0.5
    for name, change in SHIFTS.items():
        yield StudyTask.from_cells(f"3k halves, {name}", blood[half], change(blood[~half], 2))
    for name in ("platform", "treatment of each type", "genes switched on", "culture", "another lab", "one lineage"):
        yield StudyTask.from_cells(f"human1 to human3, {name}", first, SHIFTS[name](third, 3))
