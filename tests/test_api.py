"""The class that users meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.errors import ConfigError, LabelsError
from spikgpt.training.reference import Reference


def test_a_reference_goes_to_a_folder_and_back(small: Reference, few: AnnData, tmp_path: Path) -> None:
    folder = SpikGPT(small).save_pretrained(tmp_path / "mine")
    assert folder == tmp_path / "mine"
    with pytest.raises(ConfigError, match="already holds a reference; choose another folder, or ask to overwrite"):
        SpikGPT(small).save_pretrained(folder)
    SpikGPT(small).save_pretrained(str(folder), overwrite=True)
    again = SpikGPT.from_pretrained(folder)
    assert repr(again) == "SpikGPT('small', 6 labels, embedder pca)"
    expected = SpikGPT(small).annotate(few.copy())
    found = again.annotate(few.copy())
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.probabilities.tobytes() == expected.probabilities.tobytes()


def test_annotating_adds_and_changes_nothing_else(small: Reference, few: AnnData) -> None:
    adata = few.copy()
    annotation = SpikGPT(small).annotate(adata)
    labels, numbers = {"label", "best_label", "label_broad"}, {"confidence", "familiarity"}
    assert set(adata.obs) - set(few.obs) == {f"spikgpt_{name}" for name in labels | numbers}
    assert set(adata.obsm) - set(few.obsm) == {"spikgpt_probabilities"}
    assert set(adata.uns) - set(few.uns) == {"spikgpt", *(f"spikgpt_{name}_colors" for name in labels)}
    assert adata.obsm["spikgpt_probabilities"].shape == (few.n_obs, 6)
    assert (adata.X != few.X).nnz == 0
    assert adata.obs["spikgpt_label"].astype(str).tolist() == annotation.labels.tolist()


def test_evaluating_leaves_the_cells_as_they_are(small: Reference, few: AnnData) -> None:
    adata = few.copy()
    evaluation = SpikGPT(small).evaluate(adata, "cell_type")
    assert list(adata.obs) == list(few.obs)
    assert not adata.obsm
    assert evaluation.metrics.accuracy > 0.85
    assert evaluation.metrics.cells + sum(evaluation.unseen_labels.values()) == few.n_obs
    with pytest.raises(LabelsError, match="obs has no column 'celltype'"):
        SpikGPT(small).evaluate(adata, "celltype")


def test_training_from_the_class(cells: AnnData) -> None:
    model = SpikGPT.train(cells, "cell_type", recipe="paper", name="mine", seed=7)
    assert repr(model) == "SpikGPT('mine', 6 labels, embedder pca)"
    assert model.reference.provenance["seed"] == 7
