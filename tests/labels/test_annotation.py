"""Written files hold everything the input held, and are written whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import anndata
import h5py
import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData
from scipy import sparse

from spikgpt import Annotation
from spikgpt.errors import SpikGPTWarning
from spikgpt.files import replacing
from spikgpt.labels.palette import UNKNOWN_COLOR, palette

N_CELLS, N_GENES = 12, 7
LABELS = ("spikgpt_label", "spikgpt_best_label", "spikgpt_label_broad")
COLORS = [f"{name}_colors" for name in LABELS]
ADDED = ("obs", "obsm/spikgpt_probabilities", "uns/spikgpt", *(f"uns/{name}" for name in COLORS))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a file with something in every place an AnnData has."""
    random = np.random.default_rng(0)
    counts = random.poisson(2, (N_CELLS, N_GENES))
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(["b", "a"] * (N_CELLS // 2), categories=["b", "a"], ordered=True),
            "depth": random.random(N_CELLS),
            "note": ["text"] * N_CELLS,
            "flag": pd.array([True, None] * (N_CELLS // 2), dtype="boolean"),
        },
        index=[f"cell {row}" for row in range(N_CELLS)],
    )
    full = AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))
    adata = full[:, :5].copy()
    adata.raw = full
    adata.layers["dense"] = adata.X.toarray().astype(np.float64)
    adata.layers["columns"] = sparse.csc_matrix(adata.X).astype(np.float32)
    adata.obsm["X_umap"] = random.random((N_CELLS, 2))
    adata.varm["PCs"] = random.random((5, 3))
    adata.obsp["distances"] = sparse.csr_matrix(random.random((N_CELLS, N_CELLS)))
    adata.uns["type_colors"] = np.array(["#000000", "#ffffff"], dtype=object)
    adata.uns["nested"] = {"deeper": {"number": 3.5, "name": "x"}}
    path = tmp_path / "query.h5ad"
    adata.write_h5ad(path, compression="gzip")
    return path


def write(annotation: Annotation, source: Path, target: Path) -> None:
    annotation.write_h5ad(source, target)


