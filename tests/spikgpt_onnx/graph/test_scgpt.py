"""The graph of the scGPT encoder gives the same vectors as the network in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spikgpt.embedding.vocabulary import EncoderWeights
from spikgpt.engines.onnx_session import Session
from spikgpt.engines.scgpt.checkpoint import load_checkpoint
from spikgpt.reference.config import SpikGPTConfig
from spikgpt_onnx.graph import encoder_graph, labelling_graph
from tests.conftest import DATA
from tests.spikgpt_onnx.graph.networks import Array, classifier_for, network_of, run


@pytest.fixture(scope="module")
def scgpt() -> EncoderWeights:
    checkpoint = load_checkpoint(DATA / "scgpt_baron")
    config = checkpoint.config
    weights = {name: weight.float().numpy() for name, weight in checkpoint.weights.items()}
    return EncoderWeights(config.heads, config.layers, config.pad_value, checkpoint.with_length(1200), weights)


def tokens_of(cells: int, length: int) -> dict[str, Array]:
    checkpoint = load_checkpoint(DATA / "scgpt_baron")
    random = np.random.default_rng(0)
    ids = random.choice([token for token in range(100) if token != checkpoint.pad_id], (cells, length))
    values = random.integers(0, 51, (cells, length))
    ids[:, 0], values[:, 0] = checkpoint.cls_id, checkpoint.config.pad_value
    mask = np.arange(length) < random.integers(2, length + 1, (cells, 1))
    ids[~mask], values[~mask] = checkpoint.pad_id, checkpoint.config.pad_value
    return {"token_ids": ids, "values": values, "mask": mask}


def test_the_encoder_gives_the_vectors_of_torch(scgpt: EncoderWeights) -> None:
    tokens = tokens_of(9, 40)
    embedding = run(encoder_graph(scgpt, {}), tokens)["embedding"]
    genes, bins = torch.as_tensor(tokens["token_ids"]), torch.as_tensor(tokens["values"])
    vectors = load_checkpoint(DATA / "scgpt_baron").encoder().embed(genes, bins).numpy()
    np.testing.assert_allclose(embedding, vectors, atol=1e-6)


def test_padding_does_not_change_vectors(scgpt: EncoderWeights) -> None:
    tokens = tokens_of(5, 30)
    session = Session(encoder_graph(scgpt, {}).SerializeToString())
    longer = {
        "token_ids": np.pad(tokens["token_ids"], ((0, 0), (0, 12)), constant_values=7),
        "values": np.pad(tokens["values"], ((0, 0), (0, 12))),
        "mask": np.pad(tokens["mask"], ((0, 0), (0, 12))),
    }
    np.testing.assert_allclose(session.run(longer)["embedding"], session.run(tokens)["embedding"], atol=1e-6)


def test_the_combined_graph_equals_encoder_and_classifier(scgpt: EncoderWeights) -> None:
    config = SpikGPTConfig(input_dim=scgpt.dim, n_labels=4, width=32)
    network, tokens = network_of(classifier_for(config, 3)), tokens_of(9, 40)
    vectors = run(encoder_graph(scgpt, {}), tokens)["embedding"]
    apart = run(labelling_graph(network), {"embedding": vectors})
    together = run(labelling_graph(network, encoder=scgpt), tokens)
    np.testing.assert_allclose(together["probabilities"], apart["probabilities"], atol=1e-5)
