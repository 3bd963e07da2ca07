"""Choice of a reference for a query, and annotation with the chosen reference or with several.

Each available reference is compared with a sample of at most 1,000 cells of the query. The sample does not depend on
the order of the cells. The comparison is the compatibility check of :mod:`spikgpt.scoring.compatibility`.

References are ranked by r times the share of cells that are not Unknown. r is the correlation of a label's mean
expression in the query with its profile in the reference. The check gives r as the mean contrast, -log(1.02 - r). The
share of typical cells is not used for the ranking: a large batch effect lowers this share for the right reference too.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from msgspec import structs

from spikgpt.api import SpikGPT, written_to
from spikgpt.arguments import check_cells
from spikgpt.cells.align import CHUNK
from spikgpt.cells.cell_cache import CellCache
from spikgpt.cells.expression import Cells, Expression, find_expression
from spikgpt.cells.genes import MINIMUM_GENES, species_of
from spikgpt.cells.obs import batches_of
from spikgpt.cells.progress import progress_bar
from spikgpt.cells.reading import open_cells
from spikgpt.constants import CONSTANTS
from spikgpt.engines.opening import open_engine
from spikgpt.engines.query_model import QueryModel
from spikgpt.errors import ConfigError, DataError, SpikGPTError, listed, with_noun
from spikgpt.explain.query import FittedQuery
from spikgpt.options import (
    CERTAINTY,
    KEY_ADDED,
    AnnotateOptions,
    EngineOptions,
    Scaling,
    Species,
    arguments_as,
    checked_keywords,
)
from spikgpt.pipeline import annotate as annotate_by_one
from spikgpt.pipeline import cache_cells, fit_query, read_query
from spikgpt.reference.format import FILES, MANIFEST
from spikgpt.reference.hub import Hub
from spikgpt.reference.registry import AUTO, separate_names, shipped_references
from spikgpt.sampling import sample_of
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.compatibility import OTHER, OTHER_GENES, Comparison, Compatibility
from spikgpt.scoring.rejection import RejectionRule
from spikgpt.several import NamedModel, annotate_by_several
from spikgpt.sharing import open_reference
from spikgpt.tables import html_table, html_view
from spikgpt.types import Integers

LIMITS, MATCH = CONSTANTS.choice, CONSTANTS.label_match


@dataclass(frozen=True)
class ReferenceScore:
    """Comparison of one reference with a query.

    Attributes
    ----------
    name
        Name of the reference, for ``--model`` and :meth:`spikgpt.SpikGPT.from_pretrained`.
    suits
        True if the reference suits the query.
    reason
        Reason in words why the reference suits the query or not.
    correlation
        Correlation of a label's mean expression in the query with its profile in the reference, averaged over cells.
        None if the correlation cannot be computed.
    agreement
        Correlation between query and reference of the expression differences between labels. None if fewer than two
        labels have enough cells.
    genes_found, genes_total
        Number of the reference's genes that the query has, and number of all genes of the reference.
    unknown_fraction
        Share of the sampled cells that are Unknown with this reference; None if the cells could not be read.
    """

    name: str
    suits: bool
    reason: str
    correlation: float | None = None
    agreement: float | None = None
    genes_found: int = 0
    genes_total: int = 0
    unknown_fraction: float | None = None

    @property
    def strength(self) -> float:
        """Value by which references are ranked: correlation times the share of cells that are not Unknown.

        The correlation alone if the reference does not suit the query; -inf if there is no correlation.
        """
        if self.correlation is None:
            return -np.inf
        return self.correlation * (1 - (self.unknown_fraction or 0.0)) if self.suits else self.correlation

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Sort key of a reference: suitable references come first, then those with a higher strength, then by name."""
        return not self.suits, -self.strength, self.name


