"""Commands that train a reference on a file of cells, and that measure the rejection of left-out types."""

from __future__ import annotations

import signal
from pathlib import Path

import pandas as pd
import pytest
from anndata import AnnData

from spikgpt.reference.files import read_reference
from spikgpt.training.loop import TrainingRun
from tests.cli.conftest import Run, assert_refused, written


def test_train_then_info(run: Run, cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = written(cells, tmp_path / "cells.h5ad")
    ran = run("train", source, "--label-key", "cell_type", "--out", "pancreas", "--recipe", "paper", "--seed", 3)
    assert ran.code == 0, ran.err
    assert "Held out: 30% of the cells of each label." in ran.err
    # Without ./, the name pancreas would mean the shipped reference, which has other labels.
    assert "annotate with: spikgpt annotate QUERY.h5ad --model ./pancreas --out OUT.h5ad" in ran.err
    reference = read_reference("pancreas")
    assert (reference.name, reference.provenance["seed"]) == ("pancreas", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "pancreas"]
    shown = run("info", "./pancreas")
    assert (shown.code, shown.err) == (0, "")
    assert f"Trained on {cells.n_obs} cells, recipe paper, seed 3; source: not stated." in shown.out
    assert all(name in shown.out for name in reference.labels.names)
    shipped = run("info", "pancreas")
    assert (shipped.code, reference.digest in shipped.out) == (0, False)
    assert "Note: 'pancreas' is the shipped reference; the folder ./pancreas is not used" in shipped.err
    pulled = run("pull", "pancreas", "--out", "islets")
    assert "Annotate with: spikgpt annotate QUERY.h5ad --model ./islets --out OUT.h5ad" in pulled.err
    again = run("train", source, "--label-key", "cell_type", "--out", "pancreas", "--recipe", "paper")
    assert_refused(again, "already holds a reference; choose another folder, or")


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_a_type_is_left_out(run: Run, cells: AnnData, tmp_path: Path) -> None:
    source = written(cells, tmp_path / "cells.h5ad")
    table, plot = tmp_path / "types.csv", tmp_path / "types.png"
    arguments = (source, "--label-key", "cell_type", "--type", "ductal")
    ran = run("leave-one-type-out", *arguments, "--table", table, "--plot", plot)
    assert ran.code == 0, ran.err
    assert "novelty" not in ran.err
    assert "Mean AUROC" in ran.err
    assert "ductal" in ran.out
    assert pd.read_csv(table)["label"].tolist() == ["ductal"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_old_name_of_leave_one_type_out_is_deprecated(run: Run, query_file: Path) -> None:
    ran = run("novelty", query_file, "--label-key", "celltype")
    deprecated, error = ran.err.splitlines()
    assert "spikgpt novelty is now called spikgpt leave-one-type-out" in deprecated
    assert (ran.code, error.startswith("Error: obs has no column 'celltype'")) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-key", "celltype"], "obs has no column 'celltype'; it has cell_type, donor"),
        (["--label-key", "cell_type", "--recipe", "best"], "'best' is not one of 'default', 'paper'"),
        (
            ["--label-key", "cell_type", "--embedder", "umap"],
            "There is no embedder 'umap'; choose pca, scgpt, or obsm:KEY",
        ),
        (["--label-key", "cell_type", "--embedder", "obsm:X"], "There is no obsm['X']; this AnnData has: none."),
        (["--label-key", "cell_type", "--batch-key", "lane"], "obs has no column 'lane'"),
    ],
    ids=["label key", "recipe", "embedder", "obsm", "batch key"],
)
def test_invalid_options_of_train_are_refused(
    run: Run, query_file: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert_refused(run("train", query_file, "--out", tmp_path / "mine", *options), message)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_replaced(run: Run, query_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    ran = run("train", query_file, "--label-key", "cell_type", "--out", tmp_path, "--overwrite")
    assert_refused(ran, "exists and is not a reference; choose another folder.")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.usefixtures("brief")
def test_an_interrupted_training_resumes(
    run: Run, cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, state = written(cells, tmp_path / "cells.h5ad"), tmp_path / "mine", tmp_path / ".mine.training"
    arguments = ["train", str(source), "--label-key", "cell_type", "--out", str(out)]
    keep = TrainingRun._save

    def interrupted(training: TrainingRun, epochs_done: int) -> None:
        keep(training, epochs_done)
        if epochs_done == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_save", interrupted)
        first = run(*arguments)
    assert first.code == 130
    assert first.err.startswith(f"Interrupted. The state after epoch 2 of 5 (held-out) is saved in {state}; the same")
    assert first.err.count("\n") == 1
    assert not out.exists()
    assert run(*arguments).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "mine"]


def test_a_card_that_cannot_be_read_is_refused(run: Run, query_file: Path, tmp_path: Path) -> None:
    where = ("train", query_file, "--label-key", "cell_type", "--out", tmp_path / "mine", "--description")
    assert_refused(run(*where, tmp_path), "--description takes a Markdown file.")
    (tmp_path / "card.md").write_bytes(b"\xff\xfe\x00")
    assert_refused(run(*where, tmp_path / "card.md"), "--description takes a Markdown file.")
