"""Tasks whose query pools batches: donors, conditions, chemistries, platforms, studies, species, simulated shifts.

Each query names the batch of each cell in ``obs["batch"]``. A simulated batch holds real cells: the counts of each gene
are multiplied by a lognormal factor, and drawn again from a Poisson distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import log_normalise
from spikgpt.cells.content.values import row_sums
from spikgpt_benchmark.studies.datasets import (
    COARSE_LABELS,
    LABEL,
    cell_line_plates,
    mouse_pancreas,
    pbmc_68k,
    read_study,
    rename_types,
    split_by,
    subsample,
)
from spikgpt_benchmark.studies.shifts import SHIFTS, resample_counts
from spikgpt_benchmark.studies.tasks import StudyTask, are_counts

BATCH = "batch"
# Largest number of cells of a pooled query.
LARGEST_QUERY = 2000


def pooled_tuning_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield the pooled tasks that SpikGPT's rules are tuned on."""
    yield from _blood_tasks(data)
    yield from _pancreas_tasks(data)
    yield from _lung_tasks(data)
    yield from _eye_tasks(data)


def pooled_evaluation_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield the pooled test tasks: no rule of SpikGPT is ever tuned on these tasks."""
    blood, stimulated = read_study(data, "3k"), read_study(data, "kang")
    yield pool_batches("pooled: 3k to Kang, both conditions", blood, split_by(stimulated, "condition"))
    yield pool_batches(
        "pooled: Kang to 3k and sorted blood", stimulated, {"3k": blood, "sorted": read_study(data, "zheng")}
    )
    human = read_study(data, "baron")
    donors = split_by(human, "donor")
    reference = human[human.obs["donor"].isin(["human1", "human3"])]
    batches = {name: donors[name] for name in ("human2", "human4")}
    yield pool_batches("pooled: two donors to two and Xin", reference, batches | {"Xin": _xin_natural_logs(data)})
    cells = cell_line_plates(data)
    names = ("dropseq", "celseq2", "celseq2_5cl_p2")
    reference = cells["celseq2_5cl_p3"]
    yield pool_batches(
        "pooled: CEL-seq2 plate to plates and Drop-seq", reference, {name: cells[name] for name in names}
    )
    retina = split_by(read_study(data, "retina"), "sample")
    reference = anndata.concat([retina.pop(name) for name in ("donor3_peripheral", "donor3_fovea")], merge="same")
    yield pool_batches("pooled: retina, donor to donors and regions", reference, retina)


def _blood_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield pooled tasks on blood: simulated batches, sorted cells, PBMC 68k and tumours, stimulated cells."""
    blood = read_study(data, "3k")
    half = np.random.default_rng(1).random(blood.n_obs) < 0.5
    reference, rest = blood[half], blood[~half]
    near, far = split_randomly(rest, [1, 1], 11)
    both = {"near": near, "far": shift_genes(far, 12, 1.0, depth=0.5)}
    yield pool_batches("pooled: 3k, the same batch twice", reference, {"one": near, "two": far})
    yield pool_batches("pooled: 3k, factors of 1.0", reference, both)
    many, few = split_randomly(rest, [20, 1], 13)
    yield pool_batches("pooled: 3k, 20 to 1", reference, {"near": many, "far": shift_genes(few, 14, 0.7)})
    yield pool_batches("pooled: 3k, 1 to 20", reference, {"near": few, "far": shift_genes(many, 15, 0.7)})
    three = split_randomly(rest, [1, 1, 1], 16)
    scarce: tuple[tuple[str, ...], ...] = (("CD4 T", "CD8 T"), ("CD14 Mono", "CD16 Mono"), ("B", "NK"))
    skewed = [remove_types(part, types, 0.2, 17) for part, types in zip(three, scarce, strict=True)]
    yield pool_batches("pooled: 3k, three compositions", reference, graded_batches(skewed, 18, (0, 0.5, 1.0)))
    six = graded_batches(split_randomly(rest, [1] * 6, 19), 20, (0, 0.3, 0.45, 0.6, 0.8, 1.0))
    yield pool_batches("pooled: 3k, six batches", reference, six)
    only_far = {"near": remove_types(near, ("B", "NK"), 0, 21), "far": both["far"]}
    yield pool_batches("pooled: 3k, B and NK in the far batch only", reference, only_far)
    only_near = {"near": near, "far": remove_types(both["far"], ("CD14 Mono",), 0, 21)}
    yield pool_batches("pooled: 3k, CD14 Mono in the near batch only", reference, only_near)
    treated = SHIFTS["treatment of each type"](far, 22)
    yield pool_batches("pooled: 3k, treated and not", reference, {"control": near, "treated": treated})
    labs = {"same": three[0], "platform": SHIFTS["platform"](three[1], 23), "culture": SHIFTS["culture"](three[2], 24)}
    yield pool_batches("pooled: 3k, platform and culture", reference, labs)
    yield pool_batches(
        "pooled: 3k and sorted blood", reference, {"3k": rest} | split_by(read_study(data, "zheng"), "source")
    )
    tumour = rename_types(read_study(data, "lung tumour"), COARSE_LABELS)
    other_studies = {"68k": pbmc_68k(), "tumour": tumour}
    yield pool_batches("pooled: 3k to 68k and tumour", rename_types(blood, COARSE_LABELS), other_studies)
    conditions = split_by(read_study(data, "kang"), "condition")
    reference, control = split_randomly(conditions["CTRL"], [1, 1], 25)
    stimulated, _ = split_randomly(conditions["STIM"], [1, 1], 26)
    yield pool_batches("pooled: Kang CTRL to both", reference, {"CTRL": control, "STIM": stimulated})