@dataclass(frozen=True, repr=False)
class ReferenceChoice:
    """Comparison of a query with several references, the best first.

    Attributes
    ----------
    scores
        Comparison with each reference.
    cells
        Number of cells in the sample of the query.
    """

    scores: tuple[ReferenceScore, ...]
    cells: int

    @property
    def best(self) -> str | None:
        """Name of the best reference that suits the query; None if no reference does."""
        return next((score.name for score in self.scores if score.suits), None)

    @property
    def ties(self) -> tuple[str, ...]:
        """Names of the other references that suit the query about as well as the best."""
        suitable = [score for score in self.scores if score.suits]
        return tuple(score.name for score in suitable[1:] if suitable[0].strength - score.strength <= LIMITS.tie)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per reference, the best first."""
        rows = [
            {
                "suits": score.suits,
                "correlation": score.correlation,
                "agreement": score.agreement,
                "genes_found": score.genes_found,
                "genes_total": score.genes_total,
                "unknown": score.unknown_fraction,
                "reason": score.reason,
            }
            for score in self.scores
        ]
        index = pd.Index([score.name for score in self.scores], name="reference")
        table = pd.DataFrame(rows, index=index)
        numbers = ["correlation", "agreement", "unknown"]
        return table.astype(dict.fromkeys(numbers, float)) if rows else table

    def sentences(self) -> list[str]:
        """Return sentences that name the best reference, the reason, and the other references."""
        number = with_noun(len(self.scores), "reference was", "references were")
        compared = f"{number} compared with {with_noun(self.cells, 'cell')}"
        if self.best is None:
            far = "; ".join(f"{score.name}: {score.reason}" for score in self.scores)
            return [f"No reference suits the query; {compared}. {far}."]
        first, other_scores = self.scores[0], self.scores[1:]
        texts = [f"Reference {first.name}: {first.reason} ({', '.join(_figures(first))}). {compared}."]
        if self.ties:
            texts.append(
                f"About equally good, by r times the share of cells that are not Unknown: {listed(self.ties)}."
            )
        if other_scores:
            texts.append(f"Other references: {'; '.join(map(_described, other_scores))}.")
        return texts

    def notes(self) -> tuple[str, ...]:
        """Return one note if no reference suits the query, or if several suit it about equally well; else no note."""
        if self.best is None:
            return (self.sentences()[0],)
        if not self.ties:
            return ()
        ties = listed(self.ties)
        return (
            f"The references {self.best} and {ties} suit the query about equally well; {self.best} was used. To use "
            "another: model='NAME' (--model NAME). To use several: model=['NAME', 'NAME'] (--model NAME,NAME).",
        )

    def facts(self) -> dict[str, Any]:
        """Return the comparison of the references as entries for ``uns["spikgpt"]``."""
        table = self.table()
        columns = {str(name): table[name].to_numpy() for name in table if name != "reason"}
        texts = {"reference": [score.name for score in self.scores], "reason": [score.reason for score in self.scores]}
        arrays = {name: np.array(values, dtype=object) for name, values in texts.items()}
        return {"choice": arrays | columns, "ties": np.array(self.ties, dtype=object)}

    def __repr__(self) -> str:
        lines = [f"{'*' if score.name == self.best else ' '} {_described(score)}" for score in self.scores]
        best = "none suits the query" if self.best is None else repr(self.best)
        return "\n".join([f"ReferenceChoice: {best}, from {with_noun(self.cells, 'cell')}", *lines])

    def _repr_html_(self) -> str:
        rows = [
            (
                score.name,
                "yes" if score.suits else "no",
                "-" if score.correlation is None else f"{score.correlation:.2f}",
                f"{score.genes_found} / {score.genes_total}",
                "-" if score.unknown_fraction is None else f"{100 * score.unknown_fraction:.1f}%",
                score.reason,
            )
            for score in self.scores
        ]
        columns = ("reference", "suits", "correlation", "genes", "Unknown", "reason")
        heading = "No reference suits the query" if self.best is None else f"Best reference: {self.best}"
        # If no reference suits the query, the note is equal to the first sentence.
        notes = () if self.best is None else self.notes()
        return html_view(heading, self.sentences()[:1], [html_table(columns, rows, numbers=6)], notes)


def _described(score: ReferenceScore) -> str:
    """Return a text with the name of a reference, its figures, and the reason why it suits the query or not."""
    return f"{score.name}: {', '.join([*_figures(score), 'suits' if score.suits else 'does not suit'])}: {score.reason}"


def _figures(score: ReferenceScore) -> list[str]:
    """Return the correlation as text, and the share of Unknown cells if the reference suits the query."""
    figures = [] if score.correlation is None else [f"r = {score.correlation:.2f}"]
    if score.suits and score.unknown_fraction is not None:
        figures.append(f"{100 * score.unknown_fraction:.0f}% Unknown")
    return figures


def open_model(
    name: str | Path, engine: EngineOptions | None = None, *, scgpt: Path | None = None, hub: Hub | None = None
) -> NamedModel:
    """Open a reference and its engine."""
    reference = open_reference(name, hub=hub)
    return NamedModel(str(name), reference, open_engine(reference, engine, scgpt=scgpt, hub=hub))


def models_at_hand(
    engine: EngineOptions | None = None, *, scgpt: Path | None = None, hub: Hub | None = None
) -> tuple[list[NamedModel], list[ReferenceScore]]:
    """Open the references in this package and in the local cache of the Hub, without a connection to the Hub.

    If the cache has several commits of a repository, the commit of the main branch is opened.

    Returns
    -------
    The opened references, and a score with the problem of each reference that could not be opened.
    """
    hub = replace(hub or Hub(), local_files_only=True)
    addresses = {name: name for name in shipped_references()}
    for cached in sorted(hub.cached((*FILES, MANIFEST)), key=lambda commit: "main" not in commit.refs):
        addresses.setdefault(cached.repository, f"{cached.repository}@{cached.commit}")
    models, failed = dict[str, NamedModel](), list[ReferenceScore]()
    for name, address in addresses.items():
        try:
            model = replace(open_model(address, engine, scgpt=scgpt, hub=hub), name=name)
        except SpikGPTError as error:
            failed.append(ReferenceScore(name, False, f"cannot be opened: {error}"))
        else:
            models.setdefault(model.reference.digest, model)
    return list(models.values()), failed


def choose(
    cells: Cells, models: Sequence[NamedModel], options: AnnotateOptions, *, failed: Sequence[ReferenceScore] = ()
) -> ReferenceChoice:
    """Compare each reference with a sample of the query's cells, and rank the references.

    Parameters
    ----------
    failed
        Scores of references that could not be opened.

    Raises
    ------
    DataError
        When the cells cannot be read.
    """
    expression = find_expression(cells, layer=options.layer, gene_key=options.gene_key)
    sample, batches = _sample(cells, expression, options.batch_key)
    # The sample has a single matrix and no layers. The default rule for Unknown is used for all references.
    plain = structs.replace(options.plain(), layer=None)
    species = species_of(expression.var, options.gene_key)
    scores = list(failed)
    with progress_bar("Comparing", len(models), options.progress) as bar:
        for model in models:
            scores.append(_score(model, sample, batches, species, plain))
            bar.update(1)
    return ReferenceChoice(tuple(sorted(scores, key=lambda score: score.rank)), sample.n_obs)


def _sample(cells: Cells, expression: Expression, batch_key: str | None) -> tuple[AnnData, Integers]:
    """Return a sample of the cells that are not empty, with the values as stored, and the batch of each sampled cell.

    The sample depends on neither the order of cells nor that of genes.
    """
    # The weights are whole numbers, so that sums of counts are exact and do not depend on the order of genes.
    weights = np.array([zlib.crc32(str(name).encode()) >> 12 for name in expression.var.index], dtype=np.float64)
    keys, filled = np.zeros(expression.n_cells), np.zeros(expression.n_cells, dtype=bool)
    for start in range(0, expression.n_cells, CHUNK):
        rows = expression.rows(start, min(start + CHUNK, expression.n_cells))
        part = slice(start, start + rows.shape[0])
        keys[part] = rows.astype(np.float64) @ (weights - 2**19)
        filled[part] = np.diff(rows.indptr) > 0
    present = np.flatnonzero(filled)
    chosen = present[sample_of(keys[present], LIMITS.sample_cells)]
    some = expression.part(chosen)
    obs = pd.DataFrame(index=pd.Index(map(str, chosen)))
    return AnnData(some.rows(0, len(chosen)), obs=obs, var=some.var), batches_of(cells, batch_key).codes[chosen]


def _score(
    model: NamedModel, sample: AnnData, batches: Integers, species: str | None, options: AnnotateOptions
) -> ReferenceScore:
    """Compare a reference with a sample of a query's cells."""
    reference, engine, name = model.reference, model.engine, model.name
    if engine.embedding.kind != "pca":
        return ReferenceScore(
            name, False, f"its embedding {engine.embedding.kind} cannot be compared; to use this reference, name it"
        )
    try:
        query = read_query(engine, sample, options)
        with CellCache() as cache:
            cache_cells(query, cache, False)
            fitted = fit_query(reference, engine, cache, query.report, options, batches)
    except DataError as error:
        return ReferenceScore(name, False, str(error), genes_total=len(reference.genes))
    assert fitted.rule is not None  # fit_query sets the rule
    calibrated = fitted.calibrated(reference.thresholds, fitted.scores.probabilities)
    unknown = fitted.rule.is_unknown(replace(fitted.scores, probabilities=calibrated))
    comparison, report = fitted.comparison or Comparison(0), fitted.report
    of_reference = species_of(reference.genes)
    # If the user names the species of the query, its genes were mapped to the species of the reference.
    against = _reason_against(fitted, of_reference if options.species else species, of_reference)
    genes = f"{report.genes_matched} of {report.genes_total} genes found"
    return ReferenceScore(
        name,
        suits=against is None,
        reason=against or f"the profiles of its labels agree with the query, {genes}",
        correlation=_correlation(fitted),
        agreement=comparison.correlation,
        genes_found=report.genes_matched,
        genes_total=report.genes_total,
        unknown_fraction=float(unknown.mean()),
    )


