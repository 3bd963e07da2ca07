"""Sentences and facts of a report: compatibility, genes, what was run, and the methods section."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import msgspec
import numpy as np

from spikgpt.constants import CONSTANTS
from spikgpt.errors import printable, with_noun
from spikgpt.explain.query import FittedQuery, fitted_queries
from spikgpt.options import AnnotateOptions
from spikgpt.reference.format import MANIFEST, digest_of
from spikgpt.reference.registry import shipped_references
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.compatibility import LIKE, OTHER, STUDY
from spikgpt.types import UNKNOWN
from spikgpt.version import __version__

# Largest number of missing genes that a report names.
MOST_GENES = 500
SOFTWARE = f"SpikGPT developers. SpikGPT (software), version {__version__}."
PAPER = "SpikGPT: A High-Accuracy and Interpretable Spiking Attention Framework for Single-Cell Annotation."
PACKAGES = ("anndata", "numpy", "scipy", "onnxruntime", "torch", "umap-learn")
# Title, tone and text for each result of the compatibility check.
VERDICTS = {
    LIKE: ("The reference suits these cells", "good", "The cells are like the cells of the reference."),
    STUDY: (
        "The reference can be used: these cells are of another study",
        "fair",
        "The labels of single cells can be wrong. Look at the confidence, and at the notes.",
    ),
    OTHER: ("Do not use these labels", "bad", "The cells are of another tissue or species than the reference."),
}
# Smallest number of cells for a reliable compatibility check.
LEAST_CELLS = 100
TOO_FEW = (
    "Too few cells to check the reference",
    "fair",
    f"The check needs {LEAST_CELLS} cells. The labels can be wrong. Look at the confidence, and at the notes.",
)
OMITTED = (
    "The reference does not suit the cells. So the report leaves out the genes behind the labels, the agreement of "
    "labels and clusters, and the candidates for new types."
)
NOT_CHECKED = (
    "The compatibility was not checked",
    "fair",
    "The reference has an old format without the scores that the check needs.",
)
# Text in the note on missing genes. With this note, the report does not state the simulated accuracy again.
SIMULATED = "In simulation, up to"
# Batch key of batches that were inferred from the cells. A note states the number of such batches.
INFERRED = "inferred"
# Names of the numbers behind the compatibility.
MEASURES = {
    "similarity": "Similarity",
    "correlation": "Correlation of the differences between labels",
    "mean_contrast": "Mean contrast of the labels",
    "score_loss": "Loss of the in-distribution score",
    "own_markers": "Markers of the cells' own labels",
    "other_markers": "Markers of the strongest other label",
    "cell_correlation": "Correlation of cells with their labels",
    "unexplained_variance": "Variance that the labels do not explain",
}
LIMITS = CONSTANTS.compatibility
MEANINGS = {
    "similarity": f"correlation + {LIMITS.contrast_weight:g} mean contrast + markers of the own labels (at most 1) - "
    f"{LIMITS.other_weight:g} markers of the strongest other label. Expected: at least {LIMITS.least_similarity:g}.",
    "correlation": "1 if the same genes separate the labels as in the reference, 0 if other genes do.",
    "mean_contrast": f"-log({CONSTANTS.label_match.largest_correlation:g} - r). r is the correlation of the "
    "expression of a label, relative to all labels, between the cells and the reference. Larger is better.",
    "score_loss": "Median score of held-out cells of the reference, minus that of these cells. "
    "About 0 for cells like the reference; larger for cells that differ from it.",
    "own_markers": "Expression of the marker genes of each cell's own label. 1: as in the reference.",
    "other_markers": "Expression of the marker genes of another label: the label with the highest value. "
    "Expected: below the own label.",
    "cell_correlation": "Correlation of cells with the expression of their labels in the reference, both relative to "
    "the mean of the batch. About 0 for cells of one type.",
    "unexplained_variance": "Variance of cells that their labels do not explain, as a share of that of the reference. "
    f"Expected: at most {LIMITS.largest_unexplained:g}. A larger value is accepted if the correlation of cells with "
    f"their labels is at least {LIMITS.least_agreement:g}.",
}


@dataclass(frozen=True)
class Verdict:
    """Compatibility in words: a title, its tone (good, fair or bad), a sentence, evidence and numbers.

    Each number has a name, an explanation and its value.
    """

    title: str
    tone: str
    text: str
    evidence: tuple[str, ...]
    numbers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class GeneCoverage:
    """Genes of the reference in the query.

    Attributes
    ----------
    sentences
        Sentences on the genes that were found and imputed.
    present, total, helping
        Number of the reference's genes that the query has. Number of all genes of the reference. Number of further
        genes of the query from which missing genes are imputed.
    missing
        Names of the reference's genes that the query lacks, at most 500.
    """

    sentences: tuple[str, ...]
    present: int
    total: int
    helping: int
    missing: tuple[str, ...]


def verdict(annotation: Annotation) -> Verdict:
    """Return the compatibility of reference and query in words."""
    check = annotation.compatibility
    if check is None:
        return Verdict(*NOT_CHECKED, (), ())
    few = check.usable and len(annotation.best) < LEAST_CELLS
    title, tone, text = TOO_FEW if few else VERDICTS[check.kind]
    if check.kind == OTHER and annotation.unknown_fraction == 1:
        text += f" All cells are {UNKNOWN}."
    names = tuple(f"{name}: " for name in annotation.facts.get("references", ()))
    parts = [part for part in check.evidence.split("; ") if part]
    # Each text begins with a capital letter, unless it begins with the name of a reference.
    evidence = tuple(f"{part if part.startswith(names) else part[:1].upper() + part[1:]}." for part in parts)
    named = tuple((*_measure(name), f"{value:.3g}") for name, value in check.values.items())
    return Verdict(title, tone, text, evidence, named)


def notes(annotation: Annotation) -> tuple[str, ...]:
    """Return the notes on the annotation, without the note that repeats the verdict."""
    check = annotation.compatibility
    repeated = check is not None and not check.usable
    return tuple(printable(note) for note in annotation.notes()[int(repeated) :])


def _measure(name: str) -> tuple[str, str]:
    """Return the name and the explanation of a number; with several references, a name begins with its reference."""
    reference, _, measure = name.rpartition(": ")
    text = MEASURES.get(measure, measure)
    return printable(f"{reference}: {text}" if reference else text), MEANINGS.get(measure, "")


def genes(annotation: Annotation) -> GeneCoverage:
    """Return the genes of the reference that the query has."""
    report = annotation.input_report
    sentences = [report.genes] if report.genes else ["The reference reads an embedding of the cells, not their genes."]
    query, helping, missing = annotation.query, 0, tuple[str, ...]()
    noted = any(SIMULATED in note for note in report.notes)
    if isinstance(query, FittedQuery) and query.logs is not None and len(query.reference.genes):
        symbols, present = query.reference.genes.symbols, query.template.genes_present
        own = present[: len(symbols)]
        missing = tuple(symbols[at] for at in np.flatnonzero(~own).tolist())
        helping = int(present[len(symbols) :].sum())
        if missing and helping:
            sentences.append(
                f"The other {with_noun(len(missing), 'gene is', 'genes are', form=',')} imputed from these and from "
                f"{with_noun(helping, 'further gene', form=',')}."
            )
        elif missing:
            sentences.append(f"The other {with_noun(len(missing), 'gene is', 'genes are', form=',')} left out.")
    if report.simulated_accuracy is not None and not noted:
        share = 100 * report.simulated_accuracy
        sentences.append(f"In simulation, {share:.0f}% of cells keep their label with these genes.")
    return GeneCoverage(tuple(sentences), report.genes_matched, report.genes_total, helping, missing[:MOST_GENES])


def batches(annotation: Annotation, options: AnnotateOptions) -> str:
    """Return a sentence on the columns of the batches; empty if the user named a column."""
    if options.batch_key != "auto" or annotation.batch_key in (None, "auto", INFERRED):
        return ""
    key = printable(annotation.batch_key)
    return f"Batches: column {key}, chosen automatically. --no-batch (batch_key=None) treats all cells as one batch."


def run_facts(annotation: Annotation, options: AnnotateOptions) -> list[tuple[str, str]]:
    """Return the facts on the run: reference, input, rule, options and versions."""
    report, queries = annotation.input_report, fitted_queries(annotation).values()
    smoothed = "averaged with the nearest cells" if annotation.smoothed else "of each cell alone"
    facts = {
        "Reference": annotation.reference_name,
        "Origin": annotation.reference_origin or _local_origin(annotation.reference_digest),
        "Digest": annotation.reference_digest,
        **_provenance(queries),
        "Engine": ", ".join(dict.fromkeys(query.engine.name for query in queries)),
        "Values": f"{report.values} from {report.source}",
        "Scaling": report.scaling,
        "Batches": annotation.batch_key or "one batch",
        "Probabilities": smoothed,
        "Rule for Unknown": annotation.rule.rule,
        "Excluded labels": ", ".join(annotation.excluded_labels),
        "Certainty of broad labels": f"{annotation.certainty:g}",
        "Options": changed_options(options) or "default",
        "Versions": _versions(),
    }
    return [(name, printable(text)) for name, text in facts.items() if text]


def _local_origin(digest: str) -> str:
    """Return the origin of a reference that is not from the Hub."""
    shipped = (digest_of((folder / MANIFEST).read_bytes()) for folder in shipped_references().values())
    return "shipped with SpikGPT" if digest and digest in shipped else "a folder on this machine"


def _provenance(queries: Collection[FittedQuery]) -> dict[str, str]:
    """Return the organism and tissue of the references' cells, and the licences of the references."""
    known = [query.reference.provenance for query in queries]
    tissues = [" ".join(str(facts[name]) for name in ("organism", "tissue") if facts.get(name)) for facts in known]
    licences = [str(facts.get("licence") or "") for facts in known]
    return {"Trained on": _joined(tissues), "Licence of the reference": _joined(licences)}


