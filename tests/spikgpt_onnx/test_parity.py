"""The parity check rejects graphs with other weights, other labels or too different probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.torch import TorchEngine
from spikgpt.errors import ParityError
from spikgpt.reference.files import Reference
from spikgpt.reference.format import GRAPHS
from spikgpt_onnx.graph import labelling_graph
from spikgpt_onnx.parity import (
    ExportableReference,
    GraphParity,
    check_parity,
    golden_cells,
    measure_parity,
    weight_difference,
)
from spikgpt_onnx.rebuild_graph import build_graph, network_from_reference
from tests.conftest import exportable


@pytest.fixture(scope="module")
def trained(small: Reference) -> ExportableReference:
    return exportable(small)


def untrained(reference: ExportableReference) -> ExportableReference:
    classifier = SpikingClassifier(reference.stored.config).eval()
    return ExportableReference(reference.stored, TorchEngine(reference.engine.embedding, classifier))


def with_weight(graph: onnx.ModelProto, name: str, change: Any) -> onnx.ModelProto:
    """Return a graph with one of its weights changed."""
    other = onnx.load_from_string(graph.SerializeToString())
    (tensor,) = [tensor for tensor in other.graph.initializer if tensor.name == name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
    return other


def weight_name(layer: str) -> str:
    return f"{layer}.weight.turned" if "query_key_value" in layer else f"{layer}.weight"


def test_golden_cells_cover_every_label_and_unknown(trained: ExportableReference) -> None:
    probabilities = trained.engine.classify(golden_cells(trained).vectors)[0]
    assert set(probabilities.argmax(axis=1)) == set(range(len(trained.stored.labels.names)))
    unknown = probabilities.max(axis=1) < trained.stored.thresholds.threshold
    assert 0.02 < unknown.mean() < 0.9


@pytest.mark.parametrize("layer", ["stem", "blocks.0.attention.query_key_value", "blocks.0.mlp.output", "head"])
def test_a_changed_weight_fails_the_parity_check(trained: ExportableReference, layer: str) -> None:
    graph = labelling_graph(network_from_reference(trained.stored))
    assert weight_difference(trained, graph) < 1e-6

    def nudge(weight: Any) -> Any:
        weight[0, 0] += 0.01 * np.abs(weight).max()
        return weight

    assert weight_difference(trained, with_weight(graph, weight_name(layer), nudge)) > 1e-3
    with pytest.raises(ParityError, match=r"disagrees with the trained model .*weights by"):
        check_parity(trained, with_weight(graph, weight_name(layer), nudge), "fp32", golden_cells(trained))


def test_the_graph_of_another_untrained_network_fails(trained: ExportableReference) -> None:
    first, second = untrained(trained), untrained(trained)
    graph = labelling_graph(replace(network_from_reference(first.stored), weights=first.engine.weights()))
    assert weight_difference(first, graph) < 1e-6
    # The labels of the two networks may agree, but the weights differ.
    with pytest.raises(ParityError, match="disagrees with the trained model"):
        check_parity(second, graph, "fp32", golden_cells(second))
    assert weight_difference(second, graph) > 0.1


def test_a_graph_without_a_layer_is_refused(trained: ExportableReference) -> None:
    graph = labelling_graph(network_from_reference(trained.stored))
    for tensor in graph.graph.initializer:
        tensor.name = tensor.name.replace("head", "foot")
    with pytest.raises(ParityError, match="has no weights of the layer head"):
        weight_difference(trained, graph)


def test_wrong_labels_and_large_flips_across_the_threshold_fail(trained: ExportableReference) -> None:
    golden = golden_cells(trained)
    graph = labelling_graph(network_from_reference(trained.stored))
    outputs = Session(graph.SerializeToString()).run(golden.inputs)
    expected = trained.engine.classify(golden.vectors)[0]

    def report(precision: str, **changed: Any) -> GraphParity:
        return measure_parity(trained, golden.vectors, outputs | changed, precision, 0.0)

    assert report("fp32").passed
    unsure = int(np.argmin(np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2]))
    sure = int(expected.max(axis=1).argmax())
    for cell, passes in ((unsure, True), (sure, False)):
        best = outputs["best_label"].copy()
        best[cell] = expected[cell].argsort()[-2]
        assert not report("fp32", best_label=best).passed
        assert report("fp16", best_label=best).passed == passes
    label = outputs["label"].copy()
    # The cell with the confidence farthest from the threshold, above or below.
    far = int(np.abs(expected.max(axis=1) - trained.stored.thresholds.threshold).argmax())
    label[far] = outputs["best_label"][far] if label[far] == -1 else -1
    assert report("int8", label=label).largest_flip > 0.05
    assert not report("int8", label=label).passed
    many = np.roll(outputs["best_label"], 1)
    assert not report("fp16", best_label=many).passed


# A temperature so low that some probabilities equal 1 in float32, but not in float64.
TEMPERATURE = 0.1


def saturated(reference: ExportableReference, threshold: float) -> ExportableReference:
    """Return a reference that gives most cells a probability between 1 - 1e-8 and 1."""
    thresholds = reference.stored.thresholds
    assert thresholds.single is not None
    single = msgspec.structs.replace(thresholds.single, temperature=TEMPERATURE)
    thresholds = msgspec.structs.replace(thresholds, threshold=threshold, single=single)
    engine = replace(reference.engine, temperature=TEMPERATURE)
    return ExportableReference(replace(reference.stored, thresholds=thresholds), engine)


@pytest.mark.parametrize("precision", GRAPHS)
@pytest.mark.parametrize("below_one", [False, True], ids=["1", "below 1"])
def test_rounding_at_a_threshold_near_one_is_allowed(
    trained: ExportableReference, below_one: bool, precision: str
) -> None:
    golden = golden_cells(trained, 512)
    best = saturated(trained, 1.0).engine.classify(golden.vectors)[0].max(axis=1)
    # Median of the probabilities that float32 rounds to 1; these probabilities depend on the processor.
    threshold = float(np.median(best[(best < 1) & (best > 1 - 2e-8)])) if below_one else 1.0
    sure = saturated(trained, threshold)
    graph = build_graph(network_from_reference(sure.stored), GRAPHS[precision])
    outputs = Session(graph.SerializeToString()).run(golden.inputs)
    unknown = sure.engine.classify(golden.vectors)[0].max(axis=1) < threshold
    assert (unknown != (outputs["label"] == -1)).mean() > 0.001
    parity = check_parity(sure, graph, precision, golden)
    assert parity.passed
    assert parity.labels_equal >= 0.999 * parity.cells

    def passed(**changed: Any) -> bool:
        return measure_parity(sure, golden.vectors, outputs | changed, precision, 0.0).passed

    best, label = outputs["best_label"], outputs["label"]
    assert passed()
    assert not passed(label=np.where(label == -1, best, -1))
    assert not passed(label=np.where(label == -1, -1, np.roll(best, 1)))
    assert not passed(label=np.full_like(label, -1))
    assert not passed(best_label=np.roll(best, 1), label=np.where(label == -1, -1, np.roll(best, 1)))
    rolled = np.roll(outputs["probabilities"], 1, axis=1)
    assert not passed(probabilities=rolled, best_label=(best + 1) % rolled.shape[1], label=label)


def test_tied_labels_may_be_swapped(trained: ExportableReference) -> None:
    golden, state = golden_cells(trained, 256), trained.engine.classifier.state_dict()
    first, second = trained.engine.classify(golden.vectors)[0].mean(axis=0).argsort()[::-1][:2]
    for name in ("head.weight", "head.bias"):
        state[name] = state[name].clone()
        state[name][int(second)] = state[name][int(first)]
    engine = replace(trained.engine, classifier=SpikingClassifier.from_weights(trained.stored.config, state))
    tied = ExportableReference(trained.stored, engine)
    graph = labelling_graph(replace(network_from_reference(tied.stored), weights=engine.weights()))
    outputs = Session(graph.SerializeToString()).run(golden.inputs)

    def passed(nudge: float) -> bool:
        """Return True if a graph passes that adds ``nudge`` to the probability of the second of two tied labels."""
        probabilities = outputs["probabilities"].copy()
        probabilities[:, max(first, second)] += np.float32(nudge)
        best = probabilities.argmax(axis=1)
        assert (best != outputs["best_label"]).any()
        label = np.where(outputs["label"] == -1, -1, best)
        changed = {"probabilities": probabilities, "best_label": best, "label": label}
        return measure_parity(tied, golden.vectors, outputs | changed, "fp32", 0.0).passed

    assert passed(2e-6)
    assert not passed(0.5)
