"""Derive the labels of the recipe from the counts of GSE145926, by clusters and marker genes.

python hub_cards/lung-lavage/derive_labels.py CELLS.h5ad --out hub_cards/lung-lavage/labels.csv.gz

CELLS.h5ad has UMI counts in X, gene symbols in var_names, and names such as C144_AAACGGGTCGAATGCT: the sample in GEO
and the barcode. The labels of the authors are not used, as they have no licence. ``--compare COLUMN`` prints the
agreement with the labels in a column of obs.

1. The cells are clustered (Leiden). Each cluster joins the compartment of its best type in ``markers.csv``.
2. The cells of each compartment are clustered again. A cluster gets the label of its best type if the score of the type
   is at least 0.15, and 0.1 above every other type. The score is the mean share of cells with each expressed marker,
   minus the mean share of cells with each marker that the type does not express.
3. A cell keeps the label of its cluster if it expresses a marker of the type, no other type has a higher score in the
   cell, and the cell has fewer than half of the markers of each type of another compartment. Other cells, and types of
   fewer than five cells, stay without a label.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

MARKERS = Path(__file__).with_name("markers.csv")
# Leiden resolutions for the clusters of all cells, and of the cells of one compartment.
COARSE, FINE = 2.0, 3.0
# Smallest score of a cluster's type, and smallest difference from the score of the second type.
LEAST_SCORE, LEAST_MARGIN = 0.15, 0.1
# A cell with this share of the markers of a type of another compartment counts as a doublet.
DOUBLET = 0.5
LEAST_CELLS = 5


def derive_labels(counts: AnnData, markers: pd.DataFrame) -> pd.Series[Any]:
    """Return the label of each cell; empty for cells without a clear type."""
    cells = counts.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    genes = list(markers["gene"].unique())
    detected = pd.DataFrame((cells[:, genes].X > 0).toarray(), index=cells.obs_names, columns=genes)
    compartments = markers.groupby("type")["compartment"].first()
    coarse = cluster(cells, COARSE)
    compartment = coarse.map(scores(detected.groupby(coarse).mean(), markers).idxmax(axis=1).map(compartments))
    labels = pd.Series("", index=cells.obs_names)
    for name in sorted(compartment.unique()):
        part = cells[(compartment == name).to_numpy()]
        fine = cluster(part, FINE)
        table = scores(detected.loc[part.obs_names].groupby(fine).mean(), markers)
        ranked = np.sort(table.to_numpy(), axis=1)
        clear = (ranked[:, -1] >= LEAST_SCORE) & (ranked[:, -1] - ranked[:, -2] >= LEAST_MARGIN)
        labels[part.obs_names] = fine.map(table.idxmax(axis=1).where(clear, ""))
    labels = labels.where(agrees(labels, detected, markers), "")
    size = labels.value_counts()
    return labels.where(labels.map(size) >= LEAST_CELLS, "")


def cluster(cells: AnnData, resolution: float) -> pd.Series[Any]:
    """Return the Leiden cluster of each cell."""
    cells = cells.copy()
    sc.pp.highly_variable_genes(cells, n_top_genes=2000)
    cells = cells[:, cells.var["highly_variable"]].copy()
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=30, svd_solver="arpack", random_state=0)
    sc.pp.neighbors(cells, n_neighbors=15, random_state=0)
    sc.tl.leiden(cells, resolution, flavor="igraph", n_iterations=-1, directed=False, random_state=0)
    clusters: pd.Series[Any] = cells.obs["leiden"].astype(int)
    return clusters


def shares(detected: pd.DataFrame, markers: pd.DataFrame, expressed: str) -> pd.DataFrame:
    """Return the mean of ``detected`` over the markers of each type, with a column for each type.

    ``expressed`` is ``yes`` for markers that the type expresses, and ``no`` for markers that it does not express. A
    type without such markers gets 0.
    """
    chosen = markers[markers["expressed"] == expressed].groupby("type")["gene"].agg(list)
    return pd.DataFrame(
        {name: detected[chosen[name]].mean(axis=1) if name in chosen else 0.0 for name in markers["type"].unique()}
    )


def scores(detected: pd.DataFrame, markers: pd.DataFrame) -> pd.DataFrame:
    """Return the score of each type, from ``detected``: the share of cells that express each gene."""
    return shares(detected, markers, "yes") - shares(detected, markers, "no")


def agrees(labels: pd.Series[Any], detected: pd.DataFrame, markers: pd.DataFrame) -> pd.Series[Any]:
    """Return whether the markers that each cell expresses agree with its label."""
    own = shares(detected, markers, "yes")
    # A type without any marker cannot have the highest score.
    table = scores(detected, markers).where(own > 0, -1.0)
    compartments = markers.groupby("type")["compartment"].first()
    result = pd.Series(False, index=labels.index)
    for name in sorted(set(labels) - {""}):
        rows = labels.index[labels == name]
        other_types = compartments.index[compartments != compartments[name]]
        kept = (own.loc[rows, name] > 0) & (table.loc[rows, name] >= table.loc[rows].max(axis=1))
        result[rows] = kept & (own.loc[rows, other_types].max(axis=1) < DOUBLET)
    return result


def write_labels(labels: pd.Series[Any], path: Path) -> None:
    """Write a table of the labelled cells, without a time stamp."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["cell", "label"])
    rows.writerows(sorted(labels[labels != ""].items()))
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def compare(labels: pd.Series[Any], stated: pd.Series[Any]) -> str:
    """Return the agreement of the labels with the labels ``stated``, as text.

    Each label is matched with the stated label that is most frequent among its cells.
    """
    labelled = labels != ""
    table = pd.crosstab(stated, labels.replace("", "no label"))
    right = table.drop(columns="no label").max()
    matched = labels[labelled].map(table.idxmax())
    index = adjusted_rand_score(stated[labelled].astype(str), matched)
    shares = "\n".join(
        f"{name}: {right[str(name)]} of {size}" for name, size in labels[labelled].value_counts().items()
    )
    total = f"{right.sum()} of {labelled.sum()} labelled cells agree, {right.sum() / labelled.sum():.3f}"
    return f"{table.to_string()}\n{shares}\n{total}; adjusted Rand index {index:.3f}\n"


def main() -> None:
    """Write the labels of a file of cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compare", help="column of obs with other labels")
    options = parser.parse_args()
    adata = anndata.read_h5ad(options.cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy warns of its own future versions
        labels = derive_labels(adata, pd.read_csv(MARKERS))
    write_labels(labels, options.out)
    report = [f"{name or 'no label'}: {size}" for name, size in labels.value_counts().items()]
    sys.stdout.write("\n".join(report) + "\n")
    if options.compare:
        sys.stdout.write(compare(labels, adata.obs[options.compare]))


if __name__ == "__main__":
    main()