def _joined(texts: list[str]) -> str:
    """Join the texts of the references; a shared text is given once. Empty if all texts are empty."""
    some = [text or "not stated" for text in texts] if any(texts) else []
    return " + ".join(some if len(set(some)) > 1 else some[:1])


def changed_options(options: AnnotateOptions) -> str:
    """Return the options that differ from their defaults, as flags of the command line."""
    changed = []
    for field in msgspec.structs.fields(AnnotateOptions):
        value = getattr(options, field.name)
        if value == field.default or field.name == "progress":
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            changed.append(flag if value else flag.replace("--", "--no-", 1))
        elif value is None:
            changed.append("--no-batch" if field.name == "batch_key" else f"{flag} none")
        else:
            changed.append(f"{flag} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return ", ".join(changed)


def _versions() -> str:
    """Return the versions of SpikGPT, of Python, and of the packages that the labels depend on."""
    versions = [f"SpikGPT {__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)


def methods(annotation: Annotation) -> str:
    """Return sentences for the methods section."""
    report = annotation.input_report
    several = " + " in annotation.reference_name
    digest = (
        f" ({'digests' if several else 'digest'} {annotation.reference_digest})" if annotation.reference_digest else ""
    )
    reference = f"{'references' if several else 'reference'} {annotation.reference_name}{digest}"
    parts = [f"Cell types were annotated with SpikGPT {__version__} and the {reference}."]
    if report.genes_total and not report.of_query:
        parts.append(f"{report.genes_matched:,} of {report.genes_total:,} genes of the reference were measured.")
    cells = with_noun(len(annotation.best), "cell", form=",")
    unknown = f"{int(annotation.rejected.sum()):,} of {cells} ({100 * annotation.unknown_fraction:.1f}%)"
    parts.append(f"{UNKNOWN} cells: {unknown}. Rule for {UNKNOWN}: {annotation.rule.rule}.")
    return printable(" ".join(parts))


def citations(annotation: Annotation) -> list[str]:
    """Return the works to cite: the software, the paper, and the studies of the reference."""
    known = [query.reference.provenance for query in fitted_queries(annotation).values()]
    studies = [study for facts in known for study in facts.get("studies") or ()]
    texts = [_citation(study) for study in studies if study.get("role") != "query"]
    return [SOFTWARE, PAPER, *dict.fromkeys(filter(None, texts))]


def _citation(study: Mapping[str, Any]) -> str:
    """Return the citation of a study, with its accession."""
    citation, accession = (str(study.get(name) or "") for name in ("citation", "accession"))
    return printable(f"{citation} ({accession})" if citation and accession else citation or accession)
