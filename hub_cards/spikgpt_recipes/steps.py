"""Steps of a build, from a recipe to a reference: download, prepare, train, evaluate, card."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from spikgpt.cells.reading import open_cells
from spikgpt.engines.opening import torch_engine
from spikgpt.errors import ConfigError, DownloadError, listed, with_noun
from spikgpt.files import hold_lock, replacing, sha256_of, user_cache
from spikgpt.options import TrainOptions
from spikgpt.reference.files import build_reference, read_reference, save
from spikgpt.reference.format import MANIFEST, check_writable, digest_of, keep_other_files
from spikgpt.sharing import verify
from spikgpt.training.fit import OnEpoch
from spikgpt.training.train import train
from spikgpt_recipes.download import download
from spikgpt_recipes.evaluate import evaluate_study, leave_label_out, pool_studies
from spikgpt_recipes.plan import BuildPlan
from spikgpt_recipes.prepare import count_donors, prepare
from spikgpt_recipes.recipe import DONOR, LABEL, own_file, read_card
from spikgpt_recipes.state import BuildState, hash_inputs

STEPS = ("download", "prepare", "train", "evaluate", "card")
# Share of the expected cells that may be missing before the card states that the reference is incomplete.
MOST_MISSING = 0.02
# Graphs of a built reference. A user who needs fp16 exports that graph, which takes 0.4 MB.
PRECISIONS = ("fp32", "int8")
# Smallest number of donors for cross-validation, which holds each donor out in turn.
LEAST_DONORS = 3


@dataclass(frozen=True)
class StepReport:
    """The outcome of a step in words, and its duration; ``unchanged`` steps were not repeated."""

    step: str
    summary: str
    seconds: float
    unchanged: bool


@dataclass
class Build:
    """A build of a plan into a folder.

    The folder ``.NAME.build`` beside ``out`` keeps prepared cells, checkpoints of the training and figures. A killed
    build resumes there, and steps with unchanged inputs are not repeated.

    Parameters
    ----------
    folder
        Folder of the recipe and its card.
    mirror
        Folder or address with the files as ``ACCESSION/NAME``.
    """

    plan: BuildPlan
    folder: Path
    out: Path
    cache: Path | None = None
    mirror: str | None = None
    on_epoch: OnEpoch | None = None
    # Hash of the inputs, and result, by the name of each finished step.
    _keys: dict[str, str] = field(init=False, default_factory=dict)
    _results: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.work = self.out.with_name(f".{self.out.name}.build")
        check_writable(self.out, overwrite=self.work.is_dir())
        self.cache = self.cache or user_cache() / "sources"
        self.description = read_card(self.folder, self.plan.card)
        self._reference, self._trained = self.work / "prepared" / "reference.h5ad", self.work / "trained"
        self._queries = {
            selection.name: self.work / "prepared" / f"query-{selection.name}.h5ad" for selection in self.plan.query
        }

    def run(self, steps: Sequence[str] = STEPS, on_step: Callable[[StepReport], None] | None = None) -> None:
        """Run the steps whose inputs have changed.

        Raises
        ------
        ConfigError
            When a step does not exist, an earlier step is missing, or another build writes to the same folder.
        """
        if unknown := [step for step in steps if step not in STEPS]:
            msg = f"There is no step {unknown[0]!r}; the steps are {listed(STEPS)}."
            raise ConfigError(msg)
        last = max((STEPS.index(step) for step in steps), default=-1)
        refusal = f"Another build is writing to {self.out}. Wait until it is done, or name another folder: --out."
        with hold_lock(self.work / "lock", refusal):
            state = BuildState(self.work)
            for step in STEPS[: last + 1]:
                report = self._run_step(step, steps, state)
                if on_step and step in steps:
                    on_step(report)

    def _run_step(self, step: str, steps: Sequence[str], state: BuildState) -> StepReport:
        started = time.perf_counter()
        key = self._keys[step] = hash_inputs(step, *self._inputs(step))
        result = state.result(step, key)
        unchanged = result is not None and self._has_output(step, result)
        if not unchanged:
            if step not in steps:
                msg = f"The step {step} was not done with these inputs; add it: --steps {step},{','.join(steps)}"
                raise ConfigError(msg)
            state.remove(step)
            result = getattr(self, f"_{step}")()
            state.save(step, key, result)
        self._results[step] = result
        return StepReport(step, self._summary(step), time.perf_counter() - started, unchanged)

    def _inputs(self, step: str) -> tuple[Any, ...]:
        """Return the inputs that determine the result of a step, as plain values."""
        plan, recipe = self.plan, self.plan.recipe
        if step == "download":
            return (
                {study.study: msgspec.to_builtins(study.files) for study in plan.studies},
                self.mirror,
                str(self.cache),
            )
        if step == "prepare":
            files = {
                study: {name: row["sha256"] for name, row in rows.items()}
                for study, rows in self._results["download"].items()
            }
            rules = msgspec.to_builtins(recipe.labels), msgspec.to_builtins(recipe.preprocessing)
            return (
                files,
                *rules,
                *([selection.to_builtins() for selection in role] for role in (plan.reference, plan.query)),
            )
        if step == "train":
            return self._keys["prepare"], plan.name, recipe.embedder, recipe.training, recipe.seed
        if step == "evaluate":
            return self._keys["train"], recipe.left_out
        return self._keys["evaluate"], self._provenance()

    def _has_output(self, step: str, result: Any) -> bool:
        """Return whether the output of a finished step still exists."""
        if step == "download":
            rows = [row for files in result.values() for row in files.values()]
            return all(_stamp(Path(row["path"])) == row["stamp"] for row in rows)
        if step == "prepare":
            return all(path.is_file() for path in (self._reference, *self._queries.values()))
        if step == "train":
            return self._trained.is_dir()
        # The figures of the evaluation are in the state, not in a file.
        return step == "evaluate" or bool(result == _manifest(self.out))

    def _download(self) -> dict[str, Any]:
        assert self.cache
        result: dict[str, Any] = {}
        for study in self.plan.studies:
            own = {file.name: own_file(self.folder, file) for file in study.files if file.url is None}
            published = [file for file in study.files if file.url is not None]
            try:
                paths = own | download(published, self.cache, self.mirror, accession=study.accession)
            except DownloadError as error:
                flags = [f"--only {other.study}" for other in self.plan.studies if other is not study]
                hint = f" Or build from the other studies: {' '.join(flags)}"
                raise DownloadError(f"{error}{hint}" if flags else str(error)) from None
            # The download has compared the hashes that the recipe states.
            known = {file.name: file.sha256 for file in study.files}
            result[study.study] = {
                name: {"path": str(path.absolute()), "stamp": _stamp(path), "sha256": known[name] or sha256_of(path)}
                for name, path in paths.items()
            }
        return result

    def _prepare(self) -> dict[str, Any]:
        paths = {
            study: {name: Path(row["path"]) for name, row in files.items()}
            for study, files in self._results["download"].items()
        }
        recipe, folder = self.plan.recipe, self._reference.parent
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        reference = prepare(recipe, self.plan.reference, paths, self._reference)
        query = {
            selection.name: prepare(recipe, [selection], paths, self._queries[selection.name])[selection.name]
            for selection in self.plan.query
        }
        roles = {"reference": reference, "query": query}
        return {role: {study: vars(tally) for study, tally in tallies.items()} for role, tallies in roles.items()}

    def _train(self) -> dict[str, Any]:
        cross_validate = count_donors(self._reference) >= LEAST_DONORS
        options = structs.replace(self._options("all"), cross_validate=cross_validate)
        with open_cells(self._reference) as cells:
            trained = train(cells, LABEL, options=options, on_epoch=self.on_epoch)
        shutil.rmtree(self._trained, ignore_errors=True)
        save(trained, self._trained)
        held_out = trained.metrics["held_out"]
        return {name: held_out[name] for name in ("cells", "accuracy", "macro_f1")}

    def _evaluate(self) -> dict[str, Any]:
        reference = read_reference(self._trained)
        evaluations = [evaluate_study(reference, study, path) for study, path in self._queries.items()]
        records = [evaluation.record for evaluation in evaluations]
        if len(records) > 1:
            records.append(pool_studies(evaluations))
        left_out = []
        for label in self.plan.recipe.left_out:
            options = self._options(f"without {hash_inputs(label)[:12]}")
            left_out += leave_label_out(label, self._reference, self._queries, options, self.on_epoch)
        # All trainings are finished, so no checkpoint is needed.
        shutil.rmtree(self.work / "checkpoints", ignore_errors=True)
        result: dict[str, Any] = msgspec.to_builtins({"studies": records, "left_out": left_out})
        return result

    def _card(self) -> str:
        from spikgpt_onnx.exporter import export
        from spikgpt_onnx.parity import ExportableReference

        trained = read_reference(self._trained)
        metrics = trained.metrics | {name: records for name, records in self._results["evaluate"].items() if records}
        metrics |= {"synthetic": True} if self.plan.synthetic else {}
        provenance = self._provenance() | trained.provenance
        reference = build_reference(replace(trained, metrics=metrics, provenance=provenance, files={}))
        with replacing(self.work / "built") as temporary:
            export(ExportableReference(reference, torch_engine(reference)), temporary, precisions=PRECISIONS)
            verify(temporary)
        with replacing(self.out) as temporary:
            shutil.move(self.work / "built", temporary)
            keep_other_files(self.out, temporary)
        return _manifest(self.out)

    def _provenance(self) -> dict[str, Any]:
        """Return the origin of the reference: recipe, studies, numbers of cells, and missing data."""
        plan, tallies = self.plan, self._results["prepare"]
        studies = [
            {
                "study": selection.name,
                "accession": selection.study.accession,
                "role": role,
                "cells": tallies[role][selection.name]["cells"],
                "citation": selection.study.citation,
                "licence": selection.study.licence,
            }
            for role, selections in (("reference", plan.reference), ("query", plan.query))
            for selection in selections
        ]
        provenance = provenance_of(plan, self.description) | {"studies": studies}
        incomplete = self._missing_data(sum(tally["cells"] for tally in tallies["reference"].values()))
        return provenance | ({"incomplete": incomplete} if incomplete else {})

    def _missing_data(self, cells: int) -> str:
        """Return the data of the recipe that a reference of ``cells`` cells lacks, in words; empty for none."""
        plan, expected = self.plan, self.plan.recipe.cells.reference
        sentences = []
        if cells < (1 - MOST_MISSING) * expected:
            whose = "the paper trains on" if plan.recipe.paper else "the recipe expects"
            sentences.append(f"It has {cells:,} cells of the {expected:,} that {whose}.")
        if plan.variant:
            sentences.append(f"It is the variant {plan.variant} of the recipe {plan.recipe.name}.")
        if plan.missing:
            sentences.append(f"Left out: {listed(plan.missing)}.")
        return " ".join(sentences)

    def _summary(self, step: str) -> str:
        """Return the outcome of a step in words."""
        result = self._results[step]
        if step == "download":
            stamps = [row["stamp"] for files in result.values() for row in files.values()]
            unpinned = [
                f"{file.name} (sha256: {result[study.study][file.name]['sha256']})"
                for study in self.plan.studies
                for file in study.files
                if file.sha256 is None
            ]
            hashes = f"; without a hash in the recipe: {listed(unpinned)}" if unpinned else ""
            return f"{with_noun(len(stamps), 'file')}, {sum(size for size, _ in stamps) / 1e6:.1f} MB{hashes}"
        if step == "prepare":
            cells = {role: sum(tally["cells"] for tally in tallies.values()) for role, tallies in result.items()}
            return "; ".join(
                f"{role}: {with_noun(cells[role], 'cell', form=',')} of {listed(names)}"
                for role, names in result.items()
                if names
            )
        if step == "train":
            return f"{_figures(result)} over {result['cells']} held out"
        if step == "evaluate":
            rows = [f"{row['study']}: {_figures(row)}" for row in result["studies"]]
            rows += [
                f"{row['study']} without {row['label']}: {100 * row['unseen_unknown']:.1f}% Unknown, of the known "
                f"{100 * row['known_unknown']:.1f}%"
                for row in result["left_out"]
            ]
            return "; ".join(rows) or "no query study"
        return f"sha256:{result}"

    def _options(self, training: str) -> TrainOptions:
        recipe = self.plan.recipe
        return TrainOptions(
            batch_key=DONOR if count_donors(self._reference) > 1 else None,
            recipe=recipe.training,
            name=self.plan.name,
            seed=recipe.seed,
            checkpoints=self.work / "checkpoints" / f"{self._keys['train'][:12]} {training}",
        )


def provenance_of(plan: BuildPlan, description: str) -> dict[str, Any]:
    """Return the origin of a reference by its recipe alone."""
    recipe = plan.recipe
    provenance: dict[str, Any] = {
        "source": plan.source,
        "licence": recipe.licence,
        "datasets": list(dict.fromkeys(selection.study.accession for selection in plan.reference)),
        "tissue": recipe.tissue,
        "organism": recipe.organism,
        "description": description,
    }
    provenance |= {"paper": msgspec.to_builtins(recipe.paper)} if recipe.paper else {}
    return provenance | ({"synthetic": True} if plan.synthetic else {})


def _figures(row: dict[str, Any]) -> str:
    return f"accuracy {row['accuracy']:.4f}, macro-F1 {row['macro_f1']:.4f}"


def _stamp(path: Path) -> list[int]:
    """Return the size and modification time of a file, to detect changes; empty if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _manifest(folder: Path) -> str:
    """Return the digest of the reference in a folder; empty if there is no reference."""
    path = folder / MANIFEST
    return digest_of(path.read_bytes()) if path.is_file() else ""
