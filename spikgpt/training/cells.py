"""Select the labelled cells of a training, and read their expression in parts, or their vectors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Self
from unicodedata import normalize

import numpy as np
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import AlignedCells, align, aligned_chunks, joined
from spikgpt.cells.expression import Expression, find_expression
from spikgpt.cells.genes import GeneList, genes_of, match_genes
from spikgpt.cells.matrices import SAMPLED
from spikgpt.cells.obs import check_trainable, labels_of
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import PREFIX, ObsmEmbedding, vector_cells
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.engines.torch import scgpt_embedding, scgpt_vectors
from spikgpt.errors import ConfigError, LabelsError
from spikgpt.options import TrainOptions
from spikgpt.scoring.label_map import LabelMap
from spikgpt.training.names import ontology_ids
from spikgpt.types import Integers, OnCells, Strings

NO_GENES = GeneList((), ())
# Cells whose genes are all in memory at a time, where only some of their genes are kept.
PART = 50_000


@dataclass(frozen=True)
class LabelledCells:
    """n labelled cells of an AnnData that can be learned from.

    Attributes
    ----------
    labels
        Label of each cell, shape (n,).
    groups
        Donor or batch of each cell, shape (n,); None without a batch key.
    ontology_ids
        Cell Ontology id of each label, where it is known.
    dropped
        Labels with too few cells, and their numbers of cells.
    unlabelled
        Number of cells without a label.
    """

    adata: AnnData = field(repr=False)
    labels: Strings
    groups: Strings | None
    ontology_ids: dict[str, str | None]
    dropped: dict[str, int]
    unlabelled: int

    @classmethod
    def select(cls, adata: AnnData, label_key: str, batch_key: str | None) -> Self:
        """Select the cells whose label has enough cells.

        Raises
        ------
        LabelsError
            When too few labels have enough cells, two labels differ only in case or spaces, or a cell has no batch.
        """
        labels, labelled = labels_of(adata, label_key)
        dropped = check_trainable(labels[labelled])
        used = labelled & ~np.isin(labels, list(dropped))
        # A view of all cells would copy the matrix each time that it is read.
        cells, labels = adata if used.all() else adata[used], labels[used]
        groups = _groups(cells, label_key, batch_key)
        ids = dict.fromkeys(np.unique(labels).tolist()) | ontology_ids(cells, labels)
        _check_distinct(LabelMap(tuple(ids), tuple(ids.values())))
        return cls(cells, labels, groups, ids, dropped, int((~labelled).sum()))


@dataclass(frozen=True)
class TrainingCells:
    """Labelled cells whose values can be read.

    Attributes
    ----------
    values
        Expression found in a sample of the cells; or vectors, for an embedding that is not fitted to the cells.
    genes
        Every gene of the expression; empty for vectors.
    notes
        Sentences on suspicious expression values.
    embedding
        Embedding of the vectors; None for expression.
    """

    labelled: LabelledCells
    values: Expression | AlignedCells
    genes: GeneList = NO_GENES
    notes: tuple[str, ...] = ()
    embedding: Embedding | None = None

    @property
    def labels(self) -> Strings:
        """Label of each cell, shape (n,)."""
        return self.labelled.labels

    def read(self, rows: Integers, genes: GeneList | None = None) -> AlignedCells:
        """Return linear values of some genes, by default all, in some cells; for vectors ``genes`` has no effect."""
        if isinstance(self.values, AlignedCells):
            return self.values.part(rows)
        match = match_genes(self.values.var, self.genes)
        if genes is not None:
            positions = {symbol: position for position, symbol in enumerate(self.genes.symbols)}
            match = match.part(np.array([positions[symbol] for symbol in genes.symbols]))
        parts = (self.labelled.adata[part] for part in np.split(rows, range(PART, len(rows), PART)))
        return joined([chunk for part in parts for chunk in aligned_chunks(_same_matrix(self.values, part), match)])


def prepare(
    adata: AnnData, label_key: str, embedder: str | ScGPTSource, options: TrainOptions, on_cells: OnCells | None = None
) -> TrainingCells:
    """Return the cells that can be learned from, with their expression, or with their vectors by obsm or scGPT.

    Raises
    ------
    DataError
        When the values cannot be read.
    LabelsError
        When the labels cannot be learned from, or a cell has no donor or batch.
    ConfigError
        When there is no such embedder.
    """
    labelled = LabelledCells.select(adata, label_key, options.batch_key)
    if embedder == PCA:
        n_cells = len(labelled.labels)
        # The unit is detected from these cells alone. A matrix on disk is read whole through a view of all cells.
        sample = np.unique(np.linspace(0, n_cells - 1, min(n_cells, SAMPLED)).astype(np.int64))
        expression = find_expression(labelled.adata[sample], layer=options.layer)
        return TrainingCells(labelled, expression, genes_of(expression.var), expression.notes)
    if isinstance(embedder, str):
        key = embedder.removeprefix(PREFIX)
        if not key or key == embedder:
            msg = f"There is no embedder {embedder!r}; choose pca, scgpt, or obsm:KEY for an embedding in the AnnData."
            raise ConfigError(msg)
        embedding: Embedding = ObsmEmbedding.fit(labelled.adata, key)
    else:
        embedding = scgpt_embedding(embedder)
    query = embedding.read(labelled.adata, layer=options.layer, scaling="auto")
    vectors = joined(list(query.chunks))
    if isinstance(embedder, ScGPTSource):
        vectors = vector_cells(scgpt_vectors(embedder, vectors, on_cells=on_cells), vectors.empty)
    return TrainingCells(labelled, vectors, notes=query.report.notes, embedding=embedding)


def read_every_gene(adata: AnnData, layer: str | None) -> tuple[AlignedCells, GeneList, tuple[str, ...]]:
    """Return the values of every gene in all cells, which must fit into memory, the genes, and notes on the values."""
    expression = find_expression(adata, layer=layer)
    genes = genes_of(expression.var)
    return align(expression, genes), genes, expression.notes


def _same_matrix(expression: Expression, adata: AnnData) -> Expression:
    """Return the expression of other cells, from the matrix that was chosen."""
    source = expression.source
    if source in ("X", "raw"):
        matrix = adata.X if source == "X" else adata.raw.X
    else:
        matrix = next(adata.layers[name] for name in adata.layers if f"layers[{name!r}]" == source)
    # Row access to a CSC matrix is slow.
    matrix = matrix.tocsr() if sparse.issparse(matrix) else matrix
    return replace(expression, adata=adata, matrix=matrix, n_cells=adata.n_obs)


def _groups(adata: AnnData, label_key: str, batch_key: str | None) -> Strings | None:
    """Return the donor or batch of each cell, shape (n,); None without a ``batch_key``."""
    if batch_key is None:
        return None
    if batch_key == label_key:
        msg = f"obs[{batch_key!r}] is both the label key and the batch key. Name the column of donors or batches."
        raise LabelsError(msg)
    distinct = adata.obs[batch_key].nunique() if batch_key in adata.obs else 0
    if 2 * distinct > adata.n_obs:
        msg = (
            f"obs[{batch_key!r}] holds {distinct} different values in {adata.n_obs} labelled cells; expected donors or "
            "batches of several cells each. Name another column, or leave the batch key out."
        )
        raise LabelsError(msg)
    groups, stated = labels_of(adata, batch_key)
    if not stated.all():
        missing = int((~stated).sum())
        msg = f"{missing} cells have no value in obs[{batch_key!r}]; fill them in, or leave the batch key out."
        raise LabelsError(msg)
    return groups


def _check_distinct(labels: LabelMap) -> None:
    """Refuse labels that differ only in case, spaces and underscores; LabelMap refuses other equal spellings."""
    by_spelling: dict[str, str] = {}
    for name in labels.names:
        spelling = re.sub(r"[\s_]+", " ", normalize("NFKC", name).casefold())
        if (other := by_spelling.setdefault(spelling, name)) != name:
            msg = f"{other!r} and {name!r} differ only in case, spaces or underscores. Rename one of these labels."
            raise LabelsError(msg)
