"""The command line: what it writes, and that a user's mistake is one line and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import spikgpt
from spikgpt import SpikGPT
from spikgpt.cli.main import console, main
from spikgpt.reference.hub import Hub
from spikgpt.reference.layout import LAYOUT
from spikgpt.testing.hub import LoopbackHub
from spikgpt.training.embedders import open_scgpt
from spikgpt.training.reference import load
from spikgpt.training.sharing import push

COMMANDS = (
    *("annotate", "evaluate", "train", "novelty", "embed", "convert-scgpt", "pretrain"),
    *("info", "list", "verify", "pull", "push", "export"),
)
SCGPT = Path(__file__).parent / "data" / "scgpt_baron"


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
        monkeypatch.setattr(console, "width", 160)
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


def test_which_cells_are_unknown_is_the_users_to_choose(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path
) -> None:
    where = ("annotate", query_file, "--model", small_folder, "--out", tmp_path / "out.h5ad")
    for options, said in (
        (["--unknown-rate", 0.02], "Unknown: less familiar than 98% of held-out known cells."),
        (["--recalibrate"], "Unknown: less familiar than 95% of held-out known cells,"),
        (["--threshold", 0.95], "Unknown: a probability below 0.9500."),
        (["--no-unknown"], "0.0% Unknown: no cell is rejected."),
    ):
        ran = run(*where, *options)
        assert ran.code == 0, ran.err
        assert said in ran.err
    assert_refused(run(*where, "--no-unknown", "--threshold", 0.95), "--no-unknown rejects no cell; leave")
    assert_refused(run(*where, "--threshold", 0.95, "--unknown-rate", 0.1), "choose one")


def test_clusters_are_named_by_vote(
    run: Run, query_file: Path, few: AnnData, small_folder: Path, tmp_path: Path
) -> None:
    out, table = tmp_path / "out.h5ad", tmp_path / "clusters.csv"
    where = ("annotate", query_file, "--model", small_folder, "--out", out)
    ran = run(*where, "--cluster-key", "cell_type", "--cluster-table", table)
    assert ran.code == 0, ran.err
    clusters = pd.read_csv(table)
    assert sorted(clusters["cluster"]) == sorted(few.obs["cell_type"].astype(str).unique())
    labels = anndata.read_h5ad(out).obs["spikgpt_cluster_label"].astype(str)
    assert set(labels[few.obs["cell_type"] == "beta"]) == {"beta"}
    assert "nearest known type" in ran.err
    assert_refused(run(*where, "--cluster-table", table), "--cluster-table needs --cluster-key")
    assert_refused(run(*where, "--cluster-key", "leiden"), "obs has no column 'leiden'; it has cell_type, donor")


def test_novelty_leaves_a_type_out(run: Run, cells: AnnData, tmp_path: Path) -> None:
    source = written(cells, tmp_path / "cells.h5ad")
    table, plot = tmp_path / "types.csv", tmp_path / "types.png"
    ran = run("novelty", source, "--label-key", "cell_type", "--type", "ductal", "--table", table, "--plot", plot)
    assert ran.code == 0, ran.err
    assert "Mean AUROC" in ran.err
    assert "ductal" in ran.out
    assert pd.read_csv(table)["label"].tolist() == ["ductal"]
    assert plot.read_bytes().startswith(b"\x89PNG")


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


def test_embed_adds_the_embedding(run: Run, query_file: Path, few: AnnData, tmp_path: Path) -> None:
    out = tmp_path / "embedded.h5ad"
    ran = run("embed", query_file, "--scgpt", SCGPT, "--out", out, "--key", "X_mine", "--batch-size", 16)
    assert ran.code == 0, ran.err
    assert "Read counts from X." in ran.err
    assert f"genes are in the vocabulary.\nWrote {out}, obsm['X_mine'], 96 values a cell." in ran.err
    embedded, expected = anndata.read_h5ad(out), open_scgpt(SCGPT, cache=None).embed(few).vectors
    assert embedded.obsm["X_mine"] == pytest.approx(expected, abs=1e-6)
    assert embedded.obsm["X_mine"].dtype == np.float32
    assert embedded.obs_names.equals(few.obs_names)
    again = run("embed", query_file, "--scgpt", SCGPT, "--out", tmp_path / "upstream.h5ad", "--upstream-seeds", 1, 2)
    assert again.code == 0, again.err
    drawn = anndata.read_h5ad(tmp_path / "upstream.h5ad").obsm["X_scGPT"]
    assert not np.array_equal(drawn, embedded.obsm["X_mine"])


def test_a_killed_embedding_goes_on(tmp_path: Path) -> None:
    environment = os.environ | {"SPIKGPT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    source, out = Path(__file__).parent / "data" / "pancreas_baron_human3.h5ad", tmp_path / "embedded.h5ad"
    program = "from spikgpt.cli.main import main; main()"
    command = [sys.executable, "-c", program, "embed", str(source), "--scgpt", str(SCGPT), "--out", str(out)]
    first = subprocess.Popen([*command, "--batch-size", "1"], env=environment, stderr=subprocess.DEVNULL)
    while first.poll() is None and len(list(tmp_path.rglob("*.safetensors"))) < 2:
        time.sleep(0.002)
    first.kill()
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert 2 <= len(kept) < 8
    assert not out.exists()

    subprocess.run(command, env=environment, check=True, capture_output=True)

    shards = list(tmp_path.rglob("*.safetensors"))
    assert len(shards) == 8  # of 128 cells, for 914
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    expected = open_scgpt(SCGPT, cache=None).embed(anndata.read_h5ad(source)).vectors
    assert anndata.read_h5ad(out).obsm["X_scGPT"] == pytest.approx(expected, abs=1e-6)


def test_a_reference_on_scgpt(run: Run, cells: AnnData, query_file: Path, tmp_path: Path) -> None:
    source, out, converted = written(cells, tmp_path / "cells.h5ad"), tmp_path / "mine", tmp_path / "upstream"
    options = ("--label-key", "cell_type", "--out", out, "--embedder", "scgpt", "--scgpt", SCGPT)
    ran = run("train", source, *options)
    assert ran.code == 0, ran.err
    ran = run("convert-scgpt", SCGPT, "--out", converted, "--upstream")
    assert ran.code == 0, ran.err
    assert (converted / "best_model.pt").is_file()

    ran = run("evaluate", query_file, "--model", out, "--label-key", "cell_type", "--scgpt", converted)

    assert ran.code == 0, ran.err
    assert "Accuracy 0." in ran.err
    assert_refused(
        run("annotate", query_file, "--model", out, "--out", tmp_path / "out.h5ad"),
        "needs the scGPT checkpoint 'scgpt_baron'; give its folder with scgpt= or --scgpt.",
    )
    assert_refused(
        run("train", source, "--label-key", "cell_type", "--out", tmp_path / "other", "--embedder", "scgpt"),
        "--embedder scgpt and --scgpt CHECKPOINT go together; give both or neither.",
    )


def test_pretrain_then_embed(run: Run, cells: AnnData, query_file: Path, tmp_path: Path) -> None:
    source, out = written(cells, tmp_path / "cells.h5ad"), tmp_path / "network"
    sizes = ("--genes", 100, "--dim", 16, "--layers", 1, "--heads", 2, "--epochs", 1, "--max-length", 50)
    ran = run("pretrain", source, "--out", out, *sizes)
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "network"]
    ran = run("embed", query_file, "--scgpt", out, "--out", tmp_path / "out.h5ad", "--no-cache")
    assert ran.code == 0, ran.err
    assert_refused(run("pretrain", source, "--out", out, *sizes), "exists already; name a new folder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scgpt", "nowhere"], "nowhere is no folder; give the folder of an scGPT checkpoint"),
        (["--scgpt", SCGPT, "--batch-size", "many"], "--batch-size is 'many'; expected auto or a number of cells."),
        (["--scgpt", SCGPT, "--precision", "int4"], "expected one of float32, bfloat16, float16"),
    ],
)
def test_embed_refuses(run: Run, query_file: Path, tmp_path: Path, options: list[object], message: str) -> None:
    assert_refused(run("embed", query_file, "--out", tmp_path / "out.h5ad", *options), message)
    assert not (tmp_path / "out.h5ad").exists()


def test_list_shows_what_is_shipped_cached_and_on_the_hub(
    run: Run, small_folder: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "listed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    commit = push(small_folder, "listed/islets", hub=Hub(hub.endpoint)).commit
    hub.put("listed/other", {"README.md": b"---\ntags:\n- cats\n---\n"})
    folder = Hub(hub.endpoint).snapshot("listed/islets", None, LAYOUT, required=())
    ran = run("list", "--endpoint", hub.endpoint)
    rows = {line.split("│")[1].strip(): line.split("│")[2:] for line in ran.out.splitlines() if line.count("│") > 3}
    assert ran.code == 0
    assert rows["pancreas"][0].strip() == "shipped"
    assert [cell.strip() for cell in rows[f"listed/islets@{str(commit)[:12]}"][:3]] == ["cached, main", "6", "360"]
    assert rows["listed/islets"][0].strip() == "Hub"
    assert "listed/other" not in ran.out
    (folder / "labels.json").resolve().write_bytes(b"[]")
    ran = run("list", "--offline")
    assert "cached, main, damaged" in ran.out
    assert "labels.json differs from what manifest.json lists" in ran.err
    assert "Hub " not in ran.out
    ran = run("list", "--endpoint", "http://127.0.0.1:9")
    assert ran.code == 0
    assert "pancreas" in ran.out
    assert "The Hub cannot be reached (ConnectError" in ran.err


def test_push_pull_and_verify(
    run: Run, small_folder: Path, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--endpoint", hub.endpoint)
    ran = run("push", small_folder, "shared/islets", "--dry-run", *where)
    assert ran.code == 0
    assert "Nothing was sent: this is what would go to shared/islets." in ran.err
    assert ran.out.count("│ new ") == 10
    assert hub.repositories == {}
    ran = run("push", small_folder, "shared/islets", "--tag", "v1", "--message", "Six types", *where)
    commit = hub.repositories["shared/islets"].refs["v1"]
    assert f"shared/islets is at commit {commit}: {hub.endpoint}/shared/islets/tree/main" in ran.err
    assert hub.repositories["shared/islets"].commits[commit].title == "Six types"
    ran = run("pull", "shared/islets@v1", "--out", tmp_path / "pulled", *where)
    assert f"Wrote {tmp_path}/pulled, shared/islets@{commit}." in ran.err
    ran = run("verify", tmp_path / "pulled")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "ok: 9 files have the size and sha256 that manifest.json lists",
        "ok: weights, 6 labels, thresholds, genes and metrics fit together",
        "ok: the card states the figures of metrics.json",
        f"{tmp_path}/pulled is whole.",
    ]
    (tmp_path / "pulled" / "labels.json").write_text("[]")
    assert_refused(run("verify", tmp_path / "pulled"), "labels.json differs from what manifest.json lists")
    assert_refused(run("push", tmp_path / "pulled", "shared/islets", *where), "labels.json differs from what")
    assert_refused(
        run("push", small_folder, "islets", *where), "'islets' is no name of a repository; expected ORG/NAME"
    )
    assert_refused(run("pull", "shared/none", "--out", tmp_path / "none", *where), "There is no repository shared/none")
    assert_refused(run("pull", "shared/islets", "--out", tmp_path / "pulled", *where), "already holds a reference")
    assert_refused(
        run("push", small_folder, "shared/x", "--endpoint", "http://127.0.0.1:9"), "The Hub cannot be reached"
    )


def test_a_process_with_an_empty_cache_pulls_by_name_and_annotates(
    run: Run, query_file: Path, hub: LoopbackHub, cells: AnnData, few: AnnData, tmp_path: Path
) -> None:
    cells.write_h5ad(tmp_path / "reference.h5ad")
    about = ("--source", "Donor human1", "--licence", "CC-BY-4.0", "--dataset", "GSE84133")
    (tmp_path / "card.md").write_text("## Intended use\n\nTests.\n")
    ran = run(
        *("train", tmp_path / "reference.h5ad", "--label-key", "cell_type", "--out", tmp_path / "islets"),
        *(*about, "--description", tmp_path / "card.md"),
    )
    assert ran.code == 0
    card = (tmp_path / "islets" / "README.md").read_text()
    for stated in ("license: cc-by-4.0", "datasets:\n- GSE84133", "cells: Donor human1", "## Intended use\n\nTests."):
        assert stated in card
    assert run("push", tmp_path / "islets", "shared/islets", "--endpoint", hub.endpoint).code == 0
    command = [str(Path(sys.executable).with_name("spikgpt")), "annotate", str(query_file), "--model", "islets"]
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "SPIKGPT_NAMESPACE": "shared",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
    }
    out = tmp_path / "out.h5ad"
    subprocess.run([*command, "--out", str(out)], env=os.environ | environment, check=True)
    expected = SpikGPT.from_pretrained(tmp_path / "islets").annotate(anndata.read_h5ad(query_file))
    found = anndata.read_h5ad(out)
    assert found.obsm["spikgpt_probabilities"].tobytes() == expected.probabilities.tobytes()
    assert found.obs["spikgpt_label"].tolist() == expected.labels.tolist()
    commit = hub.repositories["shared/islets"].refs["main"]
    assert found.uns["spikgpt"]["reference_origin"] == f"shared/islets@{commit}"


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
    code = "from spikgpt.cli.main import main; main()"
    arguments = ["annotate", "missing.h5ad", "--model", "pancreas", "--out", "out.h5ad"]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert_refused(Ran(ran.returncode, ran.stdout, ran.stderr), "missing.h5ad is not there")
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
        (lambda _few, folder: folder / "missing.h5ad", "is not there"),
        (lambda _few, folder: folder, "is a folder with none"),
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
        (["--unknown-rate", "1"], "unknown_rate is 1.0; expected a share of at least 0 and below 1."),
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
        (
            ["--label-key", "cell_type", "--embedder", "umap"],
            "There is no embedder 'umap'; choose pca, scgpt, or obsm:KEY",
        ),
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


def test_export_writes_what_was_asked_for(run: Run, small_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = run("export", small_folder, "--out", out, "--precision", "int8", "--precision", "fp32")
    assert ran.code == 0
    assert sorted(path.name for path in (out / "onnx").iterdir()) == ["model.onnx", "model_int8.onnx", "parity.json"]
    assert "onnx/model_int8.onnx, int8: of 2048 cells" in ran.err
    assert f"spikgpt-onnx annotate QUERY.h5ad --model {out} --out OUT.h5ad" in ran.err
    ran = run("export", small_folder, "--out", tmp_path / "literal.onnx", "--literal")
    assert "literal.onnx, m = 300." in ran.err
    assert (tmp_path / "literal.onnx").stat().st_size > 100_000
    ran = run("export", small_folder, "--out", tmp_path / "new", "--precision", "fp8")
    assert_refused(ran, "Found the precisions fp8; choose from fp32, fp16, int8.")


def test_help_shows_what_stands_in_brackets(run: Run) -> None:
    assert "[@REVISION]" in run("annotate", "--help").out
