"""Prepare cells: write AnnData files with the genes and labels of the reference, a few thousand cells at a time."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from spikgpt.cells.content.values import row_sums
from spikgpt.cells.genes import MINIMUM_GENES, GeneList, genes_of, match_genes
from spikgpt.cells.obs import counted, labels_of
from spikgpt.errors import DataError, LabelsError, listed, with_noun
from spikgpt.files import replacing
from spikgpt.types import Bools, Strings
from spikgpt_recipes.plan import StudySelection
from spikgpt_recipes.readers.study import read_study
from spikgpt_recipes.recipe import DONOR, LABEL, STUDY, TERM, BuildRecipe, RecipeStudy


@dataclass
class CellTally:
    """Numbers of prepared cells of a study, and of cells that were left out for each reason."""

    cells: int = 0
    not_selected: int = 0
    unlabelled: int = 0
    excluded_label: int = 0
    low_quality: int = 0
    labels: Counter[str] = field(default_factory=Counter)


def prepare(
    recipe: BuildRecipe, selections: Sequence[StudySelection], paths: Mapping[str, Mapping[str, Path]], out: Path
) -> dict[str, CellTally]:
    """Write the cells of some studies to an ``.h5ad`` file, and return the tally of each study.

    The genes are the shared genes of all tables, by symbol. ``obs`` has the label, its term, the study and the donor.

    Parameters
    ----------
    paths
        Path of each file, by study and name.

    Raises
    ------
    LabelsError
        When the recipe has no entry for a label of a study.
    DataError
        When a file cannot be read, studies share too few genes, or no cells are left.
    """
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".parts.") as folder:
        parts, prefixed = _PartCache(Path(folder)), len(selections) > 1
        tallies = {
            selection.name: _add_study(
                parts, recipe, selection, paths[selection.name], prefix=f"{selection.name} " if prefixed else ""
            )
            for selection in selections
        }
        if not parts.obs:
            text = "; ".join(f"{study}: {vars(tally)}" for study, tally in tallies.items())
            msg = f"No cell is left to write to {out.name}: {text}. Check keep, labels and preprocessing."
            raise DataError(msg)
        with replacing(out) as temporary:
            parts.write(recipe, temporary)
    return tallies


class _PartCache:
    """Cells that are kept on disk until the shared genes of all tables are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.obs: list[pd.DataFrame] = []
        # Distinct tables of genes, and for each part of the cells the index of its table.
        self._vars: list[pd.DataFrame] = []
        self._var_indices: list[int] = []

    def add(self, values: sparse.csr_matrix, obs: pd.DataFrame, var: pd.DataFrame) -> None:
        """Write some cells to disk."""
        same = (i for i, other in enumerate(self._vars) if other.equals(var) and other.index.equals(var.index))
        index = next(same, len(self._vars))
        if index == len(self._vars):
            self._vars.append(var)
        sparse.save_npz(self.folder / f"{len(self.obs)}.npz", values, compressed=False)
        self.obs.append(obs)
        self._var_indices.append(index)

    def write(self, recipe: BuildRecipe, path: Path) -> None:
        """Write all cells to one file."""
        genes = _shared_genes(self._vars)
        selections = [match_genes(var, genes, minimum_share=0, at_least=1).selection for var in self._vars]
        terms = {name: label.id for name, label in recipe.labels.items()}

        def parts() -> Iterator[tuple[sparse.csr_matrix, pd.DataFrame]]:
            for number, (index, obs) in enumerate(zip(self._var_indices, self.obs, strict=True)):
                values = sparse.csr_matrix(sparse.load_npz(self.folder / f"{number}.npz") @ selections[index])
                values = values.astype(np.float32)
                values.sort_indices()
                yield values, obs.assign(**{TERM: obs[LABEL].map(terms)})

        write_cells(path, parts(), pd.DataFrame(index=pd.Index(genes.symbols)))


def write_cells(path: Path, parts: Iterable[tuple[sparse.csr_matrix, pd.DataFrame]], var: pd.DataFrame) -> None:
    """Write an ``.h5ad`` file from parts of values and obs; every column of obs becomes categorical."""
    frames = list[pd.DataFrame]()
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for values, obs in parts:
            if frames:
                sparse_dataset(file["X"]).append(values)
            else:
                # Row starts (indptr) of a matrix of more than 2**31 values need 64 bits.
                values.indptr = values.indptr.astype(np.int64)
                write_elem(file, "X", values)
            frames.append(obs)
        joined = pd.concat(frames)
        for column in joined:
            joined[column] = pd.Categorical(joined[column])
        write_elem(file, "obs", joined)
        write_elem(file, "var", var)
        for key in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            write_elem(file, key, {})


def count_donors(path: Path) -> int:
    """Return the number of donors in a prepared file."""
    with h5py.File(path) as file:
        return len(file["obs"][DONOR]["categories"])


