"""Write made-up cells in the file layouts of their studies, for ``spikgpt build --synthetic --mirror``.

python -m tests.mirror lung MIRROR --cells 2000
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from mirror import gzip_table, log_normalised, write_tar
from spikgpt_recipes.prepare import write_cells
from spikgpt_recipes.recipe import find_recipe, read_recipe

CHUNK = 4096


class SyntheticCells:
    """Made-up cells: each label has its own marker genes."""

    def __init__(self, labels: list[str], genes: int, *, density: float = 0.05, seed: int = 0) -> None:
        self.labels, self.density = labels, density
        table = gzip.decompress((files("spikgpt") / "resources" / "human_genes.tsv.gz").read_bytes())
        rows = [line.split("\t") for line in table.decode().splitlines()[:genes]]
        self.symbols = [symbol for _, symbol in rows]
        self.ids = [f"ENSG{int(number):011}" for number, _ in rows]
        self.random = np.random.default_rng(seed)
        means = self.random.lognormal(0, 1, genes)
        markers = [self.random.choice(genes, max(5, genes // 50), replace=False) for _ in labels]
        profiles = np.tile(means, (len(labels), 1))
        for profile, columns in zip(profiles, markers, strict=True):
            profile[columns] *= 4
        self._cumulative = np.cumsum(profiles / profiles.sum(axis=1, keepdims=True), axis=1)

    def cells(self, size: int) -> tuple[sparse.csr_matrix, list[str]]:
        """Return counts, shape (size, genes), and labels."""
        genes = self._cumulative.shape[1]
        index = self.random.integers(len(self.labels), size=size)
        depth = max(20, round(1.6 * self.density * genes))
        columns = np.empty((size, depth), dtype=np.int32)
        for label in np.unique(index):
            rows = np.flatnonzero(index == label)
            columns[rows] = np.searchsorted(self._cumulative[label], self.random.random((len(rows), depth)))
        # Mix each cell with another label, as real cells lie between labels. Otherwise, every probability would be 1.
        other, share = self.random.integers(len(self.labels), size=size), self.random.uniform(0, 0.5, size)
        for label in np.unique(other):
            rows = np.flatnonzero(other == label)
            other_columns = np.searchsorted(self._cumulative[label], self.random.random((len(rows), depth)))
            columns[rows] = np.where(
                self.random.random(other_columns.shape) < share[rows, None], other_columns, columns[rows]
            )
        columns = np.minimum(columns, genes - 1)
        starts = np.arange(0, size * depth + 1, depth)
        counts = sparse.csr_matrix((np.ones(size * depth, np.float32), columns.ravel(), starts), shape=(size, genes))
        counts.sum_duplicates()
        return counts, [self.labels[label] for label in index]


def lung(folder: Path, cells: int = 2000, genes: int = 2000) -> Path:
    """Write made-up cells in the layout of the Human Lung Cell Atlas core."""
    recipe = read_recipe(find_recipe("lung"))
    reference, query = recipe.sources
    # Use so many labels that each label has about 60 cells, so a small mirror has few labels.
    labels = list(reference.labels)[:: max(1, 60 * len(reference.labels) // cells)]
    synthetic = SyntheticCells(labels, genes)
    studies = [*reference.keep["part"], *query.keep["part"], "Barbry_Leroy_2020"]
    path = folder / "HLCA-core" / "hlca_core.h5ad"
    path.parent.mkdir(parents=True, exist_ok=True)

    def parts() -> Iterator[tuple[sparse.csr_matrix, pd.DataFrame]]:
        for start in range(0, cells, CHUNK):
            counts, names = synthetic.cells(min(CHUNK, cells - start))
            index = np.arange(start, start + len(names))
            # Each of the last two studies has a tenth of the cells; the first six studies share the rest about equally.
            study = np.where(index % 10 == 8, 6, np.where(index % 10 == 9, 7, index % 6))
            donors = [f"{studies[number]}_{cell % 3}" for cell, number in zip(index // 10, study, strict=True)]
            obs = {"ann_finest_level": names, "donor_id": donors, "study": [studies[number] for number in study]}
            yield counts, pd.DataFrame(obs, index=[f"synthetic_{cell}" for cell in index])

    write_cells(path, parts(), pd.DataFrame({"feature_name": synthetic.symbols}, index=synthetic.ids))
    return path


def retina(folder: Path, cells: int = 1400, genes: int = 1000) -> Path:
    """Write made-up cells in the layouts of GSE148077 and GSE130636."""
    clusters = ["Rod", "mlCone", "DB1", "Gaba1", "H1", "MG_ON", "Muller", "Astrocytes", "MicroGlia", "Endothelium"]
    query_clusters = ["1", "3", "5", "8B", "8A", "7", "13", "14", "12", "11"]
    synthetic = SyntheticCells(clusters, genes, density=0.1)
    reference = folder / "GSE148077"
    reference.mkdir(parents=True, exist_ok=True)
    annotation = ["NAME,Cluster", "TYPE,group"]
    libraries = ["H1CD73dpS1", "H2Fovea1S1", "H3CD90S1", "H4FoveaS1", "H5FoveaS1", "H9FoveaS1", "H11FoveaS1"]
    for library in libraries:
        counts, labels = synthetic.cells(cells // len(libraries))
        names = [f"{library}_SYNTHETIC{row:05}-1" for row in range(len(labels))]
        annotation += [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
        donor = library[: 2 + library[1:3].isdigit()]
        header = ['""', *(f'"{name}"' for name in names)]
        table = gzip_table(header, [(f'"{symbol}"',) for symbol in synthetic.symbols], counts.T, ",")
        (reference / f"GSE148077_count_mat_donor_{donor}.csv.gz").write_bytes(table)
    (reference / "Human_retina_combined_all_meta.csv").write_text("\n".join(annotation) + "\n")
    path = folder / "GSE130636" / "GSE130636_RAW.tar"
    members = {}
    for number, sample in enumerate(
        f"{region}_donor_{donor}" for region in ("fovea", "peripheral") for donor in (1, 2, 3)
    ):
        counts, labels = synthetic.cells(max(30, cells // 20))
        header = ["barcode", "cluster_label", *synthetic.symbols]
        rows = [(f"SYNTHETIC{row:05}-1", query_clusters[clusters.index(label)]) for row, label in enumerate(labels)]
        table = gzip_table(header, rows, log_normalised(counts), "\t")
        members[f"GSM{3745992 + number}_{sample}_expression.tsv.gz"] = table
    write_tar(path, members)
    return path


def main() -> None:
    """Write a mirror."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("lung", "retina"))
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--cells", type=int, default=2000, help="number of cells")
    parser.add_argument("--genes", type=int, default=2000, help="number of genes")
    options = parser.parse_args()
    path = {"lung": lung, "retina": retina}[options.name](options.mirror, options.cells, options.genes)
    sys.stdout.write(f"Wrote {path}\n")


if __name__ == "__main__":
    main()
