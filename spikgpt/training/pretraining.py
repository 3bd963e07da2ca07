"""Train an scGPT network on cells without labels, by the prediction of masked bins.

The two objectives are from the scGPT paper. The first decoder predicts the masked bin of a gene from the vector of the
gene. The inner-product decoder predicts the bin from the vector of ``<cls>`` alone, so that ``<cls>`` represents the
cell. It also predicts bin 0 for genes that the cell lacks. The scgpt package can read the trained checkpoint too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scanpy
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from spikgpt.cells.align import log_normalise
from spikgpt.embedding.tokens import Tokens, tokenise
from spikgpt.embedding.vocabulary import CLS, END
from spikgpt.engines.scgpt.checkpoint import Checkpoint
from spikgpt.engines.scgpt.embedding import device_named
from spikgpt.engines.scgpt.encoder import ScGPTConfig, ScGPTEncoder
from spikgpt.errors import ConfigError, DataError, with_noun
from spikgpt.training.cells import read_every_gene
from spikgpt.training.loop import TrainingRun, epoch_seed, fingerprint, seeded
from spikgpt.training.optimizer import AdamW
from spikgpt.training.simulation import LARGEST_AMBIENT, OTHER_DEPTH
from spikgpt.types import Rows

# Vocabulary ids below this number are special tokens.
SPECIAL_TOKENS = 3
# Number of absent genes whose bin 0 is predicted for each cell, and divisor of the loss on bins in the scgpt package.
ABSENT_GENES, LOSS_SCALE = 256, 100.0
# Temperature of the contrastive loss between cells.
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Pretraining:
    """Settings of the training of an scGPT network: AdamW with a linear warm-up and a cosine decay."""

    genes: int = 3000
    max_length: int = 600
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    mask_share: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.genes, self.max_length - 1, self.epochs, self.batch_size) < 1 or self.learning_rate <= 0:
            msg = f"{self}: genes, epochs, batch_size and learning_rate must be positive, and max_length at least 2."
            raise ConfigError(msg)


class Pretrainer(nn.Module):
    """Encoder with the two decoders of the pretraining, under the parameter names of the scgpt package."""

    def __init__(self, config: ScGPTConfig, n_tokens: int, pad_id: int) -> None:
        super().__init__()
        dim = config.dim
        self.network = ScGPTEncoder(config, n_tokens, pad_id)
        fc = nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(), nn.Linear(dim, dim), nn.LeakyReLU(), nn.Linear(dim, 1))
        self.decoder = nn.ModuleDict({"fc": fc})
        self.mvc_decoder = nn.ModuleDict({"gene2query": nn.Linear(dim, dim), "W": nn.Linear(dim, dim, bias=False)})

    def forward(self, genes: Tensor, bins: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bins of the tokens, the bins of ``predicted`` genes, and the vectors of ``<cls>``.

        The bins of the tokens, shape (n, length), are predicted from their vectors. The bins of the ``predicted``
        genes, shape (n, predicted genes), are predicted from the vectors of ``<cls>``, shape (n, dim).
        """
        vectors = self.network(genes, bins)  # (n, length, dim)
        around: Tensor = self.decoder["fc"](vectors)[..., 0]  # (n, length)
        queries = self.mvc_decoder["W"](self.mvc_decoder["gene2query"](self.network.encoder(predicted)).sigmoid())
        alone = (queries @ vectors[:, 0, :, None])[..., 0]  # (n, predicted)
        return around, alone, vectors[:, 0]