def contents(path: Path) -> dict[str, Any]:
    """Return every dataset and group of a file but those that are added: attributes, storage and bytes."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if any(name == added or name.startswith(f"{added}/") for added in ADDED):
            return
        attributes = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            value = item[()]
            data = (
                value.tobytes()
                if isinstance(value, np.ndarray) and value.dtype != object
                else np.asarray(value).tolist()
            )
            found[name] = (attributes, item.dtype.str, item.shape, item.chunks, item.compression, data)
        else:
            found[name] = (attributes,)

    with h5py.File(path) as file:
        file.visititems(visit)
        found["/"] = {key: str(value) for key, value in file.attrs.items()}
    return found


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_else_is_kept_to_the_byte(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deeper" / "out.h5ad"
    before = source.read_bytes()
    write(annotation, source, target)
    assert contents(target) == contents(source)
    assert {"raw/X/data", "layers/columns/indptr", "obsp/distances/data", "uns/nested/deeper/name"} <= contents(
        target
    ).keys()
    assert contents(target)["X/data"][4] == "gzip"
    assert source.read_bytes() == before
    assert leftovers(target.parent) == ["out.h5ad"]


def test_columns_of_obs_are_kept_and_ours_are_added(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    write(annotation, source, tmp_path / "out.h5ad")
    before, after = anndata.read_h5ad(source), anndata.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    assert after.obs.columns.tolist() == [*before.obs.columns, *LABELS, "spikgpt_confidence", "spikgpt_familiarity"]
    np.testing.assert_array_equal(after.obs["spikgpt_label"].astype(str), annotation.labels)
    np.testing.assert_array_equal(after.obs["spikgpt_best_label"].astype(str), annotation.best_labels)
    np.testing.assert_array_equal(after.obs["spikgpt_label_broad"].astype(str), annotation.broad_labels)
    np.testing.assert_array_equal(after.obs["spikgpt_confidence"], annotation.confidence)
    np.testing.assert_array_equal(after.obs["spikgpt_familiarity"], annotation.familiarity)
    np.testing.assert_array_equal(after.obsm["spikgpt_probabilities"], annotation.probabilities)
    assert after.uns["spikgpt"].keys() == annotation.uns()["spikgpt"].keys()
    assert after.uns["spikgpt"]["reference"] == "hand-made"
    assert after.uns["spikgpt"]["labels"].tolist() == ["alpha", "beta"]
    assert after.uns["spikgpt"]["values"] == "counts from X"


def test_more_columns_of_labels_are_written(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    clusters = np.array(["b", "a", "a"] * 4)
    annotation.write_h5ad(source, tmp_path / "out.h5ad", {"spikgpt_cluster_label": clusters})
    after = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(after.obs["spikgpt_cluster_label"].astype(str), clusters)


def test_a_query_that_lies_far_away_is_told(annotation: Annotation) -> None:
    assert not any("farther" in note for note in annotation.notes())
    far = dataclasses.replace(annotation.cutoffs, expected=0.31)
    (note,) = dataclasses.replace(annotation, cutoffs=far).notes()
    assert "about 31% of the cells of known types are Unknown, not at most 5%" in note
    assert "recalibrate=True (--recalibrate)" in note
    done = dataclasses.replace(annotation, cutoffs=dataclasses.replace(far, recalibrated=True))
    assert not done.notes()


def test_an_annotated_file_can_be_annotated_again(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    write(annotation, source, tmp_path / "once.h5ad")
    write(annotation, tmp_path / "once.h5ad", tmp_path / "twice.h5ad")
    once, twice = anndata.read_h5ad(tmp_path / "once.h5ad"), anndata.read_h5ad(tmp_path / "twice.h5ad")
    pd.testing.assert_frame_equal(twice.obs, once.obs)
    assert contents(tmp_path / "twice.h5ad") == contents(tmp_path / "once.h5ad")


def test_a_file_without_obsm_and_uns_gets_them(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "r+") as file:
        del file["obsm"], file["uns"]
    write(annotation, source, tmp_path / "out.h5ad")
    after = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(after.obsm) == ["spikgpt_probabilities"]
    assert sorted(after.uns) == sorted(["spikgpt", *COLORS])


def test_nothing_is_written_on_failure(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.h5ad"
    damaged.write_bytes(source.read_bytes()[:1000])
    target = tmp_path / "out.h5ad"
    with pytest.raises(DataError, match="truncated"):
        annotation.write_h5ad(damaged, target)
    assert leftovers(tmp_path) == ["damaged.h5ad", "query.h5ad"]
    target.write_text("older")
    with pytest.raises(DataError, match="truncated"):
        annotation.write_h5ad(damaged, target)
    assert target.read_text() == "older"
    assert leftovers(tmp_path) == ["damaged.h5ad", "out.h5ad", "query.h5ad"]


def test_a_file_is_replaced_only_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("older")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "older"
    with replacing(path) as temporary:
        temporary.write_text("newer")
    assert path.read_text() == "newer"
    assert leftovers(tmp_path) == ["a.txt"]


def test_a_write_protected_source_gives_a_writable_copy(annotation: Annotation, source: Path, tmp_path: Path) -> None:
    source.chmod(0o444)
    write(annotation, source, tmp_path / "out.h5ad")
    assert (tmp_path / "out.h5ad").stat().st_mode & 0o777 == 0o644


def named(annotation: Annotation, **changes: Any) -> Annotation:
    return dataclasses.replace(annotation, **changes)


def cells(annotation: Annotation, **columns: Any) -> AnnData:
    """Return unlabelled cells of the names of an annotation."""
    return AnnData(np.ones((N_CELLS, 1), dtype=np.float32), obs=pd.DataFrame(columns, index=annotation.obs_names))


def test_the_labels_of_a_query_as_a_table(annotation: Annotation) -> None:
    table = annotation.table()
    assert table.columns.tolist()[-2:] == ["probability of alpha", "probability of beta"]
    assert table.index.name == "cell"
    pd.testing.assert_frame_equal(table.iloc[:, :5].rename_axis(None), annotation.obs())
    assert table["spikgpt_label"].cat.categories.tolist() == ["Unknown", "alpha", "beta"]
    assert table["spikgpt_confidence"].dtype == np.float32


def test_a_table_in_chunks_is_the_table(annotation: Annotation, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = named(annotation, obs_names=pd.Index(["cell"] * N_CELLS))
    monkeypatch.setattr("spikgpt.labels.annotation.ROWS", 5)
    chunks = list(repeated.table_chunks())
    assert [len(chunk) for chunk in chunks] == [5, 5, 2]
    pd.testing.assert_frame_equal(pd.concat(chunks), repeated.table())


def without_cells(annotation: Annotation) -> Annotation:
    fields = ("obs_names", "best", "confidence", "probabilities", "empty", "broad", "rejected", "familiarity")
    return named(annotation, **{name: getattr(annotation, name)[:0] for name in fields})


def test_no_cells_have_a_table_all_the_same(annotation: Annotation) -> None:
    nothing = without_cells(annotation)
    (chunk,) = nothing.table_chunks()
    assert chunk.columns.tolist() == annotation.table().columns.tolist()
    assert (nothing.counts(), nothing.unknown_fraction, nothing.labels.tolist()) == ({}, 0, [])
    assert repr(nothing) == "Annotation of 0 cells by 'hand-made': Unknown 0 (0.0%)"
    assert "<table>" in nothing._repr_html_()


def test_provenance_says_what_was_done(annotation: Annotation) -> None:
    # Of fewer than 100 cells neighbours are not asked, whatever the options.
    for smoothed in (True, False):
        assert named(annotation, smoothed=smoothed).uns()["spikgpt"]["neighbours"] is smoothed


def test_colours_follow_the_labels_not_the_query(annotation: Annotation) -> None:
    alpha, beta, islet = palette(3)
    uns = annotation.uns()
    assert annotation.obs()["spikgpt_label"].cat.categories.tolist() == ["Unknown", "alpha", "beta"]
    assert uns["spikgpt_label_colors"].tolist() == [UNKNOWN_COLOR, alpha, beta]
    assert uns["spikgpt_best_label_colors"].tolist() == [alpha, beta]
    assert uns["spikgpt_label_broad_colors"].tolist() == [UNKNOWN_COLOR, alpha, islet]
    only_beta = named(annotation, best=np.ones(N_CELLS, dtype=np.int16), rejected=np.zeros(N_CELLS, dtype=bool))
    assert only_beta.uns()["spikgpt_label_colors"].tolist() == [beta]


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_scanpy_takes_the_colours(annotation: Annotation) -> None:
    adata = cells(annotation)
    annotation.write_to(adata)
    colors = adata.uns["spikgpt_label_colors"].tolist()
    adata.obsm["X_umap"] = np.random.default_rng(0).random((N_CELLS, 2))
    figure = scanpy.pl.umap(adata, color="spikgpt_label", show=False, return_fig=True)
    assert adata.uns["spikgpt_label_colors"].tolist() == colors
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["Unknown", "alpha", "beta"]
    matplotlib.pyplot.close(figure)


def test_what_is_suspicious_is_warned_of_and_stored(annotation: Annotation) -> None:
    strange = named(annotation, rejected=np.ones(N_CELLS, dtype=bool))
    adata = cells(annotation)
    with pytest.warns(
        SpikGPTWarning, match="100% of the cells are Unknown; is 'hand-made' the right reference"
    ) as told:
        strange.write_to(adata)
    assert adata.uns["spikgpt"]["notes"].tolist() == strange.notes() == [str(told[0].message)]
    assert set(adata.obs["spikgpt_label"]) == {"Unknown"}


def test_columns_of_another_origin_are_not_replaced_without_a_word(annotation: Annotation) -> None:
    adata = cells(annotation, spikgpt_label=["mine"] * N_CELLS)
    adata.obsm["spikgpt_probabilities"] = np.ones((N_CELLS, 3))
    adata.uns["spikgpt_label_colors"] = ["#000000"]
    places = "obs['spikgpt_label'], obsm['spikgpt_probabilities'], uns['spikgpt_label_colors']"
    note = f"What others had written to {places} was replaced."
    assert annotation.notes(adata) == [note]
    with pytest.warns(SpikGPTWarning) as told:
        annotation.write_to(adata)
    assert [str(warning.message) for warning in told] == adata.uns["spikgpt"]["notes"].tolist() == [note]
    # Labels of our own are.
    annotation.write_to(adata)
    assert annotation.notes(adata) == adata.uns["spikgpt"]["notes"].tolist() == []


def test_a_short_description(annotation: Annotation) -> None:
    assert repr(annotation) == "Annotation of 12 cells by 'hand-made': alpha 3, beta 3, Unknown 6 (50.0%)"
    names = tuple("abcdefgh")
    best = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 0], dtype=np.int16)
    many = named(annotation, label_names=names, best=best, rejected=np.arange(N_CELLS) == 11)
    assert repr(many) == "Annotation of 12 cells by 'hand-made': a 3, b 2, c 1, d 1, e 1, ..., Unknown 1 (8.3%)"


def test_a_description_for_notebooks(annotation: Annotation) -> None:
    html = named(annotation, label_names=("<b>al&pha", "beta"), reference_name="<i>")._repr_html_()
    assert "<b>" not in html
    assert "<i>" not in html
    assert f'color:{palette(2)[0]}">&#9632;</span> &lt;b&gt;al&amp;pha</td><td>3</td><td>25.0%</td>' in html
    assert f'color:{UNKNOWN_COLOR}">&#9632;</span> Unknown</td><td>6</td><td>50.0%</td><td>0.29</td>' in html


def test_a_summary_of_the_labels(annotation: Annotation) -> None:
    summary = annotation.summary()
    assert summary.columns.tolist() == ["cells", "share", "confidence"]
    assert list(annotation.counts().items()) == [("Unknown", 6), ("alpha", 3), ("beta", 3)]
    assert summary.loc["Unknown", "confidence"] == pytest.approx(annotation.confidence[:6].mean())
    assert summary["share"].sum() == pytest.approx(1)
