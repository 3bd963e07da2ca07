"""The command ``spikgpt explain``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from anndata import AnnData

from tests.cli.conftest import Run, assert_refused, written
from tests.conftest import DATA


def test_genes_are_shown_and_written(run: Run, query: AnnData, small_folder: Path, tmp_path: Path) -> None:
    cells, table, figures = written(query, tmp_path / "cells.h5ad"), tmp_path / "genes.csv", tmp_path / "genes.json"
    where = ("explain", cells, "--model", small_folder)
    ran = run(*where, "--labels", "alpha,beta", "--top", 5, "--out", table)
    assert ran.code == 0
    assert "INS" in ran.out
    assert "GCG" in ran.out
    assert "Wrote" in ran.err
    genes = pd.read_csv(table)
    assert set(genes["group"]) == {"alpha", "beta"}
    assert genes.groupby(["group", "role"]).size().max() <= 5
    ran = run(*where, "--labels", "Unknown", "--out", figures)
    assert ran.code == 0
    assert "and Unknown. Rule: OOD score above 0" in " ".join(ran.err.split())
    groups = json.loads(figures.read_text())["groups"]
    assert groups
    assert all(group["unknown"]["sentences"] for group in groups)


def test_a_label_without_cells_gets_one_line(run: Run, query: AnnData, small_folder: Path, tmp_path: Path) -> None:
    cells = written(query[query.obs["cell_type"] == "beta"].copy(), tmp_path / "cells.h5ad")
    ran = run("explain", cells, "--model", small_folder, "--labels", "ductal")
    assert ran.code == 0
    assert "No cell of the query got the label ductal." in ran.err
    assert "minus sign" not in ran.err
    assert ran.out == ""


def test_no_word_is_broken_on_a_narrow_terminal(
    run: Run, query: AnnData, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = query[:, query.var_names != "GCG"].copy()
    name = "a_long_name_of_a_cluster-with-hyphens"
    cells.obs["cluster"] = name
    monkeypatch.setattr("spikgpt.cli.explain.GENES_SHOWN", 20)
    monkeypatch.setattr("tests.cli.conftest.WIDTH", 40)
    ran = run("explain", written(cells, tmp_path / "cells.h5ad"), "--model", small_folder, "--cluster-key", "cluster")
    lines = ran.out.splitlines()
    assert any(line.startswith(f"{name}: {cells.n_obs} cells, ") for line in lines)
    words = {word.strip(",;") for line in lines[2:] for word in line.split()}
    known = set(cells.var_names) | {"GCG", "supporting", "conflicting", "missing", "not", "measured:", "-"}
    assert {word.removeprefix("-") or word for word in words} <= known
    assert max(map(len, lines[2:])) <= 40
    assert len(lines) > 8


def test_cells_and_clusters_are_explained(run: Run, query: AnnData, small_folder: Path, tmp_path: Path) -> None:
    cells, table = written(query, tmp_path / "cells.h5ad"), tmp_path / "genes.tsv"
    name = query.obs_names[3]
    assert run("explain", cells, "--model", small_folder, "--cells", f"{name},7", "--out", table).code == 0
    assert set(pd.read_csv(table, sep="\t")["group"]) == {name, query.obs_names[7]}
    ran = run("explain", cells, "--model", small_folder, "--cluster-key", "donor", "--out", table)
    assert ran.code == 0
    assert set(pd.read_csv(table, sep="\t")["group"]) == set(query.obs["donor"].astype(str))


def test_the_chosen_reference_explains(run: Run, query_file: Path, tmp_path: Path) -> None:
    table, cache = tmp_path / "genes.csv", ("--cache-dir", tmp_path / "no-cache")
    ran = run("explain", query_file, "--model", "auto", "--labels", "beta", *cache, "--out", table)
    assert ran.code == 0, ran.err
    labels = run("annotate", query_file, "--model", "auto", *cache, "--table", tmp_path / "labels.csv")
    reasons = [line for line in labels.err.splitlines() if "references were compared" in line]
    assert reasons[0].startswith("Reference pancreas: the profiles of its labels agree with the query")
    assert reasons[0] in ran.err
    assert "query.h5ad by pancreas" in ran.out
    assert set(pd.read_csv(table)["reference"]) == {"pancreas"}


def test_each_of_several_references_explains_its_labels(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "genes.csv"
    ran = run("explain", query_file, "--model", f"retina,{small_folder}", "--labels", "beta,Unknown", "--out", table)
    assert ran.code == 0, ran.err
    assert "beta by small: " in ran.out
    genes = pd.read_csv(table)
    assert set(genes[genes["label"] == "beta"]["reference"]) == {"small"}
    assert_refused(run("explain", query_file, "--model", "pancreas,nowhere/at-all", "--offline"), "nowhere/at-all")


def test_a_reference_without_genes_is_refused_before_the_work(
    run: Run, query_file: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spikgpt.several.annotate", None)
    models = f"{small_folder},{DATA / 'format_1' / 'counts'}"
    assert_refused(run("explain", query_file, "--model", models), "has format 1, which stores no profiles")


def test_mistakes_are_refused_in_one_line(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    where = ("explain", query_file, "--model", small_folder)
    assert_refused(run(*where, "--labels", "betta"), "Did you mean 'beta'?")
    assert_refused(run(*where, "--cells", "nobody"), "'nobody', which is not one of the 120 cells")
    assert_refused(run(*where, "--out", tmp_path / "genes.png"), "expected a name that ends in .csv")
    assert_refused(run(*where, "--out", query_file), "is the input")
    assert_refused(run(*where, "--cluster-key", "leiden"), "obs has no column 'leiden'")
    assert_refused(run("explain", query_file, "--model", "auto", "--lock"), "pin one reference; got --model auto")
    assert not (tmp_path / "genes.png").exists()