def _pancreas_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield pooled tasks on the pancreas: simulated batches, donors, mice, and mice pooled with humans."""
    human = read_study(data, "baron")
    donors, mouse = split_by(human, "donor"), mouse_pancreas(data)
    first, third, mice = donors["human1"], donors["human3"], split_by(mouse, "donor")
    near, far = split_randomly(third, [1, 1], 31)
    yield pool_batches("pooled: human1 to human3", first, {"near": near, "far": shift_genes(far, 32, 0.8, depth=0.5)})
    four = split_randomly(first, [1, 1, 1, 1], 33)
    skewed = [
        four[0],
        remove_types(four[1], ("beta",), 0.1, 34),
        remove_types(four[2], ("alpha", "delta"), 0, 35),
        four[3],
    ]
    yield pool_batches("pooled: human3 to human1", third, graded_batches(skewed, 36, (0, 0.4, 0.7, 1.0)))
    yield pool_batches("pooled: human1 to human3 and mouse1", first, {"human3": third, "mouse1": mice["mouse1"]})
    both = human[human.obs["donor"].isin(["human1", "human3"])]
    yield pool_batches("pooled: human to mice", both, mice)
    yield pool_batches("pooled: mouse to men", mouse, {"human1": first, "human3": third})
    many, few = split_randomly(mice["mouse2"], [20, 1], 37)
    yield pool_batches(
        "pooled: mouse1 to mouse2", mice["mouse1"], {"near": many, "far": shift_genes(few, 38, 0.8, depth=0.5)}
    )


def _lung_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield pooled tasks on the lung, whose batches are plates, chemistries or patients."""
    cells = cell_line_plates(data)
    drops, first = cells.pop("dropseq"), cells.pop("celseq2")
    yield pool_batches("pooled: CEL-seq2 to three plates", first, cells)
    yield pool_batches("pooled: Drop-seq to CEL-seq2 and plates", drops, cells | {"celseq2": first})
    patients = split_by(read_study(data, "lavage"), "donor")
    yield pool_batches("pooled: lavage, patient to patients", patients.pop("S5"), patients)


