"""From labelled cells to a reference: what is learned of which cells, and what is measured on cells held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt import SpikGPT
from spikgpt.embedding.obsm import ObsmEmbedding
from spikgpt.embedding.pca import PCAProjection
from spikgpt.engines.opening import torch_engine
from spikgpt.engines.scgpt.source import ScGPTSource, open_scgpt
from spikgpt.errors import CheckpointError, ConfigError, LabelsError
from spikgpt.options import AnnotateOptions, TrainOptions
from spikgpt.pipeline import annotate
from spikgpt.reference.files import Reference
from spikgpt.scoring.thresholds import LARGEST_THRESHOLD, conformal_rank, fit_temperature, tempered
from spikgpt.training.evaluation import evaluate
from spikgpt.training.fit import Progress
from spikgpt.training.metrics import reliability
from spikgpt.training.recipes import DEFAULT, RECIPES
from spikgpt.training.split import hold_out
from spikgpt.training.train import (
    FittedPart,
    TrainingCells,
    calibrate,
    fit_part,
    held_out_reliability,
    prepare,
    score_all,
    train,
)
from tests.conftest import DATA, aligned

# Trained once, and no longer than it takes to tell most types apart.
ONCE = replace(DEFAULT, minimum_steps=60, refit=False)
TRAIN_ROWS, HELD_ROWS = np.arange(360) % 3 != 0, np.arange(360) % 3 == 0


@pytest.fixture(scope="module")
def scgpt() -> ScGPTSource:
    return open_scgpt(DATA / "scgpt_baron")


@pytest.fixture(scope="module")
def embedded(cells: AnnData, small: Reference) -> AnnData:
    """Bring the cells with an embedding of them, by the genes of ``small``."""
    adata = cells.copy()
    adata.obsm["X_own"] = torch_engine(small).vectors(aligned(small, cells))
    return adata


@pytest.fixture(scope="module")
def prepared(cells: AnnData) -> TrainingCells:
    return prepare(cells, "cell_type", "pca", TrainOptions())


@pytest.fixture(scope="module")
def fitted(prepared: TrainingCells) -> FittedPart:
    """Learn from two of three cells."""
    return fit_part(prepared, np.flatnonzero(TRAIN_ROWS), "held-out", ONCE, TrainOptions())


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the default recipe keep the model that it measured."""
    monkeypatch.setitem(RECIPES, "default", ONCE)


def same(one: Reference, other: Reference) -> bool:
    return one.files == other.files


def test_cell_ontology_ids_come_from_obs(small: Reference, cells: AnnData) -> None:
    pairs = dict(zip(cells.obs["cell_type"].astype(str), cells.obs["cell_ontology_id"].astype(str), strict=True))
    assert dict(zip(small.labels.names, small.labels.cell_ontology_ids, strict=True)) == pairs
    assert all(gene_id.startswith("CL:") for gene_id in pairs.values())


def test_a_reference_knows_how_it_was_made(small: Reference, cells: AnnData) -> None:
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


# Which cells are learned from


def test_cells_that_can_be_learned_from_are_chosen(cells: AnnData) -> None:
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    labels[:3], labels[3:7] = "rare", "nan"
    adata = cells.copy()
    adata.obs["type"] = labels
    chosen = prepare(adata, "type", "pca", TrainOptions(batch_key="batch"))
    assert chosen.adata.obs_names.tolist() == cells.obs_names[7:].tolist()
    assert chosen.labels.tolist() == labels[7:].tolist()
    assert chosen.groups is not None
    assert chosen.groups.tolist() == cells.obs["batch"][7:].tolist()
    assert (chosen.dropped, chosen.unlabelled) == ({"rare": 3}, 4)
    assert sorted(chosen.ontology_ids) == sorted(set(labels[7:]))
    assert (chosen.vectors, chosen.stored) == (None, None)


def test_an_embedding_that_the_user_brings_is_read_once(embedded: AnnData) -> None:
    chosen = prepare(embedded, "cell_type", "obsm:X_own", TrainOptions())
    assert chosen.stored == ObsmEmbedding("X_own", 64)
    assert chosen.vectors is not None
    np.testing.assert_array_equal(chosen.vectors.values.toarray(), embedded.obsm["X_own"])
    some = np.array([5, 3])
    np.testing.assert_array_equal(
        chosen.read(chosen.stored, some, None).values.toarray(), embedded.obsm["X_own"][[5, 3]]
    )


