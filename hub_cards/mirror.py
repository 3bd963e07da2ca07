"""Write the cells of .h5ad files as the published files of their studies, for ``spikgpt build --mirror``.

python hub_cards/mirror.py pancreas --data tests/data MIRROR
spikgpt build pancreas --variant shipped --mirror MIRROR --out islets

Use this command if you have the cells as .h5ad files, and cannot download the files of the study. To add a reference,
write a function that takes the cells and the folder of the mirror, and writes the files as ``ACCESSION/NAME``. Register
the function with the name of the recipe and the pattern of the .h5ad files:

    @layout("kidney", "kidney_*.h5ad")
    def kidney(cells: AnnData, mirror: Path) -> None:
        write_tar(mirror / "GSE000000" / "GSE000000_RAW.tar", {"GSM0000000_D1_counts.csv.gz": gzip_table(...)})
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.content.values import row_sums
from spikgpt.cells.reading import read_cells
from spikgpt.errors import ConfigError, listed

Layout = Callable[[AnnData, Path], None]
# For each recipe, the function that writes its files, and the pattern of its .h5ad files.
LAYOUTS: dict[str, tuple[Layout, str]] = {}


def layout(name: str, pattern: str) -> Callable[[Layout], Layout]:
    """Register the layout of a recipe; the cells come from the files of the data folder that match ``pattern``."""

    def register(function: Layout) -> Layout:
        LAYOUTS[name] = function, pattern
        return function

    return register


@layout("pancreas", "pancreas_baron_human*.h5ad")
def pancreas(cells: AnnData, mirror: Path) -> None:
    """Write GSE84133_RAW.tar, with a table for each donor."""
    members = {}
    for number, donor in enumerate(sorted(cells.obs["donor"].unique())):
        part = cells[cells.obs["donor"] == donor]
        header = ['""', "barcode", "assigned_cluster", *part.var_names]
        rows = [
            (f'"{name}"', f"BC{row:06}", label)
            for row, (name, label) in enumerate(zip(part.obs_names, part.obs["cell_type"], strict=True))
        ]
        members[f"GSM{2230757 + number}_{donor}_umifm_counts.csv.gz"] = gzip_table(header, rows, part.X, ",")
    write_tar(mirror / "GSE84133" / "GSE84133_RAW.tar", members)


@layout("lung-lavage", "lung_balf_liao_human*.h5ad")
def lung_lavage(cells: AnnData, mirror: Path) -> None:
    """Write GSE145926_RAW.tar, with an HDF5 file of Cell Ranger for each sample."""
    members = {}
    samples = cells.obs_names.str.partition("_").get_level_values(0)
    for number in sorted(cells.obs["gsm"].unique()):
        part = cells[(cells.obs["gsm"] == number).to_numpy()]
        (sample,) = set(samples[cells.obs_names.isin(part.obs_names)])
        barcodes = [name.removeprefix(f"{sample}_") + "-1" for name in part.obs_names]
        members[f"{number}_{sample}_filtered_feature_bc_matrix.h5"] = tenx_h5(part, barcodes)
    write_tar(mirror / "GSE145926" / "GSE145926_RAW.tar", members)


@layout("heart-sinoatrial", "heart_kanemaru_san_human*.h5ad")
def heart_sinoatrial(cells: AnnData, mirror: Path) -> None:
    """Write heart_global.h5ad, with the columns that CELLxGENE prescribes."""
    obs = cells.obs[["cell_type"]].assign(donor_id=cells.obs["donor"], tissue="sinoatrial node")
    var = pd.DataFrame({"feature_name": list(cells.var_names)}, index=cells.var_names)
    path = mirror / "E-MTAB-12916" / "heart_global.h5ad"
    path.parent.mkdir(parents=True, exist_ok=True)
    AnnData(sparse.csr_matrix(cells.X), obs=obs, var=var).write_h5ad(path)


def tenx_h5(cells: AnnData, barcodes: Sequence[str]) -> bytes:
    """Return counts as an HDF5 file of Cell Ranger 3. The symbols stand in for the Ensembl ids of the genes."""
    counts = sparse.csr_matrix(cells.X).astype(np.int32)
    features = {"id": cells.var_names, "name": cells.var_names, "feature_type": ["Gene Expression"] * cells.n_vars}
    plain = io.BytesIO()
    with h5py.File(plain, "w") as file:
        matrix = file.create_group("matrix")
        arrays = {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr}
        for name, array in (arrays | {"shape": np.array(counts.shape[::-1], dtype=np.int32)}).items():
            matrix.create_dataset(name, data=array, compression="gzip", track_times=False)
        texts = {"barcodes": barcodes} | {f"features/{name}": values for name, values in features.items()}
        for name, values in texts.items():
            matrix.create_dataset(name, data=np.array(list(values), dtype="S"), track_times=False)
    return plain.getvalue()


@layout("retina", "retina_voigt_human*.h5ad")
def retina(cells: AnnData, mirror: Path) -> None:
    """Write GSE130636_RAW.tar, with a table of log-normalised values for each sample."""
    members = {}
    for title, part in _voigt_samples(cells):
        rows = zip(_barcodes(part), part.obs["cluster"], strict=True)
        header = ["barcode", "cluster_label", *part.var_names]
        members[f"{title}_expression.tsv.gz"] = gzip_table(header, rows, log_normalised(part.X), "\t")
    write_tar(mirror / "GSE130636" / "GSE130636_RAW.tar", members)


@layout("rpe-choroid", "rpe_choroid_voigt_human*.h5ad")
def rpe_choroid(cells: AnnData, mirror: Path) -> None:
    """Write GSE135922_RAW.tar, with a table of log-normalised values for each sample, in R's default format."""
    members = {}
    for title, part in _voigt_samples(cells):
        library = title.partition("_")[2]
        rows = [
            (f'"{row}"', f'"{barcode}"', cluster, f'"{library}"')
            for row, (barcode, cluster) in enumerate(zip(_barcodes(part), part.obs["cluster"], strict=True), start=1)
        ]
        header = [f'"{name}"' for name in ("barcode", "final_cluster_labels", "library", *part.var_names)]
        members[f"{title}_expression.tsv.gz"] = gzip_table(header, rows, log_normalised(part.X), " ")
    write_tar(mirror / "GSE135922" / "GSE135922_RAW.tar", members)


