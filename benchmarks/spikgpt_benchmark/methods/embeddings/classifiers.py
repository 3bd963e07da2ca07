"""Plain classifiers on the embedding vectors of cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spikgpt.types import Floats, Strings
from spikgpt_benchmark.methods.preprocess import nearest_votes, softmax

# A function from vectors, shape (n, D), to label probabilities, shape (n, L), labels in alphabetical order.
Classifier = Callable[[Floats], Floats]

# Number of nearest neighbours, as in scGPT's published mapping of cells onto a reference.
NEIGHBOURS = 10
# Number of layers of scGPT's published head; epochs, batch size and learning rate of its training on fixed vectors.
LAYERS, EPOCHS, BATCH, RATE = 3, 20, 32, 1e-3


def logistic_regression(vectors: Floats, labels: Strings, seed: int) -> Classifier:
    """Train logistic regression on scaled vectors, shape (n, D)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, random_state=seed))
    classifier: Classifier = pipeline.fit(vectors, labels).predict_proba
    return classifier


def nearest_neighbours(vectors: Floats, labels: Strings, seed: int) -> Classifier:
    """Return a classifier that gives each label its share among the nearest training cells."""
    return lambda query: nearest_votes(vectors, labels, query, NEIGHBOURS)[0]


def scgpt_head(vectors: Floats, labels: Strings, seed: int) -> Classifier:
    """Train the classification head of scGPT: linear layers, each but the last with ReLU and LayerNorm."""
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
        for rows in torch.split(torch.randperm(len(points)), BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(points[rows]), truth[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    head.eval()

    def probabilities(query: Floats) -> Floats:
        with torch.inference_mode():
            return softmax(head(torch.as_tensor(query, dtype=torch.float32)).double().numpy())

    return probabilities


CLASSIFIERS = {"logistic": logistic_regression, "knn": nearest_neighbours, "head": scgpt_head}
