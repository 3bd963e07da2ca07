"""From a recipe to a reference: download, prepare, train, evaluate, card."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from spikgpt.building import preparing
from spikgpt.building.evaluating import ask, leave_out, together
from spikgpt.building.plan import Plan
from spikgpt.building.recipe import card_of
from spikgpt.building.state import State, key_of
from spikgpt.cells.reading import open_cells
from spikgpt.engines.opening import torch_engine
from spikgpt.errors import ConfigError, DownloadError, listed
from spikgpt.files import alone, check_place, replacing, sha256_of, user_cache
from spikgpt.options import TrainOptions
from spikgpt.reference.files import read_reference, reference_of, save
from spikgpt.reference.layout import GRAPHS, MANIFEST, check_writable, digest_of, keep_other_files
from spikgpt.sharing import verify
from spikgpt.sources.download import download
from spikgpt.training.train import OnEpoch, train

STEPS = ("download", "prepare", "train", "evaluate", "card")
# Cells that a reference may have fewer than expected, as a share, before its card says that it is not complete.
LACKING = 0.02


@dataclass(frozen=True)
class Done:
    """A step that was done: in words what came of it, and how long it took, or that nothing had changed."""

    step: str
    found: str
    seconds: float
    unchanged: bool


@dataclass
class Build:
    """A build of a plan into a folder.

    Beside it, in ``.NAME.build``, stay the prepared cells, the state of the training and the figures: what is there
    already is not made again. A build that was killed goes on when it is started again.

    Parameters
    ----------
    folder
        Folder of the recipe, which has its card.
    mirror
        A folder or an address that has the files as ``ACCESSION/NAME``.
    """

    plan: Plan
    folder: Path
    out: Path
    cache: Path | None = None
    mirror: str | None = None
    on_epoch: OnEpoch | None = None
    # What each step goes on from: keys of the inputs of those before it.
    _keys: dict[str, str] = field(init=False, default_factory=dict)
    _found: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        check_place(self.out)
        self.work = self.out.with_name(f".{self.out.name}.build")
        check_writable(self.out, overwrite=self.work.is_dir())
        self.description = card_of(self.folder, self.plan.card)

    def run(self, steps: Sequence[str] = STEPS, on_step: Callable[[Done], None] | None = None) -> None:
        """Do the steps, in their order, that were not done with the same inputs.

        Raises
        ------
        ConfigError
            When there is no such step, one before it was not done, or another build writes to the same folder.
        """
        if strange := [step for step in steps if step not in STEPS]:
            msg = f"There is no step {strange[0]!r}; the steps are {listed(STEPS)}."
            raise ConfigError(msg)
        refusal = f"Another build is writing to {self.out}. Wait until it is done, or name another folder: --out."
        with alone(self.work / "lock", refusal):
            self._run(steps, State(self.work), on_step)

    def _run(self, steps: Sequence[str], state: State, on_step: Callable[[Done], None] | None) -> None:
        last = max((STEPS.index(step) for step in steps), default=-1)
        for step in STEPS[: last + 1]:
            started = time.perf_counter()
            key = self._keys[step] = key_of(step, *self._inputs(step))
            found = state.found(step, key)
            unchanged = found is not None and self._there(step, found)
            if not unchanged:
                if step not in steps:
                    msg = f"The step {step} was not done with these inputs; do it too: --steps {step},{','.join(steps)}"
                    raise ConfigError(msg)
                state.forget(step)
                found = getattr(self, f"_{step}")()
                state.keep(step, key, found)
            self._found[step] = found
            if on_step and step in steps:
                on_step(Done(step, self._told(step), time.perf_counter() - started, unchanged))

    def _inputs(self, step: str) -> tuple[Any, ...]:
        """Return what decides what comes of a step, as plain values."""
        plan, recipe = self.plan, self.plan.recipe
        if step == "download":
            files = {source.study: msgspec.to_builtins(source.files) for source in plan.studies}
            return files, self.mirror, str(self._cache)
        if step == "prepare":
            files = {
                study: {name: row["sha256"] for name, row in rows.items()}
                for study, rows in self._found["download"].items()
            }
            labels, rules = msgspec.to_builtins(recipe.labels), msgspec.to_builtins(recipe.preprocessing)
            return files, labels, rules, [one.told() for one in plan.reference], [one.told() for one in plan.query]
        if step == "train":
            return self._keys["prepare"], recipe.name, recipe.embedder, recipe.training, recipe.seed
        if step == "evaluate":
            return self._keys["train"], recipe.left_out
        return self._keys["evaluate"], self._provenance()

    def _there(self, step: str, found: Any) -> bool:
        """Tell whether what came of a step is still there."""
        if step == "download":
            rows = [row for files in found.values() for row in files.values()]
            return all(_stamp(Path(row["path"])) == row["stamp"] for row in rows)
        if step == "prepare":
            return self._reference.is_file() and all(path.is_file() for path in self._queries().values())
        if step == "train":
            return self._trained.is_dir()
        # The figures are kept with the state.
        return step == "evaluate" or found == _manifest(self.out)

    def _download(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for source in self.plan.studies:
            try:
                paths = download(source.files, self._cache, self.mirror, accession=source.accession)
            except DownloadError as error:
                others = [one.study for one in self.plan.studies if one.study != source.study]
                hint = f" Or build from the other studies: {' '.join(f'--only {study}' for study in others)}"
                raise DownloadError(f"{error}{hint}" if others else str(error)) from None
            # Where a hash is known, download has compared it.
            known = {file.name: file.sha256 for file in source.files}
            found[source.study] = {
                name: {"path": str(path.absolute()), "stamp": _stamp(path), "sha256": known[name] or sha256_of(path)}
                for name, path in paths.items()
            }
        return found

    def _prepare(self) -> dict[str, Any]:
        paths = {
            study: {name: Path(row["path"]) for name, row in files.items()}
            for study, files in self._found["download"].items()
        }
        recipe, found = self.plan.recipe, dict[str, Any]()
        folder = self._reference.parent
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        counts = preparing.prepare(recipe, self.plan.reference, paths, self._reference)
        found["reference"] = {study: asdict(count) for study, count in counts.items()}
        found["query"] = {}
        for chosen in self.plan.query:
            study = chosen.source.study
            counts = preparing.prepare(recipe, [chosen], paths, self._query(study))
            found["query"] |= {study: asdict(count) for study, count in counts.items()}
        return found

    def _train(self) -> dict[str, Any]:
        options = self._options("all")
        with open_cells(self._reference) as cells:
            trained = train(cells, preparing.LABEL, options=options, on_epoch=self.on_epoch)
        shutil.rmtree(self._trained, ignore_errors=True)
        save(trained, self._trained)
        held_out = trained.metrics["held_out"]
        return {name: held_out[name] for name in ("cells", "accuracy", "macro_f1")}

    def _evaluate(self) -> dict[str, Any]:
        reference, queries = read_reference(self._trained), self._queries()
        answers = [ask(reference, study, path) for study, path in queries.items()]
        rows = [one.figures for one in answers]
        if len(answers) > 1:
            rows.append(together(answers))
        left_out = []
        for label in self.plan.recipe.left_out if queries else ():
            options = self._options(f"without {key_of(label)[:12]}")
            left_out += leave_out(label, self._reference, queries, options, self.on_epoch)
        # What a training goes on from is of no use any more.
        shutil.rmtree(self.work / "checkpoints", ignore_errors=True)
        found: dict[str, Any] = msgspec.to_builtins({"studies": rows, "left_out": left_out})
        return found

    def _card(self) -> str:
        from spikgpt_onnx.exporter import export
        from spikgpt_onnx.parity import ExportableReference

        trained = read_reference(self._trained)
        figures = {name: rows for name, rows in self._found["evaluate"].items() if rows}
        synthetic = {"synthetic": True} if self.plan.synthetic else {}
        parts = replace(
            trained,
            metrics=trained.metrics | figures | synthetic,
            provenance=self._provenance() | trained.provenance,
            files={},
        )
        reference = reference_of(parts)
        with replacing(self.work / "built") as temporary:
            export(ExportableReference(reference, torch_engine(reference)), temporary, precisions=tuple(GRAPHS))
            verify(temporary)
        with replacing(self.out) as temporary:
            shutil.move(self.work / "built", temporary)
            keep_other_files(self.out, temporary)
        return _manifest(self.out)

    def _provenance(self) -> dict[str, Any]:
        """Return what the reference says of where it comes from."""
        plan, counts = self.plan, self._found["prepare"]
        studies = [
            {
                "study": one.source.study,
                "accession": one.source.accession,
                "role": role,
                "cells": counts[role][one.source.study]["cells"],
                "citation": one.source.citation,
                "licence": one.source.licence,
            }
            for role, chosen in (("reference", plan.reference), ("query", plan.query))
            for one in chosen
        ]
        told = provenance_of(plan, self.description) | {"studies": studies}
        if incomplete := self._incomplete():
            told["incomplete"] = incomplete
        return told

    def _incomplete(self) -> str:
        """Say what the reference lacks of the data of the recipe; nothing if that is all there."""
        plan, counts = self.plan, self._found["prepare"]["reference"]
        cells, expected = sum(count["cells"] for count in counts.values()), plan.recipe.cells.reference
        parts = []
        if cells < (1 - LACKING) * expected:
            parts.append(f"It has {cells:,} cells of the {expected:,} that the paper trains on.")
        if plan.variant:
            parts.append(f"It is the variant {plan.variant} of the recipe {plan.recipe.name}.")
        if plan.missing:
            parts.append(f"Left out: {listed(plan.missing)}.")
        return " ".join(parts)

    def _told(self, step: str) -> str:
        """Say what came of a step."""
        found = self._found[step]
        if step == "download":
            sizes = [row["stamp"][0] for files in found.values() for row in files.values()]
            hashes = self._unpinned(found)
            pins = f"; without a hash in the recipe: {listed(hashes)}" if hashes else ""
            return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB{pins}"
        if step == "prepare":
            return "; ".join(
                f"{role}: {sum(count['cells'] for count in counts.values()):,} cells of {listed(counts)}"
                for role, counts in found.items()
            )
        if step == "train":
            return f"accuracy {found['accuracy']:.4f}, macro-F1 {found['macro_f1']:.4f} over {found['cells']} held out"
        if step == "evaluate":
            rows = [
                f"{row['study']}: accuracy {row['accuracy']:.4f}, macro-F1 {row['macro_f1']:.4f}"
                for row in found["studies"]
            ]
            rows += [
                f"{row['study']} without {row['label']}: {100 * row['unseen_unknown']:.1f}% Unknown, of the known "
                f"{100 * row['known_unknown']:.1f}%"
                for row in found["left_out"]
            ]
            return "; ".join(rows) or "no study to ask"
        return f"sha256:{found}"

    def _unpinned(self, found: dict[str, Any]) -> list[str]:
        """Return the names of the files of which the recipe states no sha256, each with the one that was found."""
        files = {(source.study, file.name): file for source in self.plan.studies for file in source.files}
        rows = {f"{name} (sha256: {found[study][name]['sha256']})": file for (study, name), file in files.items()}
        return [text for text, file in rows.items() if file.sha256 is None]

    def _options(self, training: str) -> TrainOptions:
        recipe = self.plan.recipe
        return TrainOptions(
            batch_key=preparing.batch_key_of(self._reference),
            recipe=recipe.training,
            name=recipe.name,
            seed=recipe.seed,
            checkpoints=self.work / "checkpoints" / f"{self._keys['train'][:12]} {training}",
        )

    @property
    def _cache(self) -> Path:
        return self.cache or user_cache() / "sources"

    @property
    def _reference(self) -> Path:
        return self.work / "prepared" / "reference.h5ad"

    @property
    def _trained(self) -> Path:
        return self.work / "trained"

    def _query(self, study: str) -> Path:
        return self.work / "prepared" / f"query-{study}.h5ad"

    def _queries(self) -> dict[str, Path]:
        return {one.source.study: self._query(one.source.study) for one in self.plan.query}


def provenance_of(plan: Plan, description: str) -> dict[str, Any]:
    """Return what the recipe says of where a reference comes from."""
    recipe = plan.recipe
    told: dict[str, Any] = {
        "source": plan.source,
        "licence": recipe.licence,
        "datasets": list(dict.fromkeys(one.source.accession for one in plan.reference)),
        "tissue": recipe.tissue,
        "organism": recipe.organism,
        "paper": msgspec.to_builtins(recipe.paper),
        "description": description,
    }
    return told | ({"synthetic": True} if plan.synthetic else {})


def _stamp(path: Path) -> list[int]:
    """Return what tells whether a file was touched; nothing if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _manifest(folder: Path) -> str:
    """Return the digest of the reference in a folder; nothing if there is none."""
    path = folder / MANIFEST
    return digest_of(path.read_bytes()) if path.is_file() else ""
