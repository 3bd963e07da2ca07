"""Methods of the class SpikGPT."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.errors import ConfigError, DataError, GraphError, LabelsError, SpikGPTWarning
from spikgpt.reference.files import Reference
from tests.conftest import QUERY_FILE
from tests.hub_server import LoopbackHub


def test_a_saved_reference_can_be_loaded(small: Reference, few: AnnData, tmp_path: Path) -> None:
    folder = SpikGPT(small).save_pretrained(tmp_path / "mine")
    assert folder == tmp_path / "mine"
    with pytest.raises(ConfigError, match="already holds a reference"):
        SpikGPT(small).save_pretrained(folder)
    SpikGPT(small).save_pretrained(str(folder), overwrite=True)
    again = SpikGPT.from_pretrained(folder)
    assert repr(again) == "SpikGPT('small', 6 labels, embedding pca, numpy on cpu)"
    page = again._repr_html_()
    assert page.startswith("<p><strong>Reference &#x27;small&#x27;</strong></p><p>6 labels, trained on 360 cells.</p>")
    assert page.count("<tr>") == 1 + 6
    assert again.labels == small.labels.names
    assert sum(row.cells for row in again.labels.rows) == small.metrics["cells"]
    assert again.card == (folder / "README.md").read_text()
    expected = SpikGPT(small).annotate(few.copy())
    annotation = again.annotate(few.copy())
    np.testing.assert_array_equal(annotation.labels, expected.labels)
    assert annotation.probabilities.tobytes() == expected.probabilities.tobytes()


def test_annotate_adds_columns_and_changes_nothing_else(small: Reference, few: AnnData) -> None:
    adata = few.copy()
    annotation = SpikGPT(small).annotate(adata)
    labels = {"label", "best_label", "label_broad", "ontology_term_id", "ontology_label"}
    scores = {"confidence", "typicality", "familiarity", "ood_score"}
    assert set(adata.obs) - set(few.obs) == {f"spikgpt_{name}" for name in labels | scores}
    assert set(adata.obsm) - set(few.obsm) == {"spikgpt_probabilities"}
    assert "spikgpt" in adata.uns
    assert adata.obsm["spikgpt_probabilities"].shape == (few.n_obs, 6)
    assert (adata.X != few.X).nnz == 0
    assert adata.obs["spikgpt_label"].astype(str).tolist() == annotation.labels.tolist()


def test_evaluate_does_not_change_the_cells(small: Reference, few: AnnData) -> None:
    adata = few.copy()
    evaluation = SpikGPT(small).evaluate(adata, "cell_type")
    assert list(adata.obs) == list(few.obs)
    assert not adata.obsm
    assert evaluation.metrics.accuracy > 0.85
    assert evaluation.metrics.cells + sum(evaluation.unseen_labels.values()) == few.n_obs
    with pytest.raises(LabelsError, match="obs has no column 'celltype'"):
        SpikGPT(small).evaluate(adata, "celltype")


def test_explain_accepts_cells_a_file_or_an_annotation(shipped: SpikGPT, few: AnnData, tmp_path: Path) -> None:
    adata = few.copy()
    explanation = shipped.explain(adata, labels=["beta"], top=3)
    assert list(adata.obs) == list(few.obs)
    assert not adata.uns
    (beta,) = explanation.groups
    assert "INS" in [gene.gene for gene in beta.genes.of_role("supporting")]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    of_file = shipped.explain(tmp_path / "cells.h5ad", labels="beta", top=3)
    annotation = shipped.annotate(adata)
    for other in (of_file, shipped.explain(annotation, labels=["beta"], top=3)):
        np.testing.assert_allclose(other.groups[0].genes.attributions, beta.genes.attributions, atol=1e-4)
    assert shipped.explain(annotation, cells=[0]).groups[0].name == few.obs_names[0]
    with pytest.raises(ConfigError, match="top is 0; expected a whole number of at least 1"):
        shipped.explain(annotation, top=0)
    with pytest.raises(ConfigError, match="by the reference 'pancreas'; expected one by 'pbmc'"):
        SpikGPT.from_pretrained("pbmc").explain(annotation)
    with pytest.raises(DataError, match="explain got a DataFrame"):
        shipped.explain(few.obs)


def test_attributions_are_written_for_ensembl_ids(shipped: SpikGPT, few: AnnData) -> None:
    genes = dict(zip(shipped.reference.genes.symbols, shipped.reference.genes.ensembl_ids, strict=True))
    cells = few[:, few.var_names.isin(list(genes))].copy()
    cells.var_names = [genes[name] or name for name in cells.var_names]
    explanation = shipped.explain(cells, labels=["beta"])
    explanation.write_to(cells)
    row = cells.var_names.get_loc(genes["INS"])
    expected = explanation.groups[0].genes.attributions[explanation.gene_names.index("INS")]
    assert cells.varm["spikgpt_attributions"][row, 0] == pytest.approx(expected)


def test_train_returns_a_model(cells: AnnData) -> None:
    model = SpikGPT.train(cells, "cell_type", recipe="paper", name="mine", seed=7)
    assert repr(model) == "SpikGPT('mine', 6 labels, embedding pca, torch on cpu)"
    assert model.reference.provenance["seed"] == 7


def test_the_engine_is_onnx_if_a_graph_exists_else_numpy(small_folder: Path, graph_folder: Path, few: AnnData) -> None:
    assert SpikGPT.from_pretrained(small_folder).engine.name == "numpy on cpu"
    assert SpikGPT.from_pretrained(graph_folder).engine.name == "onnx on cpu"
    models = [SpikGPT.from_pretrained(graph_folder, engine=engine) for engine in ("torch", "onnx")]
    by_torch, by_onnx = (model.annotate(few.copy()) for model in models)
    np.testing.assert_array_equal(by_torch.labels, by_onnx.labels)
    with pytest.raises(GraphError, match=r"has no onnx/model.onnx; make it with"):
        SpikGPT.from_pretrained(small_folder, engine="onnx")


def test_a_file_gets_the_labels_of_cells_in_memory(shipped: SpikGPT) -> None:
    adata = read_cells(QUERY_FILE)
    from_file, from_memory = shipped.annotate(QUERY_FILE), shipped.annotate(adata)
    np.testing.assert_array_equal(from_file.labels, from_memory.labels)
    assert list(from_file.obs_names) == adata.obs_names.tolist()


def test_an_invalid_option_is_a_config_error(shipped: SpikGPT, few: AnnData) -> None:
    with pytest.raises(ConfigError, match=r"no option 'treshold'.*Did you mean 'threshold'"):
        shipped.annotate(few.copy(), treshold=0.9)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="threshold is 'high'"):
        shipped.annotate(few.copy(), threshold="high")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="engine is 'tpu'"):
        SpikGPT.from_pretrained("pancreas", engine="tpu")  # type: ignore[arg-type]


def test_a_file_gives_the_warnings_of_cells_in_memory(shipped: SpikGPT, foreign: AnnData, tmp_path: Path) -> None:
    foreign.write_h5ad(tmp_path / "foreign.h5ad")
    notes = []
    for query in (tmp_path / "foreign.h5ad", foreign.copy()):
        with pytest.warns(SpikGPTWarning, match="do not use the labels") as warned:
            annotation = shipped.annotate(query)
        notes.append([str(warning.message) for warning in warned])
        assert warned[0].filename == __file__
    assert notes[0] == notes[1] == annotation.notes()


def test_labels_of_two_references_can_have_different_keys(shipped: SpikGPT, small: Reference, few: AnnData) -> None:
    adata = few.copy()
    first = shipped.annotate(adata)
    second = SpikGPT(small).annotate(adata, key_added="small")
    assert adata.obs["spikgpt_label"].tolist() == first.labels.tolist()
    assert adata.obs["small_label"].tolist() == second.labels.tolist()
    with pytest.warns(SpikGPTWarning, match=f"by the reference {shipped.reference.name!r} were replaced"):
        SpikGPT(small).annotate(adata)
    for key in ("", "a/b", "a\nb", 3):
        with pytest.raises(ConfigError, match="key_added is"):
            shipped.annotate(adata, key_added=key)  # type: ignore[arg-type]


def test_a_view_can_be_annotated(shipped: SpikGPT, few: AnnData, tmp_path: Path) -> None:
    parent = few.copy()
    view = parent[parent.obs["donor"] == parent.obs["donor"].iloc[0]]
    with pytest.warns(SpikGPTWarning, match="parent has no labels"):
        annotation = shipped.annotate(view)
    assert view.obs["spikgpt_label"].tolist() == annotation.labels.tolist()
    assert "spikgpt_label" not in parent.obs
    parent.write_h5ad(tmp_path / "cells.h5ad")
    backed = read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(DataError, match="to_memory"):
        shipped.annotate(backed[:10])
    backed.file.close()


class MuData:
    """A stand-in for mudata.MuData with the attribute ``mod``, so that the tests do not need mudata."""

    mod: ClassVar = {"rna": None, "prot": None}


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (None, ("None", "scanpy")),
        (pd.DataFrame(np.ones((3, 2))), ("a DataFrame of shape (3, 2)", "anndata.AnnData(df)")),
        (np.ones((3, 2)), ("a ndarray of shape (3, 2)", "gene names")),
        (sparse.csr_matrix(np.ones((3, 2))), ("a csr_matrix of shape (3, 2)", "gene names")),
        ([1, 2], ("a list of 2 items", "anndata.concat")),
        ({"a": 1}, ("a dict of 1 item", "anndata.concat")),
        (MuData(), ("a MuData", "mdata['rna']", "rna, prot")),
        (3, ("got 3", "read_h5ad")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_inputs_other_than_anndata_are_refused_with_the_line_to_run(
    shipped: SpikGPT, value: Any, parts: tuple[str, ...]
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: shipped.annotate(value),
        lambda: shipped.evaluate(value, "cell_type"),
        lambda: SpikGPT.train(value, "cell_type"),
    ]
    for call in calls:
        with pytest.raises(DataError) as caught:
            call()
        assert all(part in str(caught.value) for part in (*parts, "expected an AnnData"))


def test_other_invalid_arguments_are_refused_with_the_line_to_run(shipped: SpikGPT, few: AnnData) -> None:
    for call in (lambda: shipped.evaluate("a.h5ad", "b"), lambda: SpikGPT.train(Path("a.h5ad"), "b")):
        with pytest.raises(DataError, match=r"adata = anndata.read_h5ad\('a.h5ad'\)"):
            call()
    with pytest.raises(DataError, match=r"a.h5ad is not there; give"):
        shipped.annotate("a.h5ad")
    key: Any
    for key, notes in (
        (few.obs["cell_type"], "a Series of shape"),
        (None, "label_key is None"),
        (["a"], "a list of 1"),
    ):
        with pytest.raises(ConfigError, match=f"{notes}.*such as label_key='cell_type'"):
            shipped.evaluate(few, key)
    with pytest.raises(ConfigError, match="label_map is 'map.json'; expected a dict"):
        shipped.evaluate(few, "cell_type", label_map="map.json")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"use SpikGPT.from_pretrained\('pancreas'\)"):
        SpikGPT("pancreas")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name is None; expected a name such as 'pancreas'"):
        SpikGPT.from_pretrained(None)  # type: ignore[arg-type]
    for write in (shipped.export, shipped.save_pretrained):
        with pytest.raises(ConfigError, match="folder is None; expected the path of a folder to write"):
            write(None)  # type: ignore[arg-type]


def test_a_model_is_exported_and_pushed(small: Reference, tmp_path: Path, hub: LoopbackHub) -> None:
    model = SpikGPT(small)
    reports = model.export(tmp_path / "out")
    assert reports["onnx/model.onnx"].passed
    assert SpikGPT.from_pretrained(tmp_path / "out").engine.name == "onnx on cpu"
    pushed = model.push_to_hub("me/small", endpoint=hub.endpoint, tag="v1")
    pulled = SpikGPT.from_pretrained("me/small@v1", endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    assert pulled.reference.origin == f"me/small@{pushed.commit}"


# Program for a separate process that forks after several threads have run the network.
PROCESSES = """
import copy, os, pickle, signal, sys, threading
from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells

