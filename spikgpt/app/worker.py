"""Worker process of the page: label one file after the other, and write the results that the page shows."""

from __future__ import annotations

import logging
import resource
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from spikgpt.app.messages import CELLS, REPORT, RESULTS, SUMMARY, TABLE, PageCluster, PageJob, PageLabel, Summary
from spikgpt.errors import SpikGPTError, fault, printable
from spikgpt.service.messages import Done, Failed, JobProgress, Setup
from spikgpt.service.refusals import INTERNAL, Kind, Refusal
from spikgpt.service.worker import SendReply, answer_messages, described, within, without_folder

if TYPE_CHECKING:
    from spikgpt.choice import ReferenceScore
    from spikgpt.reference.hub import Hub
    from spikgpt.report.clusters import ClusterReport
    from spikgpt.scoring.annotation import Annotation
    from spikgpt.several import NamedModel

# Largest file in bytes that a worker may write: ROOM + ROOM_PER_BYTE * (size of the largest upload). Packed files grow
# when they are unpacked.
ROOM, ROOM_PER_BYTE = 1 << 30, 8
# Seconds between two reports on the progress of a step.
REPORT_EVERY = 0.2
REPORTING, WRITING = "Drawing the report", "Writing the results"
log = logging.getLogger("spikgpt.app")


@dataclass
class Models:
    """References that the page can use.

    Attributes
    ----------
    named
        References that the page lists, by name.
    keywords
        Keyword arguments of ``SpikGPT.from_pretrained`` for references that are not in ``named``.
    is_open
        True if users may name any reference, as on the command line.
    """

    named: dict[str, NamedModel]
    keywords: dict[str, Any]
    is_open: bool
    # Result of at_hand(), kept from its first call; None before.
    _at_hand: tuple[list[NamedModel], list[ReferenceScore]] | None = field(default=None, repr=False)

    def find(self, name: str) -> NamedModel:
        """Return a reference by name.

        Raises
        ------
        SpikGPTError
            When there is no such reference, or the reference cannot be opened.
        """
        if name in self.named:
            return self.named[name]
        if not self.is_open:
            msg = f"There is no reference {name!r} here; choose one of {', '.join(self.named)}."
            raise Refusal(Kind.REFERENCE_NOT_FOUND, msg)
        return _opened(name, self.keywords)

    def at_hand(self) -> tuple[list[NamedModel], list[ReferenceScore]]:
        """Return the references among which auto chooses, and the problem of each reference that cannot be opened."""
        if not self.is_open:
            return list(self.named.values()), []
        if self._at_hand is None:
            from spikgpt.choice import models_at_hand
            from spikgpt.options import EngineOptions, options_of

            engine = {name: self.keywords[name] for name in EngineOptions.__struct_fields__ if name in self.keywords}
            self._at_hand = models_at_hand(options_of(EngineOptions, engine), hub=_hub(self.keywords))
        return self._at_hand


def load(setup: Setup) -> Models:
    """Load the references of the page.

    Raises
    ------
    SpikGPTError
        When a reference cannot be loaded.
    """
    keywords = dict(setup.keywords)
    is_open = bool(keywords.pop("is_open"))
    named = {}
    for model in setup.models:
        opened = _opened(model.source, keywords, expect=model.digest)
        # A second reference of the same name is named by its folder or repository.
        name = opened.reference.name
        named[model.source if name in named else name] = opened
    return Models(named, keywords, is_open)


