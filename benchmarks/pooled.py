"""Tasks whose query pools batches: donors, conditions, chemistries, platforms, studies, species, made-up shifts.

Each query names the batch of each cell in ``obs["batch"]``. A made-up batch holds real cells of which each gene is
found better or worse by a lognormal factor, and whose counts are drawn again. Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData, read_h5ad
from scipy import sparse
from studies import COARSE_LABELS, SHIFTS, Task, drawn, kang, mapped, mouse_pancreas, pbmc_3k, pbmc_68k, task_of

from spikgpt.benchmark.suites import LABEL
from spikgpt.cells.align import log_normalise
from spikgpt.cells.content.values import row_sums

BATCH = "batch"
# Largest number of cells of a pooled query.
LARGEST_QUERY = 2000
# Names of the sorted cells of Zheng et al. in the PBMC studies; the stem cells have none.
ZHENG_LABELS = {
    "B cell": "B",
    "CD4 T cell": "CD4 T",
    "CD8 T cell": "CD8 T",
    "CD14 monocyte": "CD14 Mono",
    "NK cell": "NK",
}


def pooled_to_choose(data: Path) -> Iterator[Task]:
    """Give the pooled tasks that rules are chosen on."""
    yield from _blood_to_choose(data)
    yield from _pancreas_to_choose(data)
    yield from _lung_to_choose(data)
    yield from _eye_to_choose(data)


def pooled_to_report(data: Path) -> Iterator[Task]:
    """Give the pooled tasks that rules are never chosen on."""
    blood, stimulated = pbmc_3k(data), kang(data)
    yield pool("pooled: 3k to Kang, both conditions", blood, parts_by(stimulated, "condition"))
    yield pool("pooled: Kang to 3k and sorted blood", stimulated, {"3k": blood, "sorted": zheng(data)})
    human = read_h5ad(data / "pancreas_baron_human.h5ad")
    donors = parts_by(human, "donor")
    reference = human[human.obs["donor"].isin(["human1", "human3"])]
    batches = {name: donors[name] for name in ("human2", "human4")}
    yield pool("pooled: two donors to two and Xin", reference, batches | {"Xin": _xin(data)})
    cells = parts_by(read_h5ad(data / "lung_cancer_celllines_scmixology.h5ad"), "study")
    names = ("scmix_sc_dropseq", "scmix_sc_celseq2", "scmix_sc_celseq2_5cl_p2")
    reference = cells["scmix_sc_celseq2_5cl_p3"]
    yield pool("pooled: CEL-seq2 plate to plates and Drop-seq", reference, {name: cells[name] for name in names})
    retina = parts_by(read_h5ad(data / "retina_voigt_human.h5ad"), "sample")
    reference = anndata.concat([retina.pop(name) for name in ("donor3_peripheral", "donor3_fovea")], merge="same")
    yield pool("pooled: retina, donor to donors and regions", reference, retina)


def _blood_to_choose(data: Path) -> Iterator[Task]:
    """Give tasks of blood: made-up batches, sorted cells, 68k and tumours, stimulated cells."""
    blood = pbmc_3k(data)
    half = np.random.default_rng(1).random(blood.n_obs) < 0.5
    reference, rest = blood[half], blood[~half]
    near, far = split(rest, [1, 1], 11)
    both = {"near": near, "far": shifted(far, 12, 1.0, depth=0.5)}
    yield pool("pooled: 3k, the same batch twice", reference, {"one": near, "two": far})
    yield pool("pooled: 3k, factors of 1.0", reference, both)
    many, few = split(rest, [20, 1], 13)
    yield pool("pooled: 3k, 20 to 1", reference, {"near": many, "far": shifted(few, 14, 0.7)})
    yield pool("pooled: 3k, 1 to 20", reference, {"near": few, "far": shifted(many, 15, 0.7)})
    three = split(rest, [1, 1, 1], 16)
    scarce: tuple[tuple[str, ...], ...] = (("CD4 T", "CD8 T"), ("CD14 Mono", "CD16 Mono"), ("B", "NK"))
    skewed = [thinned(part, types, 0.2, 17) for part, types in zip(three, scarce, strict=True)]
    yield pool("pooled: 3k, three compositions", reference, graded(skewed, 18, (0, 0.5, 1.0)))
    six = graded(split(rest, [1] * 6, 19), 20, (0, 0.3, 0.45, 0.6, 0.8, 1.0))
    yield pool("pooled: 3k, six batches", reference, six)
    only_far = {"near": thinned(near, ("B", "NK"), 0, 21), "far": both["far"]}
    yield pool("pooled: 3k, B and NK in the far batch only", reference, only_far)
    only_near = {"near": near, "far": thinned(both["far"], ("CD14 Mono",), 0, 21)}
    yield pool("pooled: 3k, CD14 Mono in the near batch only", reference, only_near)
    treated = SHIFTS["treatment of each type"](far, 22)
    yield pool("pooled: 3k, treated and not", reference, {"control": near, "treated": treated})
    labs = {"same": three[0], "platform": SHIFTS["platform"](three[1], 23), "culture": SHIFTS["culture"](three[2], 24)}
    yield pool("pooled: 3k, platform and culture", reference, labs)
    yield pool("pooled: 3k and sorted blood", reference, {"3k": rest} | parts_by(zheng(data), "source"))
    tumour = mapped(read_h5ad(data / "lung_nsclc_zilionis300.h5ad"), COARSE_LABELS)
    others = {"68k": mapped(pbmc_68k(), COARSE_LABELS), "tumour": tumour}
    yield pool("pooled: 3k to 68k and tumour", mapped(blood, COARSE_LABELS), others)
    conditions = parts_by(kang(data), "condition")
    reference, control = split(conditions["CTRL"], [1, 1], 25)
    stimulated, _ = split(conditions["STIM"], [1, 1], 26)
    yield pool("pooled: Kang CTRL to both", reference, {"CTRL": control, "STIM": stimulated})


def _pancreas_to_choose(data: Path) -> Iterator[Task]:
    """Give tasks of the pancreas: made-up batches, donors, mice, and mice with men."""
    human = read_h5ad(data / "pancreas_baron_human.h5ad")
    donors, mouse = parts_by(human, "donor"), mouse_pancreas(data)
    first, third, mice = donors["human1"], donors["human3"], parts_by(mouse, "donor")
    near, far = split(third, [1, 1], 31)
    yield pool("pooled: human1 to human3", first, {"near": near, "far": shifted(far, 32, 0.8, depth=0.5)})
    four = split(first, [1, 1, 1, 1], 33)
    skewed = [four[0], thinned(four[1], ("beta",), 0.1, 34), thinned(four[2], ("alpha", "delta"), 0, 35), four[3]]
    yield pool("pooled: human3 to human1", third, graded(skewed, 36, (0, 0.4, 0.7, 1.0)))
    yield pool("pooled: human1 to human3 and mouse1", first, {"human3": third, "mouse1": mice["mouse1"]})
    both = human[human.obs["donor"].isin(["human1", "human3"])]
    yield pool("pooled: human to mice", both, mice)
    yield pool("pooled: mouse to men", mouse, {"human1": first, "human3": third})
    many, few = split(mice["mouse2"], [20, 1], 37)
    yield pool("pooled: mouse1 to mouse2", mice["mouse1"], {"near": many, "far": shifted(few, 38, 0.8, depth=0.5)})


def _lung_to_choose(data: Path) -> Iterator[Task]:
    """Give tasks of the lung: plates, chemistries, patients."""
    cells = parts_by(read_h5ad(data / "lung_cancer_celllines_scmixology.h5ad"), "study")
    drops, first = cells.pop("scmix_sc_dropseq"), cells.pop("scmix_sc_celseq2")
    yield pool("pooled: CEL-seq2 to three plates", first, cells)
    yield pool("pooled: Drop-seq to CEL-seq2 and plates", drops, cells | {"scmix_sc_celseq2": first})
    patients = parts_by(read_h5ad(data / "lung_balf_liao_human.h5ad"), "donor")
    yield pool("pooled: lavage, patient to patients", patients.pop("S5"), patients)


def _eye_to_choose(data: Path) -> Iterator[Task]:
    """Give tasks of retina and choroid: donors, regions, a few cells of a made-up batch."""
    retina = read_h5ad(data / "retina_voigt_human.h5ad")
    first = retina[retina.obs["donor"] == "donor1"]
    samples = parts_by(retina, "sample")
    regions = {name: samples[name] for name in ("donor3_peripheral", "donor3_fovea")}
    yield pool("pooled: retina, donor1 to donors", first, regions | {"donor2": samples["donor2_peripheral"]})
    no_rods = regions | {"donor3_fovea": thinned(samples["donor3_fovea"], ("rod", "cone"), 0, 41)}
    yield pool("pooled: retina, rods in the periphery only", first, no_rods)
    choroid = parts_by(read_h5ad(data / "rpe_choroid_voigt_human.h5ad"), "donor")
    second = choroid.pop("donor2")
    yield pool("pooled: choroid, donor2 to donors", second, choroid)
    many, few = split(choroid["donor3"], [20, 1], 42)
    batches = {"donor1": choroid["donor1"], "near": many, "far": shifted(few, 43, 0.6)}
    yield pool("pooled: choroid, a few cells of a third batch", second, batches)


def pool(name: str, reference: AnnData, batches: dict[str, AnnData], *, largest: int | None = LARGEST_QUERY) -> Task:
    """Return a task whose query holds the genes that all batches share; log values where not all are counts.

    ``largest`` is the largest number of cells; None keeps all, batch after batch.
    """
    kept = {key: cells[:, ~cells.var_names.duplicated()].copy() for key, cells in batches.items()}
    if not all(_are_counts(cells) for cells in kept.values()):
        kept = {key: _logs(cells) if _are_counts(cells) else cells for key, cells in kept.items()}
    for key, cells in kept.items():
        cells.obs = cells.obs[[LABEL]].astype(str).assign(**{BATCH: key})
    query = anndata.concat(kept, join="inner", index_unique="-")
    task = task_of(name, reference, query)
    return task if largest is None else Task(name, task.reference, sampled(task.query, largest, 0))


def parts_by(cells: AnnData, column: str) -> dict[str, AnnData]:
    """Return the cells of each value of a column of obs."""
    values = cells.obs[column].astype(str)
    return {name: cells[(values == name).to_numpy()].copy() for name in sorted(values.unique())}


def split(cells: AnnData, sizes: Sequence[float], seed: int) -> list[AnnData]:
    """Return the cells in random parts of relative sizes."""
    places = np.random.default_rng(seed).permutation(cells.n_obs)
    ends = np.round(np.cumsum(sizes) / np.sum(sizes) * cells.n_obs).astype(int)
    return [cells[np.sort(part)].copy() for part in np.split(places, ends[:-1])]


def sampled(cells: AnnData, number: int, seed: int) -> AnnData:
    """Return at most a number of the cells, drawn at random."""
    if cells.n_obs <= number:
        return cells
    chosen = np.random.default_rng(seed).choice(cells.n_obs, number, replace=False)
    return cells[np.sort(chosen)].copy()


def thinned(cells: AnnData, types: Sequence[str], share: float, seed: int) -> AnnData:
    """Return cells of which only a share of some types is left: another composition."""
    kept = np.random.default_rng(seed).random(cells.n_obs) < share
    return cells[kept | ~cells.obs[LABEL].isin(types).to_numpy()].copy()


def shifted(cells: AnnData, seed: int, deviation: float, *, depth: float = 1.0) -> AnnData:
    """Return cells as another batch might show them: lognormal gene factors of a deviation, counts drawn again."""
    random = np.random.default_rng(seed)
    return drawn(cells, random.lognormal(0, deviation, cells.n_vars), random, depth=depth)


def graded(parts: Sequence[AnnData], seed: int, deviations: Sequence[float]) -> dict[str, AnnData]:
    """Return a batch of each part, with gene factors of its deviation; a deviation of 0 changes nothing."""
    pairs = list(zip(parts, deviations, strict=True))
    batches = (shifted(part, seed + place, size) if size else part for place, (part, size) in enumerate(pairs))
    return {f"factors of {size}": batch for batch, size in zip(batches, deviations, strict=True)}


def zheng(data: Path) -> AnnData:
    """Return the sorted blood cells of Zheng et al. with the names of the PBMC studies."""
    return mapped(read_h5ad(data / "pbmc_zheng_facs_human.h5ad"), ZHENG_LABELS)


def _xin(data: Path) -> AnnData:
    """Return the cells of Xin et al. with logarithms to base e: the file holds them to base 2."""
    cells = read_h5ad(data / "pancreas_xin_980genes.h5ad")
    cells.X = sparse.csr_matrix(cells.X) * np.log(2)
    return cells


def _are_counts(cells: AnnData) -> bool:
    """Say whether all values are whole numbers."""
    values = sparse.csr_matrix(cells.X).data
    return bool(np.all(values == np.round(values)))


def _logs(cells: AnnData) -> AnnData:
    """Return cells with log values, normalised by the totals over all their genes."""
    counts = sparse.csr_matrix(cells.X)
    return AnnData(log_normalise(counts, row_sums(counts)), obs=cells.obs.copy(), var=cells.var.copy())
