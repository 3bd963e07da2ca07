"""Select the labelled cells for a training, and read their expression, or their vectors from an embedding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from unicodedata import normalize

import numpy as np
from anndata import AnnData

from spikgpt.cells.align import AlignedCells, CellsOnDemand, align, joined
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, genes_of, match_genes
from spikgpt.cells.matrices import SAMPLED
from spikgpt.cells.obs import check_trainable, labels_of
from spikgpt.embedding.base import Embedding
from spikgpt.embedding.obsm import PREFIX, ObsmEmbedding
from spikgpt.embedding.pca import KIND as PCA
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.engines.torch import scgpt_embedding, scgpt_vectors
from spikgpt.errors import ConfigError, LabelsError, with_noun
from spikgpt.options import TrainOptions
from spikgpt.sampling import LARGEST_FIT
from spikgpt.scoring.label_map import LabelMap
from spikgpt.training.names import ontology_ids
from spikgpt.types import Integers, OnCells, Strings

NO_GENES = GeneList((), ())


@dataclass(frozen=True)
class LabelledCells:
    """n labelled cells of an AnnData, of labels with enough cells for training.

    Attributes
    ----------
    rows
        Rows of the cells in the AnnData, ascending, shape (n,).
    labels
        Label of each cell, shape (n,).
    groups
        Donor or batch of each cell, shape (n,); None without a batch key.
    ontology_ids
        Cell Ontology id of each label; None if the id is not known.
    dropped
        Number of cells of each label that was left out because it has too few cells.
    unlabelled
        Number of cells without a label.
    """

    rows: Integers
    labels: Strings
    groups: Strings | None
    ontology_ids: dict[str, str | None]
    dropped: dict[str, int]
    unlabelled: int

    @classmethod
    def select(cls, adata: AnnData, label_key: str, batch_key: str | None) -> Self:
        """Select the cells whose label has enough cells for training.

        Raises
        ------
        LabelsError
            When too few labels have enough cells, two labels differ only in case or spaces, or a cell has no batch.
        """
        labels, labelled = labels_of(adata, label_key)
        dropped = check_trainable(labels[labelled])
        rows = np.flatnonzero(labelled & ~np.isin(labels, list(dropped)))
        cells, labels = adata[rows], labels[rows]
        groups = _groups(cells, label_key, batch_key)
        ids = dict.fromkeys(np.unique(labels).tolist()) | ontology_ids(cells, labels)
        _check_distinct(LabelMap(tuple(ids), tuple(ids.values())))
        return cls(rows, labels, groups, ids, dropped, int((~labelled).sum()))


@dataclass(frozen=True)
class TrainingCells:
    """Labelled cells and their values.

    Attributes
    ----------
    values
        Expression of every gene, read on demand for more than 50,000 cells. For an embedding that is not fitted to the
        cells, the vectors of the cells instead.
    genes
        Every gene of the expression values; an empty list for vectors.
    notes
        Sentences on suspicious expression values.
    embedding
        Embedding that gave the vectors; None for expression.
    """

    labelled: LabelledCells
    values: AlignedCells | CellsOnDemand
    genes: GeneList = NO_GENES
    notes: tuple[str, ...] = ()
    embedding: Embedding | None = None

    @property
    def labels(self) -> Strings:
        """Label of each cell, shape (n,)."""
        return self.labelled.labels


def prepare(
    adata: AnnData, label_key: str, embedder: str | ScGPTSource, options: TrainOptions, on_cells: OnCells | None = None
) -> TrainingCells:
    """Return the labelled cells with their expression, or with their vectors from ``obsm`` or scGPT.

    Raises
    ------
    DataError
        When the values cannot be read.
    LabelsError
        When too few labels have enough cells, or a cell has no donor or batch.
    ConfigError
        When ``embedder`` is not the name of an embedder.
    """
    labelled = LabelledCells.select(adata, label_key, options.batch_key)
    n_cells = len(labelled.rows)
    if embedder == PCA:
        # The kind of values is detected from a sample, because a view of all cells would read a whole matrix on disk.
        sample = np.unique(np.linspace(0, n_cells - 1, min(n_cells, SAMPLED)).astype(np.int64))
        part, key = adata[labelled.rows[sample]], options.gene_key
        expression = find_expression(part, layer=options.layer, gene_key=key).of_cells(adata, labelled.rows)
        genes = genes_of(expression.var, key)
        values = CellsOnDemand(expression, match_genes(expression.var, genes, gene_key=key))
        in_memory = n_cells <= LARGEST_FIT
        every = values.select(np.arange(n_cells)) if in_memory else values
        return TrainingCells(labelled, every, genes, expression.notes)
    # A view of all cells would copy the matrix each time that it is read.
    cells = adata if n_cells == adata.n_obs else adata[labelled.rows]
    if isinstance(embedder, str):
        key = embedder.removeprefix(PREFIX)
        if not key or key == embedder:
            msg = f"There is no embedder {embedder!r}; choose pca, scgpt, or obsm:KEY for an embedding in the AnnData."
            raise ConfigError(msg)
        embedding: Embedding = ObsmEmbedding.fit(cells, key)
    else:
        embedding = scgpt_embedding(embedder)
    query = embedding.read(cells, layer=options.layer, scaling="auto", gene_key=options.gene_key)
    vectors = joined(list(query.chunks))
    if isinstance(embedder, ScGPTSource):
        vectors = AlignedCells.from_vectors(scgpt_vectors(embedder, vectors, on_cells=on_cells), vectors.empty)
    return TrainingCells(labelled, vectors, notes=query.report.notes, embedding=embedding)


def read_every_gene(
    adata: AnnData, layer: str | None, gene_key: str | None = None
) -> tuple[AlignedCells, GeneList, tuple[str, ...]]:
    """Return the values of every gene in all cells, the genes, and notes on the values.

    The values of all cells must fit into memory.
    """
    expression = find_expression(adata, layer=layer, gene_key=gene_key)
    genes = genes_of(expression.var, gene_key)
    return align(expression, genes, gene_key=gene_key), genes, expression.notes


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
        msg = (
            f"{with_noun(missing, 'cell has', 'cells have')} no value in obs[{batch_key!r}]; fill in a batch, "
            "or leave the batch key out."
        )
        raise LabelsError(msg)
    return groups


def _check_distinct(labels: LabelMap) -> None:
    """Raise LabelsError for labels that differ only in case, spaces and underscores.

    :class:`LabelMap` refuses labels that differ only in case or in the width of characters.
    """
    by_spelling: dict[str, str] = {}
    for name in labels.names:
        spelling = re.sub(r"[\s_]+", " ", normalize("NFKC", name).casefold())
        if (other := by_spelling.setdefault(spelling, name)) != name:
            msg = f"{other!r} and {name!r} differ only in case, spaces or underscores. Rename one of these labels."
            raise LabelsError(msg)
