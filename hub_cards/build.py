"""Train a reference from its recipe: ``python hub_cards/build.py pancreas --out FOLDER``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata

from spikgpt import SpikGPT
from spikgpt.data import read_h5ad

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Train on the recipe's cells and write the reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(path.parent.name for path in ROOT.glob("hub_cards/*/recipe.json")))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = json.loads((ROOT / "hub_cards" / options.name / "recipe.json").read_text())
    cells = anndata.concat([read_h5ad(ROOT / file) for file in recipe["cells"]])
    trained = SpikGPT.train(
        cells,
        recipe["label_key"],
        batch_key=recipe["batch_key"],
        name=recipe["name"],
        seed=recipe["seed"],
        provenance=recipe["provenance"],
    )
    trained.save_pretrained(options.out, overwrite=True)


if __name__ == "__main__":
    main()
