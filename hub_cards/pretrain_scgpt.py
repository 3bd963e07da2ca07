"""Train the small scGPT of the tests and the demo: ``python hub_cards/pretrain_scgpt.py --out FOLDER``.

The training cells are those of the shipped reference: donors human1 and human3 of Baron et al.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import torch
from rich.console import Console

from spikgpt.cells.reading import read_cells
from spikgpt.engines.scgpt.checkpoint import save_checkpoint
from spikgpt.engines.scgpt.encoder import ScGPTConfig
from spikgpt.training.pretraining import Pretraining, pretrain

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
CONFIG = ScGPTConfig(dim=96, heads=4, hidden=192, layers=2, dropout=0.0)
SETTINGS = Pretraining(genes=2000, max_length=128, epochs=45, batch_size=32, learning_rate=2e-3)


def main() -> None:
    """Train and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    console = Console()
    # One thread gives reproducible weights: the order of sums depends on the number of threads.
    torch.set_num_threads(1)
    cells = anndata.concat([read_cells(DATA / f"pancreas_baron_{donor}.h5ad") for donor in ("human1", "human3")])
    checkpoint = pretrain(
        cells,
        CONFIG,
        SETTINGS,
        device=options.device,
        state=options.out.with_name(f".{options.out.name}.training.safetensors"),
        on_epoch=lambda epoch, epochs, loss: console.print(f"epoch {epoch} of {epochs}: loss {loss:.4f}"),
    )
    save_checkpoint(checkpoint, options.out)


if __name__ == "__main__":
    main()
