"""Draw pancreas.png and report.png for the README: ``python docs/images/make.py``.

The picture of the report needs playwright and Chromium.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import scanpy as sc
from playwright.sync_api import ViewportSize, sync_playwright

from spikgpt import Annotation, SpikGPT

HERE = Path(__file__).resolve().parent
CELLS = HERE.parents[1] / "tests" / "data" / "pancreas_baron_human2_human4.h5ad"
# Chromium of Debian, with flags for machines without a graphics card.
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WINDOW: ViewportSize = {"width": 1200, "height": 900}
PANELS = {"spikgpt_label": "SpikGPT's labels", "cell_type": "The authors' labels"}


def main() -> None:
    """Annotate the cells, and draw both pictures."""
    adata = anndata.read_h5ad(CELLS)
    annotation = SpikGPT.from_pretrained("pancreas").annotate(adata)
    draw_report(adata, annotation)
    draw_labels(adata, annotation)


def draw_report(adata: anndata.AnnData, annotation: Annotation) -> None:
    """Write a report of the cells, and save a picture of its map."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        page = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page(viewport=WINDOW)
        page.goto(annotation.report(Path(folder) / "report.html", adata, title="Pancreas cells of two donors").as_uri())
        page.wait_for_timeout(2000)
        page.locator("#map").screenshot(path=HERE / "report.png")


def draw_labels(adata: anndata.AnnData, annotation: Annotation) -> None:
    """Compute a UMAP, and draw both kinds of labels in the same colours."""
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    sc.pp.pca(adata, n_comps=30, mask_var="highly_variable")
    sc.pp.neighbors(adata, n_neighbors=30)
    sc.tl.umap(adata, min_dist=0.8, spread=1.2)
    names = (*annotation.label_names, "Unknown")
    colors = dict(zip(names, annotation.colors(names), strict=True))
    figure, panels = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
    coordinates = adata.obsm["X_umap"]
    for panel, (column, title) in zip(panels, PANELS.items(), strict=True):
        labels = adata.obs[column].astype(str)
        panel.scatter(*coordinates.T, c=[colors.get(label, "black") for label in labels], s=30, linewidths=0)
        panel.set_title(title, fontsize=18)
        panel.set_axis_off()
    shown = sorted(
        set(adata.obs["spikgpt_label"]) | set(adata.obs["cell_type"]), key=lambda name: (name == "Unknown", name)
    )
    dots = [
        plt.Line2D([], [], marker="o", linestyle="", markersize=9, color=colors.get(name, "black")) for name in shown
    ]
    texts = [name.replace("_", " ") for name in shown]
    figure.legend(dots, texts, loc="outside lower center", ncols=7, frameon=False, fontsize=13, handletextpad=0.1)
    figure.savefig(HERE / "pancreas.png", dpi=100)


if __name__ == "__main__":
    main()