def _correlation(fitted: QueryModel) -> float | None:
    """Return the correlation r from the mean contrast -log(1.02 - r); None if there is no contrast."""
    contrast = None if fitted.match is None or fitted.comparison is None else fitted.match.mean_contrast
    return None if contrast is None else MATCH.largest_correlation - float(np.exp(-contrast))


def _reason_against(fitted: QueryModel, species: str | None, of_reference: str | None) -> str | None:
    """Return the reason why a reference does not suit a query; None if the reference suits the query."""
    comparison, check, report = fitted.comparison or Comparison(0), fitted.compatibility, fitted.report
    if species != of_reference:
        return f"the query looks like {species or 'human'}, and the reference is {of_reference or 'human'}"
    if report.genes_matched < min(MINIMUM_GENES, report.genes_total):
        return f"{report.genes_matched} of {report.genes_total} genes found; expected at least {MINIMUM_GENES}"
    if check is None:
        return "its format 1 has no compatibility check"
    if not check.usable:
        return check.evidence
    if (correlation := _correlation(fitted)) is None:
        return "too few cells of one type to compare"
    if correlation < LIMITS.least_correlation:
        return f"the profiles of its labels differ; expected r of at least {LIMITS.least_correlation:g}"
    if comparison.correlation is not None and comparison.correlation < LIMITS.least_agreement:
        agreement = f"an agreement of {comparison.correlation:.2f}"
        return f"{OTHER_GENES}: {agreement}, expected at least {LIMITS.least_agreement:g}"
    return None


