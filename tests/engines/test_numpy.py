"""The NumPy engine equals torch and ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.cells.align import AlignedCells
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.numpy import NumpyClassifier, NumpyEngine
from spikgpt.engines.onnx import OnnxEngine
from spikgpt.engines.opening import torch_engine
from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.options import EngineOptions, options_of
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.files import CLASSIFIER, Reference
from tests.conftest import aligned, labelled
from tests.engines.test_model import ARCHITECTURES, classifier_for, embeddings


def numpy_classifier(classifier: SpikingClassifier, dtype: Any = np.float64) -> NumpyClassifier:
    weights = {name: tensor.numpy() for name, tensor in classifier.state_dict().items()}
    return NumpyClassifier(classifier.config, weights, dtype)


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_logits_equal_torch_in_float64_and_labels_in_float32(overrides: dict[str, Any]) -> None:
    classifier, x = classifier_for(overrides, trained=True), embeddings(200)
    with torch.inference_mode():
        expected = classifier.folded()(x).numpy()
        singles = classifier.float().folded()(x.float()).numpy()
    logits = numpy_classifier(classifier.double()).logits(x.numpy())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=4e-15 * max(1, np.abs(expected).max()))
    logits_32 = numpy_classifier(classifier, np.float32).logits(x.numpy())
    assert logits_32.dtype == np.float32
    np.testing.assert_array_equal(logits_32.argmax(axis=1), singles.argmax(axis=1))


@pytest.fixture
def run_on_query(shipped: SpikGPT, few: AnnData) -> Callable[..., Any]:
    """Return a function that runs an engine on the cells of the query, scaled by their own means."""
    cells = aligned(shipped.reference, few)
    torch_run = torch_engine(shipped.reference)
    scale = torch_run.embedding.fit_scale(cells, "query", torch_run.run).scale
    return lambda engine, rows=slice(None), **options: engine.run(cells.part(rows), scale, **options)


def test_outputs_equal_those_of_torch_and_onnx(shipped: SpikGPT, run_on_query: Callable[..., Any]) -> None:
    reference, done = shipped.reference, list[int]()
    output = run_on_query(NumpyEngine(reference), batch_size=50, on_cells=done.append)
    assert sorted(done) == [20, 50, 50]
    for engine, tolerance in ((torch_engine(reference), 1e-13), (OnnxEngine(reference), 1e-4)):
        expected = run_on_query(engine)
        for name in ("vectors", "probabilities", "energies"):
            np.testing.assert_allclose(getattr(output, name), getattr(expected, name), rtol=0, atol=tolerance)
        np.testing.assert_array_equal(output.probabilities.argmax(axis=1), expected.probabilities.argmax(axis=1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batches_and_threads_change_nothing(
    shipped: SpikGPT, run_on_query: Callable[..., Any], batch_size: int, threads: int
) -> None:
    expected = run_on_query(NumpyEngine(shipped.reference))
    engine = NumpyEngine(shipped.reference, EngineOptions(threads=threads))
    output = run_on_query(engine, batch_size=batch_size)
    np.testing.assert_allclose(output.probabilities, expected.probabilities, rtol=0, atol=1e-12)
    without_cells = run_on_query(engine, slice(0, 0), batch_size=batch_size)
    assert without_cells.vectors.shape == (0, shipped.reference.config.input_dim)
    assert without_cells.probabilities.shape == (0, len(shipped.reference.labels.names))


def test_a_query_gets_the_labels_of_torch(small: Reference, query: AnnData) -> None:
    expected, actual = labelled(small, query, torch_engine(small)), labelled(small, query, NumpyEngine(small))
    np.testing.assert_array_equal(actual.labels, expected.labels)
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=1e-6)
    assert actual.input_report == expected.input_report


def test_vectors_of_obsm_are_classified_and_overflow_gives_no_support(small: Reference) -> None:
    dim = small.config.input_dim
    engine = NumpyEngine(replace(small, embedder={"kind": "obsm", "key": "X_own", "dim": dim}))
    vectors = np.random.default_rng(0).standard_normal((5, dim))
    vectors[4] = 1e308
    output = engine.run(AlignedCells.from_vectors(vectors, np.zeros(5, dtype=bool)), None)
    np.testing.assert_array_equal(output.vectors[:4], vectors[:4])
    np.testing.assert_allclose(output.probabilities[:4], torch_engine(small).classify(vectors)[0][:4], atol=1e-13)
    assert np.isfinite(output.probabilities).all()


def test_scgpt_and_a_gpu_are_refused(small: Reference) -> None:
    with pytest.raises(ConfigError, match=r"does not run scGPT.*--engine torch"):
        NumpyEngine(replace(small, embedder={"kind": "scgpt"}))
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(ConfigError, match=rf"provider is '{provider}'.*onnxruntime-gpu.*spikgpt export"):
            NumpyEngine(small, options_of(EngineOptions, {"provider": provider}))
    assert NumpyEngine(small, EngineOptions(provider="cpu")).name == "numpy on cpu"


def test_weights_that_do_not_fit_are_refused(small: Reference) -> None:
    weights = small.part(CLASSIFIER)
    del weights["head.bias"]
    with pytest.raises(DamagedReference, match=r"1 tensors differ, such as head\.bias"):
        NumpyClassifier(small.config, weights)
    with pytest.raises(DamagedReference, match="weights do not fit"):
        NumpyClassifier(SpikGPTConfig(12, 3), small.part(CLASSIFIER))


def test_a_reference_opens_without_torch_onnx_and_onnx_runtime() -> None:
    code = (
        "import sys\n"
        "absent = ('torch', 'onnx', 'onnxruntime', 'scanpy', 'sklearn', 'matplotlib', 'numba', 'spikgpt_onnx')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "from spikgpt import SpikGPT\n"
        "print(SpikGPT.from_pretrained('pancreas'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "SpikGPT('pancreas', 13 labels, embedding pca, numpy on cpu)"
