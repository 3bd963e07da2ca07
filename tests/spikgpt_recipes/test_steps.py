"""A build from download to push: unchanged steps are skipped, and a killed build continues."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.errors import ConfigError, DownloadError
from spikgpt.files import hold_lock
from spikgpt.options import TrainOptions
from spikgpt.reference.files import read_reference
from spikgpt.reference.hub import Hub
from spikgpt.sharing import push, verify
from spikgpt_recipes import steps
from spikgpt_recipes.plan import plan_build
from spikgpt_recipes.recipe import FILE, read_recipe
from spikgpt_recipes.state import BuildState
from spikgpt_recipes.steps import STEPS, Build, StepReport
from tests.conftest import steps_at_least
from tests.hub_server import LoopbackHub
from tests.spikgpt_recipes.conftest import write_recipe
from tests.spikgpt_recipes.file_server import FileServer

RUN = "from spikgpt.cli.main import main; main()"


def build_of(folder: Path, out: Path, mirror: Path | str, *, synthetic: bool = False) -> Build:
    return Build(plan_build(read_recipe(folder), synthetic=synthetic), folder, out, out.parent / "cache", str(mirror))


def done_of(build: Build, steps: tuple[str, ...] = STEPS) -> dict[str, bool]:
    """Run steps, and return True for each step that was unchanged."""
    reports: list[StepReport] = []
    build.run(steps, reports.append)
    assert all(report.summary for report in reports)
    return {report.step: report.unchanged for report in reports}


@pytest.fixture(scope="module")
def built(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the small recipe, and train once without alpha cells; return the folder of ``recipe`` and ``islets``."""
    folder = tmp_path_factory.mktemp("built")
    recipe = write_recipe(folder / "recipe", left_out="alpha")
    with steps_at_least(60):
        assert done_of(build_of(recipe, folder / "islets", mirror)) == dict.fromkeys(STEPS, False)
    return folder


def test_a_build_ends_with_a_complete_reference(built: Path) -> None:
    reference = verify(built / "islets").reference
    assert reference.labels.names == ("alpha", "beta", "delta", "exocrine")
    assert reference.labels.cell_ontology_ids[3] == "CL:0000083"
    assert {name for name in reference.files if name.endswith(".onnx")} >= {"onnx/model.onnx"}
    (query_study,) = reference.metrics["studies"]
    assert (query_study["study"], query_study["cells"]) == ("QueryStudy", 100)
    assert query_study["accuracy"] > 0.9
    (left_out,) = reference.metrics["left_out"]
    assert (left_out["label"], left_out["unseen_cells"], left_out["known_cells"]) == ("alpha", 20, 80)
    card = reference.files["README.md"].decode()
    assert "| QueryStudy | 100 | " in card
    assert "| alpha | QueryStudy | 20 | " in card
    assert "| ReferenceStudy | GSE84133 | reference | 200 | Baron et al. 2016 | none |" in card
    assert "**Not yet trained on the full data.** It has 200 cells of the 240" in card
    assert "Made-up" not in card
    assert "## Intended use\n\nTests.\n" in card


def test_a_repeated_build_runs_only_changed_steps(built: Path, mirror: Path) -> None:
    recipe, out = built / "recipe", built / "islets"
    before = (out / "manifest.json").read_bytes()
    assert done_of(build_of(recipe, out, mirror)) == dict.fromkeys(STEPS, True)
    (recipe / "card.md").write_text("## Intended use\n\nOther tests.\n")
    (out / "notes.txt").write_text("mine")
    again = done_of(build_of(recipe, out, mirror))
    assert again == {**dict.fromkeys(STEPS, True), "card": False}
    assert "Other tests." in (out / "README.md").read_text()
    assert (out / "notes.txt").read_text() == "mine"
    (recipe / "card.md").write_text("## Intended use\n\nTests.\n")
    assert not done_of(build_of(recipe, out, mirror))["card"]
    # The same inputs give the same bytes.
    assert (out / "manifest.json").read_bytes() == before


