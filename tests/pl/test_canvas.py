"""Axes, files and texts of pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from anndata import AnnData

from spikgpt import pl
from spikgpt.errors import ConfigError
from spikgpt.pl.canvas import LEGEND_ROWS, figure_of, legend_size, shown
from tests.pl.simulated import HOSTILE

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize("kind", MAGIC)
def test_files_are_written_by_rename_and_their_figures_closed(islets: AnnData, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "folder" / f"map.{kind.upper()}"
    axes = pl.umap(islets, save=path)
    assert path.read_bytes().startswith(MAGIC[kind])
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert plt.get_fignums() == []
    assert axes.get_xlabel() == "UMAP1"


def test_a_figure_stays_open_without_a_file_and_foreign_axes_always(islets: AnnData, tmp_path: Path) -> None:
    axes = pl.umap(islets)
    assert plt.get_fignums() == [axes.figure.number]  # type: ignore[union-attr]
    figure, panels = plt.subplots(1, 2)
    assert pl.umap(islets, ax=panels[1], save=tmp_path / "both.png") is panels[1]
    assert figure.number in plt.get_fignums()
    assert figure_of(panels[1]) is figure


def test_axes_of_a_subfigure_belong_to_the_whole_figure(islets: AnnData, tmp_path: Path) -> None:
    figure = plt.figure(layout="constrained")
    panel = figure.add_subfigure(figure.add_gridspec(1, 2)[0]).subplots()
    pl.composition(islets, "donor", ax=panel, save=tmp_path / "part.png")
    assert figure_of(panel) is figure
    assert (tmp_path / "part.png").stat().st_size > 1000


def test_show_calls_pyplot(islets: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    pl.umap(islets)
    pl.umap(islets, show=False)
    assert calls == []
    pl.umap(islets, show=True)
    assert calls == [1]


@pytest.mark.parametrize("save", ["map.jpeg", "map", 3, ""])
def test_files_of_other_kinds_are_refused_before_the_work(islets: AnnData, save: str) -> None:
    with pytest.raises(
        ConfigError, match=r"save is .*; expected the name of a file that ends with \.png, \.pdf, \.svg"
    ):
        pl.confidence(islets, save=save)
    assert plt.get_fignums() == []


def test_a_folder_that_cannot_be_written_is_refused(islets: AnnData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        pl.composition(islets, save=tmp_path / "file" / "map.png")


def test_other_objects_than_axes_are_refused(islets: AnnData) -> None:
    with pytest.raises(ConfigError, match="ax is a Figure; expected Axes"):
        pl.umap(islets, ax=plt.figure())  # type: ignore[arg-type]


def test_a_missing_matplotlib_is_named(islets: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (pl.umap, pl.confidence, pl.composition):
        with pytest.raises(ConfigError, match=r"^This needs matplotlib, .*pip install 'matplotlib>=3\.8'$"):
            draw(islets)


def test_the_module_is_imported_without_matplotlib() -> None:
    absent = ("matplotlib", "torch", "scanpy", "sklearn", "umap")
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nimport spikgpt\nprint(*spikgpt.pl.__all__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["agreement", "composition", "confidence", "genes", "raster", "umap"]


def test_names_are_short_without_formulas_and_control_characters() -> None:
    for name in HOSTILE:
        text = shown(name)
        assert text.isprintable()
        assert 0 < len(text) <= 70
        assert not text.startswith("_")
        assert text.replace("\\$", "").count("$") == 0
    assert shown("abcdefghij", 8) == "abcde..."
    assert shown(9) == "9"


def test_a_legend_of_many_names_has_columns() -> None:
    assert legend_size(["a"])[0] == 1
    columns, longest, width = legend_size(["n" * 200] * (2 * LEGEND_ROWS + 1))
    assert columns == 3
    assert longest < 60
    assert width < 12