def pretrain(
    adata: AnnData,
    config: ScGPTConfig,
    settings: Pretraining,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    device: str | None = None,
    state: Path | None = None,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> Checkpoint:
    """Train an scGPT network on cells without labels, and return its checkpoint.

    The vocabulary holds scGPT's special tokens and the most variable genes (scanpy, flavour ``seurat``).

    Parameters
    ----------
    state
        File that keeps the state after each epoch; an interrupted training resumes there.
    on_epoch
        Called after each epoch with the epoch, the number of epochs and the mean loss.
    """
    cells, genes, _ = read_every_gene(adata, layer, gene_key)
    cells = cells.part(~cells.empty)
    chosen = _variable(log_normalise(cells.values, cells.totals), settings.genes)
    values, genes = sparse.csr_matrix(cells.values[:, chosen]), genes.part(chosen)
    vocabulary = {token: index for index, token in enumerate((config.pad_token, CLS, END, *genes.symbols))}
    target = device_named(device)
    with seeded(settings.seed, target):
        network = Pretrainer(config, len(vocabulary), vocabulary[config.pad_token]).to(target)
        nn.init.normal_(network.network.encoder.embedding.weight, std=0.1)
        steps = math.ceil(values.shape[0] / settings.batch_size)
        warm = max(1, round(settings.warmup * settings.epochs * steps))
        content = {"config": asdict(config), "settings": asdict(settings), "genes": genes.sha256}
        name = fingerprint(content, values.indptr, values.indices, values.data)
        optimizer, rate = AdamW(network, settings.weight_decay), settings.learning_rate
        run = TrainingRun(network, optimizer, rate, warm, settings.epochs, steps, settings.seed, name, state)
        run.all_epochs(
            lambda epoch: (epoch + 1, settings.epochs, _one_epoch(run, epoch, network, values, settings)),
            (lambda done: on_epoch(*done)) if on_epoch else None,
        )
    weights = {name.removeprefix("network."): tensor.cpu() for name, tensor in network.state_dict().items()}
    return Checkpoint(config, vocabulary, weights)


def _one_epoch(
    run: TrainingRun, epoch: int, network: Pretrainer, values: sparse.csr_matrix, settings: Pretraining
) -> float:
    """Train on two simulated views of every cell, and return the mean loss."""
    encoder = network.network
    config, device = encoder.config, next(network.parameters()).device
    random = np.random.default_rng(epoch_seed(run.seed, epoch))
    views = [_tokens(_view(values, random), config, settings.max_length) for _ in range(2)]
    total = 0.0
    for step, batch in enumerate(torch.split(torch.randperm(values.shape[0]), settings.batch_size)):
        losses, embedded = [], []
        for tokens in views:
            arrays = tokens.padded(batch.numpy(), encoder.pad_id, config.pad_value)
            ids, bins = (torch.as_tensor(array).to(device) for array in arrays)
            predicted, vectors = _loss(network, ids, bins, settings)
            losses.append(predicted)
            embedded.append(vectors)
        loss = (losses[0] + losses[1]) / 2 + _contrast(embedded[0], embedded[1])
        run.step(epoch, step, loss, largest_gradient=1.0)
        total += float(loss.detach()) * len(batch)
    return total / int(values.shape[0])


def _tokens(values: sparse.csr_matrix, config: ScGPTConfig, max_length: int) -> Tokens:
    """Return the tokens of cells whose columns are the genes of the vocabulary."""
    gene_ids = np.arange(values.shape[1]) + SPECIAL_TOKENS
    return tokenise(values, gene_ids, cls_id=1, pad_value=config.pad_value, n_bins=config.n_bins, max_length=max_length)


def _view(values: sparse.csr_matrix, random: np.random.Generator) -> sparse.csr_matrix:
    """Return the cells as if they came from another sample: with fewer counts and with ambient RNA."""
    totals = np.maximum(np.asarray(values.sum(axis=1)), 1.0)  # (n, 1)
    profile = np.asarray(values.sum(axis=0)) / totals.sum()  # (1, G)
    ambient = np.minimum(random.beta(1, 4, totals.shape), LARGEST_AMBIENT)
    expected = (1 - ambient) * (values.toarray() / totals) + ambient * profile  # (n, G)
    counts = random.poisson(totals * random.uniform(*OTHER_DEPTH, totals.shape) * expected)
    return sparse.csr_matrix(counts.astype(np.float32))


def _contrast(first_view: Tensor, second_view: Tensor) -> Tensor:
    """Return the contrastive loss of a batch: the cross-entropy of matching two views of each cell, both ways."""
    similarity = normalize(first_view, dim=1) @ normalize(second_view, dim=1).T / TEMPERATURE  # (n, n)
    own = torch.arange(len(first_view), device=first_view.device)
    return (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2


def _loss(network: Pretrainer, genes: Tensor, bins: Tensor, settings: Pretraining) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, and the ``<cls>`` vectors, shape (n, dim).

    The loss is the squared error of masked bins by each decoder, plus that of absent genes by the inner-product
    decoder, divided by ``LOSS_SCALE``.
    """
    config = network.network.config
    expressed = genes >= SPECIAL_TOKENS  # neither padding nor another special token
    masked = expressed & (torch.rand(genes.shape, device=genes.device) < settings.mask_share)
    absent = torch.randint(SPECIAL_TOKENS, network.network.encoder.embedding.num_embeddings, (len(genes), ABSENT_GENES))
    absent = absent.to(genes.device)
    # A drawn gene that the cell has is not absent.
    really_absent = ~(absent[:, :, None] == genes[:, None, :]).any(dim=2)  # (n, absent)
    around, alone, cells = network(
        genes, bins.masked_fill(masked, config.mask_value), torch.cat([genes, absent], dim=1)
    )
    truth = bins.float()
    from_genes = ((around - truth)[masked] ** 2).mean()
    from_cell = ((alone[:, : genes.shape[1]] - truth)[masked] ** 2).mean()
    from_absent = (alone[:, genes.shape[1] :][really_absent] ** 2).mean()
    loss: Tensor = (from_genes + from_cell + from_absent) / LOSS_SCALE
    return loss, cells


def _variable(logs: sparse.csr_matrix, count: int) -> Rows:
    """Return the columns of the ``count`` most variable genes, ascending."""
    expressed = np.flatnonzero(logs.getnnz(axis=0) >= 3)
    if len(expressed) < 50:
        msg = (
            f"Only {with_noun(len(expressed), 'gene is', 'genes are')} seen in 3 cells or more; at least 50 "
            "are needed to train on."
        )
        raise DataError(msg)
    training = AnnData(sparse.csr_matrix(logs[:, expressed]))
    scanpy.pp.highly_variable_genes(training, n_top_genes=min(count, len(expressed)), flavor="seurat")
    return np.sort(expressed[training.var["highly_variable"].to_numpy()])
