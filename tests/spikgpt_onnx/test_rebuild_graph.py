"""A stored graph must equal the graph rebuilt from the weights byte for byte, or the graph is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from anndata import AnnData
from onnx import numpy_helper

from spikgpt import SpikGPT
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.scgpt.source import open_scgpt
from spikgpt.errors import DamagedReference, GraphError
from spikgpt.options import TrainOptions
from spikgpt.reference.files import Reference, read_reference
from spikgpt.reference.format import COMBINED, ENCODER, GRAPH, GRAPHS
from spikgpt.sharing import verify
from spikgpt.training.train import train
from spikgpt_onnx import rebuild_graph as module
from spikgpt_onnx.exporter import export
from spikgpt_onnx.parity import ExportableReference
from spikgpt_onnx.rebuild_graph import rebuild_graph
from tests.conftest import DATA
from tests.spikgpt_onnx.altered_graphs import Change, backdoor, changed, metadata, with_graph


def nudged(how: Any, chosen: int = 0) -> Change:
    """Return a function that changes the first number of one float32 tensor of a graph."""

    def change(graph: onnx.ModelProto) -> None:
        tensors = [tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
        tensor = tensors[chosen]
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[0] = how(values.reshape(-1)[0])
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


@pytest.mark.parametrize("name", GRAPHS.values())
def test_every_shipped_graph_is_rebuilt_byte_for_byte(shipped: SpikGPT, name: str) -> None:
    rebuilt = rebuild_graph(shipped.reference, name)
    assert (rebuilt.content, rebuilt.mismatch) == (shipped.reference.files[name], "")


def test_an_exported_graph_passes_from_any_repository(graph_folder: Path) -> None:
    reference = read_reference(graph_folder, "org/small@" + "0" * 40)
    assert rebuild_graph(reference, GRAPH).content == reference.files[GRAPH]


def test_stored_version_and_revision_are_used_for_the_rebuilt_graph(graph_folder: Path) -> None:
    files = read_reference(graph_folder).files
    free = metadata(spikgpt_version="0.4.0", revision="org/other@main", format_version="2")
    rebuilt = rebuild_graph(read_reference(changed(files, free)), GRAPH)
    assert rebuilt.mismatch == ""
    for text in ("<b>", "\x1b[2J", "0.6.0 " * 50):
        with pytest.raises(DamagedReference, match="has other revision than the other files") as caught:
            rebuild_graph(read_reference(changed(files, metadata(revision=text))), GRAPH)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("version", [None, "0.4.0"], ids=["of this version", "of another version"])
@pytest.mark.parametrize(
    "change",
    [
        nudged(lambda value: np.nextafter(value, np.float32(np.inf))),
        nudged(lambda value: value + 1e-3, 5),
        nudged(lambda value: -100 * value - 100, -4),
        nudged(lambda value: np.float32(np.nan), -1),
        metadata(labels="[]"),
        metadata(thresholds="{}"),
        metadata(genes_sha256="0" * 64),
        metadata(reference="other"),
    ],
    ids=["1 ulp", "a little", "a lot", "NaN", "labels", "thresholds", "genes", "name"],
)
def test_other_weights_and_metadata_are_refused(change: Change, version: str | None, graph_folder: Path) -> None:
    files = changed(read_reference(graph_folder).files, change)
    if version:
        files = changed(files, metadata(spikgpt_version=version))
    with pytest.raises(DamagedReference, match=r"onnx/model\.onnx (has|carries) other .*spikgpt export"):
        rebuild_graph(read_reference(files), GRAPH)


def test_a_swapped_label_is_refused(graph_folder: Path) -> None:
    files = read_reference(graph_folder).files

    def swap(graph: onnx.ModelProto) -> None:
        labels = next(entry for entry in graph.metadata_props if entry.key == "labels")
        labels.value = labels.value.replace("alpha", "?").replace("beta", "alpha").replace("?", "beta")

    with pytest.raises(DamagedReference, match="has other labels"):
        rebuild_graph(read_reference(changed(files, swap)), GRAPH)


def test_a_graph_with_a_backdoor_is_never_run(graph_folder: Path, few: AnnData) -> None:
    files = read_reference(graph_folder).files
    altered = changed(files, backdoor)
    # The altered graph works; only cells with very large counts get another label.
    genes = len(read_reference(graph_folder).genes)
    counts = np.ones((2, genes), dtype=np.float32)
    counts[1, 0] = 1e5
    inputs = {"counts": counts, "total": counts.sum(axis=1), "found": np.ones(genes, dtype=np.float32)}
    right_outputs, changed_outputs = Session(files[GRAPH]).run(inputs), Session(altered[GRAPH]).run(inputs)
    np.testing.assert_array_equal(changed_outputs["probabilities"][0], right_outputs["probabilities"][0])
    assert changed_outputs["probabilities"][1, 0] == 1 != right_outputs["probabilities"][1, 0]

    with pytest.raises(DamagedReference, match=r"is not the graph that spikgpt .* makes of these weights"):
        SpikGPT(read_reference(altered))
    # A graph that states another version is not run either; the rebuilt graph is run instead.
    altered = changed(altered, metadata(spikgpt_version="0.4.0"))
    result = rebuild_graph(read_reference(altered), GRAPH)
    assert "made by spikgpt 0.4.0, and differs" in result.mismatch
    np.testing.assert_array_equal(Session(result.content).run(inputs)["probabilities"], right_outputs["probabilities"])


def test_extra_bytes_in_a_graph_are_refused(graph_folder: Path) -> None:
    files = read_reference(graph_folder).files
    with pytest.raises(DamagedReference, match="is not the graph that"):
        rebuild_graph(read_reference(with_graph(files, files[GRAPH] + b"\x38\x00")), GRAPH)


@pytest.fixture
def on_scgpt(cells: AnnData, brief: None, tmp_path: Path) -> Path:
    """Train and export a reference on the small scGPT; return its folder."""
    source, folder = open_scgpt(DATA / "scgpt_baron", max_length=100), tmp_path / "scgpt"
    reference = train(cells, "cell_type", embedder=source, options=TrainOptions(name="scgpt"))
    export(ExportableReference(reference, torch_engine(reference, source=source)), folder)
    return folder


@pytest.mark.slow
def test_graphs_of_scgpt_are_compared_with_the_checkpoint(on_scgpt: Path, tmp_path: Path) -> None:
    same = "equals the graph of the weights, byte for byte"
    alone = verify(on_scgpt).checks
    assert sum(f"onnx/model.onnx {same}" in check for check in alone) == 1
    for name in (ENCODER, COMBINED):
        (message,) = (check for check in alone if check.startswith(name))
        assert "not compared with scGPT's weights, which are not here" in message
        assert "without the scGPT checkpoint: --scgpt FOLDER" in message
    checks = verify(on_scgpt, scgpt=DATA / "scgpt_baron").checks
    assert sum(same in check for check in checks) == 3

    files = read_reference(on_scgpt).files
    for name in (ENCODER, COMBINED):
        altered = changed(files, nudged(lambda value: np.nextafter(value, np.float32(np.inf))), name)
        folder = tmp_path / name.replace("/", "-")
        for path, content in altered.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        verify(folder)  # passes, because no checkpoint is given
        with pytest.raises(DamagedReference, match=f"{name} has other weights than model.safetensors"):
            verify(folder, scgpt=DATA / "scgpt_baron")


def test_a_graph_built_by_another_version_is_rebuilt(
    small: Reference, graph_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = read_reference(changed(read_reference(graph_folder).files, metadata(spikgpt_version="0.4.0")))
    right = module.build_graph

    def other(*arguments: Any) -> onnx.ModelProto:
        graph = right(*arguments)
        graph.graph.node[0].name = "renamed"
        return graph

    monkeypatch.setattr(module, "build_graph", other)
    assert rebuild_graph(reference, GRAPH).content != reference.files[GRAPH]
    with pytest.raises(DamagedReference, match="is not the graph that"):
        rebuild_graph(dataclasses.replace(reference, files=read_reference(graph_folder).files), GRAPH)


def test_external_data_in_a_graph_is_refused(graph_folder: Path) -> None:
    files = read_reference(graph_folder).files

    def away(graph: onnx.ModelProto) -> None:
        onnx.external_data_helper.set_external_data(graph.graph.initializer[0], location="secret")

    with pytest.raises(GraphError, match="from another file"):
        rebuild_graph(read_reference(changed(files, away)), GRAPH)
