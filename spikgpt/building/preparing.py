"""From the files of studies to AnnData on disk: labels and genes by one name each, a few thousand cells at a time."""

from __future__ import annotations

import tempfile
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

from spikgpt.building.plan import Chosen
from spikgpt.building.recipe import Preprocessing, Recipe, Source
from spikgpt.cells.content.values import row_sums
from spikgpt.cells.genes import MINIMUM_GENES, GeneList, genes_of, match_genes
from spikgpt.cells.obs import counted, labels_of
from spikgpt.errors import DataError, LabelsError, listed
from spikgpt.files import replacing
from spikgpt.sources.readers import read
from spikgpt.types import Bools

LABEL, DONOR, STUDY, TERM = "cell_type", "donor", "study", "cell_ontology_id"


@dataclass
class Counts:
    """What became of the cells of a study."""

    cells: int = 0
    left_out: int = 0
    without_label: int = 0
    too_poor: int = 0
    not_chosen: int = 0
    labels: dict[str, int] = field(default_factory=dict)


def prepare(
    recipe: Recipe, chosen: Sequence[Chosen], paths: Mapping[str, Mapping[str, Path]], out: Path
) -> dict[str, Counts]:
    """Write the cells of some studies as one ``.h5ad`` file, and return what became of those of each.

    The genes are those that every table has, by symbol. ``obs`` has the labels of the recipe with their terms, the
    study and the donor.

    Parameters
    ----------
    paths
        Where each file of each study lies.

    Raises
    ------
    LabelsError
        When a study has labels that the recipe does not name.
    DataError
        When a file cannot be read, studies share too few genes, or no cells are left.
    """
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".parts.") as folder:
        parts = _Parts(Path(folder))
        counts = {
            one.source.study: _put_aside(recipe, one, paths[one.source.study], parts, several=len(chosen) > 1)
            for one in chosen
        }
        if not parts.obs:
            told = "; ".join(f"{study}: {vars(count)}" for study, count in counts.items())
            msg = f"No cell is left to write to {out.name}: {told}. Look at keep, labels and preprocessing."
            raise DataError(msg)
        with replacing(out) as temporary:
            parts.write(recipe, temporary)
    return counts


class _Parts:
    """Cells put aside while the genes that all of them have are not known yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.obs: list[pd.DataFrame] = []
        # Of each part, which of the lists of names its genes have.
        self._lists: list[int] = []
        self._vars: list[pd.DataFrame] = []

    def add(self, values: sparse.csr_matrix, obs: pd.DataFrame, var: pd.DataFrame) -> None:
        """Put cells aside."""
        known = (place for place, other in enumerate(self._vars) if other.equals(var) and other.index.equals(var.index))
        place = next(known, len(self._vars))
        if place == len(self._vars):
            self._vars.append(var)
        sparse.save_npz(self.folder / f"{len(self.obs)}.npz", values, compressed=False)
        self.obs.append(obs)
        self._lists.append(place)

    def write(self, recipe: Recipe, path: Path) -> None:
        """Write them as one file."""
        genes = _shared(self._vars)
        matches = [match_genes(var, genes, minimum_share=0, at_least=1).selection for var in self._vars]
        terms = {name: label.id for name, label in recipe.labels.items()}

        def parts() -> Iterator[tuple[sparse.csr_matrix, pd.DataFrame]]:
            for number, (place, obs) in enumerate(zip(self._lists, self.obs, strict=True)):
                values = sparse.csr_matrix(sparse.load_npz(self.folder / f"{number}.npz") @ matches[place])
                values = values.astype(np.float32)
                values.sort_indices()
                yield values, obs.assign(**{TERM: obs[LABEL].map(terms)})

        write_cells(path, parts(), pd.DataFrame(index=pd.Index(genes.symbols)))


def write_cells(path: Path, parts: Iterable[tuple[sparse.csr_matrix, pd.DataFrame]], var: pd.DataFrame) -> None:
    """Write an ``.h5ad`` file of parts, values and obs of some cells each; every column of obs becomes categories."""
    frames = list[pd.DataFrame]()
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for values, told in parts:
            if frames:
                sparse_dataset(file["X"]).append(values)
            else:
                # Of more than 2**31 values, 32 bits do not number the starts of rows.
                values.indptr = values.indptr.astype(np.int64)
                write_elem(file, "X", values)
            frames.append(told)
        obs = pd.concat(frames)
        for column in obs:
            obs[column] = pd.Categorical(obs[column])
        write_elem(file, "obs", obs)
        write_elem(file, "var", var)
        for key in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            write_elem(file, key, {})


def _put_aside(recipe: Recipe, chosen: Chosen, paths: Mapping[str, Path], parts: _Parts, *, several: bool) -> Counts:
    """Put the cells of a study aside that are to be used."""
    source, counts = chosen.source, Counts()
    unnamed: dict[str, int] = {}
    for cells in read(source.files, paths):
        usable = _kept(cells, source, chosen.where)
        counts.not_chosen += int((~usable).sum())
        theirs, labelled = _labels(cells, source)
        counts.without_label += int((usable & ~labelled).sum())
        usable &= labelled
        named: dict[str, str | None] = {}
        for label, found in counted(theirs[usable]).items():
            try:
                named[label] = source.named(label)
            except KeyError:
                unnamed[label] = unnamed.get(label, 0) + found
        ours = np.array([named.get(label) or "" for label in theirs.tolist()], dtype=object)
        counts.left_out += int((usable & (ours == "")).sum())
        usable &= ours != ""
        values = _rounded(cells, source)
        rich = _rich(values, recipe.preprocessing)
        counts.too_poor += int((usable & ~rich).sum())
        usable &= rich
        if not usable.any() or unnamed:
            continue
        donors = _donors(cells, source)
        lead = f"{source.study} " if several else ""
        obs = pd.DataFrame(
            {
                LABEL: ours[usable],
                DONOR: [lead + donor for donor in donors[usable]],
                STUDY: source.study,
            },
            index=pd.Index([lead + name for name in cells.obs_names[usable]]),
        )
        counts.cells += len(obs)
        for label, found in counted(ours[usable].astype(str)).items():
            counts.labels[label] = counts.labels.get(label, 0) + found
        parts.add(values[usable], obs, cells.var)
    if unnamed:
        told = listed(f"{label!r} ({found} cells)" for label, found in sorted(unnamed.items()))
        msg = (
            f"The recipe does not say what these labels of {source.study} are: {told}. Add them to its labels, or null."
        )
        raise LabelsError(msg)
    return counts


def _kept(cells: AnnData, source: Source, where: Mapping[str, Sequence[str]]) -> Bools:
    """Return whether each cell has the values that the study and the plan ask for, shape (n,)."""
    kept = np.ones(cells.n_obs, dtype=bool)
    for column, values in [*source.keep.items(), *where.items()]:
        kept &= _column(cells, column, source).isin(values).to_numpy()
    return kept


def _labels(cells: AnnData, source: Source) -> tuple[Any, Bools]:
    """Return the study's own labels, and whether each cell has one, both of shape (n,)."""
    column = _column(cells, source.label, source)
    stated = pd.Series(column.astype(object).where(column.notna(), None), index=cells.obs_names)
    # A part of a study may have none.
    if stated.isna().all():
        return np.zeros(cells.n_obs, dtype="<U1"), np.zeros(cells.n_obs, dtype=bool)
    named = AnnData(obs=pd.DataFrame({LABEL: stated}))
    try:
        return labels_of(named, LABEL)
    except LabelsError:
        return np.zeros(cells.n_obs, dtype="<U1"), np.zeros(cells.n_obs, dtype=bool)


