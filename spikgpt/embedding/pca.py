"""PCA embedding: variable genes, scaling, principal components, unit length.

A query from another technology has other gene means than the reference. With the reference's scaling, the cells of such
a query are misplaced. The query's own scaling corrects this batch effect, but treats a query of few cell types as a
query of all types. Two scalings separate a batch effect from a different composition:

- ``composition`` starts from the labels under the query's own scaling. The shares of these labels give the gene means
  and deviations of reference cells with the same composition. The query's gene means and deviations are mapped onto the
  means and deviations of these reference cells.
- ``shift`` starts from the labels under the reference's scaling. The reference's mean of each gene is moved by the
  median over labels of the difference between query and reference. A query of one type keeps its type. With three
  labels or more, one label of a missing type does not change the median much.

``composition`` copes with large batch effects, ``shift`` with queries of few cell types. ``auto`` takes the scaling
with the higher mean energy, log(sum(exp(logits))).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells, aligned_chunks, log_normalise, mean_and_std
from spikgpt.cells.expression import Cells, find_expression
from spikgpt.cells.genes import GeneList, match_genes
from spikgpt.constants import CONSTANTS
from spikgpt.embedding.base import QueryCells, Run, Scaled
from spikgpt.embedding.imputation import FittedImputer, GeneImputer, GeneStatistics
from spikgpt.errors import GenesError, with_noun
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Bools, Floats, InputReport, Integers, NetworkOutput, Profiles, Scale

KIND = "pca"
TENSORS = ("mean", "std", "components", "label_means", "label_stds", "label_shares")

SCALING, GENES = CONSTANTS.scaling, CONSTANTS.genes
# Number of cells that are embedded at a time.
CHUNK = 1024
# Number of missing genes that a note names.
NAMED_GENES = 5


@dataclass(frozen=True)
class PCAProjection:
    """Principal components of a reference's variable genes.

    There are G genes, D components and L labels. ``mean`` and ``std``, shape (G,), scale log expression. ``components``
    has shape (G, D). ``label_means`` and ``label_stds``, shape (L, G), and ``label_shares``, shape (L,), describe the
    labels. All arrays are float32, so that a stored projection equals the trained projection. ``imputer`` imputes genes
    that a query lacks; it is None in a reference of an older format.
    """

    genes: GeneList
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]
    label_means: npt.NDArray[np.float32]
    label_stds: npt.NDArray[np.float32]
    label_shares: npt.NDArray[np.float32]
    clip: float
    target_sum: float = 1e4
    imputer: GeneImputer | None = None

    @property
    def kind(self) -> str:
        """Name of the embedding on the command line."""
        return KIND

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return int(self.components.shape[1])

    def project(
        self, values: sparse.csr_matrix | Floats, totals: npt.NDArray[np.float64], scale: Scale | None = None
    ) -> npt.NDArray[np.float64]:
        """Return vectors of length 1, shape (n, dim), from aligned linear values, (n, G), and totals, (n,), of cells.

        Parameters
        ----------
        scale
            Gene means and deviations, each of shape (G,); None for the means and deviations of the reference.
        """
        vectors = self.scores(values, totals, scale)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, 1e-12)
        return vectors

    def scores(
        self, values: sparse.csr_matrix | Floats, totals: npt.NDArray[np.float64], scale: Scale | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the scores of cells on the principal components, shape (n, dim), before scaling to length 1."""
        mean, std = scale or (self.mean.astype(np.float64), self.std.astype(np.float64))
        rows = sparse.csr_matrix(values)
        vectors = np.empty((rows.shape[0], self.dim))
        components = self.components.astype(np.float64)
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            logs = log_normalise(rows[part], totals[part], self.target_sum).toarray().astype(np.float64)  # (chunk, G)
            scaled = np.clip((logs - mean) / std, -self.clip, self.clip)  # (chunk, G)
            vectors[part] = scaled @ components  # (chunk, dim)
        return vectors

    def vectors(
        self, cells: AlignedCells, scale: Scale | None = None, on_cells: Callable[[int], None] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the vectors of a query's cells, shape (n, dim); missing genes are imputed."""
        vectors = np.empty((len(cells.totals), self.dim))
        for start in range(0, len(vectors), CHUNK):
            part = cells.part(slice(start, start + CHUNK))
            values, of_genes, _ = self.impute(part, scale or self.reference_scale(part))
            vectors[start : start + CHUNK] = self.project(values, part.totals, of_genes)
            if on_cells:
                on_cells(len(part.totals))
        return vectors

    def impute(
        self, cells: AlignedCells, scale: Scale
    ) -> tuple[sparse.csr_matrix | npt.NDArray[np.float32], Scale, Bools]:
        """Return linear values of all genes of the projection, with imputed values for missing genes.

        With imputed genes the values are a dense array, so the cells should be passed in chunks. An imputed log value
        can be negative; the linear value is then negative too.

        Parameters
        ----------
        scale
            Gene means and deviations from :meth:`fit_scale`.

        Returns
        -------
        Values, shape (n, G); the scale of these genes; and True for the genes with values, shape (G,).
        """
        size = len(self.genes)
        mean, std = (array[:size] for array in scale)
        present, missing = cells.genes_present[:size], np.flatnonzero(~cells.genes_present[:size])
        if (imputer := self.fitted_imputer(cells)) is None:
            return cells.values, (mean, std), present
        logs = log_normalise(cells.values, cells.totals, self.target_sum).toarray().astype(np.float64)  # (n, U)
        scaled = np.clip((logs - scale[0]) / scale[1], -self.clip, self.clip)[:, cells.genes_present]
        expected = imputer.scores(scaled) @ self.components[missing].astype(np.float64).T  # (n, missing)
        expected = mean[missing] + std[missing] * np.clip(expected, -self.clip, self.clip)
        values = cells.values[:, :size].toarray()
        values[:, missing] = np.expm1(expected) * (cells.totals / self.target_sum)[:, None]
        return values, (mean, std), np.ones(size, dtype=bool)

    def fitted_imputer(self, cells: AlignedCells) -> FittedImputer | None:
        """Return the imputer for the genes that cells lack; None if no gene is missing, or without an imputer."""
        if self.imputer is None or cells.genes_present[: len(self.genes)].all():
            return None
        shares = self.label_shares.astype(np.float64)
        return FittedImputer.fit(self._table_of(cells), cells.genes_present, shares, self.imputer)

    def logs(self, cells: AlignedCells) -> sparse.csr_matrix:
        """Return log expression of the genes that query and reference share, shape (n, shared genes)."""
        logs = log_normalise(cells.values, cells.totals, self.target_sum)
        return logs if cells.genes_present.all() else sparse.csr_matrix(logs[:, cells.genes_present])

    def profiles(self, cells: AlignedCells) -> Profiles:
        """Return the labels' expression profiles in the genes that query and reference share."""
        table = self._table_of(cells).at(np.flatnonzero(cells.genes_present))
        return Profiles(table.label_means, np.sqrt(self.label_shares.astype(np.float64) @ table.label_stds**2))

    def gene_names(self, cells: AlignedCells) -> tuple[str, ...]:
        """Return the symbols of the genes that query and reference share."""
        symbols = self.genes.symbols
        if self.imputer is not None:
            symbols += tuple(self.imputer.genes.symbols[gene] for gene in cells.other_genes)
        return tuple(symbols[gene] for gene in np.flatnonzero(cells.genes_present))

    def _table_of(self, cells: AlignedCells) -> GeneStatistics:
        """Return the reference's statistics of the genes of aligned cells."""
        size = len(self.genes)
        return self._table.at(np.concatenate([np.arange(size), size + cells.other_genes]))

    @cached_property
    def _table(self) -> GeneStatistics:
        """Return the statistics of the genes of the projection, followed by the further genes of the imputer."""
        own = [self.mean, self.std, self.components, self.label_means.T, self.label_stds.T]
        if self.imputer is not None:
            more = self.imputer
            further = more.mean, more.std, more.loadings, more.label_means.T, more.label_stds.T
            own = [np.concatenate(pair) for pair in zip(own, further, strict=True)]
        mean, std, loadings, label_means, label_stds = (array.astype(np.float64) for array in own)
        return GeneStatistics(mean, std, loadings, label_means.T, label_stds.T)

    def reference_scale(self, cells: AlignedCells) -> Scale:
        """Return the reference's gene means and deviations for the genes of aligned cells.

        Without imputation, the mean of a missing gene is 0, as is its value.
        """
        table = self._table_of(cells)
        return (table.mean if self.imputer else np.where(cells.genes_present, table.mean, 0.0)), table.std

    def read(
        self,
        cells: Cells,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        gene_key: str | None = None,
        species: str | None = None,
    ) -> QueryCells:
        """Return the cells of a query with values of the reference's genes, which are read in chunks.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        """
        expression, size = find_expression(cells, layer=layer, gene_key=gene_key), len(self.genes)
        names: dict[str, Any] = {"cells": cells.obs_names, "gene_key": gene_key, "species": species}
        if self.imputer is None:
            match = match_genes(expression.var, self.genes, **names)
        else:
            genes = self.genes + self.imputer.genes
            match = match_genes(expression.var, genes, minimum_share=0, at_least=GENES.least_genes, **names)
        # For each missing gene, one further gene of the imputer is used, the best genes first.
        more = np.flatnonzero(match.genes_present[size:])[: int((~match.genes_present[:size]).sum())]
        match = match.part(np.concatenate([np.arange(size), size + more]))
        report = InputReport(
            source=expression.source,
            values=expression.kind,
            scaling=scaling,
            genes_matched=int(match.genes_present[:size].sum()),
            genes_total=size,
            notes=expression.notes + match.notes,
            orthologues_of=match.orthologues_of,
        )

        def chunks(rows: range, threads: int) -> Iterator[AlignedCells]:
            aligned = aligned_chunks(expression, match, rows=rows, threads=threads)
            return (replace(chunk, other_genes=more) for chunk in aligned)

        return QueryCells(expression.n_cells, chunks, report, expression)

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return the gene means and deviations to scale a query with.

        Parameters
        ----------
        sample
            Cells of the query, none of them empty.
        scaling
            ``reference``: gene means and deviations of the reference. ``query``: those of the query. ``composition``
            and ``shift``: see the docstring of the module. ``auto``: the one of these two with the higher mean energy,
            or ``reference`` for fewer than 100 cells.
        """
        accuracy, notes = self._simulated_accuracy(sample, run)
        return replace(self._scaled(sample, scaling, run, notes), simulated_accuracy=accuracy)

    def _scaled(self, sample: AlignedCells, scaling: str, run: Run, notes: tuple[str, ...]) -> Scaled:
        """Return the scale of the scaling method ``scaling``, with notes."""
        n_cells = len(sample.totals)
        reference = self.reference_scale(sample)
        too_few = n_cells < 2 or (scaling == "auto" and n_cells < SCALING.least_cells)
        if scaling == "reference" or too_few:
            return Scaled(reference, "reference", notes)
        logs = log_normalise(sample.values, sample.totals, self.target_sum)
        mean, std = mean_and_std(logs)
        own = self._composition_scale(self.label_shares.astype(np.float64), mean, std, sample)
        if scaling == "query":
            return Scaled(own, "query", notes)
        compared = sample_of(content_keys(sample.values), min(SCALING.compared_cells, n_cells))
        part = sample.part(compared)
        unmoved = _labels(run(part, reference))
        shift = self._shifted_scale(unmoved, logs[compared], part)
        # The composition is counted from labels, because even a label without cells has some mean probability. Further
        # rounds change nothing within a species, and give a wrong composition across a large batch effect.
        counts = np.bincount(_labels(run(sample, own)), minlength=len(self.label_means))
        composition = self._composition_scale(counts / n_cells, mean, std, sample)
        composed, shifted = run(sample, composition), run(part, shift)
        fits = composed.energies[compared].mean() >= shifted.energies.mean()
        name = scaling if scaling != "auto" else "composition" if fits else "shift"
        changed = float((_labels(composed)[compared] != _labels(shifted)).mean())
        if changed > SCALING.noted_change:
            other = "shift" if name == "composition" else "composition"
            chosen = " was used, as the energy of the network is higher" if scaling == "auto" else " was used"
            note = (
                f"{100 * changed:.0f}% of the labels change with the scaling method, as in queries of few cell types "
                f"(sorted cells), of another species or of another tissue. The scaling {name!r}{chosen}. "
                f"Pass scaling={other!r} (--scaling {other}) for the other."
            )
            notes = (*notes, note)
        if name == "shift":
            return Scaled(shift, name, notes, shifted if len(compared) == n_cells else None)
        return Scaled(composition, name, notes, composed)

    def _composition_scale(self, shares: Floats, mean: Floats, std: Floats, cells: AlignedCells) -> Scale:
        """Return the scale that maps a query onto reference cells with the given shares of labels, shape (L,)."""
        table = self._table_of(cells)
        expected, ratio = _expected_mean_and_ratio(shares, std, table)
        return self._of_found_genes(mean - (expected - table.mean) * ratio, ratio, cells)

    def _shifted_scale(self, labels: Integers, logs: sparse.csr_matrix, cells: AlignedCells) -> Scale:
        """Return the reference's scale, with each gene mean shifted by the median difference over labels.

        ``labels``, shape (n,), and ``logs``, shape (n, U), are the labels and the log expression of the query's cells.
        """
        table = self._table_of(cells)
        counts = np.bincount(labels, minlength=len(self.label_means))
        _, ratio = _expected_mean_and_ratio(counts / len(labels), mean_and_std(logs)[1], table)
        voting = np.flatnonzero(counts >= min(SCALING.shift_cells, counts.max()))
        # Summed in double precision, so that the order of cells does not change the result.
        means = (np.asarray(logs[labels == label].astype(np.float64).mean(axis=0)).ravel() for label in voting)
        expected = (table.label_means[voting] - table.mean) * ratio  # (labels, U)
        return self._of_found_genes(np.median(np.stack(list(means)) - expected, axis=0), ratio, cells)

    def _of_found_genes(self, mean: Floats, ratio: Floats, cells: AlignedCells) -> Scale:
        """Return a scale from gene means and ratios of deviations; missing genes get the reference's scale."""
        reference = self.reference_scale(cells)
        present = cells.genes_present
        return np.where(present, mean, reference[0]), reference[1] * np.where(present, ratio, 1.0)

    def _simulated_accuracy(self, sample: AlignedCells, run: Run) -> tuple[float | None, tuple[str, ...]]:
        """Return the share of simulated cells labelled correctly with the query's genes, and notes for the user.

        The expression of each gene is drawn independently from the reference's statistics. In real cells genes are
        correlated, so the share is an upper bound. The share is None if few genes are missing.

        Raises
        ------
        GenesError
            When too many simulated cells get a wrong label.
        """
        size = len(self.genes)
        missing = ~sample.genes_present[:size]
        if self.imputer is None or missing.mean() <= GENES.few_missing:
            return None, ()
        simulated, truth = self._simulated(sample)
        accuracy = float((_labels(run(simulated, self.reference_scale(simulated))) == truth).mean())
        within = self.label_shares @ self.label_stds.astype(np.float64) ** 2
        informative = np.where(missing, self.label_means.std(axis=0) ** 2 / np.maximum(within, 1e-6), 0)
        best = [self.genes.symbols[gene] for gene in np.argsort(-informative, kind="stable")[:NAMED_GENES]]
        text = (
            f"{int((~missing).sum())} of the reference's {size} genes are in the query; "
            f"{with_noun(len(sample.other_genes), 'other gene is', 'other genes are')} used to impute the rest. "
            "In simulation, up to "
            f"{100 * accuracy:.0f}% of cells keep their label"
        )
        named = f"Most informative missing genes: {', '.join(best)}."
        if accuracy < GENES.least_accuracy:
            msg = f"{text}; expected at least {100 * GENES.least_accuracy:.0f}%. {named} Measure more genes."
            raise GenesError(msg)
        return accuracy, (f"{text}. {named}",)

    def _simulated(self, like: AlignedCells) -> tuple[AlignedCells, Integers]:
        """Return simulated cells of each label, with the genes of the cells ``like``, and the cells' label indices.

        A gene is either 0 or one value, chosen to match the mean and deviation of the label.
        """
        table, random = self._table_of(like), np.random.default_rng(0)
        truth = np.repeat(np.arange(len(table.label_means)), GENES.simulated_cells)
        means, stds = table.label_means[truth], table.label_stds[truth]  # (n, U)
        high = np.divide(means**2 + stds**2, means, out=np.zeros_like(means), where=means > 0)
        share = np.divide(means, high, out=np.zeros_like(means), where=high > 0)
        logs = np.where(random.random(means.shape) < share, high, 0) * like.genes_present
        values = sparse.csr_matrix(np.expm1(logs), dtype=np.float32)
        return replace(like, values=values, totals=np.full(len(truth), self.target_sum)), truth

    @property
    def stored_genes(self) -> GeneList:
        """Genes that ``genes.json`` stores."""
        return self.genes

    def settings(self) -> dict[str, Any]:
        """Return the settings that ``config.json`` stores."""
        return {"kind": KIND, "clip": self.clip, "target_sum": self.target_sum}

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors that ``model.safetensors`` stores."""
        return {name: getattr(self, name) for name in TENSORS} | (self.imputer.tensors() if self.imputer else {})

    @classmethod
    def from_tensors(
        cls, settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList, more: GeneList | None = None
    ) -> Self:
        """Return the projection from settings and tensors, which were checked when the reference was read."""
        own: dict[str, Any] = {name: tensors[name] for name in TENSORS}
        known = GeneImputer.from_tensors(tensors, more) if more else None
        return cls(genes, **own, clip=settings["clip"], target_sum=settings["target_sum"], imputer=known)


def _labels(output: NetworkOutput) -> Integers:
    """Return the index of the most probable label of each cell, shape (n,)."""
    return np.asarray(output.probabilities.argmax(axis=1))


def _expected_mean_and_ratio(shares: Floats, std: Floats, table: GeneStatistics) -> tuple[Floats, Floats]:
    """Return gene means of reference cells with given label shares, and the ratio of ``std`` to their deviations."""
    mean = shares @ table.label_means
    expected = np.sqrt(shares @ table.label_stds**2 + shares @ (table.label_means - mean) ** 2)
    return mean, np.clip((std + SCALING.spread_floor) / (expected + SCALING.spread_floor), *SCALING.spread_range)
