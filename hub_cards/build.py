"""Train a reference from its recipe: ``python hub_cards/build.py pancreas --out FOLDER``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import anndata

from spikgpt import SpikGPT
from spikgpt.cells.reading import read_cells
from spikgpt.reference.card import DESCRIPTION, untrained_card
from spikgpt.reference.layout import GRAPHS
from spikgpt_onnx.exporter import export

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.parent.name for path in HERE.glob("*/recipe.json"))


def recipe_of(name: str) -> dict[str, Any]:
    """Return a recipe, with the text of its card."""
    recipe: dict[str, Any] = json.loads((HERE / name / "recipe.json").read_text())
    recipe["provenance"][DESCRIPTION] = (HERE / name / "card.md").read_text().strip()
    return recipe


def main() -> None:
    """Train on the recipe's cells and write the reference with its graphs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--cells", type=Path, nargs="+", help="h5ad files, where this repository has none")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder to write the reference to")
    what.add_argument("--card", action="store_true", help="print the card of the recipe as not trained yet")
    options = parser.parse_args()
    recipe = recipe_of(options.name)
    if options.card:
        sys.stdout.write(untrained_card(recipe))
        return
    files = options.cells or [HERE.parent / file for file in recipe["cells"]]
    if not files:
        accessions = ", ".join(recipe["provenance"]["datasets"])
        parser.error(f"the cells of {options.name} ({accessions}) are not in this repository; give them with --cells")
    trained = SpikGPT.train(
        anndata.concat([read_cells(file) for file in files]),
        recipe["label_key"],
        batch_key=recipe["batch_key"],
        name=recipe["name"],
        seed=recipe["seed"],
        provenance=recipe["provenance"],
    )
    trained.save_pretrained(options.out, overwrite=True)
    for name, parity in export(trained.reference, options.out, precisions=tuple(GRAPHS)).items():
        sys.stdout.write(f"{name}, {parity}\n")


if __name__ == "__main__":
    main()