def _donors(cells: AnnData, source: Source) -> Any:
    """Return the donor of each cell, shape (n,), or the study where it has none."""
    if source.donor not in cells.obs:
        return np.full(cells.n_obs, source.study, dtype=object)
    donors = cells.obs[source.donor].astype(object)
    return donors.where(donors.notna(), source.study).astype(str).to_numpy()


def _column(cells: AnnData, column: str, source: Source) -> pd.Series[Any]:
    if column not in cells.obs:
        there = listed(cells.obs.columns)
        msg = f"The cells of {source.study} have no column {column!r}; its readers give {there}. Mend the recipe."
        raise DataError(msg)
    found: pd.Series[Any] = cells.obs[column]
    return found


def _rounded(cells: AnnData, source: Source) -> sparse.csr_matrix:
    values = sparse.csr_matrix(cells.X)
    if source.round:
        values.data = np.rint(values.data)
        values.eliminate_zeros()
    return values


def _rich(values: sparse.csr_matrix, wanted: Preprocessing) -> Bools:
    """Return whether each cell has so many genes and counts, and any at all, shape (n,)."""
    totals = row_sums(values)
    genes = np.diff(values.indptr)
    return np.asarray((totals > 0) & (genes >= wanted.minimum_genes) & (totals >= wanted.minimum_counts))


def _shared(tables: Sequence[pd.DataFrame]) -> GeneList:
    """Return the genes that every table has, by the names of the first."""
    genes = genes_of(tables[0])
    found = np.ones(len(genes), dtype=bool)
    for table in tables[1:]:
        found &= match_genes(table, genes, minimum_share=0, at_least=1).found
    if found.sum() < min(MINIMUM_GENES, len(genes)):
        msg = (
            f"The tables share {int(found.sum())} of the {len(genes)} genes of the first; at least {MINIMUM_GENES} are "
            "needed. See whether all of them name genes by human symbols or Ensembl ids."
        )
        raise DataError(msg)
    return genes.part(np.flatnonzero(found))


def batch_key_of(path: Path) -> str | None:
    """Return the column of donors of a prepared file, where there are several."""
    with h5py.File(path) as file:
        return DONOR if len(file["obs"][DONOR]["categories"]) > 1 else None
