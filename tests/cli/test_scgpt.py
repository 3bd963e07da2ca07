"""scGPT on the command line: embeddings, references on embeddings, and pretraining."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData

from spikgpt.cells.reading import read_cells
from spikgpt.engines.scgpt import embedding
from spikgpt.engines.scgpt.embedding import RunSettings
from spikgpt.engines.scgpt.source import open_scgpt
from spikgpt.engines.torch import embed_query
from spikgpt.types import Floats
from tests.cli.conftest import PROGRAM, SCGPT, Run, assert_refused, written
from tests.conftest import DATA


def test_embed_adds_the_embedding(run: Run, query_file: Path, few: AnnData, tmp_path: Path) -> None:
    out = tmp_path / "embedded.h5ad"
    ran = run("embed", query_file, "--scgpt", SCGPT, "--out", out, "--key", "X_mine", "--batch-size", 16)
    assert ran.code == 0, ran.err
    assert "Read counts from X." in ran.err
    assert f"genes are in the vocabulary.\nWrote {out}, obsm['X_mine'], 96 values per cell." in ran.err
    embedded, expected = anndata.read_h5ad(out), embed_query(open_scgpt(SCGPT), few, RunSettings())[0]
    assert embedded.obsm["X_mine"] == pytest.approx(expected, abs=1e-6)
    assert embedded.obsm["X_mine"].dtype == np.float32
    assert embedded.obs_names.equals(few.obs_names)
    again = run("embed", query_file, "--scgpt", SCGPT, "--out", tmp_path / "upstream.h5ad", "--upstream-seeds", 1, 2)
    assert again.code == 0, again.err
    upstream = anndata.read_h5ad(tmp_path / "upstream.h5ad").obsm["X_scGPT"]
    assert not np.array_equal(upstream, embedded.obsm["X_mine"])


def finished_shards(folder: Path) -> list[Path]:
    """Return the finished embedding shards in the cache; unfinished files lie in a deeper folder and are left out."""
    return list(folder.glob("cache/embeddings/*/*.safetensors"))


@pytest.mark.slow
def test_a_killed_embedding_resumes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKGPT_CACHE", str(tmp_path / "cache"))
    source, out = tmp_path / "cells.h5ad", tmp_path / "embedded.h5ad"
    cells = read_cells(DATA / "pancreas_baron_human3.h5ad")[:500].copy()
    arguments = ["embed", str(written(cells, source)), "--scgpt", str(SCGPT), "--out", str(out)]
    with subprocess.Popen([*PROGRAM, *arguments, "--batch-size", "1"], stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not finished_shards(tmp_path):
            time.sleep(0.002)
        first.kill()
    kept = {path: path.stat().st_mtime_ns for path in finished_shards(tmp_path)}
    assert 1 <= len(kept) < 4
    assert not out.exists()

    ran = run(*arguments)

    assert ran.code == 0, ran.err
    shards = finished_shards(tmp_path)
    assert len(shards) == 4  # shards of 128 cells, for 500 cells
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    expected = embed_query(open_scgpt(SCGPT), cells, RunSettings())[0]
    assert anndata.read_h5ad(out).obsm["X_scGPT"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("brief")
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


def test_gene_key_names_the_column_of_the_genes(run: Run, cells: AnnData, tmp_path: Path) -> None:
    renamed = cells[::15].copy()
    source = written(renamed, tmp_path / "cells.h5ad")
    renamed.var["mine"] = renamed.var_names
    renamed.var_names = [f"gene {number}" for number in range(renamed.n_vars)]
    other = written(renamed, tmp_path / "renamed.h5ad")
    sizes = ("--genes", 100, "--dim", 16, "--layers", 1, "--heads", 2, "--epochs", 1, "--max-length", 50)
    for query, name, options in ((source, "one", ()), (other, "two", ("--gene-key", "mine"))):
        ran = run("pretrain", query, "--out", tmp_path / name, *sizes, "--device", "cpu", *options)
        assert ran.code == 0, ran.err
        ran = run(
            "embed",
            query,
            "--scgpt",
            SCGPT,
            "--out",
            tmp_path / f"{name}.h5ad",
            "--no-cache",
            "--max-length",
            100,
            *options,
        )
        assert ran.code == 0, ran.err
    assert (tmp_path / "two" / "vocab.json").read_bytes() == (tmp_path / "one" / "vocab.json").read_bytes()
    vectors = [anndata.read_h5ad(tmp_path / f"{name}.h5ad").obsm["X_scGPT"] for name in ("one", "two")]
    np.testing.assert_array_equal(*vectors)
    ran = run("embed", other, "--scgpt", SCGPT, "--out", tmp_path / "x.h5ad", "--gene-key", "yours")
    assert_refused(ran, "var has no column 'yours'; it has mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scgpt", "nowhere"], "nowhere is no folder; expected args.json"),
        (["--scgpt", SCGPT, "--batch-size", "many"], "Invalid value for '--batch-size'"),
        (["--scgpt", SCGPT, "--precision", "int4"], "'int4' is not one of 'float32', 'bfloat16', 'float16'"),
    ],
)
def test_invalid_options_of_embed_are_refused(
    run: Run, query_file: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    assert_refused(run("embed", query_file, "--out", tmp_path / "out.h5ad", *options), message)
    assert not (tmp_path / "out.h5ad").exists()


def test_an_interrupted_embedding_names_the_saved_cells(
    run: Run, query_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKGPT_CACHE", str(tmp_path / "cache"))
    keep = embedding._write

    def interrupted(path: Path, vectors: Floats) -> bool:
        keep(path, vectors)
        signal.raise_signal(signal.SIGINT)
        return True

    monkeypatch.setattr(embedding, "_write", interrupted)
    ran = run("embed", query_file, "--scgpt", SCGPT, "--out", tmp_path / "embedded.h5ad")
    kept = tmp_path / "cache" / "embeddings"
    message = f"Interrupted. Finished cells are saved in {kept}; the same command resumes there.\n"
    assert (ran.code, ran.err) == (130, message)
    assert len(finished_shards(tmp_path)) == 1
    assert not (tmp_path / "embedded.h5ad").exists()


def test_an_interrupted_pretraining_saves_nothing(
    run: Run, cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spikgpt.training.pretraining.pretrain", interrupt)
    ran = run("pretrain", written(cells, tmp_path / "cells.h5ad"), "--out", tmp_path / "network")
    assert (ran.code, ran.err) == (130, "Interrupted. Nothing is saved; the same command starts again.\n")
