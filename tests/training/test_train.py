from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.errors import ConfigError, LabelsError
from spikgpt.options import TrainOptions
from spikgpt.reference.files import ReferenceFiles
from spikgpt.training.fit import Progress
from spikgpt.training.train import train


def test_cell_ontology_ids_come_from_obs(small: ReferenceFiles, cells: AnnData) -> None:
    pairs = dict(zip(cells.obs["cell_type"].astype(str), cells.obs["cell_ontology_id"].astype(str), strict=True))
    assert dict(zip(small.labels.names, small.labels.cell_ontology_ids, strict=True)) == pairs
    assert all(gene_id.startswith("CL:") for gene_id in pairs.values())


def test_a_reference_knows_how_it_was_made(small: ReferenceFiles, cells: AnnData) -> None:
    assert small.metrics["cells"] == cells.n_obs
    assert small.metrics["cells_per_label"] == dict.fromkeys(small.labels.names, 60)
    assert small.metrics["held_out_by"] == "30% of the cells of each label"
    assert small.metrics["held_out"]["cells"] == 108
    assert small.metrics["held_out"]["accuracy"] > 0.9
    assert small.thresholds.calibration_cells == 108
    assert small.provenance["recipe"]["name"] == "default"
    assert (small.provenance["seed"], small.provenance["label_key"]) == (1, "cell_type")


def test_the_paper_recipe_batches_small_labels_and_an_embedding(cells: AnnData, tmp_path: Path) -> None:
    adata = cells.copy()
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    labels[:3] = "rare"
    labels[3] = "nan"
    adata.obs["type"] = labels
    adata.obsm["X_own"] = np.random.default_rng(0).standard_normal((adata.n_obs, 10))
    stages: list[tuple[str, Progress]] = []
    reference = train(
        adata,
        "type",
        embedder="obsm:X_own",
        options=TrainOptions(batch_key="batch", recipe="paper", checkpoints=tmp_path),
        on_epoch=lambda stage, progress: stages.append((stage, progress)),
    )
    assert reference.provenance["labels_left_out"] == {"rare": 3}
    assert reference.provenance["cells_without_label"] == 1
    assert "rare" not in reference.labels.names
    assert reference.metrics["held_out_by"] in ("batch one", "batch two")
    assert [progress.epoch for stage, progress in stages] == list(range(1, 11))
    assert {stage for stage, _ in stages} == {"held-out"}
    assert reference.config.width == 10
    annotation = SpikGPT(reference).annotate(adata)
    assert annotation.labels.shape == (adata.n_obs,)


def test_refusals(cells: AnnData) -> None:
    adata = cells.copy()
    adata.obs["single"] = "beta"
    adata.obs["small"] = [f"type{i}" for i in range(adata.n_obs)]
    adata.obs["patchy"] = [None, *adata.obs["batch"][1:]]
    with pytest.raises(LabelsError, match=r"obs has no column 'celltype'; it has .*Did you mean 'cell_type'"):
        train(adata, "celltype")
    with pytest.raises(LabelsError, match="1 of 1 classes have 5 cells or more; at least 2"):
        train(adata, "single")
    with pytest.raises(LabelsError, match="0 of 360 classes have 5 cells or more"):
        train(adata, "small")
    with pytest.raises(LabelsError, match="1 cells have no value in obs"):
        train(adata, "cell_type", options=TrainOptions(batch_key="patchy"))
    with pytest.raises(LabelsError, match="All cells are of one donor or batch, 'human1'"):
        train(adata, "cell_type", options=TrainOptions(batch_key="donor"))
    with pytest.raises(ConfigError, match="recipe is 'best'"):
        SpikGPT.train(adata, "cell_type", recipe="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no embedder 'scgpt'"):
        train(adata, "cell_type", embedder="scgpt")


@pytest.mark.parametrize("kind", ["umap", "obsm:", "obsm", "PCA"])
def test_an_unknown_embedder_is_refused(kind: str, cells: AnnData) -> None:
    with pytest.raises(ConfigError, match=f"There is no embedder '{kind}'; choose pca, scgpt, or obsm:KEY"):
        train(cells, "cell_type", embedder=kind)