def run_job(job: PageJob, models: Models, max_cells: int, send: SendReply) -> Done | Failed:
    """Label a file, and write the results to the job's folder; errors are returned as ``Failed``, not raised."""
    from spikgpt.cells.progress import reporting

    folder = Path(job.folder)
    try:
        with within(folder), reporting(_reporter(send)):
            summary = label(job, models, max_cells, send)
        return Done(file=f"{RESULTS}/{SUMMARY}", headers={}, cells=summary.cells)
    except SpikGPTError as error:
        known = Refusal.from_error(error)
        # Show the message of the command line, also for errors that have no kind in the service.
        kind = Kind.CONFIG_ERROR if known.kind == Kind.INTERNAL_ERROR else known.kind
        return Failed(kind, without_folder(str(error), folder))
    except OSError as error:
        log.exception("A file could not be labelled.")
        text = f"{error.strerror or error}. {fault(error) or 'Check the file, whether you may use it, and the disk.'}"
        return Failed(Kind.DATA_ERROR, without_folder(printable(text), folder))
    except Exception:  # any error of a library must not end the worker
        log.exception("A file could not be labelled.")
        return Failed(Kind.INTERNAL_ERROR, INTERNAL)


def label(job: PageJob, models: Models, max_cells: int, send: SendReply) -> Summary:
    """Label a file and write the results, as ``spikgpt annotate`` does.

    Raises
    ------
    SpikGPTError
        When the cells cannot be read or do not suit the reference, or an option does not fit.
    """
    from spikgpt.cells.output import write_copy, write_table
    from spikgpt.cells.reading import open_cells
    from spikgpt.cells.storage import identity_of
    from spikgpt.report.clusters import summarise
    from spikgpt.service.tables import check_cells

    query, results = Path(job.query), Path(RESULTS)
    results.mkdir()
    identity = identity_of(query)
    with open_cells(query) as cells:
        check_cells(cells.n_obs, max_cells)
        annotation, chosen = annotated(cells, job, models)
        send(JobProgress(REPORTING))
        clusters = summarise(annotation, cells, job.cluster_key) if job.cluster_key else None
        uns, notes = annotation.uns(cells), annotation.notes(cells)
        try:
            title = f"Cell types of {query.name}"
            annotation.report(results / REPORT, cells, cluster_key=job.cluster_key, title=title)
        except SpikGPTError as error:  # the labels are useful without a report
            notes.append(f"There is no report. {error}")
    send(JobProgress(WRITING))
    write_table(annotation.table_chunks(), results / TABLE)
    if size_of(query) <= job.max_bytes:
        names, obs = annotation.obs_names, dict(annotation.obs())
        copy = results / CELLS
        write_copy(query, copy, obs=obs, obsm=annotation.obsm(), uns=uns, obs_names=names, identity=identity)
    else:
        notes.append(
            f"The file has more than {job.max_bytes >> 20} MB (--max-mb), so no labelled copy was written. Use spikgpt "
            "annotate --out."
        )
    files = [name for name in (CELLS, TABLE, REPORT) if (results / name).is_file()]
    summary = summarised(annotation, query.name, chosen, notes, clusters, files)
    (results / SUMMARY).write_bytes(msgspec.json.encode(summary))
    return summary


def annotated(cells: Any, job: PageJob, models: Models) -> tuple[Annotation, list[str]]:
    """Return the annotation by one reference, by several, or by the best, and sentences on the choice.

    The sentences are empty unless the best reference was chosen.
    """
    from spikgpt.cells.obs import column_of, labels_of
    from spikgpt.choice import annotate_by_best
    from spikgpt.options import AnnotateOptions, options_of
    from spikgpt.pipeline import annotate
    from spikgpt.reference.registry import AUTO, separate_names
    from spikgpt.several import annotate_by_several

    options = options_of(AnnotateOptions, job.options | {"cluster_key": job.cluster_key, "progress": False})
    if options.cluster_key:
        labels_of(cells, options.cluster_key)  # refuse a missing column at once
    if options.batch_key not in (None, "auto"):
        column_of(cells, options.batch_key)
    if job.model == AUTO:
        at_hand, failed = models.at_hand()
        annotation, choice, _ = annotate_by_best(cells, at_hand, options, failed=failed)
        return annotation, choice.sentences() if choice.best else []
    names = [job.model] if job.model in models.named else separate_names(job.model)
    references = [models.find(name) for name in names]
    if len(references) > 1:
        return annotate_by_several(references, cells, options), []
    return annotate(references[0].reference, references[0].engine, cells, options), []


