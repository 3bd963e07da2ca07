"""Train an scGPT network on any cells, without labels: masked values, from the genes around them and from ``<cls>``.

Both objectives are those of the scGPT paper: the decoder predicts the masked bin of a gene from its own vector, and the
inner-product decoder predicts it from the cell's embedding alone, which makes ``<cls>`` carry the cell. The second is
asked for genes that the cell lacks as well (bin 0), so that ``<cls>`` also carries what is absent. The result is a
checkpoint that upstream's package reads too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scanpy
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from spikgpt.cells.align import align, log_normalise
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, genes_of
from spikgpt.embedding.tokens import tokenise
from spikgpt.embedding.vocabulary import CLS, END
from spikgpt.errors import DataError
from spikgpt.scgpt.checkpoint import Checkpoint
from spikgpt.scgpt.encoder import Encoder, ScGPTConfig
from spikgpt.training.fit import epoch_seed, load_state, save_state

# Genes asked of <cls> that the cell lacks, for each that it has; upstream's loss on bins is divided by this.
ABSENT_GENES, LOSS_SCALE = 256, 100.0
# Another view of a cell: its depth as a share of this one's, and the most ambient RNA that it is given.
VIEW_DEPTH, LARGEST_AMBIENT = (0.3, 1.0), 0.6
# Of the contrast between cells.
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Pretraining:
    """How an scGPT network is trained: AdamW with a linear warm-up and a cosine decay."""

    genes: int = 3000
    max_length: int = 600
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    mask_share: float = 0.4
    seed: int = 0


class Pretrainer(nn.Module):
    """The encoder with the two heads of the pretraining, under upstream's names."""

    def __init__(self, config: ScGPTConfig, n_tokens: int, pad_id: int) -> None:
        super().__init__()
        dim = config.dim
        self.network = Encoder(config, n_tokens, pad_id)
        fc = nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(), nn.Linear(dim, dim), nn.LeakyReLU(), nn.Linear(dim, 1))
        self.decoder = nn.ModuleDict({"fc": fc})
        self.mvc_decoder = nn.ModuleDict({"gene2query": nn.Linear(dim, dim), "W": nn.Linear(dim, dim, bias=False)})

    def forward(self, genes: Tensor, bins: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bins of ``genes``, (n, length), those of ``asked`` from ``<cls>`` alone, and that, (n, dim)."""
        vectors = self.network(genes, bins)  # (n, length, dim)
        around: Tensor = self.decoder["fc"](vectors)[..., 0]  # (n, length)
        queries = self.mvc_decoder["W"](self.mvc_decoder["gene2query"](self.network.encoder(asked)).sigmoid())
        alone = (queries @ vectors[:, 0, :, None])[..., 0]  # (n, asked)
        return around, alone, vectors[:, 0]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights as a checkpoint names them."""
        return {name.removeprefix("network."): tensor.detach() for name, tensor in self.state_dict().items()}


def pretrain(
    adata: AnnData,
    config: ScGPTConfig,
    settings: Pretraining,
    *,
    layer: str | None = None,
    device: str | None = None,
    state: Path | None = None,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> Checkpoint:
    """Train an scGPT network.

    The vocabulary holds upstream's special tokens and the most variable genes (scanpy, flavour ``seurat``).

    Parameters
    ----------
    state
        File to keep the state in after each epoch; an interrupted run goes on from there.
    on_epoch
        Called after each epoch with the epoch, the number of epochs and the mean loss.

    Raises
    ------
    DataError
        When the cells cannot be read, or too few genes vary.
    CheckpointError
        When ``state`` belongs to another training.
    """
    expression = find_expression(adata, layer=layer)
    everything = genes_of(expression.var)
    cells = align(expression, everything)
    used = ~cells.empty
    chosen = _variable(log_normalise(cells.values, cells.totals)[used], settings.genes)
    genes = GeneList(
        tuple(everything.symbols[index] for index in chosen), tuple(everything.ensembl_ids[index] for index in chosen)
    )
    values = sparse.csr_matrix(cells.values[used][:, chosen])
    vocabulary = {token: index for index, token in enumerate((config.pad_token, CLS, END, *genes.symbols))}
    gene_ids = np.arange(3, len(vocabulary))
    pad_id, cls_id = vocabulary[config.pad_token], vocabulary[CLS]
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = Pretrainer(config, len(vocabulary), pad_id).to(target)
        nn.init.normal_(network.network.encoder.embedding.weight, std=0.1)
        matrices = [weight for weight in network.parameters() if weight.ndim > 1]
        others = [weight for weight in network.parameters() if weight.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            settings.learning_rate,
        )
        run = _fingerprint(config, settings, values, genes)
        first = load_state(state, run, network, optimizer) if state else 0
        steps = math.ceil(values.shape[0] / settings.batch_size)
        for epoch in range(first, settings.epochs):
            epoch_number = epoch_seed(settings.seed, epoch)
            torch.manual_seed(epoch_number)
            random = np.random.default_rng(epoch_number)
            views = [
                tokenise(
                    _view(values, random),
                    gene_ids,
                    cls_id=cls_id,
                    pad_value=config.pad_value,
                    n_bins=config.n_bins,
                    max_length=settings.max_length,
                )
                for _ in range(2)
            ]
            network.train()
            total = 0.0
            for step, batch in enumerate(torch.split(torch.randperm(values.shape[0]), settings.batch_size)):
                rate = _rate(settings, epoch * steps + step, settings.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                losses, embedded = [], []
                for tokens in views:
                    arrays = tokens.padded(batch.numpy(), pad_id, config.pad_value)
                    ids, bins = (torch.as_tensor(array).to(target) for array in arrays)
                    predicted, vectors = _loss(network, ids, bins, settings)
                    losses.append(predicted)
                    embedded.append(vectors)
                loss = (losses[0] + losses[1]) / 2 + _contrast(embedded[0], embedded[1])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                total += float(loss.detach()) * len(batch)
            if state:
                save_state(state, run, network, optimizer, epoch + 1)
            if on_epoch:
                on_epoch(epoch + 1, settings.epochs, total / values.shape[0])
    return Checkpoint(config, vocabulary, {name: tensor.cpu() for name, tensor in network.weights().items()})


def _view(values: sparse.csr_matrix, random: np.random.Generator) -> sparse.csr_matrix:
    """Return the cells as another sample might show them: fewer counts, and ambient RNA among them."""
    totals = np.maximum(np.asarray(values.sum(axis=1)), 1.0)  # (n, 1)
    profile = np.asarray(values.sum(axis=0)) / totals.sum()  # (1, G)
    ambient = np.minimum(random.beta(1, 4, totals.shape), LARGEST_AMBIENT)
    expected = (1 - ambient) * (values.toarray() / totals) + ambient * profile  # (n, G)
    drawn = random.poisson(totals * random.uniform(*VIEW_DEPTH, totals.shape) * expected)
    return sparse.csr_matrix(drawn.astype(np.float32))


def _contrast(one: Tensor, other: Tensor) -> Tensor:
    """Return the cross-entropy of finding each cell's other view among those of the batch, both ways."""
    similarity = normalize(one, dim=1) @ normalize(other, dim=1).T / TEMPERATURE  # (n, n)
    own = torch.arange(len(one), device=one.device)
    return (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2


def _loss(network: Pretrainer, genes: Tensor, bins: Tensor, settings: Pretraining) -> tuple[Tensor, Tensor]:
    """Return the error of masked genes, from the genes around them and from ``<cls>``, and the cells' vectors.

    The error is squared; genes that the cell lacks are asked of ``<cls>`` too.
    """
    config = network.network.config
    expressed = genes > 2  # neither padding nor another special token
    masked = expressed & (torch.rand(genes.shape, device=genes.device) < settings.mask_share)
    absent = torch.randint(3, network.network.encoder.embedding.num_embeddings, (len(genes), ABSENT_GENES))
    absent = absent.to(genes.device)
    # An absent gene that the cell does have is no question.
    fair = ~(absent[:, :, None] == genes[:, None, :]).any(dim=2)  # (n, absent)
    around, alone, cells = network(
        genes, bins.masked_fill(masked, config.mask_value), torch.cat([genes, absent], dim=1)
    )
    truth = bins.float()
    from_genes = ((around - truth)[masked] ** 2).mean()
    from_cell = ((alone[:, : genes.shape[1]] - truth)[masked] ** 2).mean()
    from_absent = (alone[:, genes.shape[1] :][fair] ** 2).mean()
    loss: Tensor = (from_genes + from_cell + from_absent) / LOSS_SCALE
    return loss, cells


def _rate(settings: Pretraining, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear rise over the warm-up, then half a cosine down to 0."""
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _variable(logs: sparse.csr_matrix, count: int) -> npt.NDArray[np.int64]:
    """Return the sorted columns of the most variable genes."""
    expressed = np.flatnonzero(logs.getnnz(axis=0) >= 3)
    if len(expressed) < 50:
        msg = f"Only {len(expressed)} genes are seen in 3 cells or more; at least 50 are needed to train on."
        raise DataError(msg)
    training = AnnData(sparse.csr_matrix(logs[:, expressed]))
    scanpy.pp.highly_variable_genes(training, n_top_genes=min(count, len(expressed)), flavor="seurat")
    return np.sort(expressed[training.var["highly_variable"].to_numpy()])


def _fingerprint(config: ScGPTConfig, settings: Pretraining, values: sparse.csr_matrix, genes: GeneList) -> str:
    """Return the sha256 of everything that decides the outcome."""
    told = {"config": asdict(config), "settings": asdict(settings), "genes": genes.sha256}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for array in (values.indptr, values.indices, values.data):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
