"""A reference and a query of the same tissue, as all methods get them."""

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

# Columns of obs that methods find.
LABEL, BATCH = "label", "batch"
# Genes that reference and query need to share.
FEWEST_GENES = 50


@dataclass(frozen=True)
class Task:
    """Cells to learn from and cells to label, on the genes that they share.

    Attributes
    ----------
    reference, query
        Sparse ``X``, ``obs["label"]`` of the reference alone and ``obs["batch"]`` of both where there are batches; no
        more, and cells go by numbers, so that nothing tells a method what a cell of the query is.
    truth
        Labels of the query, (n,).
    query_values, log_base
        Whether the query holds counts or logarithms, and to which base.
    left_out
        The type that was taken out of the reference; empty for none.
    paper
        What the paper reports of the same cells; empty where it does not.
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
    def of(cls, name: str, reference: AnnData, query: AnnData, label_key: str, batch_key: str | None = None) -> Task:
        """Return a task of the labelled cells, and of the reference's labels that have 5 cells.

        Raises
        ------
        DataError
            When a column is missing, the cells share too few genes, or the reference holds no counts.
        """
        (learned, has_label), (truth, asked) = (labels_of(cells, label_key) for cells in (reference, query))
        small = check_trainable(learned[has_label])
        kept = has_label & ~np.isin(learned, list(small))
        for cells in (reference, query):
            if batch_key is not None and batch_key not in cells.obs:
                msg = f"obs has no column {batch_key!r}; it has {listed(cells.obs.columns)}."
                raise LabelsError(msg)
        values = find_expression(reference)
        if values.kind == "log":
            msg = f"The reference holds {values.kind} values in {values.source}; methods learn from counts."
            raise DataError(msg)
        other = find_expression(query)
        parts = [_plain(values, kept, reference, batch_key), _plain(other, asked, query, batch_key)]
        parts[0].obs[LABEL] = pd.Categorical(learned[kept])
        names = [cells.var_names for cells in parts]
        shared = names[0][names[0].isin(names[1])]
        if len(shared) < FEWEST_GENES:
            msg = (
                f"Reference ({listed(names[0][:3])}, ...) and query ({listed(names[1][:3])}, ...) share {len(shared)} "
                f"gene names; at least {FEWEST_GENES} are needed. Name the genes of both in the same way."
            )
            raise GenesError(msg)
        learn, ask = (cells[:, shared].copy() for cells in parts)
        logs = other.kind == "log"
        base = other.log_base if logs and other.log_base else math.e
        return cls(name, learn, ask, truth[asked], "log" if logs else "counts", base)

    @classmethod
    def of_files(cls, reference: Path, query: Path, label_key: str, batch_key: str | None = None) -> Task:
        """Read a task from two files of cells."""
        return cls.of(query.stem, read_cells(reference), read_cells(query), label_key, batch_key)

    @property
    def batch_key(self) -> str | None:
        """The column of batches, where the reference has several."""
        several = BATCH in self.reference.obs and self.reference.obs[BATCH].nunique() > 1
        return BATCH if several else None

    @property
    def known(self) -> Bools:
        """Whether the reference has the type of each cell of the query, (n,)."""
        return np.isin(self.truth, self.reference.obs[LABEL].unique().astype(str))

    def of_known_types(self) -> Task:
        """Return the task without the query's cells of types that the reference does not have."""
        return replace(self, query=self.query[self.known].copy(), truth=self.truth[self.known])

    @cached_property
    def digest(self) -> str:
        """What no other cells, genes, labels or batches have."""
        found = hashlib.sha256()
        for cells in (self.reference, self.query):
            for array in (cells.X.data, cells.X.indices, cells.X.indptr):
                found.update(np.ascontiguousarray(array).tobytes())
            columns = {name: cells.obs[name].astype(str).tolist() for name in sorted(cells.obs.columns)}
            found.update(json.dumps([cells.var_names.tolist(), columns]).encode())
        found.update(json.dumps([self.truth.tolist(), self.query_values, self.log_base]).encode())
        return found.hexdigest()[:16]


def _plain(values: Expression, kept: Bools, cells: AnnData, batch_key: str | None) -> AnnData:
    """Return the values of some cells, each gene name once, with their batches."""
    rows = np.flatnonzero(kept)
    read = values.rows if values.kind == "log" else values.linear
    matrix = sparse.csr_matrix(read(0, values.n_cells)[rows], dtype=np.float32)
    obs = pd.DataFrame(index=pd.RangeIndex(len(rows)).astype(str))
    if batch_key is not None:
        # Cells that do not say theirs are a batch too.
        obs[BATCH] = pd.Categorical(cells.obs[batch_key].astype(str).to_numpy()[rows])
    first = ~values.var.index.duplicated()
    names = pd.Index(values.var.index[first].astype(str), dtype=object)
    return AnnData(matrix[:, np.flatnonzero(first)], obs=obs, var=pd.DataFrame(index=names))