def test_scgpt_embeds_every_cell_once(cells: AnnData, scgpt: ScGPTSource) -> None:
    adata = cells.copy()
    counts = adata.X.tolil()
    counts[4] = 0
    adata.X = counts.tocsr()
    done: list[int] = []
    chosen = prepare(adata, "cell_type", scgpt, TrainOptions(), done.append)
    assert sum(done) == cells.n_obs
    assert chosen.vectors is not None
    assert np.flatnonzero(chosen.vectors.empty).tolist() == [4]
    assert np.linalg.norm(chosen.vectors.values.toarray(), axis=1) == pytest.approx(1, abs=1e-6)
    assert chosen.stored is not None
    assert chosen.stored.settings() == scgpt.settings()


def test_a_part_is_fitted_to_its_own_cells_alone(prepared: TrainingCells, fitted: FittedPart) -> None:
    counts = prepared.adata.X.toarray()
    counts[HELD_ROWS] = counts[HELD_ROWS][:, ::-1]
    other = replace(prepared, adata=AnnData(sparse.csr_matrix(counts), obs=prepared.adata.obs, var=prepared.adata.var))
    stages: set[str] = set()
    rows = np.flatnonzero(TRAIN_ROWS)
    again = fit_part(other, rows, "a part", ONCE, TrainOptions(), lambda stage, _: stages.add(stage))
    assert stages == {"a part"}
    assert again.names == fitted.names == tuple(np.unique(prepared.labels).tolist())
    for name, weights in fitted.engine.weights().items():
        np.testing.assert_array_equal(again.engine.weights()[name], weights)
    np.testing.assert_array_equal(again.familiarity.centroids, fitted.familiarity.centroids)
    embedding = fitted.engine.embedding
    assert isinstance(embedding, PCAProjection)
    assert embedding.label_shares == pytest.approx(1 / 6, abs=0.05)


def test_an_embedding_of_the_users_is_not_augmented(embedded: AnnData) -> None:
    chosen = prepare(embedded, "cell_type", "obsm:X_own", TrainOptions())
    sizes: list[int] = []

    def watched(stage: str, progress: Progress) -> None:
        sizes.append(progress.epochs)

    recipe = replace(ONCE, epochs=1, minimum_steps=0, batch_size=40)
    part = fit_part(chosen, np.arange(80), "held-out", recipe, TrainOptions(), watched)
    assert sizes == [1]
    assert part.engine.embedding.dim == 64
    assert set(part.names) == set(chosen.labels[:80])


# What is measured on cells held out


def test_scores_are_those_of_the_pipeline(prepared: TrainingCells, fitted: FittedPart) -> None:
    held = prepared.read(fitted.engine.embedding, np.flatnonzero(HELD_ROWS), None)
    model, found = score_all(fitted.engine, fitted.familiarity, held, neighbours=True)
    assert model.smoothed
    assert found.probabilities.shape == (120, 6)
    assert found.familiarity is not None
    alone, single = score_all(fitted.engine, fitted.familiarity, held, neighbours=False)
    assert not alone.smoothed
    np.testing.assert_array_equal(single.probabilities, fitted.engine.run(held, alone.scale).probabilities)
    few, _ = score_all(fitted.engine, fitted.familiarity, held.part(slice(0, 99)), neighbours=True)
    assert not few.smoothed
    # The empty ones have no scores.
    emptied = replace(held, totals=np.where(np.arange(120) < 20, 0.0, held.totals))
    assert len(score_all(fitted.engine, fitted.familiarity, emptied, neighbours=True)[1].probabilities) == 100


