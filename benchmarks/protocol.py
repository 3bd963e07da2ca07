"""The paper's protocol on real cells: Baron et al. without alpha cells, asked for the cells of Xin et al.

python benchmarks/protocol.py --data DIR       DIR has pancreas_baron_human.h5ad and pancreas_xin_980genes.h5ad
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spikgpt.building.evaluating import became_of
from spikgpt.cells.reading import read_cells
from spikgpt.options import TrainOptions
from spikgpt.training.train import train

LEFT_OUT = "alpha"
PAPER = "The paper: 97% of the alpha cells rejected, of GSE84133 and GSE85241 to three studies."


def main() -> None:
    """Train without alpha cells by both recipes and several seeds, and print what becomes of these."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    reference = read_cells(options.data / "pancreas_baron_human.h5ad")
    known = reference[(reference.obs["cell_type"] != LEFT_OUT).to_numpy()].copy()
    query = read_cells(options.data / "pancreas_xin_980genes.h5ad")
    # This file of Xin et al. has a selection of genes; in a build both have all.
    known = known[:, known.var_names.isin(query.var_names)].copy()
    for recipe in ("default", "paper"):
        for seed in range(options.seeds):
            training = TrainOptions(batch_key="donor", recipe=recipe, seed=seed)  # type: ignore[arg-type]
            row = became_of(LEFT_OUT, "Xin", train(known, "cell_type", options=training), query.copy())
            mistaken = ", ".join(f"{name} {cells}" for name, cells in row.mistaken_for.items())
            sys.stdout.write(
                f"recipe {recipe}, seed {seed}: of {row.unseen_cells} {LEFT_OUT} cells {100 * row.unseen_unknown:.1f}% "
                f"are Unknown, of {row.known_cells} others {100 * row.known_unknown:.1f}%; by the rule of 0.95 "
                f"{100 * row.unseen_unknown_by_paper:.1f}% and {100 * row.known_unknown_by_paper:.1f}%; AUROC "
                f"{row.auroc:.3f}; best label of the {LEFT_OUT} cells: {mistaken}\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{PAPER}\n")


if __name__ == "__main__":
    main()
