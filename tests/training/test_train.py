"""Training makes a reference from labelled cells, and measures the reference on held-out cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.cells.expression import Expression, find_expression
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.scgpt.source import ScGPTSource
from spikgpt.errors import CheckpointError, ConfigError, LabelsError
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference
from spikgpt.training.cells import prepare
from spikgpt.training.classifier import Progress
from spikgpt.training.evaluation import evaluate
from spikgpt.training.fit import fit_model
from spikgpt.training.recipes import RECIPES
from spikgpt.training.split import folds, hold_out
from spikgpt.training.train import cross_validate, train
from tests.training.conftest import ONCE


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the default recipe keep the model that was measured on held-out cells."""
    monkeypatch.setitem(RECIPES, "default", ONCE)


def same(first: Reference, second: Reference) -> bool:
    return first.files == second.files


def test_cell_ontology_ids_come_from_obs(small: Reference, cells: AnnData) -> None:
    pairs = dict(zip(cells.obs["cell_type"].astype(str), cells.obs["cell_ontology_id"].astype(str), strict=True))
    assert dict(zip(small.labels.names, small.labels.cell_ontology_ids, strict=True)) == pairs
    assert all(gene_id.startswith("CL:") for gene_id in pairs.values())


def test_a_reference_records_its_training(small: Reference, cells: AnnData) -> None:
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


