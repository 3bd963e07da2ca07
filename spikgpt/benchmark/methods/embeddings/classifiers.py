"""Classifiers that take an embedding as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spikgpt.benchmark.methods.preparing import nearest_votes, softmax
from spikgpt.types import Floats, Strings

# From vectors of cells, (n, D), to the probability of each label, (n, L), labels in alphabetical order.
Classifier = Callable[[Floats], Floats]

# Of scGPT's published mapping onto a reference.
NEIGHBOURS = 10
# Layers of scGPT's published head; how it is trained here, on vectors that stay as they are.
LAYERS, EPOCHS, BATCH, RATE = 3, 20, 32, 1e-3


def logistic_regression(vectors: Floats, labels: Strings, seed: int) -> Classifier:
    """Train logistic regression on scaled vectors, shape (n, D)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(vectors)
    regression = LogisticRegression(max_iter=5000, random_state=seed).fit(scaler.transform(vectors), labels)

    def probabilities(asked: Floats) -> Floats:
        found: Floats = regression.predict_proba(scaler.transform(asked))
        return found

    return probabilities


def nearest_neighbours(vectors: Floats, labels: Strings, seed: int) -> Classifier:
    """Let the nearest cells vote."""
    return lambda asked: nearest_votes(vectors, labels, asked, NEIGHBOURS)[0]


def scgpt_head(vectors: Floats, labels: Strings, seed: int) -> Classifier:
    """Train the head that scGPT classifies with: linear layers, each but the last with ReLU and LayerNorm."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    names, index = np.unique(labels, return_inverse=True)
    width, layers = vectors.shape[1], list[nn.Module]()
    for _ in range(LAYERS - 1):
        layers += [nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)]
    head = nn.Sequential(*layers, nn.Linear(width, len(names)))
    optimiser = torch.optim.Adam(head.parameters(), lr=RATE)
    points, truth = torch.as_tensor(vectors, dtype=torch.float32), torch.as_tensor(index)
    for _ in range(EPOCHS):
        order = torch.randperm(len(points))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(points[rows]), truth[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    head.eval()

    def probabilities(asked: Floats) -> Floats:
        with torch.inference_mode():
            return softmax(head(torch.as_tensor(asked, dtype=torch.float32)).double().numpy())

    return probabilities


CLASSIFIERS = {"logistic": logistic_regression, "knn": nearest_neighbours, "head": scgpt_head}