def _eye_tasks(data: Path) -> Iterator[StudyTask]:
    """Yield pooled tasks on retina and choroid: donors, regions, and a few cells of a simulated batch."""
    retina = read_study(data, "retina")
    first = retina[retina.obs["donor"] == "donor1"]
    samples = split_by(retina, "sample")
    regions = {name: samples[name] for name in ("donor3_peripheral", "donor3_fovea")}
    yield pool_batches("pooled: retina, donor1 to donors", first, regions | {"donor2": samples["donor2_peripheral"]})
    no_rods = regions | {"donor3_fovea": remove_types(samples["donor3_fovea"], ("rod", "cone"), 0, 41)}
    yield pool_batches("pooled: retina, rods in the periphery only", first, no_rods)
    choroid = split_by(read_study(data, "choroid"), "donor")
    second = choroid.pop("donor2")
    yield pool_batches("pooled: choroid, donor2 to donors", second, choroid)
    many, few = split_randomly(choroid["donor3"], [20, 1], 42)
    batches = {"donor1": choroid["donor1"], "near": many, "far": shift_genes(few, 43, 0.6)}
    yield pool_batches("pooled: choroid, a few cells of a third batch", second, batches)


def pool_batches(
    name: str, reference: AnnData, batches: dict[str, AnnData], *, largest: int | None = LARGEST_QUERY
) -> StudyTask:
    """Return a task whose query joins all batches, on the genes that all batches have.

    The query holds counts if all batches hold counts, else log values. ``largest`` is the largest number of query
    cells. None keeps all cells, batch after batch.
    """
    kept = {key: cells[:, ~cells.var_names.duplicated()].copy() for key, cells in batches.items()}
    if not all(are_counts(cells) for cells in kept.values()):
        kept = {key: _to_logs(cells) if are_counts(cells) else cells for key, cells in kept.items()}
    for key, cells in kept.items():
        cells.obs = cells.obs[[LABEL]].astype(str).assign(**{BATCH: key})
    task = StudyTask.from_cells(name, reference, anndata.concat(kept, join="inner", index_unique="-"))
    return task if largest is None else replace(task, query=subsample(task.query, largest, 0))


def split_randomly(cells: AnnData, sizes: Sequence[float], seed: int) -> list[AnnData]:
    """Split cells at random into parts; ``sizes`` are the relative sizes of the parts."""
    order = np.random.default_rng(seed).permutation(cells.n_obs)
    ends = np.round(np.cumsum(sizes) / np.sum(sizes) * cells.n_obs).astype(int)
    return [cells[np.sort(part)].copy() for part in np.split(order, ends[:-1])]


def remove_types(cells: AnnData, types: Sequence[str], share: float, seed: int) -> AnnData:
    """Return the cells, with only a random ``share`` of the cells of some types."""
    kept = np.random.default_rng(seed).random(cells.n_obs) < share
    return cells[kept | ~cells.obs[LABEL].isin(types).to_numpy()].copy()


def shift_genes(cells: AnnData, seed: int, deviation: float, *, depth: float = 1.0) -> AnnData:
    """Return a simulated batch: each gene is multiplied by a lognormal factor, and counts are drawn again.

    ``deviation`` is the standard deviation of the logarithm of the factors.
    """
    random = np.random.default_rng(seed)
    return resample_counts(cells, random.lognormal(0, deviation, cells.n_vars), random, depth=depth)


def graded_batches(parts: Sequence[AnnData], seed: int, deviations: Sequence[float]) -> dict[str, AnnData]:
    """Turn each part into a simulated batch with its deviation of gene factors; 0 leaves the part unchanged."""
    return {
        f"factors of {deviation}": shift_genes(part, seed + number, deviation) if deviation else part
        for number, (part, deviation) in enumerate(zip(parts, deviations, strict=True))
    }


def _xin_natural_logs(data: Path) -> AnnData:
    """Return the cells of Xin et al. with logarithms to base e; the file holds them to base 2."""
    cells = read_study(data, "xin")
    cells.X = sparse.csr_matrix(cells.X) * np.log(2)
    return cells


def _to_logs(cells: AnnData) -> AnnData:
    """Return cells with log values, normalised by the totals over all their genes."""
    counts = sparse.csr_matrix(cells.X)
    return AnnData(log_normalise(counts, row_sums(counts)), obs=cells.obs.copy(), var=cells.var.copy())