def _add_study(
    parts: _PartCache, recipe: BuildRecipe, selection: StudySelection, paths: Mapping[str, Path], *, prefix: str
) -> CellTally:
    """Add the usable cells of a study to the cache, with a prefix before cell and donor names."""
    study, tally, unmapped = selection.study, CellTally(), Counter[str]()
    for cells in read_study(study.files, paths):
        usable = _selected(cells, selection)
        tally.not_selected += int((~usable).sum())
        stated, labelled = _stated_labels(cells, study)
        tally.unlabelled += int((usable & ~labelled).sum())
        usable &= labelled
        mapping: dict[str, str | None] = {}
        for label, count in counted(stated[usable]).items():
            try:
                mapping[label] = study.map_label(label)
            except KeyError:
                unmapped[label] += count
        labels = np.array([mapping.get(label) or "" for label in stated.tolist()], dtype=object)
        tally.excluded_label += int((usable & (labels == "")).sum())
        usable &= labels != ""
        values = _counts(cells, study)
        good = _passes_filter(values, recipe)
        tally.low_quality += int((usable & ~good).sum())
        usable &= good
        if not usable.any() or unmapped:
            continue
        donors = _donors(cells, study)[usable]
        columns = {LABEL: labels[usable], DONOR: [prefix + donor for donor in donors.tolist()], STUDY: study.study}
        obs = pd.DataFrame(columns, index=pd.Index([prefix + name for name in cells.obs_names[usable]]))
        tally.cells += len(obs)
        tally.labels.update(labels[usable].tolist())
        parts.add(values[usable], obs, cells.var)
    if unmapped:
        names = listed(f"{label!r} ({with_noun(count, 'cell')})" for label, count in sorted(unmapped.items()))
        msg = f"The recipe has no entry for these labels of {study.study}: {names}. Add them to its labels, or as null."
        raise LabelsError(msg)
    return tally


def _selected(cells: AnnData, selection: StudySelection) -> Bools:
    """Return whether the obs values of each cell are allowed by the recipe and the plan, shape (n,)."""
    selected = np.ones(cells.n_obs, dtype=bool)
    for column, values in [*selection.study.keep.items(), *selection.where.items()]:
        selected &= _column(cells, column, selection.study).isin(values).to_numpy()
    return selected


def _stated_labels(cells: AnnData, study: RecipeStudy) -> tuple[Strings, Bools]:
    """Return the study's own labels, and whether each cell has a label, both of shape (n,)."""
    column = _column(cells, study.label, study)
    labels = column.astype(object).where(column.notna(), None)
    try:
        return labels_of(AnnData(obs=pd.DataFrame({LABEL: labels}, index=cells.obs_names)), LABEL)
    except LabelsError:  # no cell of this part has a label
        return np.zeros(cells.n_obs, dtype="<U1"), np.zeros(cells.n_obs, dtype=bool)


def _donors(cells: AnnData, study: RecipeStudy) -> Strings:
    """Return the donor of each cell, or the name of the study for cells without a donor, shape (n,)."""
    if study.donor not in cells.obs:
        return np.full(cells.n_obs, study.study)
    donors = cells.obs[study.donor].astype(object)
    return np.asarray(donors.where(donors.notna(), study.study).astype(str), dtype=np.str_)


def _column(cells: AnnData, column: str, study: RecipeStudy) -> pd.Series[Any]:
    if column not in cells.obs:
        columns = listed(cells.obs.columns)
        msg = f"The cells of {study.study} have no column {column!r}; its readers give {columns}. Correct the recipe."
        raise DataError(msg)
    series: pd.Series[Any] = cells.obs[column]
    return series


def _counts(cells: AnnData, study: RecipeStudy) -> sparse.csr_matrix:
    values = sparse.csr_matrix(cells.X)
    if study.round:
        values.data = np.rint(values.data)
        values.eliminate_zeros()
    return values


def _passes_filter(values: sparse.csr_matrix, recipe: BuildRecipe) -> Bools:
    """Return whether each cell has counts, and enough genes and counts for the recipe, shape (n,)."""
    least, totals, genes = recipe.preprocessing, row_sums(values), np.diff(values.indptr)
    return np.asarray((totals > 0) & (genes >= least.minimum_genes) & (totals >= least.minimum_counts))


def _shared_genes(tables: Sequence[pd.DataFrame]) -> GeneList:
    """Return the genes that every table has, under their names in the first table."""
    genes = genes_of(tables[0])
    shared = np.ones(len(genes), dtype=bool)
    for table in tables[1:]:
        shared &= match_genes(table, genes, minimum_share=0, at_least=1).genes_present
    if shared.sum() < min(MINIMUM_GENES, len(genes)):
        msg = (
            f"The tables share {int(shared.sum())} of the {len(genes)} genes of the first; expected at least "
            f"{MINIMUM_GENES}. Check that all tables name genes by human symbols or Ensembl ids."
        )
        raise DataError(msg)
    return genes.part(np.flatnonzero(shared))