def test_steps_can_be_run_separately(mirror: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    build = build_of(recipe, tmp_path / "islets", mirror)
    with pytest.raises(ConfigError, match="The step download was not done with these inputs; add it"):
        build.run(["prepare"])
    with pytest.raises(ConfigError, match="There is no step 'bake'; the steps are download, prepare"):
        build.run(["bake"])
    assert done_of(build, ("download", "prepare")) == {"download": False, "prepare": False}
    assert (tmp_path / ".islets.build" / "prepared" / "query-QueryStudy.h5ad").is_file()
    assert not (tmp_path / "islets").exists()
    text = (recipe / FILE).read_text()
    (recipe / FILE).write_text(text.replace("human1, human2", "human1"))
    with pytest.raises(ConfigError, match="The step prepare was not done"):
        build_of(recipe, tmp_path / "islets", mirror).run(["train"])


def test_a_file_without_an_address_is_read_from_the_recipe_folder(
    islets: AnnData, mirror: Path, tmp_path: Path
) -> None:
    recipe, first = write_recipe(tmp_path / "recipe"), ("download", "prepare")
    own = "\n      - name: own.csv\n        reader: {format: annotation, delimiter: ',', obs: {cell_type: label}}\n"
    text = (recipe / FILE).read_text().replace("\n    labels: {alpha", own + "    labels: {alpha", 1)
    (recipe / FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"own\.csv cannot be read \(.*\)\. Add the file to the recipe\."):
        read_recipe(recipe)
    names = islets.obs_names[islets.obs["donor"] == "human1"][:9]
    (recipe / "own.csv").write_text("cell,label\n" + "".join(f"{name},delta\n" for name in names))
    build = build_of(recipe, tmp_path / "islets", mirror)
    assert done_of(build, first) == dict.fromkeys(first, False)
    prepared = read_cells(tmp_path / ".islets.build" / "prepared" / "reference.h5ad")
    assert prepared.obs["cell_type"].tolist() == ["delta"] * 9
    # A changed file is noticed, and a hash in the recipe is checked.
    (recipe / "own.csv").write_text(f"cell,label\n{names[0]},beta\n")
    assert done_of(build_of(recipe, tmp_path / "islets", mirror), first) == dict.fromkeys(first, False)
    (recipe / FILE).write_text(text.replace("own.csv\n", f"own.csv\n        sha256: {'a' * 64}\n"))
    with pytest.raises(ConfigError, match=rf"own\.csv has the sha256 [0-9a-f]+; expected {'a' * 64}\. Correct"):
        read_recipe(recipe)


def test_files_overwritten_by_an_interrupted_step_are_rebuilt(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, first = write_recipe(tmp_path / "recipe"), ("download", "prepare")
    build_of(recipe, tmp_path / "islets", mirror).run(first)
    text = (recipe / FILE).read_text()
    (recipe / FILE).write_text(text.replace("human1, human2", "human1"))
    build = build_of(recipe, tmp_path / "islets", mirror)
    with monkeypatch.context() as patch:
        # Interrupt the build after all files are written, and before the state is saved.
        patch.setattr(BuildState, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build.run(first)
    (recipe / FILE).write_text(text)
    again = done_of(build_of(recipe, tmp_path / "islets", mirror), first)
    assert again == {"download": True, "prepare": False}


def test_two_builds_do_not_write_to_the_same_folder(mirror: Path, tmp_path: Path) -> None:
    build = build_of(write_recipe(tmp_path / "recipe"), tmp_path / "islets", mirror)
    refusal = r"Another build is writing to .*islets\. Wait until it is done, or name another folder: --out\."
    with hold_lock(build.work / "lock", ""), pytest.raises(ConfigError, match=refusal):
        build.run(["download"])
    assert done_of(build, ("download",)) == {"download": False}


def test_each_left_out_label_has_its_own_checkpoints(
    built: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built, tmp_path / "built")
    checkpoints = []

    def leave_out(label: str, reference: Path, queries: Any, options: TrainOptions, on_epoch: Any) -> list[Any]:
        checkpoints.append(options.checkpoints)
        return []

    monkeypatch.setattr(steps, "leave_label_out", leave_out)
    for label in ("beta", "delta"):
        recipe = write_recipe(tmp_path / "built" / "recipe", left_out=label)
        build_of(recipe, tmp_path / "built" / "islets", mirror).run(STEPS[:4])
    assert len(set(checkpoints)) == 2


def test_made_up_cells_are_marked_in_metrics_provenance_and_card(built: Path, mirror: Path, tmp_path: Path) -> None:
    out = tmp_path / "islets"
    # The training is unchanged; the card differs.
    (built / ".islets.build").rename(tmp_path / ".islets.build")
    try:
        done = done_of(build_of(built / "recipe", out, mirror, synthetic=True))
    finally:
        (tmp_path / ".islets.build").rename(built / ".islets.build")
    assert not done["card"]
    reference = read_reference(out)
    assert reference.metrics["synthetic"] is True
    assert reference.provenance["synthetic"] is True
    assert "**Made-up cells.**" in reference.files["README.md"].decode()
    assert "## Measured on other cells (made-up cells)" in reference.files["README.md"].decode()
    assert json.loads((out / "config.json").read_text())["provenance"]["synthetic"] is True


def test_a_missing_study_is_an_error_with_advice(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    with pytest.raises(DownloadError, match=r"does not exist.*Or build from the other studies: --only QueryStudy"):
        build_of(recipe, tmp_path / "islets", tmp_path / "nowhere").run(["download"])


def test_a_folder_that_is_not_a_reference_is_not_replaced(mirror: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    (tmp_path / "islets").mkdir()
    (tmp_path / "islets" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not a reference"):
        build_of(recipe, tmp_path / "islets", mirror)


@pytest.mark.slow
def test_a_killed_build_continues_to_the_same_reference(mirror: Path, tmp_path: Path, hub: LoopbackHub) -> None:
    out, work = tmp_path / "islets", tmp_path / ".islets.build"
    recipe = write_recipe(tmp_path / "recipe", training="paper")
    done_of(build_of(recipe, tmp_path / "whole", mirror))
    with FileServer() as server:
        archive = (mirror / "GSE84133" / "GSE84133_RAW.tar").read_bytes()
        server.files["/mirror/GSE84133/GSE84133_RAW.tar"] = archive
        server.faults = ["slow"]
        arguments = [str(recipe), "--out", str(out), "--cache", str(tmp_path / "cache")]
        arguments += ["--mirror", f"{server.url}/mirror"]

        def killed_when(ready: Callable[[], bool]) -> None:
            command = [sys.executable, "-c", RUN, "build", *arguments]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            while not ready():
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (out / "manifest.json").exists()

        folder = tmp_path / "cache" / "GSE84133"
        killed_when(lambda: any(part.stat().st_size for part in folder.glob("*/.GSE84133_RAW.tar.part")))
        killed_when(lambda: any(work.glob("checkpoints/*/held-out.safetensors")))
        killed_when(lambda: any(work.glob(".built.*/built")))
        done = done_of(build_of(recipe, out, f"{server.url}/mirror"))
    # The first build was killed during the download of the archive.
    (_, everything), (_, rest) = server.requests
    assert not everything
    assert 0 < int(rest.removeprefix("bytes=").removesuffix("-")) < len(archive)
    assert done == {**dict.fromkeys(STEPS, True), "card": False}
    assert (out / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()
    assert sorted(path.name for path in work.iterdir()) == ["lock", "prepared", "steps.json", "trained"]
    pushed = push(out, "me/islets", hub=Hub(hub.endpoint, cache_dir=tmp_path / "hub"))
    pulled = SpikGPT.from_pretrained("me/islets", endpoint=hub.endpoint, cache_dir=tmp_path / "hub", engine="onnx")
    assert pulled.reference.origin == f"me/islets@{pushed.commit}"
    assert pulled.reference.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
