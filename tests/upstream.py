"""Model and collator of the scgpt package, whose results the tests expect, loaded without the rest of the package.

The package itself cannot be imported with current torch, because its tokenizer needs torchtext.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

from spikgpt.engines.scgpt.checkpoint import Checkpoint


def module(name: str) -> Any:
    """Return a module of the installed scgpt, with its parent packages replaced by empty packages."""
    spec = importlib.util.find_spec("scgpt") if "scgpt" not in sys.modules else None
    if spec is not None and spec.submodule_search_locations:
        root = Path(spec.submodule_search_locations[0])
        for package, folder in (("scgpt", root), ("scgpt.model", root / "model")):
            empty = types.ModuleType(package)
            empty.__path__ = [str(folder)]
            empty.__dict__["logger"] = logging.getLogger(package)
            sys.modules[package] = empty
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warning that flash-attn is not installed
        return importlib.import_module(name)


def model(checkpoint: Checkpoint) -> Any:
    """Return the network of scgpt with the weights of a checkpoint."""
    config = checkpoint.config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = module("scgpt.model.model").TransformerModel(
            len(checkpoint.vocabulary),
            config.dim,
            config.heads,
            config.hidden,
            config.layers,
            vocab=checkpoint.vocabulary,
            dropout=config.dropout,
            pad_token=config.pad_token,
            pad_value=config.pad_value,
            do_mvc=True,
        )
    ours = {name.replace("in_proj.", "in_proj_"): tensor for name, tensor in checkpoint.weights.items()}
    missing, unexpected = network.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(name.startswith(("decoder.", "cls_decoder.", "mvc_decoder.")) for name in missing)
    return network.eval()


def embed(network: nn.Module, genes: torch.Tensor, bins: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Return the cell embeddings as ``get_batch_cell_embeddings`` computes them."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warning about nested tensors, which are a prototype
        vectors = network._encode(genes, bins.float(), src_key_padding_mask=genes.eq(pad_id))[:, 0]  # type: ignore[operator]
    result: torch.Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return result


@contextmanager
def seeded(numpy_seed: int, torch_seed: int) -> Iterator[None]:
    """Seed the global random generators that scgpt uses, and restore their state at the end."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(numpy_seed)  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed)
        yield
    np.random.set_state(state)  # noqa: NPY002


def collator(pad_id: int, pad_value: int, max_length: int) -> Any:
    """Return the collator of scgpt with the settings of its embedding."""
    return module("scgpt.data_collator").DataCollator(
        do_padding=True,
        pad_token_id=pad_id,
        pad_value=pad_value,
        do_mlm=False,
        do_binning=True,
        max_length=max_length,
        sampling=True,
        keep_first_n_tokens=1,
    )


def examples(
    values: sparse.csr_matrix, gene_ids: npt.NDArray[np.int64], cls_id: int, pad_value: int
) -> list[dict[str, Any]]:
    """Return the cells in the form in which the dataset of scgpt passes cells to the collator."""
    cells = []
    for row in range(values.shape[0]):
        part = slice(values.indptr[row], values.indptr[row + 1])
        genes = np.insert(gene_ids[values.indices[part]], 0, cls_id)
        expressions = np.insert(values.data[part].astype(np.float32), 0, pad_value)
        cells.append({"id": row, "genes": torch.from_numpy(genes), "expressions": torch.from_numpy(expressions)})
    return cells
