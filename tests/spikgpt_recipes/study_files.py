"""Small test files in the layouts of published studies, with the real names of files, columns and cells."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.reading import read_cells

BARON = Path(__file__).parents[1] / "data" / "pancreas_baron_human1.h5ad"
N_CELLS, N_GENES = 40, 60

Table = Sequence[Sequence[Any]]


def baron() -> AnnData:
    """Return 40 cells of donor human1 with the 60 genes that have the most counts."""
    cells = read_cells(BARON)[::48][:N_CELLS]
    totals = cells.X.sum(axis=0).A1.astype(np.int64)
    chosen = np.sort(np.argsort(-totals, kind="stable")[:N_GENES])
    return cells[:, chosen].copy()


def values(cells: AnnData) -> npt.NDArray[Any]:
    return np.asarray(cells.X.toarray())


def text(rows: Table, delimiter: str = ",") -> bytes:
    """Return a table as text."""
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows).encode()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def tar(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    """Return a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def gse84133(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Baron et al.: one table per donor, cells in rows."""
    header = ['""', '"barcode"', '"assigned_cluster"', *(f'"{gene}"' for gene in cells.var_names)]
    rows = [
        [f'"{name}"', f'"BARCODE-{index}"', f'"{kind}"', *row]
        for index, (name, kind, row) in enumerate(
            zip(cells.obs_names, cells.obs["cell_type"], values(cells).tolist(), strict=True)
        )
    ]
    members = {"GSM2230757_human1_umifm_counts.csv.gz": packed(text([header, *rows]))}
    members["GSM2230761_mouse1_umifm_counts.csv.gz"] = packed(b"not read")
    return {"GSE84133_RAW.tar": tar(members)}


def gse85241(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Muraro et al.: genes with chromosome in rows; labels in another file."""
    names = [f"D{28 + index % 4}-{index}_1" for index in range(cells.n_obs)]
    rows = [
        [f"{gene}__chr{index % 22 + 1}", *row]
        for index, (gene, row) in enumerate(zip(cells.var_names, values(cells).T.tolist(), strict=True))
    ]
    labels = [[name.replace("-", "."), kind] for name, kind in zip(names, cells.obs["cell_type"], strict=True)][1:]
    return {
        "GSE85241_cellsystems_dataset_4donors_updated.csv.gz": packed(text([names, *rows], "\t")),
        "cell_type_annotation_Cels2016.csv": text([["x"], *labels], "\t"),
    }


def series_matrix(titles: Sequence[str], characteristics: Mapping[str, Sequence[str]]) -> bytes:
    """Return a series matrix of GEO, which describes the samples of a series."""

    def line(key: str, parts: Sequence[str]) -> list[str]:
        return [key, *(f'"{part}"' for part in parts)]

    rows = [['!Series_title\t"A study"'], [], line("!Sample_title", titles)]
    rows.append(line("!Sample_geo_accession", [f"GSM{index}" for index in range(len(titles))]))
    rows += [
        line("!Sample_characteristics_ch1", [f"{key}: {value}" for value in texts])
        for key, texts in characteristics.items()
    ]
    rows += [["!series_matrix_table_begin"], line('"ID_REF"', ["GSM0"]), ["!series_matrix_table_end"]]
    return packed(text(rows, "\t"))


def gse81608(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Xin et al.: RPKM by Entrez id, genes in rows; labels in the series matrix."""
    ids = [str(1000 + index) for index in range(cells.n_vars)]
    header = ["gene.id", *(f"Sample_{index + 1}" for index in range(cells.n_obs))]
    rpkm = (values(cells).T / 7).round(3)
    titles = [f"Pancreatic islet cell sample {index + 1}" for index in range(cells.n_obs)]
    characteristics = {
        "donor id": ["Non T2D 1"] * cells.n_obs,
        "cell subtype": cells.obs["cell_type"].astype(str).tolist(),
    }
    rows = [[gene, *row] for gene, row in zip(ids, rpkm.tolist(), strict=True)]
    return {
        "GSE81608_human_islets_rpkm.txt.gz": packed(text([header, *rows], "\t")),
        "GSE81608_series_matrix.txt.gz": series_matrix(titles, characteristics),
        "human_gene_annotation.csv": text([["gene.id", "symbol"], *zip(ids, cells.var_names, strict=True)]),
    }


def emtab5061(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Segerstolpe et al.: RPKM and counts side by side; labels in an SDRF."""
    names = [f"HP{1502401 + index}_A{index}" for index in range(cells.n_obs)]
    counts = values(cells).T
    rows = [
        [gene, f"NM_{index}", *(row / 3).round(4).tolist(), *row.tolist()]
        for index, (gene, row) in enumerate(zip(cells.var_names, counts, strict=True))
    ]
    # Symbols may repeat.
    rows[1][0] = rows[0][0]
    table = text([["#samples", *names], *rows], "\t")
    header = ["Source Name", "Characteristics[individual]", "Characteristics[cell type]", "Comment[RUN]"]
    # Each cell has two sequencing runs, so the SDRF has two rows for each cell.
    sdrf_rows = [
        [name, "HP1502401", f"{kind} cell", f"ERR{index}{run}"]
        for index, (name, kind) in enumerate(zip(names, cells.obs["cell_type"], strict=True))
        for run in (1, 2)
    ]
    return {
        "E-MTAB-5061.processed.1.zip": zipped({"pancreas_refseq_rpkms_counts_3514sc.txt": table}),
        "E-MTAB-5061.sdrf.txt": text([header, *sdrf_rows], "\t"),
    }


def gse86469(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Lawlor et al.: fractional expected counts; labels in the series matrix."""
    names = [f"10th_C{index}_S{index}" for index in range(cells.n_obs)]
    rows = [[f'"{gene}"', *row] for gene, row in zip(cells.var_names, (values(cells).T * 1.25).tolist(), strict=True)]
    header = ['""', *(f'"{name}"' for name in names)]
    characteristics = {
        "cell type": cells.obs["cell_type"].astype(str).tolist(),
        "islet unos id": ["ACIW009"] * cells.n_obs,
    }
    return {
        "GSE86469_GEO.islet.single.cell.processed.data.RSEM.raw.expected.counts.csv.gz": packed(text([header, *rows])),
        "GSE86469_series_matrix.txt.gz": series_matrix(names, characteristics),
    }


def gse130636(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Voigt et al.: log values, one table per region with the same barcodes."""
    counts = values(cells)
    logs = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)
    header = ["barcode", "cluster_label", *cells.var_names]
    members = {}
    for part, name in enumerate(("GSM3745992_fovea_donor_1", "GSM3745995_peripheral_donor_1")):
        rows = [
            [f"AAAC{index}-1", "8A" if index % 2 else "1", *row] for index, row in enumerate(logs[part::2].tolist())
        ]
        members[f"{name}_expression.tsv.gz"] = packed(text([header, *rows], "\t"))
    return {"GSE130636_RAW.tar": tar(members)}


def gse148077(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Yan et al.: one table per donor, genes in rows; one file of labels."""
    files, annotation_rows = {}, [["NAME", "Cluster"], ["TYPE", "group"]]
    for part, donor in enumerate(("H1CD73dpS1", "H11FoveaS1")):
        part_cells = cells[part::2]
        names = [f"{donor}_BARCODE{index}-1" for index in range(part_cells.n_obs)]
        annotation_rows += [[name, kind] for name, kind in zip(names, part_cells.obs["cell_type"], strict=True)]
        header = ['""', *(f'"{name}"' for name in names)]
        rows = [
            [f'"{gene}"', *row] for gene, row in zip(part_cells.var_names, values(part_cells).T.tolist(), strict=True)
        ]
        file = f"GSE148077_count_mat_donor_{donor.partition('CD')[0].partition('Fovea')[0]}.csv.gz"
        files[file] = packed(text([header, *rows]))
    return files | {"Human_retina_combined_all_meta.csv": text(annotation_rows)}


def triplets(cells: AnnData, *, genes: str = "genes.tsv.gz", types: bool = False) -> dict[str, bytes]:
    """Return the three files of Cell Ranger, with names without a prefix."""
    matrix = io.BytesIO()
    scipy.io.mmwrite(matrix, sparse.coo_matrix(values(cells).T.astype(np.int64)), field="integer")
    kinds = ["Gene Expression"] * (cells.n_vars - 1) + ["Antibody Capture"]
    rows = [
        [f"ENSG{index:011}", gene, *([kind] if types else [])]
        for index, (gene, kind) in enumerate(zip(cells.var_names, kinds, strict=True))
    ]
    return {
        "matrix.mtx.gz": packed(matrix.getvalue()),
        "barcodes.tsv.gz": packed(text([[f"AAAC{index}-1"] for index in range(cells.n_obs)])),
        genes: packed(text(rows, "\t")),
    }


def gse128033(cells: AnnData) -> dict[str, bytes]:
    """Return cells in the layout of Morse et al.: Cell Ranger files per sample, with the same barcodes."""
    samples = ("GSM3660641_SC14NOR_", "GSM3660650_SC249NORbal_fresh_", "GSM3660655_SC93IPFLOW_")
    members = {
        f"{sample}{name}": content
        for part, sample in enumerate(samples)
        for name, content in triplets(cells[part :: len(samples)]).items()
    }
    return {"GSE128033_RAW.tar": tar(members)}


LAYOUTS: dict[str, Callable[[AnnData], dict[str, bytes]]] = {
    "GSE84133": gse84133,
    "GSE85241": gse85241,
    "GSE81608": gse81608,
    "E-MTAB-5061": emtab5061,
    "GSE86469": gse86469,
    "GSE130636": gse130636,
    "GSE148077": gse148077,
    "GSE128033": gse128033,
}

# Settings of the readers for the files above, as recipes state the settings.
READERS: dict[str, dict[str, dict[str, Any]]] = {
    "GSE84133": {
        "GSE84133_RAW.tar": {
            "format": "tar",
            "members": r"GSM\d+_(?P<donor>human\d)_umifm_counts\.csv\.gz",
            "reader": {"format": "csv", "cells": "rows", "names": 3, "obs": {"cell_type": "assigned_cluster"}},
        }
    },
    "GSE85241": {
        "GSE85241_cellsystems_dataset_4donors_updated.csv.gz": {
            "format": "csv",
            "cells": "columns",
            "delimiter": "\t",
            "cut": "__chr",
            "values": "linear",
            "name_pattern": r"(?P<donor>D\d+)-",
        },
        "cell_type_annotation_Cels2016.csv": {
            "format": "annotation",
            "obs": {"cell_type": "x"},
            "rename": {r"\.": "-"},
        },
    },
    "GSE81608": {
        "GSE81608_human_islets_rpkm.txt.gz": {
            "format": "csv",
            "cells": "columns",
            "delimiter": "\t",
            "values": "linear",
            "genes": {"file": "human_gene_annotation.csv", "id": "gene.id", "name": "symbol"},
        },
        "GSE81608_series_matrix.txt.gz": {
            "format": "series_matrix",
            "obs": {"cell_type": "cell subtype", "donor": "donor id"},
            "rename": {"^Pancreatic islet cell sample ": "Sample_"},
        },
        "human_gene_annotation.csv": {"format": "part"},
    },
    "E-MTAB-5061": {
        "E-MTAB-5061.processed.1.zip": {
            "format": "zip",
            "members": r"pancreas_refseq_rpkms_counts_3514sc\.txt",
            "reader": {
                "format": "csv",
                "cells": "columns",
                "delimiter": "\t",
                "names": 2,
                "blocks": 2,
                "block": 1,
            },
        },
        "E-MTAB-5061.sdrf.txt": {
            "format": "annotation",
            "cell": "Source Name",
            "obs": {"cell_type": "Characteristics[cell type]", "donor": "Characteristics[individual]"},
        },
    },
    "GSE86469": {
        "GSE86469_GEO.islet.single.cell.processed.data.RSEM.raw.expected.counts.csv.gz": {
            "format": "csv",
            "cells": "columns",
            "values": "linear",
        },
        "GSE86469_series_matrix.txt.gz": {
            "format": "series_matrix",
            "obs": {"cell_type": "cell type", "donor": "islet unos id"},
        },
    },
    "GSE130636": {
        "GSE130636_RAW.tar": {
            "format": "tar",
            "members": r"GSM\d+_(?P<sample>(fovea|peripheral)_(?P<donor>donor_\d))_expression\.tsv\.gz",
            "reader": {
                "format": "csv",
                "cells": "rows",
                "delimiter": "\t",
                "names": 2,
                "obs": {"cell_type": "cluster_label"},
                "values": "log",
            },
        }
    },
    "GSE148077": {
        **{
            f"GSE148077_count_mat_donor_{donor}.csv.gz": {
                "format": "csv",
                "cells": "columns",
                "name_pattern": r"(?P<donor>H\d+)(CD|Fovea)",
            }
            for donor in ("H1", "H11")
        },
        "Human_retina_combined_all_meta.csv": {
            "format": "annotation",
            "delimiter": ",",
            "units": 1,
            "obs": {"cell_type": "Cluster"},
        },
    },
    "GSE128033": {
        "GSE128033_RAW.tar": {
            "format": "tar",
            "members": r"GSM\d+_(?P<sample>(?P<donor>SC\d+)\w*?)_matrix\.mtx\.gz",
            "reader": {"format": "mtx", "features": "genes.tsv"},
        }
    },
}
