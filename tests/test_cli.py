"""The command line: what it writes, and that a user's mistake is one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import spikgpt
from spikgpt.cli import main
from spikgpt.reference import load

COMMANDS = ("annotate", "evaluate", "train", "info", "list", "export")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def command(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["spikgpt", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Ran(int(left.value.code or 0), *capsys.readouterr())

    return command


@pytest.fixture(scope="module")
def query_file(few: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "query.h5ad"
    few.write_h5ad(path)
    return path


def written(adata: AnnData, path: Path) -> Path:
    adata.write_h5ad(path)
    return path


def assert_refused(ran: Ran, message: str) -> None:
    lines = ran.err.splitlines()
    assert ran.code == 2
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("Error: ")
    assert message in lines[0]
    assert "Traceback" not in ran.err + ran.out


# --- what works ------------------------------------------------------------------------------------------------------


def test_annotate_writes_the_file_and_the_table(
    run: Run, query_file: Path, few: AnnData, small_folder: Path, tmp_path: Path
) -> None:
    out, table = tmp_path / "out.h5ad", tmp_path / "labels.csv"
    ran = run("annotate", query_file, "--model", small_folder, "--out", out, "--table", table)
    assert ran.code == 0
    assert "Read counts from X; scaling: composition." in ran.err
    assert f"Wrote {out} and {table}" in ran.err
    annotated, rows = anndata.read_h5ad(out), pd.read_csv(table, index_col="cell")
    assert rows.index.tolist() == annotated.obs_names.tolist() == few.obs_names.tolist()
    assert rows["spikgpt_label"].tolist() == annotated.obs["spikgpt_label"].tolist()
    expected = spikgpt.SpikGPT.from_pretrained(small_folder).annotate(few.copy())
    np.testing.assert_array_equal(annotated.obsm["spikgpt_probabilities"], expected.probabilities)
    assert (annotated.X != few.X).nnz == 0


def test_evaluate_writes_its_figures(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ran = run("evaluate", query_file, "--model", small_folder, "--label-key", "cell_type", "--json", figures)
    assert ran.code == 0
    values = json.loads(figures.read_text())
    expected = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "unknown_rate", "auroc_unknown", "per_label"}
    assert expected <= values.keys()
    assert f"Accuracy {values['accuracy']:.4f}, macro-F1 {values['macro_f1']:.4f}" in ran.err
    assert {row["label"] for row in values["per_label"]} <= set(load(small_folder).labels.names)


def test_train_then_info(run: Run, cells: AnnData, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    source = written(cells, tmp_path / "cells.h5ad")
    ran = run("train", source, "--label-key", "cell_type", "--out", out, "--recipe", "paper", "--seed", 3)
    assert ran.code == 0, ran.err
    assert "Held out: 30% of the cells of each label." in ran.err
    reference = load(out)
    assert (reference.name, reference.provenance["seed"]) == ("mine", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "mine"]
    shown = run("info", out)
    assert shown.code == 0
    assert f"Trained on {cells.n_obs} cells, recipe paper, seed 3; source: not stated." in shown.out
    assert all(name in shown.out for name in reference.labels.names)
    again = run("train", source, "--label-key", "cell_type", "--out", out, "--recipe", "paper")
    assert_refused(again, "already holds a reference; choose another folder, or ask to overwrite it.")


def test_list_shows_the_shipped_references(run: Run) -> None:
    ran = run("list")
    assert ran.code == 0
    assert "pancreas" in ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"Usage: spikgpt {command}" in ran.out


def test_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    assert all(command in ran.out for command in COMMANDS)


def test_version_of_the_installed_command() -> None:
    command = [str(Path(sys.executable).with_name("spikgpt")), "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == f"spikgpt {spikgpt.__version__}\n"
    assert ran.stderr == ""


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = "from spikgpt.cli import main; main()"
    arguments = ["annotate", "missing.h5ad", "--model", "pancreas", "--out", "out.h5ad"]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert_refused(Ran(ran.returncode, ran.stdout, ran.stderr), "missing.h5ad is no file (nothing there)")
    assert list(tmp_path.iterdir()) == []


# --- mistakes --------------------------------------------------------------------------------------------------------


def text_file(_few: AnnData, folder: Path) -> Path:
    (folder / "bad.h5ad").write_text("not HDF5")
    return folder / "bad.h5ad"


def negative(few: AnnData, folder: Path) -> Path:
    values = few.X.toarray().astype(np.float32)
    values[5, 5] = -1
    return written(AnnData(values, obs=few.obs, var=few.var), folder / "bad.h5ad")


def scaled(few: AnnData, folder: Path) -> Path:
    values = few[:, :3000].X.toarray().astype(np.float32)
    values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1)
    return written(AnnData(values, obs=few.obs, var=few.var[:3000]), folder / "bad.h5ad")


def other_genes(few: AnnData, folder: Path) -> Path:
    names = pd.DataFrame(index=[f"ENSMUSG{gene:011d}" for gene in range(few.n_vars)])
    return written(AnnData(few.X, obs=few.obs, var=names), folder / "bad.h5ad")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _few, folder: folder / "missing.h5ad", "is no file (nothing there)"),
        (lambda _few, folder: folder, "is no file (a folder)"),
        (text_file, "bad.h5ad"),
        (negative, "negative value"),
        (scaled, "as scaled or centred data does"),
        (other_genes, "genes in the query"),
    ],
    ids=["missing", "folder", "not HDF5", "negative", "scaled", "mouse"],
)
def test_cells_that_cannot_be_read(
    run: Run,
    few: AnnData,
    small_folder: Path,
    tmp_path: Path,
    make: Callable[[AnnData, Path], Path],
    message: str,
) -> None:
    query, out = make(few, tmp_path), tmp_path / "out.h5ad"
    assert_refused(run("annotate", query, "--model", small_folder, "--out", out), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "pancreaz"], "There is no reference or folder 'pancreaz'. Did you mean 'pancreas'?"),
        (["--table", "labels.xlsx"], "labels.xlsx ends in '.xlsx'; a table is written as .csv or .parquet."),
        (["--threshold", "2"], "The threshold is 2.0; expected a probability from 0 to 1."),
        (["--batch-size", "0"], "batch_size is 0; it must be at least 1."),
        (["--scaling", "own"], "There is no scaling 'own'; choose one of auto"),
        (["--layer", "spliced"], "spliced"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_options_of_annotate(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    out = tmp_path / "out.h5ad"
    model = [] if options[0] == "--model" else ["--model", small_folder]
    assert_refused(run("annotate", query_file, *model, "--out", out, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_the_input_is_never_the_output(run: Run, query_file: Path, small_folder: Path) -> None:
    before = query_file.read_bytes()
    ran = run("annotate", query_file, "--model", small_folder, "--out", query_file)
    assert_refused(ran, "is the input; name another file for the output.")
    assert query_file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-key", "celltype"], "obs has no column 'celltype'; it has cell_type, donor"),
        (["--label-key", "cell_type", "--recipe", "best"], "There is no recipe 'best'; choose one of default, paper."),
        (["--label-key", "cell_type", "--embedder", "scgpt"], "There is no embedder 'scgpt'; choose pca, or obsm:KEY"),
        (["--label-key", "cell_type", "--embedder", "obsm:X"], "There is no obsm['X']; this AnnData has: none."),
        (["--label-key", "cell_type", "--batch-key", "lane"], "obs has no column 'lane'"),
    ],
    ids=["label key", "recipe", "embedder", "obsm", "batch key"],
)
def test_bad_options_of_train(run: Run, query_file: Path, tmp_path: Path, options: list[str], message: str) -> None:
    assert_refused(run("train", query_file, "--out", tmp_path / "mine", *options), message)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(run: Run, query_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    ran = run("train", query_file, "--label-key", "cell_type", "--out", tmp_path, "--overwrite")
    assert_refused(ran, "exists and is not a reference; choose another folder.")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_label_column_that_is_missing_in_evaluate(run: Run, query_file: Path, small_folder: Path) -> None:
    ran = run("evaluate", query_file, "--model", small_folder, "--label-key", "celltype")
    assert_refused(ran, "obs has no column 'celltype'")


def test_a_damaged_reference(run: Run, tmp_path: Path) -> None:
    assert_refused(run("info", tmp_path), "has no config.json, which every reference has.")


def test_a_missing_option_is_a_usage_error(run: Run, query_file: Path) -> None:
    ran = run("annotate", query_file)
    assert ran.code == 2
    assert "Missing option" in ran.err
    assert "Traceback" not in ran.err