def test_thresholds_are_set_on_the_cells_held_out(prepared: TrainingCells, fitted: FittedPart) -> None:
    rows, names = np.flatnonzero(HELD_ROWS), np.array(fitted.names)
    thresholds, metrics = calibrate(prepared, fitted, rows)
    held = prepared.read(fitted.engine.embedding, rows, None)
    truth = np.searchsorted(names, prepared.labels[rows])
    _, alone = score_all(fitted.engine, fitted.familiarity, held, neighbours=False)
    assert thresholds.single is not None
    assert thresholds.smoothed is not None
    assert thresholds.temperature == fit_temperature(alone.probabilities, truth)
    calibrated = replace(fitted.engine, temperature=thresholds.temperature)
    _, together = score_all(calibrated, fitted.familiarity, held, neighbours=True)
    assert thresholds.smoothed.temperature == fit_temperature(together.probabilities, truth)
    for calibration, scores in ((thresholds.single, alone), (thresholds.smoothed, together)):
        assert scores.familiarity is not None
        assert calibration.everything.cells == 120
        np.testing.assert_allclose(calibration.everything.values, np.sort(scores.familiarity), atol=1e-6)
        best = names[scores.probabilities.argmax(axis=1)]
        counts = {name: int((best == name).sum()) for name in names.tolist()}
        assert {name: kept.cells for name, kept in calibration.labels.items()} == {
            name: count for name, count in counts.items() if count >= 10
        }
    confidence = tempered(alone.probabilities, thresholds.temperature).max(axis=1)
    assert thresholds.threshold == min(np.sort(confidence)[conformal_rank(120, 0.05) - 1], LARGEST_THRESHOLD)
    assert thresholds.calibration_cells == metrics["held_out"]["cells"] == 120
    final = tempered(together.probabilities, thresholds.smoothed.temperature)
    assert metrics["held_out"]["accuracy"] == (final.argmax(axis=1) == truth).mean()
    assert metrics["paper_threshold_rejects"] == (final.max(axis=1).astype(np.float32) < 0.95).mean()


def test_cells_that_were_learned_from_set_no_threshold(prepared: TrainingCells, fitted: FittedPart) -> None:
    rows = np.flatnonzero(HELD_ROWS)
    labels = np.where(TRAIN_ROWS, "beta", prepared.labels)
    assert calibrate(replace(prepared, labels=labels), fitted, rows) == calibrate(prepared, fitted, rows)


def test_empty_cells_held_out_count_as_wrong_and_set_no_threshold(prepared: TrainingCells, fitted: FittedPart) -> None:
    rows = np.flatnonzero(HELD_ROWS)
    counts = prepared.adata.X.tolil()
    counts[rows[:10]] = 0
    emptied = AnnData(counts.tocsr(), obs=prepared.adata.obs, var=prepared.adata.var)
    thresholds, metrics = calibrate(replace(prepared, adata=emptied), fitted, rows)
    _, without = calibrate(prepared, fitted, rows[10:])
    assert thresholds.calibration_cells == 110
    assert metrics["held_out"]["cells"] == 120
    assert metrics["held_out"]["accuracy"] == pytest.approx(without["held_out"]["accuracy"] * 110 / 120)


def test_without_calibration_every_temperature_is_1(prepared: TrainingCells, fitted: FittedPart) -> None:
    thresholds, metrics = calibrate(prepared, fitted, np.flatnonzero(HELD_ROWS), temperature=False)
    assert thresholds.smoothed is not None
    assert (thresholds.temperature, thresholds.smoothed.temperature) == (1, 1)
    assert sum(row["cells"] for row in metrics["reliability"]["bins"]) == 120


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("embedder", ["pca", "obsm:X_own", "scgpt"])
@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_what_is_measured_is_what_the_cells_held_out_get(
    embedded: AnnData, scgpt: ScGPTSource, embedder: str, recipe: str
) -> None:
    source = scgpt if embedder == "scgpt" else None
    options = TrainOptions(recipe=recipe, seed=4)  # type: ignore[arg-type]
    reference = train(embedded, "cell_type", embedder=source or embedder, options=options)
    assert reference.embedder["kind"] == embedder.split(":")[0]
    _, rows = hold_out(embedded.obs["cell_type"].astype(str).to_numpy(), seed=4)
    held = embedded[rows].copy()
    engine = torch_engine(reference, source=source)
    for neighbours in (True, False):
        annotation = annotate(reference, engine, held, AnnotateOptions(neighbours=neighbours, unknown_rate=0.05))
        found = evaluate(annotation, held, "cell_type")
        # 5% of 109: the promise counts the cell that is asked about. The paper's recipe learns too little from so few
        # cells: all get one or two labels, which do not keep what sets them apart, and the query is refused.
        assert annotation.rejected.sum() <= 5 or recipe == "paper"
        assert annotation.familiarity is not None
        assert annotation.familiarity.mean() == pytest.approx(0.5, abs=0.01)
        if neighbours:
            assert found.metrics.to_dict() == reference.metrics["held_out"]
            assert reference.metrics["paper_threshold_rejects"] == (annotation.confidence < 0.95).mean()


