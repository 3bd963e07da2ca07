"""Variable genes, scaling, principal components, unit length.

A query from another technology has other gene means than the reference, and the reference's own scaling then misplaces
its cells. Scaling the query by its own means corrects that, but takes a query of few cell types for one of all types.
Two scalings tell a batch effect and few cell types apart:

- ``composition`` starts from the labels that the query's own scaling gives. It asks which gene means and deviations the
  reference's cells would have in the same shares of labels, and maps the query's onto them.
- ``shift`` starts from the labels that the reference's scaling gives. It moves the mean of each gene by the median,
  over these labels, of the difference between query and reference. A query of one type keeps its type, and three labels
  or more outvote one that a missing type has taken over.

``composition`` copes with large batch effects, ``shift`` with queries of few cell types. ``auto`` takes the one with
the higher mean energy, the log of the summed exponentials of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spikgpt.cells.align import AlignedCells, aligned_chunks, log_normalise, mean_and_std
from spikgpt.cells.expression import Cells, find_expression
from spikgpt.cells.genes import GeneList, match_genes
from spikgpt.embedding.base import QueryCells, Run, Scaled
from spikgpt.embedding.imputation import FittedImputer, GeneImputer, GeneTable
from spikgpt.errors import GenesError
from spikgpt.sampling import content_keys, sample_of
from spikgpt.types import Bools, Floats, InputReport, Integers, NetworkOutput, Profiles, Scale

KIND = "pca"
TENSORS = ("mean", "std", "components", "label_means", "label_stds", "label_shares")

# Cells embedded at a time.
CHUNK = 1024
# Fewer cells than this say too little about their gene means, and auto keeps the reference's.
TELLING_CELLS = 100
# The two scalings are compared on so many cells. A label has a vote on the shift if so many of these cells have it.
ASKED_CELLS, CELLS_FOR_SHIFT = 1000, 10
# Share of labels that differ between the two, above which the user is told.
NOTED_CHANGE = 0.1
# Where more than this share of the genes is missing, it is estimated how many labels can be right, on so many drawn
# cells of each label. A query is refused below this share of them, and with fewer genes of any kind.
FEW_MISSING, DRAWN_CELLS, LEAST_ALLOWED, LEAST_GENES = 0.1, 30, 0.5, 10
# Missing genes that are named to the user.
NAMED_GENES = 5
# Softens the ratio of two small deviations of log expression, and bounds it.
SPREAD_FLOOR, SPREAD_RANGE = 0.3, (0.3, 3.0)


@dataclass(frozen=True)
class PCAProjection:
    """Principal components of a reference's variable genes.

    G genes, D components, L labels. ``mean`` and ``std``, shape (G,), scale log expression; ``components``, shape
    (G, D), projects it; ``label_means`` and ``label_stds``, shape (L, G), and ``label_shares``, shape (L,), describe
    the labels. All float32, so that a stored projection is the one that was trained with. ``more`` is what is known of
    other genes, to infer those that a query lacks; a reference of an older format knows none.
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
    more: GeneImputer | None = None

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return KIND

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return int(self.components.shape[1])

    def project(
        self, values: sparse.csr_matrix | Floats, totals: npt.NDArray[np.float64], scale: Scale | None = None
    ) -> npt.NDArray[np.float64]:
        """Turn aligned linear values, shape (n, G), and totals, shape (n,), into vectors, shape (n, dim).

        Parameters
        ----------
        scale
            Gene means and deviations, each of shape (G,); by default the reference's.
        """
        vectors = self.scores(values, totals, scale)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, 1e-12)
        return vectors

    def scores(
        self, values: sparse.csr_matrix | Floats, totals: npt.NDArray[np.float64], scale: Scale | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the scores of cells on the components, shape (n, dim), which :meth:`project` brings to length 1."""
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
        """Turn the cells of a query into vectors, shape (n, dim), by way of :meth:`impute`."""
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
        """Return linear values of all genes of the projection, those that the query lacks as they are expected to be.

        A few cells at a time: the values are dense where genes were inferred. An expected log may be below 0, and the
        value then is too.

        Parameters
        ----------
        scale
            What :meth:`fit_scale` returns.

        Returns
        -------
        Values, shape (n, G); the scale of these genes; and which of them are there, shape (G,).
        """
        size = len(self.genes)
        mean, std = (array[:size] for array in scale)
        found, missing = cells.found[:size], np.flatnonzero(~cells.found[:size])
        if self.more is None or not len(missing):
            return cells.values, (mean, std), found
        logs = log_normalise(cells.values, cells.totals, self.target_sum).toarray().astype(np.float64)  # (n, U)
        scaled = np.clip((logs - scale[0]) / scale[1], -self.clip, self.clip)[:, cells.found]
        imputer = FittedImputer.of(self._table_of(cells), cells.found, self.label_shares.astype(np.float64), self.more)
        expected = imputer.scores(scaled) @ self.components[missing].astype(np.float64).T  # (n, missing)
        expected = mean[missing] + std[missing] * np.clip(expected, -self.clip, self.clip)
        values = cells.values[:, :size].toarray()
        values[:, missing] = np.expm1(expected) * (cells.totals / self.target_sum)[:, None]
        return values, (mean, std), np.ones(size, dtype=bool)

    def logs(self, cells: AlignedCells) -> sparse.csr_matrix:
        """Return the log expression of cells for the genes that the query has, shape (n, found genes)."""
        return sparse.csr_matrix(log_normalise(cells.values, cells.totals, self.target_sum)[:, cells.found])

    def profiles(self, cells: AlignedCells) -> Profiles:
        """Return what the labels express of the genes that a query has."""
        table = self._table_of(cells).at(np.flatnonzero(cells.found))
        return Profiles(table.label_means, np.sqrt(self.label_shares.astype(np.float64) @ table.label_stds**2))

    def _table_of(self, cells: AlignedCells) -> GeneTable:
        """Return what is known of the genes of aligned cells."""
        size = len(self.genes)
        return self._table.at(np.concatenate([np.arange(size), size + cells.more]))

    @cached_property
    def _table(self) -> GeneTable:
        """What is known of all genes: those of the projection, then more."""
        own = [self.mean, self.std, self.components, self.label_means.T, self.label_stds.T]
        if self.more is not None:
            more = self.more
            others = more.mean, more.std, more.loadings, more.label_means.T, more.label_stds.T
            own = [np.concatenate(pair) for pair in zip(own, others, strict=True)]
        mean, std, loadings, label_means, label_stds = (array.astype(np.float64) for array in own)
        return GeneTable(mean, std, loadings, label_means.T, label_stds.T)

    def reference_scale(self, cells: AlignedCells) -> Scale:
        """Return the reference's gene means and deviations for the genes of cells.

        Where genes that were not found are not inferred, their mean is 0, their value.
        """
        table = self._table_of(cells)
        return (table.mean if self.more else np.where(cells.found, table.mean, 0.0)), table.std

    def read(self, cells: Cells, *, layer: str | None = None, scaling: str = "auto") -> QueryCells:
        """Return the cells' values of the reference's genes, to be read a few at a time.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        """
        expression, size = find_expression(cells, layer=layer), len(self.genes)
        if self.more is None:
            match = match_genes(expression.var, self.genes, cells=cells.obs_names)
        else:
            genes = self.genes + self.more.genes
            match = match_genes(expression.var, genes, minimum_share=0, at_least=LEAST_GENES, cells=cells.obs_names)
        # As many other genes as are missing, the best first.
        more = np.flatnonzero(match.found[size:])[: int((~match.found[:size]).sum())]
        match = match.part(np.concatenate([np.arange(size), size + more]))
        report = InputReport(
            source=expression.source,
            values=expression.kind,
            scaling=scaling,
            genes_matched=int(match.found[:size].sum()),
            genes_total=size,
            notes=expression.notes + match.notes,
        )
        chunks = (replace(chunk, more=more) for chunk in aligned_chunks(expression, match))
        return QueryCells(expression.n_cells, chunks, report)

    def fit_scale(self, sample: AlignedCells, scaling: str, run: Run) -> Scaled:
        """Return the gene means and deviations to scale a query with.

        Parameters
        ----------
        sample
            Cells of the query, none of them empty.
        scaling
            ``reference``: the reference's gene means and deviations. ``query``: the query's own. ``composition`` and
            ``shift``: see the module. ``auto``: the one of these two that has the higher mean energy; or reference for
            small queries.
        """
        accuracy, notes = self._simulated_accuracy(sample, run)
        return replace(self._scaled(sample, scaling, run, notes), simulated_accuracy=accuracy)

    def _scaled(self, sample: AlignedCells, scaling: str, run: Run, notes: tuple[str, ...]) -> Scaled:
        """Return the scale of such a name, with notes."""
        n_cells = len(sample.totals)
        reference = self.reference_scale(sample)
        too_few = n_cells < 2 or (scaling == "auto" and n_cells < TELLING_CELLS)
        if scaling == "reference" or too_few:
            return Scaled(reference, "reference", notes)
        logs = log_normalise(sample.values, sample.totals, self.target_sum)
        mean, std = mean_and_std(logs)
        own = self._composition_scale(self.label_shares.astype(np.float64), mean, std, sample)
        if scaling == "query":
            return Scaled(own, "query", notes)
        asked = sample_of(content_keys(sample.values), min(ASKED_CELLS, n_cells))
        part = sample.part(asked)
        unmoved = _labels(run(part, reference))
        shift = self._shifted_scale(unmoved, logs[asked], part)
        # Counted labels, not mean probabilities, in which every label seems present. Once, not again and again:
        # within a species that changes nothing, and across a large shift the rounds drift from the truth.
        counts = np.bincount(_labels(run(sample, own)), minlength=len(self.label_means))
        composition = self._composition_scale(counts / n_cells, mean, std, sample)
        composed, shifted = run(sample, composition), run(part, shift)
        fits = composed.energies[asked].mean() >= shifted.energies.mean()
        name = scaling if scaling != "auto" else "composition" if fits else "shift"
        changed = float((_labels(composed)[asked] != _labels(shifted)).mean())
        if changed > NOTED_CHANGE:
            other = "shift" if name == "composition" else "composition"
            chosen = " was used, in which the network supports the labels better" if scaling == "auto" else " was used"
            note = (
                f"{100 * changed:.0f}% of the labels change with the scaling method, as in queries of few cell types "
                f"(sorted cells), of another species or of another tissue. The scaling {name!r}{chosen}. "
                f"Pass scaling={other!r} (--scaling {other}) for the other."
            )
            notes = (*notes, note)
        if name == "shift":
            return Scaled(shift, name, notes, shifted if len(asked) == n_cells else None)
        return Scaled(composition, name, notes, composed)

    def _composition_scale(self, shares: Floats, mean: Floats, std: Floats, cells: AlignedCells) -> Scale:
        """Return the scale that maps a query onto reference cells of the same label shares, shape (L,)."""
        table = self._table_of(cells)
        expected, ratio = _expected_mean_and_ratio(shares, std, table)
        return self._of_found_genes(mean - (expected - table.mean) * ratio, ratio, cells)

    def _shifted_scale(self, labels: Integers, logs: sparse.csr_matrix, cells: AlignedCells) -> Scale:
        """Return the reference's scale, moved to cells of these labels, shape (n,), by their logs, shape (n, U)."""
        table = self._table_of(cells)
        counts = np.bincount(labels, minlength=len(self.label_means))
        _, ratio = _expected_mean_and_ratio(counts / len(labels), mean_and_std(logs)[1], table)
        voting = np.flatnonzero(counts >= min(CELLS_FOR_SHIFT, counts.max()))
        # Summed in double precision, so that the order of cells does not show.
        means = (np.asarray(logs[labels == label].astype(np.float64).mean(axis=0)).ravel() for label in voting)
        expected = (table.label_means[voting] - table.mean) * ratio  # (labels, U)
        return self._of_found_genes(np.median(np.stack(list(means)) - expected, axis=0), ratio, cells)

    def _of_found_genes(self, mean: Floats, ratio: Floats, cells: AlignedCells) -> Scale:
        """Return a scale of such means and ratios of deviations where genes were found, the reference's elsewhere."""
        reference = self.reference_scale(cells)
        return np.where(cells.found, mean, reference[0]), reference[1] * np.where(cells.found, ratio, 1.0)

    def _simulated_accuracy(self, sample: AlignedCells, run: Run) -> tuple[float | None, tuple[str, ...]]:
        """Return the share of simulated cells that get their label with the genes of a query, and a note on it.

        The cells are drawn from what the reference knows of its labels, gene by gene. In real cells genes err together,
        so the share is an upper bound. None where few genes are missing.

        Raises
        ------
        GenesError
            When too many labels would be wrong.
        """
        size = len(self.genes)
        missing = ~sample.found[:size]
        if self.more is None or missing.mean() <= FEW_MISSING:
            return None, ()
        drawn, truth = self._drawn(sample)
        allowed = float((run(drawn, self.reference_scale(drawn)).probabilities.argmax(axis=1) == truth).mean())
        within = self.label_shares @ self.label_stds.astype(np.float64) ** 2
        telling = np.where(missing, self.label_means.std(axis=0) ** 2 / np.maximum(within, 1e-6), 0)
        best = [self.genes.symbols[gene] for gene in np.argsort(-telling, kind="stable")[:NAMED_GENES]]
        told = (
            f"The query has {int((~missing).sum())} of the reference's {size} genes, and {len(sample.more)} that help; "
            f"with these at best {100 * allowed:.0f}% of cells get their label"
        )
        named = f"Missing are, best first: {', '.join(best)}."
        if allowed < LEAST_ALLOWED:
            msg = f"{told}; at least {100 * LEAST_ALLOWED:.0f}% are needed. {named}"
            raise GenesError(msg)
        return allowed, (f"{told}. {named}",)

    def _drawn(self, like: AlignedCells) -> tuple[AlignedCells, Integers]:
        """Return made-up cells of each label with the genes of others, and their labels.

        A gene is silent or has one value, as often and as high as the label's mean and deviation say.
        """
        table, random = self._table_of(like), np.random.default_rng(0)
        truth = np.repeat(np.arange(len(table.label_means)), DRAWN_CELLS)
        means, stds = table.label_means[truth], table.label_stds[truth]  # (n, U)
        high = np.divide(means**2 + stds**2, means, out=np.zeros_like(means), where=means > 0)
        share = np.divide(means, high, out=np.zeros_like(means), where=high > 0)
        logs = np.where(random.random(means.shape) < share, high, 0) * like.found
        values = sparse.csr_matrix(np.expm1(logs), dtype=np.float32)
        return replace(like, values=values, totals=np.full(len(truth), self.target_sum)), truth

    @property
    def stored_genes(self) -> GeneList:
        """What ``genes.json`` keeps: the genes of the projection."""
        return self.genes

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder."""
        return {"kind": KIND, "clip": self.clip, "target_sum": self.target_sum}

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps of the embedder."""
        return {name: getattr(self, name) for name in TENSORS} | (self.more.tensors() if self.more else {})

    @classmethod
    def from_tensors(
        cls, settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList, more: GeneList | None = None
    ) -> Self:
        """Rebuild a stored embedder, whose settings and tensors were checked when the reference was read."""
        own: dict[str, Any] = {name: tensors[name] for name in TENSORS}
        known = GeneImputer.from_tensors(tensors, more) if more else None
        return cls(genes, **own, clip=settings["clip"], target_sum=settings["target_sum"], more=known)


def _labels(output: NetworkOutput) -> Integers:
    """Return the index of the most probable label of each cell, shape (n,)."""
    return np.asarray(output.probabilities.argmax(axis=1))


def _expected_mean_and_ratio(shares: Floats, std: Floats, table: GeneTable) -> tuple[Floats, Floats]:
    """Return gene means of reference cells of such label shares, and the ratio of ``std`` to their deviations."""
    mean = shares @ table.label_means
    expected = np.sqrt(shares @ table.label_stds**2 + shares @ (table.label_means - mean) ** 2)
    return mean, np.clip((std + SPREAD_FLOOR) / (expected + SPREAD_FLOOR), *SPREAD_RANGE)
