"""Annotation: labels, scores and provenance of the cells of a query, for AnnData and tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from spikgpt.errors import ConfigError, warn, with_noun
from spikgpt.options import CERTAINTY, KEY_ADDED
from spikgpt.scoring.cas import LONGEST_TITLE, CellSet, Document, Labelset
from spikgpt.scoring.compatibility import Compatibility
from spikgpt.scoring.notes import QuerySummary, Tally
from spikgpt.scoring.ontology import NO_TERM, RELEASE, name_of, term_of
from spikgpt.scoring.palette import UNKNOWN_COLOR, palette
from spikgpt.scoring.rejection import RejectionRule
from spikgpt.tables import html_table, html_view
from spikgpt.types import UNKNOWN, AnnotatedQuery, Bools, InputReport, Strings
from spikgpt.version import __version__

if TYPE_CHECKING:
    from anndata import AnnData

# Names of the result columns and arrays in an AnnData, without the prefix ``key_added`` and the underscore after it.
LABEL, BEST_LABEL, BROAD_LABEL = LABELS = "label", "best_label", "label_broad"
# Columns with the Cell Ontology id and the Cell Ontology name of the broad label.
TERM_ID, TERM = ONTOLOGY = "ontology_term_id", "ontology_label"
CONFIDENCE, TYPICALITY, OOD_SCORE = "confidence", "typicality", "ood_score"
PROBABILITIES, CLUSTER, CLUSTER_LABEL = "probabilities", "cluster", "cluster_label"
# Column with the name of the reference that labelled each cell, if several references label a query.
REFERENCE = "reference"
# Name of the typicality in version 0.9. This version still writes a column with this name too.
OLD_TYPICALITY = "familiarity"

# Number of rows in a chunk of the results table.
ROWS = 10_000
# Largest number of labels that the ``repr`` of an annotation names.
LABELS_SHOWN = 5


class Reporter(Protocol):
    """Interface of the writer of reports and explanations, :class:`spikgpt.report.writer.ReportWriter`."""

    def write(
        self,
        annotation: Annotation,
        path: str | Path,
        adata: AnnData | None,
        *,
        map_key: str | None,
        cluster_key: str | None,
        title: str | None,
    ) -> None:
        """Write a report; see :meth:`Annotation.report`."""

    def explain(self, annotation: Annotation, adata: AnnData | None, cells: Any, chosen: Mapping[str, Any]) -> Any:
        """Return the genes behind the labels; see :meth:`Annotation.explain`."""


@dataclass(frozen=True, repr=False)
class Annotation:
    """Labels and scores of n cells, by a reference of L labels.

    Attributes
    ----------
    obs_names
        Names of the n cells, in the order of the query.
    best
        Index of the most probable label of each cell in ``label_names``, shape (n,).
    confidence
        Calibrated probability of the most probable label, shape (n,).
    probabilities
        Calibrated probabilities of all labels, shape (n, L).
    empty
        True for cells without counts, shape (n,). These cells are Unknown with confidence 0.
    broad
        Index of the broad label of each cell in ``broad_names``, shape (n,). The broad label is the most probable
        label, or a broader Cell Ontology term if this label is uncertain.
    label_ids
        Cell Ontology id of each label as the reference states it, or None.
    broad_ids
        Valid Cell Ontology id of each broad name, or "unknown".
    certainty
        Lowest probability that a broad label may have.
    compatibility
        Result of the check whether the reference suits the query; None for a reference of format 1.
    rejected
        True for Unknown cells, shape (n,).
    rule
        Rule that decided which cells are Unknown.
    typicality
        Conformal p-value, shape (n,): share of held-out reference cells with a lower in-distribution score. None for a
        reference of format 1.
    ood_score
        Out-of-distribution (OOD) score, shape (n,), NaN for empty cells. By default a cell with a score above 0 is
        Unknown. None if the rule for Unknown does not use the OOD score.
    batch_key
        Columns of obs with the batches; "inferred" if the batches were inferred from the cells; None for one batch.
    smoothed
        True if probabilities were averaged over neighbouring cells. Smoothing needs at least 100 cells.
    key_added
        Prefix of the names of the results in an AnnData and in tables.
    columns
        Further columns of obs by name, each of shape (n,), such as the reference of each cell.
    facts
        Further entries of ``uns[key_added]`` by name, such as the comparison of several references.
    cluster_labels
        Label of the cluster that each cell belongs to, shape (n,); None without clusters.
    clusters
        Index of the fine cluster of each cell, shape (n,), -1 for empty cells; None without ``majority_vote``.
    excluded_labels
        Labels that no cell could get, because of the options ``labels`` and ``exclude``.
    nearest
        Positions, in the query's sample, of the 3 sample cells nearest to each cell, shape (n, 3). A cell of the sample
        has its own position three times. Empty cells have -1. None for several references.
    query
        Fitted query with its reference, for explanations and reports. None for several references, and for a query that
        was annotated in shards.
    queries
        Fitted query of the cells of each of several references, by the name of the reference. Empty for one reference.
    reporter
        Writer of reports. None for an annotation that :meth:`SpikGPT.annotate` did not make.
    """

    obs_names: Any
    best: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    empty: Bools
    label_names: tuple[str, ...]
    label_ids: tuple[str | None, ...]
    broad: npt.NDArray[np.int16]
    broad_names: tuple[str, ...]
    broad_ids: tuple[str, ...]
    rejected: Bools
    typicality: npt.NDArray[np.float32] | None
    rule: RejectionRule
    compatibility: Compatibility | None
    smoothed: bool
    reference_name: str
    reference_origin: str | None
    input_report: InputReport
    reference_digest: str = ""
    ood_score: npt.NDArray[np.float32] | None = None
    batch_key: str | None = None
    key_added: str = KEY_ADDED
    certainty: float = CERTAINTY
    columns: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    cluster_labels: Strings | None = None
    clusters: npt.NDArray[np.int32] | None = None
    excluded_labels: tuple[str, ...] = ()
    nearest: npt.NDArray[np.int32] | None = None
    query: AnnotatedQuery | None = None
    queries: Mapping[str, AnnotatedQuery] = field(default_factory=dict)
    reporter: Reporter | None = field(default=None, compare=False)

    @property
    def labels(self) -> Strings:
        """Label of each cell after rejection, shape (n,): rejected cells are Unknown."""
        return _text(self._column(LABEL))

    @property
    def best_labels(self) -> Strings:
        """Most probable label of each cell before rejection, shape (n,); cells without counts are Unknown."""
        return _text(self._column(BEST_LABEL))

    @property
    def broad_labels(self) -> Strings:
        """Broad label of each cell after rejection, shape (n,): its label, or a broader term if that is uncertain."""
        return _text(self._column(BROAD_LABEL))

    @property
    def ontology_term_ids(self) -> Strings:
        """Cell Ontology ids of the broad labels, shape (n,); "unknown" for Unknown cells and labels without an id."""
        return _text(self._column(TERM_ID))

    @property
    def ontology_labels(self) -> Strings:
        """Cell Ontology names of the broad labels, shape (n,); "unknown" for cells without a term."""
        return _text(self._column(TERM))

    @property
    def familiarity(self) -> npt.NDArray[np.float32] | None:
        """Deprecated name of :attr:`typicality`."""
        warn("Annotation.familiarity is now called typicality.", category=DeprecationWarning)
        return self.typicality

    @property
    def verdict(self) -> Compatibility | None:
        """Deprecated name of :attr:`compatibility`."""
        warn("Annotation.verdict is now called compatibility.", category=DeprecationWarning)
        return self.compatibility

    @property
    def cutoffs(self) -> RejectionRule:
        """Deprecated name of :attr:`rule`."""
        warn("Annotation.cutoffs is now called rule.", category=DeprecationWarning)
        return self.rule

    @property
    def unknown_fraction(self) -> float:
        """Share of cells that are Unknown."""
        return float(self.rejected.mean()) if self.rejected.size else 0.0

    def counts(self) -> dict[str, int]:
        """Return the number of cells of each label, the largest number first."""
        return {str(label): int(cells) for label, cells in self.summary()["cells"].items()}

    def summary(self) -> pd.DataFrame:
        """Return a table of labels, the most frequent first: number of cells, share of all cells, mean confidence."""
        labels: Any = self._column(LABEL)
        grouped = pd.Series(self.confidence).groupby(labels, observed=True)
        cells, confidence = grouped.size(), grouped.mean()
        table = pd.DataFrame({"cells": cells, "share": cells / len(self.best), "confidence": confidence})
        return table.sort_values("cells", ascending=False, kind="stable")

    def obs(self) -> pd.DataFrame:
        """Return the columns that :meth:`write_to` adds to ``obs``: labels, Cell Ontology terms and scores."""
        columns: dict[str, Any] = {self.named(name): self._column(name) for name in (*LABELS, *ONTOLOGY)}
        columns[self.named(CONFIDENCE)] = self.confidence
        if self.typicality is not None:
            columns[self.named(TYPICALITY)] = columns[self.named(OLD_TYPICALITY)] = self.typicality
        if self.ood_score is not None:
            columns[self.named(OOD_SCORE)] = self.ood_score
        if self.clusters is not None:
            names = [str(number) for number in range(self.clusters.max(initial=-1) + 1)]
            columns[self.named(CLUSTER)] = pd.Categorical.from_codes(self.clusters, pd.Index(names))
        if self.cluster_labels is not None:
            columns[self.named(CLUSTER_LABEL)] = pd.Categorical(self.cluster_labels)
        columns |= {self.named(name): values for name, values in self.columns.items()}
        return pd.DataFrame(columns, index=pd.Index(self.obs_names[:]))

    def obsm(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the array that :meth:`write_to` adds to ``obsm``: the probabilities of all labels."""
        return {self.named(PROBABILITIES): self.probabilities}

    def uns(self, target: Any = None) -> dict[str, Any]:
        """Return the entries that :meth:`write_to` adds to ``uns``: facts on the annotation, and colours for scanpy.

        Parameters
        ----------
        target
            AnnData that the labels are written into; see :meth:`notes`.
        """
        check = self.compatibility
        provenance = {
            "reference": self.reference_name,
            "reference_origin": self.reference_origin or "",
            "reference_digest": self.reference_digest,
            "spikgpt_version": __version__,
            "labels": np.array(self.label_names, dtype=object),
            "excluded_labels": np.array(self.excluded_labels, dtype=object),
            "orthologues_of": self.input_report.orthologues_of or "",
            "ontology_term_ids": np.array([term_of(term) for term in self.label_ids], dtype=object),
            "ontology_release": RELEASE,
            "certainty": self.certainty,
            "compatibility": check.kind if check else "",
            "evidence": check.evidence if check else "",
            "evidence_values": check.values if check else {},
            "rule": self.rule.rule,
            "threshold": np.nan if self.rule.threshold is None else self.rule.threshold,
            "unknown_rate": np.nan if self.rule.unknown_rate is None else self.rule.unknown_rate,
            "batch_key": self.batch_key or "",
            "values": f"{self.input_report.values} from {self.input_report.source}",
            "scaling": self.input_report.scaling,
            "smoothing": self.smoothed,
            "genes_matched": self.input_report.genes_matched,
            "genes_total": self.input_report.genes_total,
            "notes": np.array(self.notes(target), dtype=object),
        }
        # This version still writes these entries under the names of version 0.9 too.
        provenance |= {"verdict": provenance["compatibility"], "neighbours": self.smoothed, **self.facts}
        colors = {f"{self.named(name)}_colors": self.colors(self._column(name).categories) for name in LABELS}
        if self.cluster_labels is not None:
            colors[f"{self.named(CLUSTER_LABEL)}_colors"] = self.colors(np.unique(self.cluster_labels))
        return {self.key_added: provenance} | colors

    def named(self, name: str) -> str:
        """Return a name of a result with the prefix ``key_added``, such as "spikgpt_label" for "label"."""
        return f"{self.key_added}_{name}"

    def colors(self, names: Iterable[str]) -> npt.NDArray[np.object_]:
        """Return the colours of labels as hex codes: fixed for each label of a reference, and grey for Unknown."""
        known = [name for name in dict.fromkeys(self.label_names + self.broad_names) if name != UNKNOWN]
        codes = dict(zip(known, palette(len(known)), strict=True)) | {UNKNOWN: UNKNOWN_COLOR}
        return np.array([codes[name] for name in names], dtype=object)

    @property
    def query_summary(self) -> QuerySummary:
        """Numbers of cells, rule and compatibility, from which the sentences and notes are written."""
        tally = Tally.from_cells(self.best, self.rejected, self.empty, self.confidence, self.label_names, self.rule)
        return QuerySummary(
            tally=tally,
            report=self.input_report,
            rule=self.rule,
            compatibility=self.compatibility,
            label_names=self.label_names,
            label_ids=self.label_ids,
            reference_name=self.reference_name,
            batch_key=self.batch_key,
        )

    def sentences(self) -> list[str]:
        """Return sentences that describe the input, the share of Unknown cells, and the compatibility."""
        return self.query_summary.sentences()

    def notes(self, target: Any = None) -> list[str]:
        """Return a sentence on each unusual fact, such as few genes or many Unknown cells.

        Parameters
        ----------
        target
            AnnData that the labels are written into. A note then names the columns of this AnnData that are replaced.
        """
        notes = self.query_summary.notes()
        return notes if target is None else notes + self._replaced(target)

    def _replaced(self, target: AnnData) -> list[str]:
        """Return a note on what this annotation replaces: labels by another reference, or data of other tools."""
        columns = list(self.obs())
        before = target.uns.get(self.key_added)
        if not isinstance(before, Mapping) or "spikgpt_version" not in before:
            replaced = [f"obs[{name!r}]" for name in columns if name in target.obs.columns]
            replaced += [f"obsm[{name!r}]" for name in self.obsm() if name in target.obsm]
            names = (self.key_added, *(f"{self.named(name)}_colors" for name in LABELS))
            replaced += [f"uns[{name!r}]" for name in names if name in target.uns]
            to_keep = "To keep such data, use key_added='NAME' (--key-added NAME)."
            return [f"Data of other tools in {', '.join(replaced)} was replaced. {to_keep}"] if replaced else []
        name, digest = str(before.get("reference", "")), str(before.get("reference_digest", ""))
        if (name, digest) == (self.reference_name, self.reference_digest):
            return []
        other_reference = repr(name) if name != self.reference_name else f"{name!r} of the digest {digest or 'unknown'}"
        note = f"The labels by the reference {other_reference} were replaced."
        # Optional columns of the earlier annotation stay in obs if this annotation does not write them.
        optional = (self.named(name) for name in (TYPICALITY, OLD_TYPICALITY, OOD_SCORE, CLUSTER_LABEL, REFERENCE))
        if stale := [f"obs[{name!r}]" for name in optional if name not in columns and name in target.obs.columns]:
            note += f" {' and '.join(stale)} may still be by {other_reference}."
        return [f"{note} To keep the labels of both, use key_added='NAME' (--key-added NAME)."]

    def write_to(self, adata: AnnData) -> None:
        """Write the labels into ``obs``, the probabilities into ``obsm``, and facts on the annotation into ``uns``.

        If ``adata`` is a view of another AnnData, the view becomes a copy.

        Warns
        -----
        SpikGPTWarning
            For each of the :meth:`notes`, and if the AnnData is a view.
        """
        from anndata import ImplicitModificationWarning

        uns = self.uns(adata)
        if adata.is_view:
            msg = (
                "The labels were written to a view of an AnnData, which is a copy now; its parent has no labels. To "
                "keep them, give the view a name: part = adata[...].copy()."
            )
            warn(msg)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImplicitModificationWarning)
            for name, column in self.obs().items():
                adata.obs[name] = column.array
            for name, array in self.obsm().items():
                adata.obsm[name] = array
            for name, value in uns.items():
                adata.uns[name] = value
        warn(*uns[self.key_added]["notes"])

    def table(self) -> pd.DataFrame:
        """Return a table with one row per cell: the columns of :meth:`obs`, and the probability of each label."""
        return self._rows(self.obs(), slice(None))

    def table_chunks(self) -> Iterator[pd.DataFrame]:
        """Yield the rows of :meth:`table` in chunks of 10,000 rows."""
        obs = self.obs()
        for start in range(0, max(len(obs), 1), ROWS):
            yield self._rows(obs, slice(start, start + ROWS))

    def cell_sets(self) -> list[CellSet]:
        """Return one set of cells for each label, and one for each broad label, as :meth:`to_cas` writes them."""
        terms, sets = dict(zip(self.label_names, map(term_of, self.label_ids), strict=True)), []
        obs, names = self.obs().reset_index(drop=True), np.asarray(self.obs_names[:], dtype=object).astype(str)
        for name, keys in ((LABEL, [LABEL]), (BROAD_LABEL, [BROAD_LABEL, TERM_ID])):
            groups = obs.groupby([self.named(key) for key in keys], observed=True).indices
            for key, rows in sorted((key if isinstance(key, tuple) else (key,), rows) for key, rows in groups.items()):
                term = key[1] if len(keys) > 1 else terms.get(key[0], NO_TERM)
                facts = {"cells": len(rows), "mean_confidence": f"{self.confidence[rows].mean():.4f}"}
                sets.append(
                    CellSet.from_label(self.named(name), str(key[0]), term, names[rows].tolist(), self.rationale, facts)
                )
        return sets

    @property
    def rationale(self) -> str:
        """Sentence with the version of SpikGPT and the reference that gave the labels."""
        digest = f", digest {self.reference_digest}" if self.reference_digest else ""
        return f"Label transfer by SpikGPT {__version__} from the reference {self.reference_name!r}{digest}."

    def report(
        self,
        path: str | Path,
        adata: AnnData | None = None,
        *,
        map_key: str | None = None,
        cluster_key: str | None = None,
        title: str | None = None,
    ) -> Path:
        """Write a report to an HTML file that needs no network, and return the path of the file.

        Parameters
        ----------
        path
            File to write, such as ``report.html``. An existing file is replaced.
        adata
            The annotated query, which is not changed. With ``adata``, the report also shows the columns of ``obs``, the
            agreement of labels and clusters, and the marker genes of candidates for new types. The map of the cells can
            then come from ``obsm``.
        map_key
            Key of the array in ``obsm`` with the map of the cells. With None, the map is ``X_umap`` or a similar array
            of ``adata``. Without such an array, a UMAP is computed from the principal components of the query.
        cluster_key
            Column of ``obs`` with clusters. With None, a column such as ``leiden`` is used if ``adata`` has one.
        title
            Title of the report; None for a title with the name of the reference.

        Raises
        ------
        ConfigError
            When ``obsm`` has no array ``map_key``, ``adata`` has other cells than the annotation, or the file cannot be
            written.
        LabelsError
            When ``obs`` has no column ``cluster_key``.
        """
        options = {"map_key": map_key, "cluster_key": cluster_key, "title": title}
        self._writer.write(self, path, adata, **options)
        return Path(path)

    def explain(
        self,
        adata: AnnData | None = None,
        *,
        labels: Sequence[str] | None = None,
        cells: Sequence[str | int] | None = None,
        cluster_key: str | None = None,
        top: int = 20,
    ) -> Any:
        """Return the genes behind the labels, and the reasons for Unknown.

        With several references, each label is explained by the reference that gave the label.

        Parameters
        ----------
        adata
            The annotated query. Needed to explain clusters, or to explain cells outside of the query's sample, which
            has at most 20,000 cells.
        labels, cells, cluster_key, top
            As for :meth:`spikgpt.SpikGPT.explain`.

        Returns
        -------
        spikgpt.explain.explanation.Explanation

        Raises
        ------
        ConfigError
            When a reference was trained on an embedding instead of genes, or an option does not fit the query.
        """
        return self._writer.explain(self, adata, cells, {"labels": labels, "cluster_key": cluster_key, "top": top})

    @property
    def _writer(self) -> Reporter:
        if self.reporter is None:
            msg = (
                "This annotation was not made by SpikGPT.annotate; expected such an annotation for reports and "
                "explanations. Annotate the cells again."
            )
            raise ConfigError(msg)
        return self.reporter

    def to_cas(
        self, path: str | Path, *, title: str | None = None, author_name: str = "", more: Iterable[CellSet] = ()
    ) -> None:
        """Write the labels to a JSON file of the Cell Annotation Schema (CAS).

        The file has one set of cells for each label, and one for each broad label. Each set has its cell names and its
        Cell Ontology term.

        Parameters
        ----------
        title
            Title of the data set, of at most 200 characters; None for a title with the name of the reference.
        author_name
            First and last name of the author, which the schema requires.
        more
            Further sets of cells, such as those of :meth:`spikgpt.report.clusters.ClusterReport.cell_sets`.
        """
        described = {
            LABEL: f"{self.rationale} Unknown cells: {self.rule.rule}.",
            BROAD_LABEL: f"Most specific Cell Ontology term above the label with a probability of {self.certainty:g}.",
            CLUSTER_LABEL: "Most frequent label of the cells of a cluster.",
        }
        sets = [*self.cell_sets(), *more]
        used = {cell_set.labelset for cell_set in sets}
        Document(
            title=(title or f"Cell types by the reference {self.reference_name!r}")[:LONGEST_TITLE],
            author_name=author_name,
            labelsets=[
                Labelset(name=self.named(name), description=text)
                for name, text in described.items()
                if self.named(name) in used
            ],
            annotations=sets,
        ).write(Path(path))

    def __repr__(self) -> str:
        counts = self.counts()
        unknown = f"{UNKNOWN} {counts.pop(UNKNOWN, 0)} ({100 * self.unknown_fraction:.1f}%)"
        largest = [f"{name} {cells}" for name, cells in list(counts.items())[:LABELS_SHOWN]]
        shown = ", ".join([*largest, *(["..."] if len(counts) > LABELS_SHOWN else []), unknown])
        return f"Annotation of {with_noun(len(self.best), 'cell')} by {self.reference_name!r}: {shown}"

    def _repr_html_(self) -> str:
        facts, summary = self.query_summary, self.summary()
        rows = [
            # The row of Unknown cells shows no confidence, because a confidence belongs to a label.
            (label, f"{cells:,}", f"{100 * share:.1f}%", "" if label == UNKNOWN else f"{confidence:.2f}")
            for label, cells, share, confidence in summary.to_records().tolist()
        ]
        columns = ("label", "cells", "share", "mean confidence")
        table = html_table(columns, rows, numbers=1, colors=self.colors(summary.index).tolist())
        title = f"{with_noun(len(self.best), 'cell', form=',')} by {self.reference_name!r}"
        texts, notes = ([text for text in some if text != facts.verdict] for some in (facts.sentences(), facts.notes()))
        return html_view(facts.verdict or title, [f"{title}.", *texts], [table], notes)

    def _column(self, name: str) -> pd.Categorical:
        """Return a result column as categories in alphabetical order; categories without cells are left out."""
        if name == BEST_LABEL:
            return _categorical(self.best, self.label_names, self.empty | ~(self.confidence > 0), UNKNOWN)
        if name == LABEL:
            return _categorical(self.best, self.label_names, self.rejected, UNKNOWN)
        if name == BROAD_LABEL:
            return _categorical(self.broad, self.broad_names, self.rejected, UNKNOWN)
        texts = self.broad_ids if name == TERM_ID else [name_of(term) for term in self.broad_ids]
        return _categorical(self.broad, texts, self.rejected, NO_TERM)

    def _rows(self, obs: pd.DataFrame, part: slice) -> pd.DataFrame:
        some = obs.iloc[part]
        names = [f"probability of {name}" for name in self.label_names]
        probabilities = pd.DataFrame(self.probabilities[part], columns=names, index=some.index)
        return pd.concat([some, probabilities], axis=1).rename_axis("cell")


def _categorical(codes: npt.NDArray[np.int16], texts: Sequence[str], unknown: Bools, missing: str) -> pd.Categorical:
    """Return ``texts[code]`` of each cell as a categorical; cells that are ``unknown`` get the text ``missing``."""
    texts, codes = (*texts, missing), np.where(unknown, np.int16(len(texts)), codes)
    present = np.unique(codes).tolist()
    names = sorted({texts[code] for code in present})
    rank = {name: number for number, name in enumerate(names)}
    category = np.zeros(len(texts), dtype=np.int16)
    category[present] = [rank[texts[code]] for code in present]
    return pd.Categorical.from_codes(category[codes], pd.Index(names, dtype=object))


def _text(column: pd.Categorical) -> Strings:
    text: Strings = np.asarray(column.categories, dtype=np.str_)[column.codes]
    return text