def annotate_by_best(
    cells: Cells, models: Sequence[NamedModel], options: AnnotateOptions, *, failed: Sequence[ReferenceScore] = ()
) -> tuple[Annotation, ReferenceChoice, NamedModel]:
    """Label every cell of a query by the reference that suits the query best; the query is not changed.

    If no reference suits the query, all cells are Unknown, and the best labels are those of the nearest reference.

    Returns
    -------
    The annotation, the comparison of the references, and the reference that gave the labels.

    Raises
    ------
    DataError
        When no reference can read the cells.
    """
    choice = choose(cells, models, options, failed=failed)
    nearest = next((score.name for score in choice.scores if score.unknown_fraction is not None), None)
    if nearest is None:
        raise DataError(" ".join(choice.sentences()))
    model = next(model for model in models if model.name == nearest)
    annotation = annotate_by_one(model.reference, model.engine, cells, options)
    if choice.best is None:
        annotation = _refused(annotation, f"{nearest} is nearest: {choice.scores[0].reason}")
    report = replace(annotation.input_report, notes=annotation.input_report.notes + choice.notes())
    return replace(annotation, input_report=report, facts=choice.facts()), choice, model


def _refused(annotation: Annotation, evidence: str) -> Annotation:
    """Return an annotation whose cells are all Unknown, because no reference suits the query."""
    rule, query = RejectionRule("no available reference suits this query"), annotation.query
    compatibility = Compatibility(OTHER, evidence, {})
    if isinstance(query, FittedQuery):
        # Explanations apply the rule to the query's sample. Limits of infinity make all these cells Unknown.
        limits = np.full(len(annotation.label_names), np.inf)
        model = replace(query.model, rule=replace(rule, limits=limits), compatibility=compatibility)
        query = replace(query, model=model)
    rejected = np.ones_like(annotation.rejected)
    return replace(annotation, rejected=rejected, ood_score=None, rule=rule, compatibility=compatibility, query=query)