def test_reliability_of_each_half_goes_by_the_temperature_of_the_other() -> None:
    random = np.random.default_rng(0)
    honest = random.dirichlet([1.0, 1.0, 1.0], 600)
    truth = np.array([random.choice(3, p=row) for row in honest])
    even = np.arange(600) % 2 == 0
    stated = np.where(even[:, None], tempered(honest, 0.5), honest)  # every other cell is too sure
    temperatures = {half: fit_temperature(stated[even == half], truth[even == half]) for half in (True, False)}
    assert temperatures[True] > 1.5 > temperatures[False]
    confidence = np.empty(600)
    confidence[even] = tempered(stated[even], temperatures[False]).max(axis=1)
    confidence[~even] = tempered(stated[~even], temperatures[True]).max(axis=1)
    right = stated.argmax(axis=1) == truth
    assert held_out_reliability(stated, truth, temperature=True) == reliability(confidence, right)
    assert held_out_reliability(stated, truth, temperature=False) == reliability(stated.max(axis=1), right)
    one = held_out_reliability(stated[:1], truth[:1], temperature=True)
    assert one == reliability(stated[:1].max(axis=1), right[:1])


# The steps together


@pytest.mark.usefixtures("brief")
def test_the_layer_that_is_asked_for_is_read_in_every_step(cells: AnnData) -> None:
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
    one = adata.obs["batch"] == "one"
    assert reference.metrics["held_out"]["cells"] == int((one & (labels != "ductal")).sum())
    measured = train(adata, "type", embedder="obsm:X_own", options=TrainOptions(batch_key="batch", recipe="paper"))
    assert "ductal" not in measured.labels.names
    assert "ductal" not in measured.metrics["cells_per_label"]


def stop(stage: str, epoch: int) -> Callable[[str, Progress], None]:
    """Return what interrupts a training after an epoch."""

    def called(found: str, progress: Progress) -> None:
        if (found, progress.epoch) == (stage, epoch):
            raise KeyboardInterrupt

    return called


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(("stage", "left"), [("held-out", {"held-out", "all-cells"}), ("all-cells", {"all-cells"})])
def test_an_interrupted_training_goes_on_to_the_same_reference(
    embedded: AnnData, stage: str, left: set[str], tmp_path: Path
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
        on_epoch=lambda found, progress: epochs.append((found, progress.epoch)),
    )
    assert {found for found, _ in epochs} == left
    assert [epoch for found, epoch in epochs if found == stage] == [3, 4, 5]
    assert sorted(path.name for path in options.checkpoints.iterdir()) == [  # type: ignore[union-attr]
        "all-cells.safetensors",
        "held-out.safetensors",
    ]
    assert same(resumed, train(embedded, "cell_type", embedder="obsm:X_own"))
    other = TrainOptions(checkpoints=tmp_path / "state", seed=1)
    with pytest.raises(CheckpointError, match="belongs to other cells, another recipe or another seed"):
        train(embedded, "cell_type", embedder="obsm:X_own", options=other)


def test_labels_that_readers_mix_up_are_refused_before_the_work(cells: AnnData) -> None:
    adata = cells.copy()
    labels = adata.obs["cell_type"].astype(str).to_numpy().copy()
    labels[np.flatnonzero(labels == "beta")[:20]] = "Beta"
    adata.obs["cell_type"] = labels
    with pytest.raises(LabelsError, match="'Beta' and 'beta' differ only in case or width, .*; rename one"):
        prepare(adata, "cell_type", "pca", TrainOptions(name="small"))


class Told(Exception):
    """Ends a training once its notes are given."""


def test_features_that_are_left_out_are_told_before_the_work(cells: AnnData) -> None:
    cite = cells[:, 5000:8000].copy()
    cite.var["feature_types"] = ["Antibody Capture"] * 20 + ["Gene Expression"] * 2980
    notes: list[str] = []

    def stop(stage: str, progress: Progress) -> None:
        raise Told

    with pytest.raises(Told):
        train(cite, "cell_type", options=TrainOptions(name="mine", seed=1), on_note=notes.append, on_epoch=stop)
    assert any("20 of 3000 features that are not RNA" in note and "left out" in note for note in notes)
