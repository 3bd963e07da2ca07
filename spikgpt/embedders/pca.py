"""Variable genes, scaling, principal components, unit length.

A query from another technology has other gene means than the reference, and the reference's own scaling then misplaces
its cells. Scaling the query by its own means corrects that, but takes a query of few cell types for one of all types.
``composition`` scaling tells the two apart. It estimates which share of the query each label has, asks which gene means
and deviations the reference's cells would have in these shares, and maps the query's onto them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scanpy
from anndata import AnnData
from scipy import sparse
from sklearn.feature_selection import f_classif

from spikgpt.data import AlignedCells, align, find_expression, log_normalise, mean_and_std
from spikgpt.embedders.base import Classify, Embedding, EmbeddingReport, Floats
from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.genes import GeneList, genes_of
from spikgpt.neighbours import own_components

KIND = "pca"
TENSORS = ("mean", "std", "components", "label_means", "label_stds", "label_shares")
SCALINGS = ("auto", "reference", "query", "composition")

# Cells embedded at a time.
CHUNK = 4096
# Fewer cells than this say too little about their gene means, and auto keeps the reference's.
MINIMUM_CELLS = 100
# Composition scaling is found from the query's own scaling. Started from the reference's instead, it should end in the
# same labels; between human and mouse it does for 30% to 80% of cells, and then the user is told.
MINIMUM_AGREEMENT = 0.9
# Added to a gene's deviation within labels, as a share of the median deviation, so that no gene is blown up.
WITHIN_FLOOR = 0.1
# Genes seen in fewer cells differ between labels by chance.
MINIMUM_EXPRESSING = 3
# Softens the ratio of two small deviations of log expression, and bounds it.
SPREAD_FLOOR, SPREAD_RANGE = 0.3, (0.3, 3.0)

# Another sample's depth as a share of this one's, and the most ambient RNA that a cell is given.
AUGMENTED_DEPTH, LARGEST_AMBIENT = (0.3, 1.0), 0.6

Scale = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class PCAEmbedder:
    """Principal components of a reference's variable genes.

    G genes, D components, L labels. ``mean`` and ``std``, shape (G,), scale log expression; ``components``, shape
    (G, D), projects it; ``label_means`` and ``label_stds``, shape (L, G), and ``label_shares``, shape (L,), describe
    the labels. All float32, so that a stored embedder is the one that was trained with.
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
    fitted = True

    @property
    def kind(self) -> str:
        """Name on the command line."""
        return KIND

    @property
    def dim(self) -> int:
        """Length of a cell's vector."""
        return int(self.components.shape[1])

    @classmethod
    def fit(
        cls,
        adata: AnnData,
        labels: npt.NDArray[np.str_],
        *,
        layer: str | None = None,
        n_genes: int = 1000,
        n_components: int = 64,
        clip: float = 5.0,
        seed: int = 0,
    ) -> PCAEmbedder:
        """Fit to labelled cells.

        Genes are chosen by how much their mean differs between labels (ANOVA F), and scaled by their deviation within
        labels. Across donors and studies both beat the choice and the scaling by overall dispersion.

        Parameters
        ----------
        labels
            Label of each cell, shape (n,).
        layer
            Layer to read; by default the best expression values that the AnnData holds.
        clip
            Largest scaled value, in standard deviations, either way.
        seed
            For the randomised start of the PCA.

        Raises
        ------
        DataError
            When the cells cannot be read.
        """
        expression = find_expression(adata, layer=layer)
        everything = genes_of(expression.var)
        cells = align(expression, everything)
        used = ~cells.empty
        logs, labels = log_normalise(cells.values, cells.totals)[used], labels[used]
        chosen = _most_variable(logs, labels, n_genes)
        genes = GeneList(
            tuple(everything.symbols[index] for index in chosen),
            tuple(everything.ensembl_ids[index] for index in chosen),
        )
        logs = sparse.csr_matrix(logs[:, chosen])
        names, shares = np.unique(labels, return_counts=True)
        by_label = [mean_and_std(logs[labels == name]) for name in names]
        label_means, label_stds = (np.stack(rows) for rows in zip(*by_label, strict=True))
        mean, overall = mean_and_std(logs)
        within = np.sqrt(shares / shares.sum() @ label_stds**2)
        std = within + WITHIN_FLOOR * np.median(overall)
        training = AnnData(np.clip((logs.toarray() - mean) / std, -clip, clip).astype(np.float32))
        size = min(n_components, len(genes) - 1, training.n_obs - 1)
        scanpy.pp.pca(training, n_comps=size, zero_center=True, svd_solver="arpack", random_state=seed)
        return cls(
            genes=genes,
            mean=mean.astype(np.float32),
            std=std.astype(np.float32),
            components=np.ascontiguousarray(training.varm["PCs"], dtype=np.float32),
            label_means=label_means.astype(np.float32),
            label_stds=label_stds.astype(np.float32),
            label_shares=(shares / shares.sum()).astype(np.float32),
            clip=float(clip),
        )

    def embed(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        scaling: str = "auto",
        classify: Classify | None = None,
        on_cells: Callable[[int], None] | None = None,
    ) -> Embedding:
        """Embed every cell of ``adata``.

        Parameters
        ----------
        layer
            Layer to read; by default the best expression values that the AnnData holds.
        scaling
            ``reference``: the reference's gene means and deviations. ``query``: the query's own. ``composition``: the
            query's, corrected for its label composition. ``auto``: composition, or reference for small queries.
        classify
            From vectors, shape (n, dim), to label probabilities, shape (n, L); needed for ``auto`` and ``composition``.
        on_cells
            Called with the number of cells done since the last call.

        Raises
        ------
        DataError
            When the cells cannot be read or share too few genes with the reference.
        ConfigError
            When there is no such scaling.
        """
        if scaling not in SCALINGS:
            msg = f"There is no scaling {scaling!r}; choose one of {', '.join(SCALINGS)}."
            raise ConfigError(msg)
        expression = find_expression(adata, layer=layer)
        cells = align(expression, self.genes)
        scale, used, notes = self.query_scale(cells, scaling, classify)
        report = EmbeddingReport(
            source=expression.source,
            values=cells.kind,
            scaling=used,
            genes_matched=int(cells.found.sum()),
            genes_total=len(self.genes),
            notes=cells.notes + notes,
        )
        return Embedding(
            self.project(cells.values, cells.totals, scale, on_cells), cells.empty, report, self.points(cells)
        )

    def project(
        self,
        values: sparse.csr_matrix | Floats,
        totals: npt.NDArray[np.float64],
        scale: Scale | None = None,
        on_cells: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Turn aligned linear values, shape (n, G), and totals, shape (n,), into vectors, shape (n, dim).

        Parameters
        ----------
        scale
            Gene means and deviations, each of shape (G,); by default the reference's.
        """
        mean, std = scale or self.reference_scale()
        rows = sparse.csr_matrix(values)
        vectors = np.empty((rows.shape[0], self.dim))
        components = self.components.astype(np.float64)
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            logs = log_normalise(rows[part], totals[part], self.target_sum).toarray().astype(np.float64)  # (chunk, G)
            scaled = np.clip((logs - mean) / std, -self.clip, self.clip)  # (chunk, G)
            vectors[part] = scaled @ components  # (chunk, dim)
            if on_cells:
                on_cells(len(scaled))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, 1e-12)
        return vectors

    def points(self, cells: AlignedCells) -> npt.NDArray[np.float64]:
        """Place the cells that are not empty, n of them, where their neighbours are sought, shape (n, D)."""
        logs = log_normalise(cells.values, cells.totals, self.target_sum)
        return own_components(logs[~cells.empty][:, cells.found])

    def augment(self, adata: AnnData, *, layer: str | None = None, seed: int = 0) -> list[npt.NDArray[np.float64]]:
        """Return the vectors of the cells as another sample might show them: fewer counts, and ambient RNA among them.

        Samples differ in depth, and in how much RNA of burst cells every droplet takes up. A cell keeps a share of its
        counts, uniform over ``AUGMENTED_DEPTH``; a Beta(1, 4) share of what remains is the mean profile of the cells;
        counts are drawn from a Poisson distribution. Only raw counts can be drawn again; other values give no copy.
        """
        cells = align(find_expression(adata, layer=layer), self.genes)
        if cells.kind != "counts":
            return []
        random = np.random.default_rng(seed)
        totals = np.maximum(cells.totals, 1.0)
        depths = totals * random.uniform(*AUGMENTED_DEPTH, len(totals))  # (n,)
        ambient = np.minimum(random.beta(1, 4, len(totals)), LARGEST_AMBIENT)  # (n,)
        profile = np.asarray(cells.values.sum(axis=0, dtype=np.float64)).ravel() / totals.sum()  # (G,)
        vectors = np.empty((len(totals), self.dim))
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            share = ambient[part, None]
            own = cells.values[part].toarray() / totals[part, None]
            drawn = random.poisson(depths[part, None] * ((1 - share) * own + share * profile))  # (chunk, G)
            vectors[part] = self.project(drawn.astype(np.float64), depths[part])
        return [vectors]

    def reference_scale(self, found: npt.NDArray[np.bool_] | None = None) -> Scale:
        """Return the reference's gene means and deviations; the mean of a gene that was not found is 0, its value."""
        mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        return (mean if found is None else np.where(found, mean, 0.0)), std

    def query_scale(
        self, cells: AlignedCells, scaling: str, classify: Classify | None = None
    ) -> tuple[Scale, str, tuple[str, ...]]:
        """Return the gene means and deviations to scale a query with, the scaling that was used, and notes on it."""
        n_cells = int((~cells.empty).sum())
        reference = self.reference_scale(cells.found)
        too_few = n_cells < 2 or (scaling == "auto" and (n_cells < MINIMUM_CELLS or classify is None))
        if scaling == "reference" or too_few:
            return reference, "reference", ()
        used = ~cells.empty
        values, totals = cells.values[used], cells.totals[used]
        mean, std = mean_and_std(log_normalise(values, totals, self.target_sum))
        own = self._composition_scale(self.label_shares.astype(np.float64), mean, std, cells.found)
        if scaling == "query":
            return own, "query", ()
        if classify is None:
            msg = "Composition scaling needs a classifier; name another scaling."
            raise ConfigError(msg)

        def best(scale: Scale) -> npt.NDArray[np.int64]:
            return np.asarray(classify(self.project(values, totals, scale)).argmax(axis=1))

        def settle(start: Scale) -> tuple[Scale, npt.NDArray[np.int64]]:
            # Counted labels, not mean probabilities, in which every label seems present. Once, not again and again:
            # within a species that changes nothing, and across a large shift the rounds drift from the truth.
            shares = np.bincount(best(start), minlength=len(self.label_means)) / n_cells
            scale = self._composition_scale(shares, mean, std, cells.found)
            return scale, best(scale)

        settled, labels = settle(own)
        agreement = float((settle(reference)[1] == labels).mean())
        if agreement >= MINIMUM_AGREEMENT:
            return settled, "composition", ()
        note = (
            f"Gene expression differs so much from the reference's that the labels of {100 * (1 - agreement):.0f}% of "
            "the cells depend on how it is scaled; check the species and the tissue, and trust no label blindly."
        )
        return settled, "composition", (note,)

    def _composition_scale(self, shares: Floats, mean: Floats, std: Floats, found: npt.NDArray[np.bool_]) -> Scale:
        """Return the scale that maps a query onto reference cells of the same label shares, shape (L,)."""
        label_means = self.label_means.astype(np.float64)
        expected_mean = shares @ label_means
        within = shares @ self.label_stds.astype(np.float64) ** 2
        expected_std = np.sqrt(within + shares @ (label_means - expected_mean) ** 2)
        ratio = np.clip((std + SPREAD_FLOOR) / (expected_std + SPREAD_FLOOR), *SPREAD_RANGE)
        corrected = mean - (expected_mean - self.mean) * ratio
        return np.where(found, corrected, 0.0), self.std.astype(np.float64) * np.where(found, ratio, 1.0)

    def settings(self) -> dict[str, Any]:
        """Return what ``config.json`` keeps of the embedder."""
        return {"kind": KIND, "clip": self.clip, "target_sum": self.target_sum}

    def tensors(self) -> dict[str, Floats]:
        """Return what ``model.safetensors`` keeps of the embedder."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, settings: dict[str, Any], tensors: dict[str, Floats], genes: GeneList) -> PCAEmbedder:
        """Rebuild a stored embedder.

        Raises
        ------
        DamagedReference
            When a setting or a tensor is missing, or shapes do not fit each other.
        """
        numbers = [settings.get("clip"), settings.get("target_sum")]
        if tensors.keys() != set(TENSORS) or not all(isinstance(number, float) and number > 0 for number in numbers):
            found = f"{sorted(tensors)} and {settings}"
            msg = f"The pca embedder holds {found}; expected {sorted(TENSORS)}, clip and target_sum."
            raise DamagedReference(msg)
        if flat := [name for name in ("label_means", "label_stds", "components") if tensors[name].ndim != 2]:
            msg = f"The tensor embedder.{flat[0]} has {tensors[flat[0]].ndim} dimensions; expected 2."
            raise DamagedReference(msg)
        size, labels = len(genes), len(tensors["label_means"])
        shapes = {"mean": (size,), "std": (size,), "label_means": (labels, size), "label_stds": (labels, size)}
        shapes["label_shares"] = (labels,)
        shapes["components"] = (size, tensors["components"].shape[-1])
        for name, shape in shapes.items():
            if tensors[name].shape != shape or tensors[name].dtype != np.float32:
                found = f"{tensors[name].dtype} {tensors[name].shape}"
                msg = f"The tensor embedder.{name} is {found}; expected float32 {shape}."
                raise DamagedReference(msg)
        if any((tensors[name] < 0).any() for name in ("std", "label_stds", "label_shares")) or not tensors["std"].all():
            msg = "The pca embedder holds standard deviations or shares that are negative, or a deviation of 0."
            raise DamagedReference(msg)
        return cls(genes, **tensors, clip=settings["clip"], target_sum=settings["target_sum"])


def _most_variable(logs: sparse.csr_matrix, labels: npt.NDArray[np.str_], n_genes: int) -> npt.NDArray[np.int64]:
    """Return the sorted columns of the genes whose means differ most between labels, of those that vary."""
    _, std = mean_and_std(logs)
    varying = np.flatnonzero((std > 1e-6) & (logs.getnnz(axis=0) >= MINIMUM_EXPRESSING))
    ratio, _ = f_classif(sparse.csr_matrix(logs[:, varying]), labels)
    # Stable, so that ties fall by gene name.
    best = np.argsort(-np.nan_to_num(ratio, nan=-1.0, posinf=np.finfo(float).max), kind="stable")[:n_genes]
    return np.sort(varying[best])
