"""Choice of the groups to explain: labels, clusters or single cells of a query, annotated by one reference or several.

With several references, each label is explained by the reference that gave the label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from anndata import AnnData
from msgspec import structs

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import match_genes
from spikgpt.cells.obs import batches_of, counted, labels_of
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.restriction import find_labels
from spikgpt.errors import ConfigError, listed, printable, with_noun
from spikgpt.explain.cells import cell_rows
from spikgpt.explain.explanation import ExplainedGroup, Explanation, GroupKind
from spikgpt.explain.labels import CELLS_PER_LABEL, LabelExplainer
from spikgpt.explain.query import FittedQuery, fitted_queries
from spikgpt.explain.scored import ScoredCells
from spikgpt.explain.unknown import UnknownExplainer
from spikgpt.options import ExplainOptions
from spikgpt.reference.files import Reference
from spikgpt.scoring.annotation import REFERENCE, Annotation
from spikgpt.tables import by_number
from spikgpt.types import UNKNOWN, Bools, Rows

# Largest number of cells that one call explains one by one.
MOST_CELLS = 1000
# A note names groups in which the network alone gives the label to less than this share of the explained cells. Largest
# number of groups that the note names.
LEAST_AGREEMENT, NAMED = 0.5, 5
# A cluster with at least this share of Unknown cells is explained as Unknown.
UNKNOWN_SHARE = 0.5


def explain(
    annotation: Annotation,
    adata: AnnData | None,
    options: ExplainOptions,
    *,
    cells: Sequence[str | int] | None = None,
    only: Bools | None = None,
) -> Explanation:
    """Explain the labels that one reference gave to a query, its clusters, or some of its cells.

    Parameters
    ----------
    adata
        The annotated query. Clusters, and cells outside of the query's sample, need it; otherwise None is allowed.
    cells
        Names or positions of the cells to explain one by one; None for labels or clusters.
    only
        True for the cells that the reference labelled, shape (n,); None for all cells.

    Raises
    ------
    ConfigError
        When the reference reads no genes, or an option does not fit the query.
    """
    query = annotation.query
    if not isinstance(query, FittedQuery):
        msg = "This annotation of shards keeps no fitted query; expected an annotation of one file. Annotate one file."
        raise ConfigError(msg)
    _check_kind(options, cells)
    explainer = GroupExplainer(annotation, query, adata, options, only=only)
    kind: GroupKind = "label" if options.cluster_key is None else "cluster"
    if cells is not None:
        kind, groups = "cell", tuple(explainer.cells(cells))
    else:
        groups = tuple(explainer.labels() if options.cluster_key is None else explainer.clusters(options.cluster_key))
    explainer.note_low_agreement(groups)
    embedding = query.engine.embedding
    assert isinstance(embedding, PCAProjection)  # GroupExplainer refuses other embeddings
    rows = partial(var_rows, embedding, query.genes, options)
    return Explanation(groups, kind, annotation.reference_name, query.genes, tuple(explainer.notes), rows)


def _check_kind(options: ExplainOptions, cells: Sequence[str | int] | None) -> None:
    """Raise ConfigError if the user passed both ``cells`` and ``cluster_key``."""
    if cells is not None and options.cluster_key is not None:
        msg = "cells and cluster_key were both passed; expected one of them (--cells, --cluster-key). Leave one out."
        raise ConfigError(msg)


def _rows_of(names: Any, cells: Sequence[str | int]) -> Rows:
    """Return the row numbers of the cells to explain, in the given order, from their names or positions."""
    rows = cell_rows(names, cells)
    if not 0 < len(rows) <= MOST_CELLS:
        msg = (
            f"cells names {len(rows)} cells; expected 1 to {MOST_CELLS} names or positions. Pass fewer cells, or leave "
            "out cells to explain the labels (--cells)."
        )
        raise ConfigError(msg)
    return rows


def checked_origin(annotation: Annotation, reference: Reference) -> Annotation:
    """Return an annotation; raise ConfigError if another reference, or another version of it, gave the labels."""
    name, version = reference.name, ""
    digests = annotation.reference_digest, reference.digest
    same = annotation.reference_name == name and ("" in digests or digests[0] == digests[1])
    if same or (annotation.query is None and not annotation.queries):
        return annotation  # shards are refused later; a reference in memory has no digest
    if annotation.reference_name == name:
        version = f" in another version (digest {digests[0][:12]}, not {digests[1][:12]})"
    msg = (
        f"This annotation is by the reference {printable(annotation.reference_name)!r}{version}; expected one by "
        f"{printable(name)!r}. Call annotation.explain() in place of model.explain(annotation)."
    )
    raise ConfigError(msg)


@dataclass
class GroupExplainer:
    """Explains groups of cells of an annotated query, and collects notes."""

    annotation: Annotation
    query: FittedQuery
    adata: AnnData | None
    options: ExplainOptions
    notes: list[str] = field(default_factory=list)
    only: Bools | None = None

    def __post_init__(self) -> None:
        self.explainer = LabelExplainer.from_query(self.query)
        self.sample = ScoredCells.from_sample(self.query)
        self.unknown_explainer = UnknownExplainer(self.query, self.sample)
        allowed = [self.explainer.names[label] for label in self.explainer.attributor.allowed]
        texts = self.options.labels
        names = None if texts is None else find_labels(texts, [*self.explainer.names, UNKNOWN], "labels")
        if excluded := [name for name in names or () if name not in (*allowed, UNKNOWN)]:
            msg = (
                f"No cell could get the label {printable(excluded[0])}, because it was excluded (labels=, exclude=); "
                f"expected one of {listed(allowed)}. Annotate again without that option."
            )
            raise ConfigError(msg)
        self.unknown_chosen = names is None or UNKNOWN in names
        self.chosen = None if names is None else [name for name in allowed if name in names]

    def labels(self) -> Iterator[ExplainedGroup]:
        """Yield the explanation of each label of the sample, the most frequent first.

        Unknown cells come last, in one group for each nearest label.
        """
        sample, names = self.sample, self.explainer.names
        for unknown in (False, True) if self.unknown_chosen else (False,):
            counts = np.bincount(sample.best[sample.unknown == unknown], minlength=len(names))
            for label in np.argsort(-counts, kind="stable"):
                if not counts[label] or not (unknown or self.chosen is None or names[label] in self.chosen):
                    continue
                members = sample.part(np.flatnonzero((sample.best == label) & (sample.unknown == unknown)))
                name = f"{UNKNOWN}, nearest {names[label]}" if unknown else names[label]
                yield self._group(name, int(label), members, unknown=unknown)
        present = set(np.asarray(names)[sample.best[~sample.unknown]].tolist())
        absent = [name for name in self.chosen or () if name not in present]
        if self.chosen is not None and self.unknown_chosen and not sample.unknown.any():
            absent.append(UNKNOWN)
        self._note_absent(absent)

    def _note_absent(self, names: list[str]) -> None:
        """Add notes on chosen labels that no cell of the sample has; Unknown counts as a label."""
        annotation, without = self.annotation, []
        labels = annotation.labels[~annotation.empty]
        for name in names:
            if count := int((labels == name).sum()):
                self.notes.append(
                    f"{with_noun(count, 'cell')} of the query got the label {name}, but no such cell is in the "
                    f"sample of {len(self.query.rows)} cells that is explained. Name such cells (cells=, --cells)."
                )
            else:
                without.append(name)
        if without:
            labels_text = "the label" if len(without) == 1 else "one of the labels"
            self.notes.append(f"No cell of the query got {labels_text} {', '.join(without)}.")

    def clusters(self, key: str) -> Iterator[ExplainedGroup]:
        """Yield the explanation of each cluster of a column of obs, with its most frequent or the chosen labels."""
        if self.adata is None:
            msg = (
                "cluster_key names a column of obs; expected the AnnData. Call annotation.explain(adata, "
                "cluster_key=...)."
            )
            raise ConfigError(msg)
        clusters, clustered = labels_of(self.adata, key)
        clusters, clustered = clusters[self.query.rows], clustered[self.query.rows]
        for name in sorted(counted(clusters[clustered]), key=by_number):
            members = self.sample.part(np.flatnonzero(clusters == name))
            unknown = bool(members.unknown.mean() >= UNKNOWN_SHARE)
            yield from self._groups(name, members, unknown=unknown)

    def note_low_agreement(self, groups: Sequence[ExplainedGroup]) -> None:
        """Add a note on groups whose label the network alone gives to few cells, unless the user chose the labels."""
        chosen = self.chosen and (self.options.cluster_key is not None or any(not group.share for group in groups))
        low = [printable(group.name) for group in groups if group.genes.agreement < LEAST_AGREEMENT]
        if chosen or not low or not self.annotation.smoothed:
            return
        more = f" and {len(low) - NAMED} more" if len(low) > NAMED else ""
        self.notes.append(
            f"The network alone gives another label to most of the explained cells of: {listed(low[:NAMED])}{more}. "
            "Neighbouring cells decided the label, so the genes support a label that the network alone did not give."
        )

    def cells(self, cells: Sequence[str | int]) -> Iterator[ExplainedGroup]:
        """Yield the explanation of each named cell, with its label or with the chosen labels."""
        rows = _rows_of(self._names, cells)
        empty = self.annotation.empty[rows]
        names = self._names
        if empty.any():
            named = ", ".join(printable(str(names[row])) for row in rows[empty][:5])
            self.notes.append(f"Without counts, these cells are not explained ({int(empty.sum())}): {named}.")
        scored = self._scored(rows[~empty])
        for position, row in enumerate(rows[~empty]):
            cell = scored.part(np.array([position]))
            yield from self._groups(str(names[row]), cell, unknown=bool(cell.unknown[0]))

    def _groups(self, name: str, members: ScoredCells, *, unknown: bool) -> Iterator[ExplainedGroup]:
        """Yield the explanations of a group: of its known cells, or of its Unknown cells if ``unknown`` is True.

        The most frequent label of these cells is explained. If the user chose labels, each chosen label is explained
        instead.
        """
        names, decided = self.explainer.names, members.part(np.flatnonzero(members.unknown == unknown))
        counts = np.bincount(decided.best, minlength=len(names))
        for label in (
            [int(counts.argmax())] if not self.chosen else [names.index(chosen_name) for chosen_name in self.chosen]
        ):
            group = self._group(name, label, decided, unknown=unknown)
            yield replace(group, size=len(members), share=float(counts[label] / len(members)))

    def _group(self, name: str, label: int, members: ScoredCells, *, unknown: bool) -> ExplainedGroup:
        genes = self.explainer.explain(label, members.logs, cells_per_label=CELLS_PER_LABEL, top=self.options.top)
        return ExplainedGroup(name, genes, self.unknown_explainer.explain(members) if unknown else None)

    @cached_property
    def _names(self) -> Any:
        """Names of all cells of the query, shape (n,)."""
        return np.asarray(self.annotation.obs_names[:], dtype=object)

    def _scored(self, rows: Rows) -> ScoredCells:
        """Return the scores of cells from their row numbers; no cell may be empty."""
        sampled = self.query.rows
        positions = np.minimum(np.searchsorted(sampled, rows), len(sampled) - 1)
        if (sampled[positions] == rows).all():
            return self.sample.part(positions)
        if self.adata is None:
            outside = int((sampled[positions] != rows).sum())
            msg = (
                f"{with_noun(outside, 'named cell is', 'named cells are')} outside of the query's sample of "
                f"{len(sampled)} cells; expected the AnnData, to read such cells. Call annotation.explain(adata, "
                "cells=...)."
            )
            raise ConfigError(msg)
        read = self.query.engine.embedding.read(
            self.adata,
            layer=self.options.layer,
            scaling="auto",
            gene_key=self.options.gene_key,
            species=self.options.species,
        )
        chunks: list[AlignedCells] = [chunk for row in rows for chunk in read.rows(range(int(row), int(row) + 1), 1)]
        batches = batches_of(self.adata, self.options.batch_key, self.only).codes[rows]
        return ScoredCells.from_cells(self.query, joined(chunks), rows, batches)


def var_rows(embedding: PCAProjection, names: Sequence[str], options: ExplainOptions, adata: AnnData) -> Rows:
    """Return the row in ``var`` of each of U genes of a reference, shape (U,); -1 for a gene that ``var`` lacks."""
    expression = find_expression(adata, layer=options.layer, gene_key=options.gene_key)
    genes = embedding.genes if embedding.imputer is None else embedding.genes + embedding.imputer.genes
    match = match_genes(
        expression.var, genes, minimum_share=0, at_least=0, gene_key=options.gene_key, species=options.species
    )
    columns = dict(zip(genes.symbols, match.columns.tolist(), strict=True))
    of_expression = [str(name) for name in expression.var.index]
    in_var = {str(name): row for row, name in enumerate(adata.var_names)}
    rows = [in_var.get(of_expression[columns[name]], -1) if columns[name] >= 0 else -1 for name in names]
    return np.array(rows, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ReferencePart:
    """Annotation by one of several references. The cells of the other references count as empty.

    Attributes
    ----------
    name
        Name of the reference.
    labels
        Labels of the reference, and Unknown.
    only
        True for the cells that the reference labelled, shape (n,).
    """

    name: str
    annotation: Annotation
    labels: tuple[str, ...]
    only: Bools

    @cached_property
    def given(self) -> set[str]:
        """Labels that cells got from the reference, Unknown among them."""
        return set(np.unique(self.annotation.labels[~self.annotation.empty]).tolist())


def explain_annotation(
    annotation: Annotation,
    adata: AnnData | None,
    options: ExplainOptions,
    *,
    cells: Sequence[str | int] | None = None,
) -> Explanation:
    """Explain an annotation by one reference or by several; see :func:`explain`."""
    if not annotation.queries:
        return explain(annotation, adata, options, cells=cells)
    _check_kind(options, cells)
    parts = list(_parts(annotation))
    rows = None if cells is None else _rows_of(np.asarray(annotation.obs_names[:], dtype=object), cells)
    chosen = options.labels
    if chosen is not None:
        names = list(dict.fromkeys(label for part in parts for label in part.labels))
        source = f"the references that labelled cells ({annotation.reference_name})"
        chosen = list(dict.fromkeys(find_labels(chosen, names, "labels", source=source)))
    kind: GroupKind = "cell" if rows is not None else "label" if options.cluster_key is None else "cluster"
    explanations, keys, notes = list[Explanation](), list[tuple[Any, ...]](), list[str]()
    for part in parts:
        own = None if rows is None else rows[part.only[rows]]
        labels = None if chosen is None else _labels_of(part, parts, chosen, given=kind == "label")
        if own is not None and not len(own):
            continue
        if labels == []:
            if kind != "label":
                notes.append(
                    f"{part.name} has no label {printable(' or '.join(chosen or ()))}, so its cells are not explained."
                )
            continue
        some = structs.replace(options, labels=labels)
        explanation = explain(part.annotation, adata, some, cells=None if own is None else own.tolist(), only=part.only)
        notes += [f"{part.name}: {note}" for note in explanation.notes]
        explanations.append(replace(explanation, reference=part.name))
        keys += _sort_keys(explanation, part, rows)
    joined = _joined(explanations, kind, annotation.reference_name)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return replace(joined, groups=tuple(joined.groups[at] for at in order), notes=tuple(notes))


def _parts(annotation: Annotation) -> Iterator[ReferencePart]:
    """Yield, for each reference, the annotation limited to the cells that the reference labelled."""
    for name, query in fitted_queries(annotation).items():
        only = np.asarray(annotation.columns[REFERENCE] == name)
        part = replace(
            annotation,
            query=query,
            queries={},
            reference_name=name,
            empty=annotation.empty | ~only,
            rejected=annotation.rejected | ~only,
        )
        yield ReferencePart(name, part, (*query.reference.labels.names, UNKNOWN), only)


def _labels_of(part: ReferencePart, parts: Sequence[ReferencePart], chosen: Sequence[str], *, given: bool) -> list[str]:
    """Return the chosen labels that are explained by the reference of a part.

    Cells and clusters can be explained by any label of their reference. If ``given`` is True, a label is explained only
    by references that gave the label to cells. If no cell got the label, the first reference that has the label adds a
    note.
    """
    own = [label for label in chosen if label in part.labels]
    if not given:
        return own
    holders = {label: [other for other in parts if label in other.given] for label in own}
    first = {label: next(other for other in parts if label in other.labels) for label in own}
    return [label for label in own if part in (holders[label] or [first[label]])]


def _sort_keys(explanation: Explanation, part: ReferencePart, rows: Rows | None) -> list[tuple[Any, ...]]:
    """Return a sort key of each group: labels by size, clusters by name, and cells in the given order."""
    groups = explanation.groups
    if rows is not None:
        given = np.flatnonzero(part.only[rows] & ~part.annotation.empty[rows])
        return [(position,) for position in given.repeat(len(groups) // max(len(given), 1)).tolist()]
    if explanation.kind == "cluster":
        return [(by_number(group.name), -group.cells) for group in groups]
    return [(group.unknown is not None, -group.cells) for group in groups]


def _joined(explanations: Sequence[Explanation], kind: GroupKind, reference: str) -> Explanation:
    """Join the explanations by several references into one; each group gets the name of its reference."""
    genes = tuple(dict.fromkeys(gene for explanation in explanations for gene in explanation.gene_names))
    index = {gene: at for at, gene in enumerate(genes)}
    columns = [
        np.array([index[gene] for gene in explanation.gene_names], dtype=np.int64) for explanation in explanations
    ]

    def var_rows(adata: AnnData) -> Rows:
        rows = np.full(len(genes), -1)
        for explanation, own in zip(explanations, columns, strict=True):
            assert explanation.var_rows is not None
            rows[own] = explanation.var_rows(adata)
        return rows

    def of_reference(group: ExplainedGroup, name: str, own: Rows) -> ExplainedGroup:
        attributions = np.full(len(genes), np.nan)
        attributions[own] = group.genes.attributions
        # Two references may give the same label, or label cells of the same cluster, so the title names the reference.
        title = group.name if kind == "cell" else f"{group.name} by {name}"
        return replace(group, name=title, genes=replace(group.genes, attributions=attributions), reference=name)

    pairs = zip(explanations, columns, strict=True)
    groups = tuple(
        of_reference(group, explanation.reference, own) for explanation, own in pairs for group in explanation.groups
    )
    return Explanation(groups, kind, reference, genes, (), var_rows)