def labels(model, cells):
    return model.annotate(cells.copy()).labels.tolist()

if __name__ == "__main__":
    signal.alarm(280)
    cells = read_cells(sys.argv[1])
    for engine in sys.argv[2:]:
        model = SpikGPT.from_pretrained("pancreas", engine=engine)
        expected = labels(model, cells)
        results = {
            "pickle": labels(pickle.loads(pickle.dumps(model)), cells),
            "copy": labels(copy.copy(model), cells),
            "deepcopy": labels(copy.deepcopy(model), cells),
        }
        threads = [threading.Thread(target=lambda n=n: results.update({n: labels(model, cells)})) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # gunicorn with --preload forks a loaded application like this.
        if (child := os.fork()) == 0:
            signal.alarm(120)
            sys.exit(labels(model, cells) != expected)
        results["preloaded"] = expected if os.waitpid(child, 0)[1] == 0 else None
        assert len(results) == 6
        # Flushed, because the next fork would copy the buffer.
        print(engine, *sorted(str(name) for name, result in results.items() if result != expected), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@pytest.mark.parametrize("engines", [["onnx"], pytest.param(["onnx", "torch"], marks=pytest.mark.slow)], ids="-".join)
def test_a_model_works_after_pickling_copying_forking_and_in_threads(
    few: AnnData, tmp_path: Path, engines: list[str]
) -> None:
    few[:20].copy().write_h5ad(tmp_path / "few.h5ad")
    (tmp_path / "program.py").write_text(PROCESSES)
    command = [sys.executable, "-W", "ignore", "program.py", "few.h5ad", *engines]
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    ran = subprocess.run(command, cwd=tmp_path, env=threads, capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "".join(f"{engine}\n" for engine in engines), "")
