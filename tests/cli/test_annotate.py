"""The commands ``spikgpt annotate`` and ``spikgpt evaluate``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import spikgpt.pipeline
from spikgpt import SpikGPT
from spikgpt.errors import ConfigError
from spikgpt.reference.files import read_reference
from spikgpt.reference.registry import shipped_references
from spikgpt.report.writer import ReportWriter
from spikgpt.scoring.ontology import ontology
from tests.cli.conftest import Run, assert_refused, written
from tests.conftest import QUERY_FILE
from tests.hub_server import LoopbackHub


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


def test_options_choose_the_rule_for_unknown(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    where = ("annotate", query_file, "--model", small_folder, "--out", tmp_path / "out.h5ad")
    for options, text in (
        (["--unknown-rate", 0.02], "98% of held-out cells, and OOD score above 0"),
        ([], "Unknown: OOD score above 0"),
        (["--reference-cutoff"], "95% of held-out cells."),
        (["--same-study"], "--same-study is now called --reference-cutoff"),
        (["--alone"], "--alone is now called --no-smoothing"),
        (["--threshold", 0.95], "Unknown: confidence below 0.9500."),
        (["--no-unknown"], "Rule for Unknown: no cell is rejected."),
    ):
        ran = run(*where, *options)
        assert ran.code == 0, ran.err
        assert text in ran.err
    assert_refused(run(*where, "--no-unknown", "--threshold", 0.95), "--no-unknown rejects no cell; leave")
    assert_refused(run(*where, "--threshold", 0.95, "--unknown-rate", 0.1), "choose one")
    for flag in ("--reference-cutoff", "--same-study"):
        assert_refused(run(*where, "--threshold", 0.95, flag), "choose one")


def test_strict_exits_with_code_3_for_another_tissue(
    run: Run, query_file: Path, foreign: AnnData, small_folder: Path, tmp_path: Path
) -> None:
    query, out, figures = written(foreign, tmp_path / "foreign.h5ad"), tmp_path / "out.h5ad", tmp_path / "figures.json"
    for command, output in (
        (("annotate", "--model", small_folder, "--out", out), out),
        (("evaluate", "--model", small_folder, "--label-key", "cell_type", "--json", figures), figures),
    ):
        suited = run(*command, "--strict", query_file)
        assert suited.code == 0, suited.err
        assert "do not use" not in suited.err
        for strict in ([], ["--strict"]):
            unsuited = run(*command, *strict, query)
            assert unsuited.code == (3 if strict else 0), unsuited.err
            message = "Note: The cells are of another tissue or species; do not use the labels: "
            assert message in " ".join(unsuited.err.split())
            assert unsuited.err.count("another tissue or species") == 1
            assert f"Wrote {output}" in unsuited.err
            assert "Traceback" not in unsuited.err
    labelled = anndata.read_h5ad(out)
    assert labelled.uns["spikgpt"]["compatibility"] == "another tissue or species, do not use"
    assert set(labelled.obs["spikgpt_label"]) == {"Unknown"}
    kept = run("annotate", query, "--model", small_folder, "--out", out, "--strict", "--no-unknown")
    assert kept.code == 3
    assert "Unknown" not in set(anndata.read_h5ad(out).obs["spikgpt_label"])


def test_the_terminal_shows_the_compatibility(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    ran = run("annotate", query_file, "--model", small_folder, "--table", tmp_path / "a.csv")
    assert "The cells are like those of the reference: the same genes separate the cell types" in ran.err


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
    assert "nearest label" in ran.err
    assert_refused(run(*where, "--cluster-table", table), "--cluster-table needs --cluster-key")
    assert_refused(run(*where, "--cluster-key", "leiden"), "obs has no column 'leiden'; it has cell_type, donor")


def test_the_terms_are_written_at_the_chosen_certainty(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path
) -> None:
    names = read_reference(small_folder).labels
    ids = dict(zip(names.names, names.cell_ontology_ids, strict=True))
    where = ("annotate", query_file, "--model", small_folder, "--table", tmp_path / "labels.csv")
    tables = {}
    for certainty in (0, 0.999):
        ran = run(*where, "--certainty", certainty, "--out", tmp_path / "out.h5ad")
        assert ran.code == 0, ran.err
        tables[certainty] = pd.read_csv(tmp_path / "labels.csv")
        obs = anndata.read_h5ad(tmp_path / "out.h5ad").obs
        for name in ("ontology_term_id", "ontology_label", "label_broad", "label"):
            assert obs[f"spikgpt_{name}"].tolist() == tables[certainty][f"spikgpt_{name}"].tolist()
    sure, unsure = tables[0], tables[0.999]
    pd.testing.assert_series_equal(sure["spikgpt_label"], unsure["spikgpt_label"])
    assert sure["spikgpt_ontology_term_id"].tolist() == [ids.get(name, "unknown") for name in sure["spikgpt_label"]]
    broader = sure["spikgpt_ontology_term_id"] != unsure["spikgpt_ontology_term_id"]
    assert broader.any()
    table = ontology()
    for label, term in zip(sure["spikgpt_label"][broader], unsure["spikgpt_ontology_term_id"][broader], strict=True):
        assert term in {"unknown", *table.above(str(ids[label]))}
    assert_refused(run(*where, "--certainty", "1"), "--certainty is 1.0; expected a number of at least 0 and below 1")


def test_labels_are_written_in_the_cell_annotation_schema(
    run: Run, query_file: Path, few: AnnData, small_folder: Path, tmp_path: Path
) -> None:
    cas, table = tmp_path / "labels.json", tmp_path / "labels.csv"
    where = ("annotate", query_file, "--model", small_folder, "--cas", cas)
    ran = run(*where, "--table", table, "--cluster-key", "cell_type", "--cas-author", "Ada Lovelace")
    assert ran.code == 0, ran.err
    document = json.loads(cas.read_text())
    assert (document["title"], document["author_name"]) == ("query.h5ad", "Ada Lovelace")
    labels = pd.read_csv(table, index_col="cell")["spikgpt_label"]
    cluster_of = few.obs["cell_type"].astype(str)
    for annotation in document["annotations"]:
        if annotation["labelset"] == "spikgpt_label":
            assert set(labels[annotation["cell_ids"]]) == {annotation["cell_label"].replace("unknown", "Unknown")}
        if annotation["labelset"] == "spikgpt_cluster_label":
            assert set(cluster_of[annotation["cell_ids"]]) == {annotation["author_annotation_fields"]["cluster"]}
    assert {annotation["labelset"] for annotation in document["annotations"]} == {
        annotation["name"] for annotation in document["labelsets"]
    }
    assert run(*where).code == 0
    assert_refused(
        run(*where[:-1], table), "--cas " + str(table) + " ends in '.csv'; expected a name that ends in .json"
    )
    assert_refused(run(*where, "--out-dir", tmp_path / "parts"), "leave out --cas")


def test_labels_of_another_reference_are_replaced_with_a_note(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path
) -> None:
    once, twice, beside = (tmp_path / f"{name}.h5ad" for name in ("once", "twice", "beside"))
    assert run("annotate", query_file, "--model", small_folder, "--out", once).code == 0
    again = run("annotate", once, "--model", small_folder, "--out", twice)
    assert "replaced" not in again.err
    other = run("annotate", once, "--model", "pancreas", "--out", twice)
    name = read_reference(small_folder).name
    text = " ".join(other.err.split())
    assert f"The labels by the reference {name!r} were replaced. To keep the labels of both, use key_added" in text
    assert run("annotate", once, "--model", "pancreas", "--out", beside, "--key-added", "second").code == 0
    first, both = anndata.read_h5ad(once), anndata.read_h5ad(beside)
    pd.testing.assert_frame_equal(both.obs[first.obs.columns.tolist()], first.obs)
    assert {"second_label", "second_ontology_term_id"} <= set(both.obs)


def test_the_majority_of_fine_clusters_labels_their_cells(
    run: Run, query_file: Path, few: AnnData, small_folder: Path, tmp_path: Path
) -> None:
    out, table, labels = (tmp_path / name for name in ("out.h5ad", "clusters.csv", "labels.csv"))
    where = ("annotate", query_file, "--model", small_folder, "--majority-vote")
    ran = run(*where, "--out", out, "--table", labels, "--cluster-table", table)
    assert ran.code == 0, ran.err
    obs, clusters = anndata.read_h5ad(out).obs, pd.read_csv(table)
    assert clusters["cells"].sum() == few.n_obs
    by_cluster = dict(zip(clusters["cluster"].astype(str), clusters["label"], strict=True))
    assert obs["spikgpt_cluster_label"].tolist() == obs["spikgpt_cluster"].map(by_cluster).tolist()
    assert pd.read_csv(labels)["spikgpt_cluster_label"].tolist() == obs["spikgpt_cluster_label"].tolist()
    assert_refused(run(*where, "--out", out, "--cluster-key", "cell_type"), "majority_vote makes its own clusters")
    assert_refused(run(*where, "--out-dir", tmp_path / "parts"), "Shards are labelled one by one")


def test_labels_are_restricted(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    where = ("annotate", query_file, "--model", small_folder, "--table", table)
    for flags in (["--labels", "alpha,beta"], ["--labels", "alpha", "--labels", "beta"]):
        assert run(*where, *flags).code == 0
        assert set(pd.read_csv(table)["spikgpt_best_label"]) == {"alpha", "beta"}
    assert run(*where, "--exclude", "alpha", "--exclude", "beta, delta").code == 0
    assert not {"alpha", "beta", "delta"} & set(pd.read_csv(table)["spikgpt_best_label"])
    assert_refused(run(*where, "--exclude", "alfa"), "exclude names 'alfa', which is not a label of the reference")
    ran = run("evaluate", query_file, "--model", small_folder, "--label-key", "cell_type", "--exclude", "alpha")
    assert ran.code == 0
    missing = " ".join(ran.err.split()).partition("Types missing from the reference or excluded (")[2]
    assert "alpha" in missing.partition(")")[0]


def test_evaluate_writes_its_figures(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ran = run("evaluate", query_file, "--model", small_folder, "--label-key", "cell_type", "--json", figures)
    assert ran.code == 0
    values = json.loads(figures.read_text())
    expected = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "unknown_rate", "auroc_unknown", "per_label"}
    assert expected <= values.keys()
    assert f"Accuracy {values['accuracy']:.4f}, macro-F1 {values['macro_f1']:.4f}" in ran.err
    assert {row["label"] for row in values["per_label"]} <= set(read_reference(small_folder).labels.names)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_a_process_with_an_empty_cache_pulls_by_name_and_annotates(
    run: Run, query_file: Path, hub: LoopbackHub, cells: AnnData, few: AnnData, tmp_path: Path
) -> None:
    cells.write_h5ad(tmp_path / "reference.h5ad")
    about = ["--source", "Donor human1", "--licence", "CC-BY-4.0", "--dataset", "GSE84133"]
    about += ["--tissue", "pancreas", "--organism", "Homo sapiens"]
    (tmp_path / "card.md").write_text("## Intended use\n\nTests.\n")
    ran = run(
        *("train", tmp_path / "reference.h5ad", "--label-key", "cell_type", "--out", tmp_path / "islets"),
        *(*about, "--description", tmp_path / "card.md"),
    )
    assert ran.code == 0
    card = (tmp_path / "islets" / "README.md").read_text()
    assert "- organism:homo-sapiens\n" in card
    for stated in (
        "license: cc-by-4.0",
        "- accession:GSE84133",
        "- tissue:pancreas",
        "cells: Donor human1",
        "## Intended use\n\nTests.",
    ):
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
    labelled = anndata.read_h5ad(out)
    assert labelled.obsm["spikgpt_probabilities"].tobytes() == expected.probabilities.tobytes()
    assert labelled.obs["spikgpt_label"].tolist() == expected.labels.tolist()
    commit = hub.repositories["shared/islets"].refs["main"]
    assert labelled.uns["spikgpt"]["reference_origin"] == f"shared/islets@{commit}"


def test_a_lock_file_and_a_digest_keep_the_reference(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = read_reference(small_folder).digest
    ran = run("annotate", query_file, "--model", small_folder, "--table", "one.csv", "--lock", "--expect", digest)
    assert (ran.code, f"Pinned {small_folder} in spikgpt.lock." in ran.err) == (0, True)
    assert json.loads(Path("spikgpt.lock").read_text())["references"] == {str(small_folder): {"digest": digest}}
    command = ("annotate", query_file, "--model", small_folder, "--table", "two.csv")
    assert_refused(run(*command, "--expect", "0" * 64), f"has the digest {digest}; expected 0000")
    Path("spikgpt.lock").write_text(Path("spikgpt.lock").read_text().replace(digest, "0" * 64))
    assert_refused(run(*command, "--lock"), "spikgpt.lock has 0000")
    assert_refused(run(*command, "--lock-file", tmp_path), "is a folder; name a file to write")
    assert not Path("two.csv").exists()
    cells = anndata.read_h5ad(query_file)
    SpikGPT.from_pretrained(small_folder, expect=digest, lock="new.lock").annotate(cells)
    assert cells.uns["spikgpt"]["reference_digest"] == digest
    assert "new.lock" in [path.name for path in tmp_path.iterdir()]


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
        (lambda _few, folder: folder / "missing.h5ad", "missing.h5ad is not there; give an .h5ad file, a .zarr folder"),
        (lambda _few, folder: folder, "is a folder with none; give an .h5ad file"),
        (text_file, "bad.h5ad"),
        (negative, "negative value"),
        (scaled, "as scaled or centred data does"),
        (other_genes, "genes in the query"),
    ],
    ids=["missing", "folder", "not HDF5", "negative", "scaled", "mouse"],
)
def test_unreadable_cells_are_refused(
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
        (["--table", "labels.xlsx"], "--table labels.xlsx ends in '.xlsx'; expected a name that ends in .csv"),
        (["--threshold", "2"], "--threshold is 2.0; expected a number of at least 0 and at most 1."),
        (["--unknown-rate", "1"], "--unknown-rate is 1.0; expected a number of at least 0 and below 1."),
        (["--batch-size", "0"], "--batch-size is 0; expected a whole number of at least 1."),
        (["--scaling", "own"], "'own' is not one of 'auto', 'composition', 'shift', 'reference', 'query'"),
        (["--layer", "spliced"], "spliced"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_invalid_options_of_annotate_are_refused(
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


def test_labels_do_not_reach_a_file_that_replaced_the_query(
    run: Run, few: AnnData, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, new = written(few, tmp_path / "query.h5ad"), few[::-1].copy()
    new.obs_names = few.obs_names
    written(new, tmp_path / "new.h5ad")
    annotate = spikgpt.pipeline.annotate

    def slow(*arguments: Any) -> Any:
        annotation = annotate(*arguments)
        (tmp_path / "new.h5ad").replace(query)
        return annotation

    monkeypatch.setattr(spikgpt.pipeline, "annotate", slow)
    ran = run("annotate", query, "--model", small_folder, "--out", tmp_path / "out.h5ad")
    assert_refused(ran, "query.h5ad was changed or replaced since it was read")
    assert not (tmp_path / "out.h5ad").exists()


def test_evaluate_refuses_a_missing_label_column(run: Run, query_file: Path, small_folder: Path) -> None:
    ran = run("evaluate", query_file, "--model", small_folder, "--label-key", "celltype")
    assert_refused(ran, "obs has no column 'celltype'")


def test_a_table_alone_is_enough_and_every_option_reaches_the_run(run: Run, tmp_path: Path) -> None:
    options = ["--no-smoothing", "--scaling", "reference", "--threshold", 0.99, "--batch-size", 100, "--threads", 1]
    options += ["--provider", "cpu", "--precision", "int8", "--no-memory-arena", "--any-part", "--offline"]
    ran = run("annotate", QUERY_FILE, "--model", "pancreas", "--table", tmp_path / "a.csv", *options)
    assert ran.code == 0, ran.err
    assert "scaling: reference. Engine: onnx on cpu." in ran.err
    assert "Rule for Unknown: confidence below 0.9900." in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_all_engines_give_the_same_labels(run: Run, query_file: Path, tmp_path: Path) -> None:
    labels = []
    for engine, text in (
        ("torch", "Engine: torch on"),
        ("onnx", "Engine: onnx on cpu."),
        ("numpy", "Engine: numpy on cpu."),
    ):
        table = tmp_path / f"{engine}.csv"
        ran = run("annotate", query_file, "--model", "pancreas", "--table", table, "--engine", engine)
        assert ran.code == 0, ran.err
        assert text in ran.err
        labels.append(pd.read_csv(table)["spikgpt_label"].tolist())
    assert labels[0] == labels[1] == labels[2]


def test_evaluate_accepts_other_names_of_the_labels(run: Run, few: AnnData, small_folder: Path, tmp_path: Path) -> None:
    other = few.copy()
    # Drop the Cell Ontology ids, by which SpikGPT would match labels that have other names.
    other.obs = pd.DataFrame({"cell_type": few.obs["cell_type"].astype(str).replace({"beta": "B-cells of the islet"})})
    query, names = written(other, tmp_path / "other.h5ad"), tmp_path / "names.json"
    names.write_text('{"B-cells of the islet": "beta"}')
    where = ("evaluate", query, "--model", small_folder, "--label-key", "cell_type")
    ran = run(*where)
    assert "Types missing from the reference (B-cells of the islet" in ran.err
    assert "no label like B-cells of the islet" in ran.err.split("Accuracy")[0].split("precision")[0]
    # The option that the error message suggests is accepted.
    other.obs["cell_type"] = few.obs["cell_type"].astype(str) + " cells"
    near = written(other, tmp_path / "near.h5ad")
    ran = run("evaluate", near, *where[2:])
    assert ran.code == 2
    assert "accuracy" not in ran.err.casefold()
    option, content = shlex.split(ran.err.replace("\n", " ").split(" add: ")[1])
    assert run("evaluate", near, *where[2:], option, content).code == 0
    ran = run(*where, "--label-map", names)
    assert ran.code == 0, ran.err
    assert "B-cells" not in ran.err
    assert_refused(run(*where, "--label-map", tmp_path), f"{tmp_path} is no label map")
    names.write_text('["beta"]')
    assert_refused(run(*where, "--label-map", names), "names.json is no label map")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "No output is named; pass --out FILE",
        ),
        (["--out", "FOLDER"], "is a folder; name a file to write."),
        (["--out", "FOLDER/./query.h5ad"], "is the input; name another file for the output."),
        (["--out", "FOLDER/query.h5ad/out.h5ad"], "query.h5ad is a file."),
        (["--out", "FOLDER/out.h5ad", "--engine", "onnx"], "make it with: spikgpt export"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(
    run: Run, few: AnnData, small_folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    query = written(few, tmp_path / "query.h5ad")
    named = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert_refused(run("annotate", query, "--model", small_folder, *named), message)
    assert list(tmp_path.iterdir()) == [query]


def test_an_interruption_names_the_written_files(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = tmp_path / "out.h5ad", tmp_path / "clusters.csv"
    where = ("annotate", query_file, "--model", small_folder, "--out", out, "--cluster-key", "cell_type")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spikgpt.report.clusters.ClusterReport.table", interrupt)
    ran = run(*where, "--cluster-table", table)
    assert (ran.code, ran.err) == (130, f"Interrupted. Written: {out}.\n")
    assert list(tmp_path.iterdir()) == [out]
    out.unlink()
    monkeypatch.setattr("spikgpt.report.clusters.summarise", interrupt)
    ran = run(*where)
    assert (ran.code, ran.err) == (130, "Interrupted. Nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


def test_auto_chooses_a_reference_and_gives_the_reason(run: Run, query_file: Path, tmp_path: Path) -> None:
    cache = ("--cache-dir", tmp_path / "no-cache")
    out = tmp_path / "out.h5ad"
    ran = run("annotate", query_file, "--model", "auto", "--out", out, *cache)
    assert ran.code == 0, ran.err
    assert "Reference pancreas: the profiles of its labels agree with the query" in ran.err
    assert anndata.read_h5ad(out).uns["spikgpt"]["choice"]["reference"].tolist()[0] == "pancreas"
    ran = run("evaluate", query_file, "--model", "auto", "--label-key", "cell_type", *cache)
    assert ran.code == 0, ran.err
    assert "Reference pancreas: " in ran.err
    assert "Accuracy 0." in ran.err


def test_auto_refuses_cells_of_another_tissue(run: Run, foreign: AnnData, tmp_path: Path) -> None:
    query = written(foreign, tmp_path / "foreign.h5ad")
    out = tmp_path / "out.h5ad"
    ran = run("annotate", query, "--model", "auto", "--strict", "--out", out, "--cache-dir", tmp_path / "no-cache")
    assert ran.code == 3, ran.err
    compared = f"{len(shipped_references())} references were compared with 120 cells"
    assert f"No reference suits the query; {compared}." in " ".join(ran.err.split())
    assert set(anndata.read_h5ad(out).obs["spikgpt_label"]) == {"Unknown"}


def test_several_references_label_one_query(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    ran = run("annotate", query_file, "--model", f"pancreas,{small_folder}", "--table", table)
    assert ran.code == 0, ran.err
    assert set(pd.read_csv(table)["spikgpt_reference"]) <= {"pancreas", "small"}


def test_commands_for_one_reference_refuse_several(run: Run, query_file: Path, tmp_path: Path) -> None:
    where = ("annotate", query_file, "--table", tmp_path / "labels.csv")
    assert_refused(run(*where, "--model", "auto", "--lock"), "pin one reference; got --model auto")
    assert_refused(run("annotate", query_file, "--model", "auto", "--out-dir", tmp_path / "parts"), "One reference is")
    assert_refused(run("info", "auto"), "One reference is needed here, not 'auto'")
    several = ("--model", "pancreas,retina", "--label-key", "cell_type")
    assert_refused(run("evaluate", query_file, *several), "spikgpt evaluate takes one reference, or auto")


def test_a_report_alone_is_an_output(run: Run, query_file: Path, small_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    ran = run("annotate", query_file, "--model", small_folder, "--report", report, "--threshold", 0.5)
    assert ran.code == 0, ran.err
    assert f"Wrote {report}" in ran.err
    text = report.read_text()
    assert "Cell types of query.h5ad" in text
    assert "--threshold 0.5" in text
    assert 'id="array-positions"' in text
    assert list(tmp_path.iterdir()) == [report]


def test_a_report_has_the_clusters_and_the_map_of_the_file(
    run: Run, few: AnnData, small_folder: Path, tmp_path: Path
) -> None:
    adata, report = few.copy(), tmp_path / "report.html"
    adata.obsm["X_own"] = np.random.default_rng(0).normal(size=(few.n_obs, 2))
    adata.obsm["X_nan"] = np.full((few.n_obs, 2), np.nan)
    query = written(adata, tmp_path / "query.h5ad")
    where = ("annotate", query, "--model", small_folder)
    ran = run(*where, "--report", report, "--map-key", "X_own", "--cluster-key", "cell_type")
    assert ran.code == 0, ran.err
    text = report.read_text()
    assert "The map is obsm[&#39;X_own&#39;] of the query." in text
    assert "Clusters: <bdi>obs[&#39;cell_type&#39;]</bdi>" in text
    report.unlink()
    missing = run(*where, "--report", report, "--map-key", "X_umap")
    assert_refused(missing, "There is no map obsm['X_umap']; obsm has X_nan, X_own.")
    nowhere = run(*where, "--report", report, "--map-key", "X_nan")
    assert_refused(nowhere, "obsm['X_nan'] is no map: no cell has finite coordinates.")
    assert "Drawing the report" not in nowhere.err
    assert_refused(run(*where, "--table", tmp_path / "t.csv", "--map-key", "X_own"), "--map-key names the map of a")
    assert_refused(run(*where, "--report", tmp_path / "report.pdf"), "expected a name that ends in .html")
    assert_refused(run(*where, "--report", query), "is the input; name another file")
    assert_refused(run(*where, "--report", report, "--out-dir", tmp_path / "parts"), "leave out --report")
    assert_refused(run(*where), "or --report FILE for a page with figures")
    assert not report.exists()


def test_labels_are_kept_if_the_report_fails(
    run: Run, query_file: Path, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        msg = "There is no space for the report."
        raise ConfigError(msg)

    monkeypatch.setattr(ReportWriter, "write", fail)
    out, report = tmp_path / "labels.csv", tmp_path / "report.html"
    ran = run("annotate", query_file, "--model", small_folder, "--table", out, "--report", report)
    assert ran.code == 2
    assert f"Wrote {out}. Drawing the report." in ran.err
    assert "There is no space for the report." in ran.err
    assert list(tmp_path.iterdir()) == [out]
