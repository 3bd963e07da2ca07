"""The torch engine gives the outputs of the trained network, for any batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData

from spikgpt.cells.align import AlignedCells, joined
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.engines.model import SpikingClassifier
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.scgpt.embedding import RunSettings
from spikgpt.engines.scgpt.source import ScGPTSource, open_scgpt
from spikgpt.engines.scgpt.upstream_tokenizer import UpstreamTokenizer
from spikgpt.engines.torch import TorchEngine, embed_query, scgpt_embedding, scgpt_vectors
from spikgpt.reference.config import SpikGPTConfig
from spikgpt.reference.files import CLASSIFIER, Reference
from tests import upstream
from tests.conftest import DATA, aligned


def test_outputs_equal_those_of_the_network(small: Reference, few: AnnData) -> None:
    engine, cells = torch_engine(small), aligned(small, few)
    output = engine.run(cells, engine.embedding.fit_scale(cells, "reference", engine.run).scale)
    weights = {name: torch.from_numpy(array) for name, array in small.part(CLASSIFIER).items()}
    network = SpikingClassifier.from_weights(small.config, weights).double()
    with torch.inference_mode():
        logits = network(torch.from_numpy(output.vectors), literal=False)
    expected = (logits / small.thresholds.temperature).softmax(dim=1).numpy()
    np.testing.assert_allclose(output.probabilities, expected, atol=1e-10)
    np.testing.assert_allclose(output.energies, logits.logsumexp(dim=1).numpy(), atol=1e-10)
    assert np.linalg.norm(output.vectors, axis=1) == pytest.approx(1)


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_the_batch_size_does_not_matter(small: Reference, few: AnnData, batch_size: int) -> None:
    engine, cells = torch_engine(small), aligned(small, few)
    scale = engine.embedding.fit_scale(cells, "reference", engine.run).scale
    done: list[int] = []
    expected = engine.run(cells, scale)
    output = engine.run(cells, scale, batch_size=batch_size, on_cells=done.append)
    np.testing.assert_allclose(output.probabilities, expected.probabilities, atol=1e-12)
    assert sum(done) == few.n_obs
    without_cells = engine.run(cells.part(slice(0, 0)), scale)
    assert without_cells.probabilities.shape == (0, len(small.labels.names))


def test_vectors_of_the_user_are_unchanged(small: Reference) -> None:
    engine = torch_engine(small)
    own = TorchEngine(ObsmEmbedding("X_own", small.config.input_dim), engine.classifier, engine.temperature)
    vectors = np.random.default_rng(0).standard_normal((5, small.config.input_dim))
    output = own.run(AlignedCells.from_vectors(vectors, np.zeros(5, dtype=bool)), None)
    np.testing.assert_array_equal(output.vectors, vectors)
    np.testing.assert_array_equal(output.probabilities, engine.classify(vectors)[0])


def test_folded_weights_equal_layer_and_norm(small: Reference) -> None:
    engine = torch_engine(small)
    trained, folded = engine.weights(), engine.folded_weights()
    layers = [name.removesuffix(".norm.weight") for name in trained if name.endswith(".norm.weight")]
    assert layers == ["stem", "blocks.0.attention.query_key_value", "blocks.0.mlp.hidden"]
    assert not [name for name in folded if ".norm." in name]
    assert all(weight.dtype == np.float64 for weight in folded.values())
    for layer in layers:
        names = ("linear.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
        weight, gain, bias, mean, variance = (trained[f"{layer}.{name}"].astype(np.float64) for name in names)
        x = np.random.default_rng(0).standard_normal((5, weight.shape[1]))
        expected = (x @ weight.T - mean) / np.sqrt(variance + 1e-5) * gain + bias
        actual = x @ folded[f"{layer}.linear.weight"].T + folded[f"{layer}.linear.bias"]
        np.testing.assert_allclose(actual, expected, atol=1e-10)
    np.testing.assert_array_equal(folded["head.weight"], trained["head.weight"])


@pytest.fixture(scope="module")
def source() -> ScGPTSource:
    return open_scgpt(DATA / "scgpt_baron", max_length=300)


def test_scgpt_embeds_cells(source: ScGPTSource, few: AnnData, tmp_path: Path) -> None:
    embedding = scgpt_embedding(source)
    classifier = SpikingClassifier(SpikGPTConfig(embedding.dim, n_labels=3)).eval()
    cells = joined(list(embedding.read(few[:9]).chunks))
    kept = TorchEngine(embedding, classifier, source=source, settings=RunSettings(cache=tmp_path))
    vectors = kept.run(cells, None).vectors
    assert vectors.shape == (9, embedding.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors, scgpt_vectors(source, cells, settings=RunSettings()))
    assert list(tmp_path.rglob("*.safetensors"))
    np.testing.assert_array_equal(kept.vectors(cells), vectors)


def test_tokens_of_upstream_give_vectors_of_upstream(source: ScGPTSource, few: AnnData) -> None:
    checkpoint, pad_value = source.checkpoint, source.checkpoint.config.pad_value
    # The scgpt package matches genes by the names in the vocabulary, and reads the genes of a cell in file order.
    known = [name in checkpoint.vocabulary for name in few.var_names]
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(known))
    cells = few[:8, shuffled].copy()
    cells.X = cells.X.sorted_indices()
    ids = np.array([checkpoint.vocabulary[name] for name in cells.var_names])
    with upstream.seeded(1, 2):
        collate = upstream.collator(checkpoint.pad_id, pad_value, source.max_length)
        batch = collate(upstream.examples(cells.X, ids, checkpoint.cls_id, pad_value))
    expected = upstream.embed(upstream.model(checkpoint), batch["gene"], batch["expr"], checkpoint.pad_id)

    vectors, empty, report = embed_query(source, cells, RunSettings(tokenizer=UpstreamTokenizer(1, 2)))

    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)
    assert not empty.any()
    assert report.genes_matched == len(shuffled)
