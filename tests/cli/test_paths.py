"""Outputs that would overwrite an input, each other or another file are refused before the work."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from spikgpt.cli.paths import CELLS, CSV, TABLES, Output, check_outputs
from spikgpt.errors import ConfigError
from tests.cli.conftest import Run, assert_refused


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with inputs of several kinds, a pipe, a socket and a device; make it the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("cells.h5ad").touch()
    Path("link.h5ad").symlink_to("cells.h5ad")
    Path("folder").mkdir()
    for store in ("in.zarr", "old.zarr"):
        for part in ("obs", "var"):
            Path(store, part).mkdir(parents=True)
    Path("images.zarr", "images").mkdir(parents=True)
    Path("tenx").mkdir()
    for name in ("matrix.mtx.gz", "barcodes.tsv.gz", "labels.csv"):
        Path("tenx", name).touch()
    Path("reference").mkdir()
    Path("reference", "metrics.json").touch()
    os.mkfifo("pipe.h5ad")
    Path("device.csv").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.h5ad")
    return tmp_path


@pytest.mark.parametrize(
    ("out", "source"),
    [
        ("./folder/../cells.h5ad", "cells.h5ad"),
        ("link.h5ad", "cells.h5ad"),
        ("cells.h5ad", "link.h5ad"),
        ("in.zarr", "in.zarr"),
        ("in.zarr/x.zarr", "in.zarr"),
        ("in.zarr/deeper/x.h5ad", "in.zarr/"),
        ("old.zarr", "old.zarr/x.h5ad"),
    ],
)
def test_an_output_that_is_an_input_or_inside_it_is_refused(folder: Path, out: str, source: str) -> None:
    if not Path(source).exists():
        Path(source).touch()
    with pytest.raises(ConfigError, match="input"):
        check_outputs(Output("--out", Path(out), CELLS), inputs=[source])


@pytest.mark.parametrize(
    ("out", "source"),
    [
        ("tenx/barcodes.tsv.gz", "tenx"),
        ("tenx/barcodes.tsv.gz", "tenx/matrix.mtx.gz"),
        ("reference/metrics.json", "reference"),
    ],
)
def test_a_part_of_an_input_is_not_replaced(folder: Path, out: str, source: str) -> None:
    with pytest.raises(ConfigError, match=source):
        check_outputs(Output("--table", Path(out)), inputs=[None, source])
    # Another file of the user in the folder of the input may be replaced.
    check_outputs(Output("--table", Path(source if Path(source).is_dir() else "tenx", "labels.csv")), inputs=[source])


@pytest.mark.parametrize(
    ("table", "clusters"),
    [
        ("a.csv", "./folder/../a.csv"),
        ("a.csv", "A.CSV"),
        ("a.csv", "dangling.csv"),
        ("\u00e9.csv", "e\u0301.csv"),
        ("new.csv", "new.csv/a.csv"),
    ],
)
def test_equal_or_nested_outputs_are_refused(folder: Path, table: str, clusters: str) -> None:
    Path("dangling.csv").symlink_to("a.csv")
    with pytest.raises(ConfigError, match="--table.*--cluster-table"):
        check_outputs(Output("--table", Path(table), TABLES), Output("--cluster-table", Path(clusters), CSV))


@pytest.mark.parametrize(
    "out", ["/dev/null", "pipe.h5ad", "socket.h5ad", "device.csv", "folder", "images.zarr", "cells.h5ad/a.h5ad", "."]
)
def test_devices_pipes_and_other_folders_are_not_replaced(folder: Path, out: str) -> None:
    before = sorted(os.walk("."))
    with pytest.raises(ConfigError, match=r"device|folder|a file"):
        check_outputs(Output("--out", Path(out)))
    assert sorted(os.walk(".")) == before


@pytest.mark.parametrize("name", ["a.h5ad", "a.H5AD", "a.b.Zarr", "old.zarr", "link.h5ad"])
def test_cells_are_written_to_h5ad_or_zarr(folder: Path, name: str) -> None:
    check_outputs(Output("--out", Path(name), CELLS))
    with pytest.raises(ConfigError, match=r"--table .* ends in '.*'; expected .*\.csv or .*\.parquet"):
        check_outputs(Output("--table", Path(name), TABLES))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.CSV.GZ", "a.tsv.gz"])
def test_tables_are_written_to_csv_or_tsv(folder: Path, name: str) -> None:
    check_outputs(Output("--table", Path(name), TABLES), Output("--cluster-table", None, CSV))
    with pytest.raises(ConfigError, match=r"--out .* ends in '.*'; expected .*\.h5ad or \.zarr"):
        check_outputs(Output("--out", Path(name), CELLS))


@pytest.mark.parametrize("name", ["a", ".csv", "csv", "a.csv.zip", "a.h5ad.gz", "a.parquet.gz", "a.xlsx"])
def test_other_endings_are_refused(folder: Path, name: str) -> None:
    for endings in (CELLS, TABLES, CSV):
        with pytest.raises(ConfigError, match=r"expected a name that ends in \.(h5ad|csv)"):
            check_outputs(Output("--out", Path(name), endings))


@pytest.mark.parametrize(
    "arguments",
    [
        ("annotate", "cells.h5ad", "--model", "pancreas", "--out", "a.h5ad", "--lock-file", "a.h5ad"),
        ("annotate", "cells.h5ad", "--model", "pancreas", "--table", "a.csv", "--lock-file", "cells.h5ad"),
        ("evaluate", "cells.h5ad", "--model", "pancreas", "--label-key", "a", "--json", "cells.h5ad"),
        ("leave-one-type-out", "cells.h5ad", "--label-key", "a", "--table", "a.parquet"),
        ("leave-one-type-out", "cells.h5ad", "--label-key", "a", "--plot", "a.pdf"),
        ("embed", "cells.h5ad", "--scgpt", "folder", "--out", "a.csv"),
        ("export", "reference", "--literal", "--out", "reference/metrics.json"),
        ("pull", "pancreas", "--out", "."),
        ("build", "pancreas", "--out", "."),
        ("train", "cells.h5ad", "--label-key", "a", "--out", "..", "--overwrite"),
    ],
    ids=lambda words: " ".join(words),
)
def test_every_command_refuses_in_one_line_before_the_work(run: Run, folder: Path, arguments: tuple[str, ...]) -> None:
    before = sorted(os.walk("."))
    assert_refused(run(*arguments), "name")
    assert sorted(os.walk(".")) == before
