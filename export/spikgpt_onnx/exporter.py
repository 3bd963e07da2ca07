"""From a trained reference to one ONNX graph that provably gives the same labels."""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from spikgpt.embedders.pca import PCAEmbedder
from spikgpt.errors import ParityError
from spikgpt.genes import GeneList
from spikgpt.layout import check_writable, dumped, graph_sources, write_files
from spikgpt.reference import Reference, contents, save
from spikgpt.thresholds import confidence_of, is_unknown
from spikgpt_onnx import contract
from spikgpt_onnx.runtime import Graph

OPSET = 20
PARITY_CELLS = 1024
# Probabilities agree to rounding unless a membrane potential is within rounding of the firing threshold. Such a cell
# gets a spike more or less; it may differ by more, as long as its label and its Unknown decision do not.
TOLERANCE = 1e-5
SHARE_WITHIN_TOLERANCE = 0.99


@dataclass(frozen=True)
class Parity:
    """Agreement of the graph in ONNX Runtime, float32, with the trained model in torch, float64."""

    cells: int
    labels_equal: int
    unknown_equal: int
    within_tolerance: int
    tolerance: float
    largest_difference: float


class _EmbeddingGraph(nn.Module):
    """Embedding to probabilities."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding).softmax(dim=1)  # type: ignore[no-any-return]


class _CountsGraph(nn.Module):
    """Aligned counts to probabilities: normalise, log1p, scale, clip, project, L2, classify."""

    components: Tensor

    def __init__(self, embedder: PCAEmbedder, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.target_sum = embedder.target_sum
        self.clip = embedder.clip
        self.register_buffer("components", torch.as_tensor(embedder.components, dtype=torch.float32))

    def forward(self, counts: Tensor, total: Tensor, gene_mean: Tensor, gene_std: Tensor) -> Tensor:
        per_count = self.target_sum / total.clamp(min=1e-12)  # (B,)
        expression = torch.log1p(counts * per_count[:, None])  # (B, genes)
        scaled = ((expression - gene_mean) / gene_std).clamp(-self.clip, self.clip)  # (B, genes)
        vectors = scaled @ self.components  # (B, dim)
        vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)  # (B, dim)
        return self.classifier(vectors).softmax(dim=1)  # type: ignore[no-any-return]


def export(reference: Reference, folder: str | Path) -> Parity:
    """Write the reference with ``onnx/model.onnx`` and its parity report, all of it or nothing.

    Parameters
    ----------
    folder
        A folder that does not exist yet, or one that holds this reference or an earlier export, which is replaced.

    Raises
    ------
    ConfigError
        When the folder holds something else.
    ParityError
        When the graph disagrees with the trained model. Nothing is written then.
    """
    folder = Path(folder)
    files = contents(reference)
    here = folder / "model.safetensors"
    same = here.is_file() and here.read_bytes() == files["model.safetensors"]
    check_writable(folder, overwrite=same or (folder / contract.PARITY).is_file())
    graph = build_graph(reference).SerializeToString()
    with tempfile.TemporaryDirectory() as temporary:
        trial = write_files(files | {contract.GRAPH: graph}, Path(temporary) / "trial")
        parity = check_parity(reference, Graph(trial))
    report = dumped(asdict(parity) | {"made_from": graph_sources(files)})
    save(reference, folder, overwrite=True, onnx={contract.GRAPH: graph, contract.PARITY: report})
    return parity


def build_graph(reference: Reference) -> onnx.ModelProto:
    """Return the graph of a reference, with its LIF steps unrolled and any number of cells in a batch."""
    classifier = reference.folded_classifier().float()
    embedder = reference.embedder
    cells = torch.export.Dim("cells")
    module: nn.Module
    if isinstance(embedder, PCAEmbedder):
        module = _CountsGraph(embedder, classifier)
        n_genes = len(embedder.genes)
        example: dict[str, Tensor] = {
            contract.COUNTS: torch.ones(2, n_genes),
            contract.TOTAL: torch.full((2,), float(n_genes)),
            contract.GENE_MEAN: torch.as_tensor(embedder.mean, dtype=torch.float32),
            contract.GENE_STD: torch.as_tensor(embedder.std, dtype=torch.float32),
        }
        defaults = {name: example[name].numpy() for name in (contract.GENE_MEAN, contract.GENE_STD)}
    else:
        module = _EmbeddingGraph(classifier)
        example = {contract.EMBEDDING: torch.ones(2, embedder.dim)}
        defaults = {}
    with warnings.catch_warnings():
        # Of torch's own workings, and of membrane potentials that start at 0 in each run anyway.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=[contract.PROBABILITIES],
            dynamic_shapes=tuple(None if name in defaults else {0: cells} for name in example),
            verbose=False,
        )
    if program is None:
        msg = "torch.onnx.export returned no program."
        raise ParityError(msg)
    model = program.model_proto
    for name, array in defaults.items():
        # An input that is also an initializer is optional, with that default.
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.helper.set_model_props(
        model,
        {
            "format_version": str(contract.FORMAT_VERSION),
            "reference": reference.name,
            "labels": json.dumps(reference.labels.to_list()),
            "thresholds": json.dumps(reference.thresholds.to_dict()),
            "genes_sha256": (embedder.genes or GeneList((), ())).sha256,
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def check_parity(reference: Reference, graph: Graph) -> Parity:
    """Hold the graph against the trained model on random cells that look like the reference's.

    Raises
    ------
    ParityError
        When a label or an Unknown decision differs, or too many probabilities do.
    """
    inputs, vectors = _random_cells(reference)
    expected = reference.probabilities(vectors)
    found = graph.probabilities(inputs)
    difference = np.abs(found - expected).max(axis=1)
    threshold = reference.thresholds.threshold
    parity = Parity(
        cells=len(expected),
        labels_equal=int((found.argmax(1) == expected.argmax(1)).sum()),
        unknown_equal=int(
            (is_unknown(confidence_of(found), threshold) == is_unknown(confidence_of(expected), threshold)).sum()
        ),
        within_tolerance=int((difference <= TOLERANCE).sum()),
        tolerance=TOLERANCE,
        largest_difference=float(difference.max()),
    )
    if (
        min(parity.labels_equal, parity.unknown_equal) < parity.cells
        or parity.within_tolerance < SHARE_WITHIN_TOLERANCE * parity.cells
    ):
        msg = (
            f"The graph disagrees with the trained model: of {parity.cells} cells {parity.labels_equal} have the same "
            f"label, {parity.unknown_equal} the same Unknown decision, and {parity.within_tolerance} agree within "
            f"{TOLERANCE}. Nothing was written; please report this with the versions of torch and onnxruntime."
        )
        raise ParityError(msg)
    return parity


def _random_cells(reference: Reference) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float64]]:
    """Return inputs of the graph, and the same cells embedded by the library."""
    random = np.random.default_rng(0)
    embedder = reference.embedder
    if not isinstance(embedder, PCAEmbedder):
        vectors = random.standard_normal((PARITY_CELLS, embedder.dim))
        return {contract.EMBEDDING: vectors}, vectors
    # Sparse counts around the reference's mean expression, spread so widely that many labels occur.
    total = np.exp(random.uniform(np.log(500), np.log(50_000), PARITY_CELLS)).round()
    spread = random.lognormal(0, 1.5, (PARITY_CELLS, len(embedder.genes)))
    share = np.expm1(embedder.mean) / embedder.target_sum * spread
    counts = random.poisson(np.minimum(share, 1) * total[:, None]).astype(np.float32)
    return {contract.COUNTS: counts, contract.TOTAL: total}, embedder.project(counts, total)