def size_of(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder."""
    return sum(entry.stat().st_size for entry in (path.rglob("*") if path.is_dir() else [path]) if entry.is_file())


def summarised(
    annotation: Annotation,
    query: str,
    chosen: list[str],
    notes: list[str],
    clusters: ClusterReport | None,
    files: list[str],
) -> Summary:
    """Return the page's summary of an annotation.

    ``query`` is the name of the file. ``chosen`` are sentences on the choice of the reference. ``clusters`` is None if
    no column with clusters was named. ``files`` are the results to download.
    """
    from spikgpt.report.texts import verdict
    from spikgpt.types import UNKNOWN

    table, check, answer = annotation.summary(), annotation.compatibility, verdict(annotation)
    colors = annotation.colors(table.index)
    rows = [
        PageLabel(
            label=str(label), cells=int(cells), confidence=None if label == UNKNOWN else float(mean), color=str(color)
        )
        for label, cells, mean, color in zip(table.index, table["cells"], table["confidence"], colors, strict=True)
    ]
    listed = [
        PageCluster(
            name=cluster.name,
            cells=cluster.cells,
            label="Unknown, a new type?" if cluster.candidate else cluster.label,
            share=cluster.share,
            unknown_share=cluster.unknown_share,
            genes=", ".join(marker.gene for marker in cluster.markers) or cluster.note,
        )
        for cluster in (clusters.clusters if clusters else ())
    ]
    return Summary(
        cells=len(annotation.best),
        reference=annotation.reference_name,
        query=query,
        verdict=answer.title,
        tone=answer.tone,
        explanation=answer.text,
        evidence=" ".join(answer.evidence),
        choice=chosen,
        # Leave out the sentence on the compatibility, which the page shows in a box of its own.
        sentences=[sentence for sentence in annotation.sentences() if not (check and sentence == check.sentence)],
        notes=notes,
        rows=rows,
        clusters=listed,
        files=files,
    )


def limit_files(max_bytes: int) -> None:
    """Limit the size of each file that this process writes, so that a small packed upload cannot fill the disk."""
    most = ROOM + ROOM_PER_BYTE * max_bytes
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def main() -> None:
    """Answer the messages on standard input until it is closed."""

    def run(line: bytes, models: Models, setup: Setup, send: SendReply) -> Done | Failed:
        job = msgspec.json.decode(line, type=PageJob)
        limit_files(job.max_bytes)
        return run_job(job, models, setup.max_cells, send)

    answer_messages(load, lambda models: described(models.named), run)


def _opened(name: str, keywords: dict[str, Any], *, expect: str | None = None) -> NamedModel:
    """Open a reference, and return it with its engine; ``expect`` is the digest that it must have, None for any."""
    from spikgpt.api import SpikGPT
    from spikgpt.several import NamedModel

    model = SpikGPT.from_pretrained(name, expect=expect, **keywords)
    return NamedModel(name, model.reference, model.engine)


def _hub(keywords: dict[str, Any]) -> Hub:
    """Return the client of the Hub that the keywords describe."""
    from spikgpt.options import HubOptions, options_of
    from spikgpt.reference.hub import Hub

    fields = {name: keywords[name] for name in HubOptions.__struct_fields__ if name in keywords}
    return Hub.from_options(options_of(HubOptions, fields))


def _reporter(send: SendReply) -> Any:
    """Return a listener that sends the progress of a step, about every ``REPORT_EVERY`` seconds."""
    last = (-REPORT_EVERY, "")

    def listen(step: str, done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if step != last[1] or now - last[0] >= REPORT_EVERY or done == total:
            last = now, step
            send(JobProgress(step, done, total))

    return listen


if __name__ == "__main__":
    main()