@checked_keywords
def choose_reference(
    cells: AnnData | str | Path,
    references: Sequence[str | Path | SpikGPT] | None = None,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    batch_key: str | None = "auto",
    progress: bool | None = None,
) -> ReferenceChoice:
    """Compare references with a sample of at most 1,000 cells, and rank them.

    Parameters
    ----------
    cells
        AnnData object, or path of a file of cells. The cells are not changed.
    references
        References: names, folders or opened references. None for all references in this package and in the local cache
        of the Hub. The Hub is not contacted.
    layer, gene_key, batch_key, progress
        As for :meth:`spikgpt.SpikGPT.annotate`.

    Returns
    -------
    ReferenceChoice
        The name of the best reference is ``best``, and ``table()`` compares all references.

    Raises
    ------
    DataError
        When the cells cannot be read.
    """
    options = arguments_as(AnnotateOptions, locals())
    models, failed = models_at_hand() if references is None else ([_opened(reference) for reference in references], [])
    if isinstance(cells, str | Path):
        with open_cells(cells) as opened:
            return choose(opened, models, options, failed=failed)
    check_cells(cells, "choose_reference", paths=True)
    return choose(cells, models, options, failed=failed)


@checked_keywords
def annotate(
    cells: AnnData | str | Path,
    model: str | Path | SpikGPT | Sequence[str | Path | SpikGPT] = AUTO,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    batch_key: str | None = "auto",
    labels: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    unknown_rate: float | None = None,
    threshold: float | None = None,
    reference_cutoff: bool = False,
    smoothing: bool = True,
    scaling: Scaling = "auto",
    cluster_key: str | None = None,
    majority_vote: bool = False,
    certainty: float = CERTAINTY,
    batch_size: int | None = None,
    progress: bool | None = None,
    key_added: str = KEY_ADDED,
) -> Annotation:
    """Label every cell, by a reference that is chosen for the cells, or by several references.

    Parameters
    ----------
    cells
        AnnData object, or path of a file of cells, as for :meth:`spikgpt.SpikGPT.annotate`.
    model
        ``auto`` chooses the best reference in this package and in the cache of the Hub; see :func:`choose_reference`.
        Otherwise a reference, or a list of references for a query of several tissues: names, folders or opened
        references. With several references, each cell gets the label of the reference that fits the cell best, and
        ``obs["spikgpt_reference"]`` names this reference.
    layer, gene_key, species, batch_key, unknown_rate, threshold, reference_cutoff, smoothing, scaling, certainty
        As for :meth:`spikgpt.SpikGPT.annotate`.
    labels, exclude, cluster_key, majority_vote
        As for :meth:`spikgpt.SpikGPT.annotate`, for one reference only.
    batch_size, progress, key_added
        As for :meth:`spikgpt.SpikGPT.annotate`.

    Raises
    ------
    DataError
        When the cells cannot be read or share too few genes with a reference.
    ConfigError
        When an option is out of range.

    Warns
    -----
    SpikGPTWarning
        For anything unusual in the cells: the notes of the annotation.
    """
    options = arguments_as(AnnotateOptions, locals())
    if isinstance(model, str):
        model = AUTO if model == AUTO else separate_names(model)
    if model == AUTO:
        models, failed = models_at_hand()
        return written_to(cells, lambda opened: annotate_by_best(opened, models, options, failed=failed)[0])
    named = [_opened(reference) for reference in ([model] if isinstance(model, Path | SpikGPT) else model)]
    return written_to(cells, lambda opened: annotate_by_several(named, opened, options))


def _opened(model: str | Path | SpikGPT) -> NamedModel:
    """Return an opened reference with its name."""
    if isinstance(model, SpikGPT):
        return NamedModel(model.reference.name, model.reference, model.engine)
    if not isinstance(model, str | Path):
        msg = f"model is {model!r}; expected a name such as 'pancreas', a folder, 'org/repo', or an opened reference."
        raise ConfigError(msg)
    return open_model(model)
