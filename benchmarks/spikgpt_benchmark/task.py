"""Build benchmark tasks: a reference and a query of the same tissue, in the form that all methods receive."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.expression import Expression, find_expression
from spikgpt.cells.obs import check_trainable, labels_of
from spikgpt.cells.reading import read_cells
from spikgpt.errors import DataError, GenesError, LabelsError, listed
from spikgpt.types import Bools, Strings

# Columns of obs that the methods read: cell type and batch.
LABEL, BATCH = "label", "batch"
# Smallest number of genes that reference and query must share.
FEWEST_GENES = 50


@dataclass(frozen=True)
class BenchmarkTask:
    """A reference to learn from and a query to label, with the genes that both have.

    Attributes
    ----------
    reference, query
        Sparse ``X``, ``obs["label"]`` of the reference only, and ``obs["batch"]`` of both if there are batches. Cell
        names are numbers, so that no name reveals the type of a query cell.
    truth
        True labels of the query's cells, shape (n,).
    query_values, log_base
        Kind of the query's values, counts or logarithms, and the base of the logarithms.
    left_out
        The type that is left out of the reference; empty for none.
    paper
        Figures that the paper reports for the same cells; empty for none.
    """

    name: str
    reference: AnnData
    query: AnnData
    truth: Strings
    query_values: Literal["counts", "log"] = "counts"
    log_base: float = math.e
    left_out: str = ""
    paper: str = ""

    @classmethod
    def from_cells(
        cls, name: str, reference: AnnData, query: AnnData, label_key: str, batch_key: str | None = None
    ) -> BenchmarkTask:
        """Return a task of the labelled cells; reference labels with fewer than 5 cells are left out.

        Raises
        ------
        DataError
            When a column is missing, the cells share too few genes, or the reference holds no counts.
        """
        (reference_labels, has_label), (truth, labelled) = (labels_of(cells, label_key) for cells in (reference, query))
        small = check_trainable(reference_labels[has_label])
        kept = has_label & ~np.isin(reference_labels, list(small))
        for cells in (reference, query):
            if batch_key is not None and batch_key not in cells.obs:
                msg = f"obs has no column {batch_key!r}; it has {listed(cells.obs.columns)}."
                raise LabelsError(msg)
        values = find_expression(reference)
        if values.kind == "log":
            msg = f"The reference holds {values.kind} values in {values.source}; methods learn from counts."
            raise DataError(msg)
        other = find_expression(query)
        parts = [_plain(values, kept, reference, batch_key), _plain(other, labelled, query, batch_key)]
        parts[0].obs[LABEL] = pd.Categorical(reference_labels[kept])
        names = [cells.var_names for cells in parts]
        shared = names[0][names[0].isin(names[1])]
        if len(shared) < FEWEST_GENES:
            msg = (
                f"Reference ({listed(names[0][:3])}, ...) and query ({listed(names[1][:3])}, ...) share {len(shared)} "
                f"gene names; at least {FEWEST_GENES} are needed. Name the genes of both in the same way."
            )
            raise GenesError(msg)
        parts = [cells[:, shared].copy() for cells in parts]
        logs = other.kind == "log"
        base = other.log_base if logs and other.log_base else math.e
        return cls(name, parts[0], parts[1], truth[labelled], "log" if logs else "counts", base)

    @classmethod
    def from_files(cls, reference: Path, query: Path, label_key: str, batch_key: str | None = None) -> BenchmarkTask:
        """Read a task from two files of cells."""
        return cls.from_cells(query.stem, read_cells(reference), read_cells(query), label_key, batch_key)

    @property
    def batch_key(self) -> str | None:
        """The column of batches, or None if the reference has one batch."""
        has_batches = BATCH in self.reference.obs and self.reference.obs[BATCH].nunique() > 1
        return BATCH if has_batches else None

    @property
    def known(self) -> Bools:
        """True for each cell of the query whose type the reference has, shape (n,)."""
        return np.isin(self.truth, self.reference.obs[LABEL].unique().astype(str))

    def with_known_types(self) -> BenchmarkTask:
        """Return the task without the query's cells of types that the reference lacks."""
        return replace(self, query=self.query[self.known].copy(), truth=self.truth[self.known])

    @cached_property
    def digest(self) -> str:
        """Content hash of cells, genes, labels and batches."""
        digest = hashlib.sha256()
        for cells in (self.reference, self.query):
            for array in (cells.X.data, cells.X.indices, cells.X.indptr):
                digest.update(np.ascontiguousarray(array).tobytes())
            columns = {name: cells.obs[name].astype(str).tolist() for name in sorted(cells.obs.columns)}
            digest.update(json.dumps([cells.var_names.tolist(), columns]).encode())
        digest.update(json.dumps([self.truth.tolist(), self.query_values, self.log_base]).encode())
        return digest.hexdigest()[:16]


def _plain(values: Expression, kept: Bools, cells: AnnData, batch_key: str | None) -> AnnData:
    """Return the values and batches of the ``kept`` cells; of genes with one name, the first is used."""
    rows = np.flatnonzero(kept)
    read = values.rows if values.kind == "log" else values.linear
    matrix = sparse.csr_matrix(read(0, values.n_cells)[rows], dtype=np.float32)
    obs = pd.DataFrame(index=pd.RangeIndex(len(rows)).astype(str))
    if batch_key is not None:
        # Cells without a batch are one batch.
        obs[BATCH] = pd.Categorical(cells.obs[batch_key].astype(str).to_numpy()[rows])
    first = ~values.var.index.duplicated()
    names = pd.Index(values.var.index[first].astype(str), dtype=object)
    return AnnData(matrix[:, np.flatnonzero(first)], obs=obs, var=pd.DataFrame(index=names))