@layout("pbmc", "pbmc_10x_3k*.h5ad")
def pbmc(cells: AnnData, mirror: Path) -> None:
    """Write the matrix of 10x Genomics, and a table with the labels."""
    folder = mirror / "10x-PBMC-3k"
    # The .h5ad files have no Ensembl ids, so the symbols stand in for the ids.
    members = mtx_members(cells, [(symbol, symbol) for symbol in cells.var_names], suffix="-1")
    hg19 = {f"filtered_gene_bc_matrices/hg19/{name}": content for name, content in members.items()}
    write_tar(folder / "pbmc3k_filtered_gene_bc_matrices.tar.gz", hg19)
    labels = [f"{name}\t{label}" for name, label in zip(cells.obs_names, cells.obs["cell_type"], strict=True)]
    (folder / "pbmc_meta.tsv").write_text("\n".join(["cell\tclassified", *labels]) + "\n")


def _voigt_samples(cells: AnnData) -> Iterator[tuple[str, AnnData]]:
    """Yield the cells of each sample with its title, such as ``GSM3745992_fovea_donor_1``."""
    obs = cells.obs[["gsm", "region", "donor"]].astype(str)
    titles = obs["gsm"] + "_" + obs["region"] + "_" + obs["donor"].str.replace("donor", "donor_")
    for title in sorted(titles.unique()):
        yield title, cells[(titles == title).to_numpy()]


def _barcodes(cells: AnnData) -> list[str]:
    return [name.rpartition("_")[2] for name in cells.obs_names]


def mtx_members(cells: AnnData, genes: Iterable[Sequence[str]], *, suffix: str = "") -> dict[str, bytes]:
    """Return the files of Cell Ranger 2: counts, barcodes, and the id and symbol of each gene.

    ``suffix`` is added to the names of the cells, as Cell Ranger adds ``-1``.
    """
    counts = sparse.coo_matrix(cells.X)
    lines = ["%%MatrixMarket matrix coordinate integer general", f"{cells.n_vars} {cells.n_obs} {counts.nnz}"]
    triples = zip(counts.col.tolist(), counts.row.tolist(), counts.data.tolist(), strict=True)
    lines += [f"{gene + 1} {cell + 1} {value:.0f}" for gene, cell, value in triples]
    files = {
        "matrix.mtx": lines,
        "genes.tsv": ["\t".join(names) for names in genes],
        "barcodes.tsv": [f"{name}{suffix}" for name in cells.obs_names],
    }
    return {name: ("\n".join(content) + "\n").encode() for name, content in files.items()}


def gzip_table(header: Iterable[str], rows: Iterable[Sequence[str]], values: sparse.spmatrix, delimiter: str) -> bytes:
    """Return a gzipped table: in each row the fields of ``rows``, then the values with 15 digits, as R writes them."""
    matrix, lines = sparse.csr_matrix(values), [delimiter.join(header)]
    for row, fields in enumerate(rows):
        words = ["0"] * matrix.shape[1]
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        for column, value in zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True):
            words[column] = f"{value:.15g}"
        lines.append(delimiter.join([*fields, *words]))
    return gzip_lines(lines)


def log_normalised(counts: sparse.spmatrix) -> sparse.csr_matrix:
    """Return ln(1 + 10,000 counts / total) of each cell, as Seurat computes it by default."""
    values = sparse.csr_matrix(counts, dtype=np.float64)
    totals = np.repeat(row_sums(values), np.diff(values.indptr))
    values.data = np.log1p(1e4 * values.data / totals)
    return values


def gzip_lines(lines: Iterable[str]) -> bytes:
    """Return lines as a gzip file without a time stamp."""
    return gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=1, mtime=0)


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Write files, given by name, to a tar archive; gzip the archive if its name ends with ``.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = plain.getvalue()
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0) if path.suffix == ".gz" else content)


def read_data(folder: Path, pattern: str) -> AnnData:
    """Return the cells of the files in a folder that match ``pattern``, in the order of their names.

    Raises
    ------
    ConfigError
        When no file matches.
    """
    paths = sorted(folder.glob(pattern))
    if not paths:
        msg = f"{folder} has no file {pattern}; expected the labelled cells of the study. Name another folder: --data."
        raise ConfigError(msg)
    return anndata.concat([read_cells(path) for path in paths])


def main() -> None:
    """Write the mirror folder of a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(LAYOUTS), help="recipe")
    parser.add_argument("mirror", type=Path, help="folder to write to")
    parser.add_argument("--data", type=Path, required=True, help="folder with the .h5ad files")
    options = parser.parse_args()
    write, pattern = LAYOUTS[options.name]
    try:
        write(read_data(options.data, pattern), options.mirror)
    except ConfigError as error:
        parser.error(str(error))
    names = listed(path.relative_to(options.mirror) for path in sorted(options.mirror.rglob("*")) if path.is_file())
    sys.stdout.write(f"Wrote to {options.mirror}: {names}\n")


if __name__ == "__main__":
    main()