def test_unsuitable_labels_batches_and_options_are_refused(cells: AnnData) -> None:
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
    with pytest.raises(LabelsError, match="1 cell has no value in obs"):
        train(adata, "cell_type", options=TrainOptions(batch_key="patchy"))
    with pytest.raises(LabelsError, match="All cells are of one donor or batch, 'human1'"):
        train(adata, "cell_type", options=TrainOptions(batch_key="donor"))
    with pytest.raises(ConfigError, match="recipe is 'best'"):
        SpikGPT.train(adata, "cell_type", recipe="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no embedder 'scgpt'"):
        train(adata, "cell_type", embedder="scgpt")


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("embedder", ["pca", "obsm:X_own", pytest.param("scgpt", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", ["default", pytest.param("paper", marks=pytest.mark.slow)])
def test_stored_measures_equal_an_evaluation_of_the_held_out_cells(
    embedded: AnnData, scgpt: ScGPTSource, embedder: str, recipe: str
) -> None:
    source = scgpt if embedder == "scgpt" else None
    options = TrainOptions(recipe=recipe, seed=4)  # type: ignore[arg-type]
    reference = train(embedded, "cell_type", embedder=source or embedder, options=options)
    assert reference.embedder["kind"] == embedder.split(":")[0]
    _, rows = hold_out(embedded.obs["cell_type"].astype(str).to_numpy(), seed=4)
    held_out = embedded[rows].copy()
    engine = torch_engine(reference, source=source)
    for smoothing in (True, False):
        annotation = annotate(reference, engine, held_out, AnnotateOptions(smoothing=smoothing, unknown_rate=0.05))
        evaluation = evaluate(annotation, held_out, "cell_type")
        # At most 5 cells are rejected: 5% of 109 ranks, because the conformal rank counts the query cell too.
        # The paper's recipe learns too little from so few cells, so all cells get one or two labels.
        # The query then counts as incompatible, and all cells are Unknown.
        assert annotation.rejected.sum() <= 5 or recipe == "paper"
        assert annotation.typicality is not None
        assert annotation.typicality.mean() == pytest.approx(0.5, abs=0.01)
        if smoothing:
            assert evaluation.metrics.to_dict() == reference.metrics["held_out"]
            assert reference.metrics["paper_threshold_rejects"] == (annotation.confidence < 0.95).mean()


# The steps together


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("embedder", ["pca", "obsm:X_own"])
def test_the_expression_is_searched_once(embedded: AnnData, embedder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(adata: AnnData, **options: Any) -> Expression:
        calls.append(adata.n_obs)
        return find_expression(adata, **options)

    for module in ("training.cells", "embedding.pca", "embedding.scgpt"):
        monkeypatch.setattr(f"spikgpt.{module}.find_expression", counted)
    train(embedded, "cell_type", embedder=embedder)
    assert calls == ([embedded.n_obs] if embedder == "pca" else [])


@pytest.mark.usefixtures("once")
def test_a_label_of_the_held_out_batch_alone_needs_no_imputation(cells: AnnData) -> None:
    adata = cells.copy()
    labels = adata.obs["cell_type"].astype(str)
    adata.obs["type"] = labels.where((labels != "ductal") | (adata.obs["batch"] == "one"))
    reference = train(adata, "type", options=TrainOptions(batch_key="batch", recipe="paper"))
    assert "ductal" not in reference.labels.names
    assert reference.more_genes is not None


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_the_given_layer_is_read_in_every_step(cells: AnnData) -> None:
    some = cells[:, ::4].copy()
    adata = some.copy()
    adata.layers["mine"] = some.X
    adata.X = sparse.csr_matrix((some.X / 2).floor())  # other values of the same cells
    layered = train(adata, "cell_type", options=TrainOptions(layer="mine"))
    assert same(layered, train(some, "cell_type"))


@pytest.mark.usefixtures("brief")
def test_a_label_of_the_held_out_batch_alone_is_not_measured(embedded: AnnData) -> None:
    adata = embedded.copy()
    labels = adata.obs["cell_type"].astype(str)
    # The smaller batch, "one", is held out.
    adata.obs["type"] = labels.where((labels != "ductal") | (adata.obs["batch"] == "one"))
    options = TrainOptions(batch_key="batch")
    reference = train(adata, "type", embedder="obsm:X_own", options=options)
    assert reference.metrics["held_out_by"] == "batch one"
    assert "ductal" in reference.labels.names
    in_batch_one = adata.obs["batch"] == "one"
    assert reference.metrics["held_out"]["cells"] == int((in_batch_one & (labels != "ductal")).sum())
    measured = train(adata, "type", embedder="obsm:X_own", options=TrainOptions(batch_key="batch", recipe="paper"))
    assert "ductal" not in measured.labels.names
    assert "ductal" not in measured.metrics["cells_per_label"]


def stop(stage: str, epoch: int) -> Callable[[str, Progress], None]:
    """Return a callback that interrupts a training after an epoch of a stage."""

    def called(current: str, progress: Progress) -> None:
        if (current, progress.epoch) == (stage, epoch):
            raise KeyboardInterrupt

    return called


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("stage", "resumed_stages"), [("held-out", {"held-out", "all-cells"}), ("all-cells", {"all-cells"})]
)
def test_an_interrupted_training_resumes_to_the_same_reference(
    embedded: AnnData, stage: str, resumed_stages: set[str], tmp_path: Path
) -> None:
    options = TrainOptions(checkpoints=tmp_path / "state")
    with pytest.raises(KeyboardInterrupt):
        train(embedded, "cell_type", embedder="obsm:X_own", options=options, on_epoch=stop(stage, 2))
    epochs: list[tuple[str, int]] = []
    resumed = train(
        embedded,
        "cell_type",
        embedder="obsm:X_own",
        options=options,
        on_epoch=lambda current, progress: epochs.append((current, progress.epoch)),
    )
    assert {current for current, _ in epochs} == resumed_stages
    assert [epoch for current, epoch in epochs if current == stage] == [3, 4, 5]
    assert sorted(path.name for path in options.checkpoints.iterdir()) == [  # type: ignore[union-attr]
        "all-cells.safetensors",
        "held-out.safetensors",
    ]
    assert same(resumed, train(embedded, "cell_type", embedder="obsm:X_own"))
    other = TrainOptions(checkpoints=tmp_path / "state", seed=1)
    with pytest.raises(CheckpointError, match="belongs to other cells, another recipe or another seed"):
        train(embedded, "cell_type", embedder="obsm:X_own", options=other)


class Stopped(Exception):
    """Raised to end a training after its notes."""


def test_left_out_features_are_noted_before_training(cells: AnnData) -> None:
    cite = cells[:, 5000:8000].copy()
    cite.var["feature_types"] = ["Antibody Capture"] * 20 + ["Gene Expression"] * 2980
    notes: list[str] = []

    def stop(stage: str, progress: Progress) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(cite, "cell_type", options=TrainOptions(name="mine", seed=1), on_note=notes.append, on_epoch=stop)
    assert any(note.startswith("Left out of X: 20 of 3000 features that are not RNA") for note in notes)


# Cross-validation

OPTIONS = TrainOptions(batch_key="third", cross_validate=True)


@pytest.fixture(scope="module")
def thirds(embedded: AnnData) -> AnnData:
    """Return the cells with three made-up donors; only the first donor has ductal cells."""
    adata = embedded.copy()
    adata.obs["third"] = [f"d{1 + index % 3}" for index in range(adata.n_obs)]
    labels = adata.obs["cell_type"].astype(str)
    adata.obs["type"] = labels.where((labels != "ductal") | (adata.obs["third"] == "d1"))
    return adata


def test_each_donor_is_labelled_by_a_model_without_it(thirds: AnnData) -> None:
    cells = prepare(thirds, "type", "obsm:X_own", OPTIONS)
    assert cells.labelled.groups is not None
    groups, names = cells.labelled.groups, tuple(np.unique(cells.labels).tolist())
    splits = list(folds(cells.labels, groups))
    fitted = fit_model(cells, splits[0][0], "first", ONCE, OPTIONS)
    stages: list[str] = []
    result = cross_validate(
        cells, groups, names, (splits[0][0], fitted), ONCE, OPTIONS, lambda stage, _: stages.append(stage)
    )
    # The model of the first split is not trained again.
    assert set(stages) == {"held-out 2", "held-out 3"}
    assert [row.group for row in result.groups] == ["d1", "d2", "d3"]
    assert [len(rows) for _, rows in splits] == [np.sum(groups == name) for name in ("d1", "d2", "d3")]
    # Only d1 has ductal cells, so no model both learns and measures ductal cells.
    measured = groups[cells.labels != "ductal"]
    assert [row.cells for row in result.groups] == [np.sum(measured == name) for name in ("d1", "d2", "d3")]
    assert "ductal" not in {row.label for row in result.pooled.per_label}
    assert result.accuracy.mean == pytest.approx(np.mean([row.accuracy for row in result.groups]))
    assert result.macro_f1.std == pytest.approx(np.std([row.macro_f1 for row in result.groups], ddof=1))
    assert result.accuracy.mean > 0.9
    fresh = cross_validate(cells, groups, names, (np.arange(0), fitted), ONCE, OPTIONS)
    assert fresh == result
    some = cross_validate(cells, groups, names[1:], (splits[0][0], fitted), ONCE, OPTIONS)
    assert names[0] not in {row.label for row in some.pooled.per_label}


def test_a_training_stores_the_cross_validation_on_request(thirds: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "default", replace(ONCE, refit=True))

    def trained(**options: Any) -> dict[str, Any]:
        return train(thirds, "cell_type", embedder="obsm:X_own", options=TrainOptions(**options)).metrics

    metrics = trained(batch_key="third", cross_validate=True)
    stored = metrics["cross_validation"]
    assert isinstance(stored, dict)
    assert [row["group"] for row in stored["groups"]] == ["d1", "d2", "d3"]
    assert stored["pooled"]["cells"] == thirds.n_obs
    held_out = metrics["held_out_by"].removeprefix("third ")
    (same,) = [row for row in stored["groups"] if row["group"] == held_out]
    assert same["accuracy"] == metrics["held_out"]["accuracy"]
    assert "cross_validation" not in trained(batch_key="third")
    with pytest.raises(ConfigError, match="name their column too: batch_key"):
        trained(cross_validate=True)
