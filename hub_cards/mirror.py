"""Lay cells out as their studies published them, for ``spikgpt build --mirror``.

python hub_cards/mirror.py pancreas MIRROR              the real cells of this repository, as GEO has them
python hub_cards/mirror.py lung MIRROR --cells 2000     made-up cells: build with --synthetic
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.building.preparing import write_cells
from spikgpt.building.recipe import find_recipe, read_recipe
from spikgpt.cells.reading import read_cells

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
BARON = ("pancreas_baron_human1", "pancreas_baron_human2_human4", "pancreas_baron_human3")
CHUNK = 4096


def pancreas(folder: Path, cells: AnnData | None = None) -> Path:
    """Write GSE84133_RAW.tar, with a table a donor: cells in rows, barcode, assigned cluster, then counts of genes."""
    adata = cells if cells is not None else anndata.concat([read_cells(DATA / f"{name}.h5ad") for name in BARON])
    path = folder / "GSE84133" / "GSE84133_RAW.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, donor in enumerate(sorted(adata.obs["donor"].unique())):
            some = adata[adata.obs["donor"] == donor]
            rows = sparse.csr_matrix(some.X)
            lines = [",".join(['""', "barcode", "assigned_cluster", *some.var_names])]
            for row, (name, label) in enumerate(zip(some.obs_names, some.obs["cell_type"], strict=True)):
                values = rows[row].toarray().ravel().astype(int).tolist()
                lines.append(",".join([f'"{name}"', f"BC{row:06}", str(label), *map(str, values)]))
            content = packed(lines)
            put(tar, f"GSM{2230757 + number}_{donor}_umifm_counts.csv.gz", content)
    return path


def packed(lines: list[str]) -> bytes:
    """Return lines of a table as a gzip file, which is the same whenever it is made."""
    return gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=1, mtime=0)


def put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put a file into an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


class MadeUp:
    """Made-up cells: each label has genes of its own, each donor sees some genes better than others."""

    def __init__(self, labels: list[str], genes: int, *, density: float = 0.05, seed: int = 0) -> None:
        self.labels, self.density = labels, density
        table = gzip.decompress((files("spikgpt") / "resources" / "human_genes.tsv.gz").read_bytes())
        rows = [line.split("\t") for line in table.decode().splitlines()[:genes]]
        self.symbols = [symbol for _, symbol in rows]
        self.ids = [f"ENSG{int(number):011}" for number, _ in rows]
        self.random = np.random.default_rng(seed)
        shared = self.random.lognormal(0, 1, genes)
        own = [self.random.choice(genes, max(5, genes // 50), replace=False) for _ in labels]
        profiles = np.tile(shared, (len(labels), 1))
        for profile, chosen in zip(profiles, own, strict=True):
            profile[chosen] *= 4
        self._sums = np.cumsum(profiles / profiles.sum(axis=1, keepdims=True), axis=1)

    def cells(self, size: int) -> tuple[sparse.csr_matrix, list[str]]:
        """Return counts, shape (size, genes), and labels."""
        genes = self._sums.shape[1]
        index = self.random.integers(len(self.labels), size=size)
        depth = max(20, round(1.6 * self.density * genes))
        columns = np.empty((size, depth), dtype=np.int32)
        for label in np.unique(index):
            rows = np.flatnonzero(index == label)
            columns[rows] = np.searchsorted(self._sums[label], self.random.random((len(rows), depth)))
        # Cells are between their label and another, as cells are: else no probability is below 1.
        other, share = self.random.integers(len(self.labels), size=size), self.random.uniform(0, 0.5, size)
        for label in np.unique(other):
            rows = np.flatnonzero(other == label)
            drawn = np.searchsorted(self._sums[label], self.random.random((len(rows), depth)))
            columns[rows] = np.where(self.random.random(drawn.shape) < share[rows, None], drawn, columns[rows])
        columns = np.minimum(columns, genes - 1)
        starts = np.arange(0, size * depth + 1, depth)
        counts = sparse.csr_matrix((np.ones(size * depth, np.float32), columns.ravel(), starts), shape=(size, genes))
        counts.sum_duplicates()
        return counts, [self.labels[place] for place in index]


def lung(folder: Path, cells: int = 2000, genes: int = 2000) -> Path:
    """Write made-up cells in the layout of the core of the Human Lung Cell Atlas."""
    recipe = read_recipe(find_recipe("lung"))
    reference, query = recipe.sources
    # Some 60 cells of each label: of few labels, where there are few cells.
    labels = list(reference.labels)[:: max(1, 60 * len(reference.labels) // cells)]
    made = MadeUp(labels, genes)
    studies = [*reference.keep["part"], *query.keep["part"], "Barbry_Leroy_2020"]
    path = folder / "HLCA-core" / "hlca_core.h5ad"
    path.parent.mkdir(parents=True, exist_ok=True)

    def parts() -> Iterator[tuple[sparse.csr_matrix, pd.DataFrame]]:
        for start in range(0, cells, CHUNK):
            counts, names = made.cells(min(CHUNK, cells - start))
            index = np.arange(start, start + len(names))
            # A part of the last two studies, and all the others in turn.
            study = np.where(index % 10 == 8, 6, np.where(index % 10 == 9, 7, index % 6))
            donors = [f"{studies[place]}_{at % 3}" for at, place in zip(index // 10, study, strict=True)]
            told = {"ann_finest_level": names, "donor_id": donors, "study": [studies[place] for place in study]}
            yield counts, pd.DataFrame(told, index=[f"synthetic_{at}" for at in index])

    write_cells(path, parts(), pd.DataFrame({"feature_name": made.symbols}, index=made.ids))
    return path


def retina(folder: Path, cells: int = 1400, genes: int = 1000) -> Path:
    """Write made-up cells in the layouts of GSE148077 and GSE130636."""
    clusters = ["Rod", "mlCone", "DB1", "Gaba1", "H1", "MG_ON", "Muller", "Astrocytes", "MicroGlia", "Endothelium"]
    asked = ["1", "3", "5", "8B", "8A", "7", "13", "14", "12", "11"]
    made = MadeUp(clusters, genes, density=0.1)
    place = folder / "GSE148077"
    place.mkdir(parents=True, exist_ok=True)
    described = ["NAME,Cluster", "TYPE,group"]
    donors = ["H1CD73dpS1", "H2Fovea1S1", "H3CD90S1", "H4FoveaS1", "H5FoveaS1", "H9FoveaS1", "H11FoveaS1"]
    for library in donors:
        counts, labels = made.cells(cells // len(donors))
        names = [f"{library}_SYNTHETIC{row:05}-1" for row in range(len(labels))]
        described += [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
        lines = [",".join(['""', *(f'"{name}"' for name in names)])]
        lines += _rows(sparse.csr_matrix(counts.T), made.symbols, ",")
        donor = library[: 2 + library[1:3].isdigit()]
        content = packed(lines)
        (place / f"GSE148077_count_mat_donor_{donor}.csv.gz").write_bytes(content)
    (place / "Human_retina_combined_all_meta.csv").write_text("\n".join(described) + "\n")
    path = folder / "GSE130636" / "GSE130636_RAW.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(
            f"{region}_donor_{at}" for region in ("fovea", "peripheral") for at in (1, 2, 3)
        ):
            counts, labels = made.cells(max(30, cells // 20))
            logs = counts.toarray().astype(float)
            logs = np.log1p(logs / logs.sum(axis=1, keepdims=True) * 1e4)
            lines = ["\t".join(["barcode", "cluster_label", *made.symbols])]
            for row, label in enumerate(labels):
                values = (f"{value:.5g}" for value in logs[row].tolist())
                lines.append("\t".join([f"SYNTHETIC{row:05}-1", asked[clusters.index(label)], *values]))
            content = packed(lines)
            put(tar, f"GSM{3745992 + number}_{sample}_expression.tsv.gz", content)
    return path


def _rows(values: Any, names: list[str], delimiter: str) -> Iterator[str]:
    for name, row in zip(names, values.toarray().astype(int).tolist(), strict=True):
        yield delimiter.join([f'"{name}"', *map(str, row)])


def main() -> None:
    """Write a mirror."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("pancreas", "lung", "retina"))
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--cells", type=int, default=2000, help="made-up cells of lung and retina")
    parser.add_argument("--genes", type=int, default=2000, help="made-up cells' genes")
    options = parser.parse_args()
    if options.name == "pancreas":
        path = pancreas(options.mirror)
    else:
        path = {"lung": lung, "retina": retina}[options.name](options.mirror, options.cells, options.genes)
    sys.stdout.write(f"Wrote {path}\n")


if __name__ == "__main__":
    main()
