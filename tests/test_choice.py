"""Choice of the reference that suits a query best."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from scipy import sparse

from spikgpt import ReferenceChoice, SpikGPT, annotate, annotate_shards, choose_reference
from spikgpt.choice import ReferenceScore, annotate_by_best, choose, models_at_hand, open_model
from spikgpt.errors import ConfigError, DataError, SpikGPTWarning
from spikgpt.options import AnnotateOptions
from spikgpt.reference.files import Reference
from spikgpt.reference.hub import Hub
from spikgpt.reference.registry import shipped_references
from spikgpt.several import NamedModel
from spikgpt.sharing import open_reference, push
from spikgpt.training.simulation import simulated_cells
from tests.conftest import QUERY_FILE
from tests.hub_server import LoopbackHub
from tests.test_several import model_of

OPTIONS = AnnotateOptions(progress=False)


@pytest.fixture(scope="module")
def models(small: Reference, other_tissue: Reference) -> list[NamedModel]:
    return [model_of(other_tissue), model_of(small)]


@pytest.fixture(scope="module")
def expected(models: list[NamedModel], few: AnnData) -> ReferenceChoice:
    return choose(few, models, OPTIONS)


def test_the_reference_of_the_tissue_is_chosen(
    models: list[NamedModel], expected: ReferenceChoice, foreign: AnnData
) -> None:
    assert [score.name for score in expected.scores if score.suits] == [expected.best] == ["small"]
    assert choose(foreign, models, OPTIONS).best == "other tissue"


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_choice_does_not_depend_on_the_order_of_cells_genes_and_references(
    models: list[NamedModel], expected: ReferenceChoice, few: AnnData, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shuffled = few[random.permutation(few.n_obs), random.permutation(few.n_vars)].copy()
    choice = choose(shuffled, models[::-1], OPTIONS)
    assert [score.name for score in choice.scores] == [score.name for score in expected.scores]
    for first, second in zip(choice.scores, expected.scores, strict=True):
        assert (first.suits, first.genes_found) == (second.suits, second.genes_found)
        assert first.correlation == pytest.approx(second.correlation, abs=1e-6)


def test_gene_names_are_read_from_the_column_gene_key(
    models: list[NamedModel], expected: ReferenceChoice, few: AnnData, foreign: AnnData
) -> None:
    renamed = few.copy()
    renamed.var["mine"] = few.var_names
    renamed.var_names = foreign.var_names
    assert choose(renamed, models, OPTIONS).best == "other tissue"
    choice = choose(renamed, models, structs.replace(OPTIONS, gene_key="mine"))
    assert choice.best == expected.best
    assert [score.genes_found for score in choice.scores] == [score.genes_found for score in expected.scores]
    by_name = choose_reference(renamed, ["pancreas"], gene_key="mine", progress=False)
    assert by_name.scores == choose_reference(few, ["pancreas"], progress=False).scores
    with pytest.raises(DataError, match="var has no column 'yours'; it has mine"):
        choose_reference(renamed, ["pancreas"], gene_key="yours", progress=False)


def test_a_file_gives_the_choice_of_cells_in_memory(shipped: SpikGPT, models: list[NamedModel], tmp_path: Path) -> None:
    adata = anndata.read_h5ad(QUERY_FILE)
    references = [shipped, SpikGPT(models[0].reference, models[0].engine)]
    in_memory = choose_reference(adata, references)
    on_disk = choose_reference(QUERY_FILE, references)
    assert in_memory == on_disk
    assert in_memory.best == "pancreas"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns of a future default for zarr
        adata.write_zarr(tmp_path / "cells.zarr")
    assert choose_reference(tmp_path / "cells.zarr", references) == in_memory


def test_table_and_texts_name_every_reference(expected: ReferenceChoice) -> None:
    table = expected.table()
    assert table.index.tolist() == ["small", "other tissue"]
    assert table["suits"].tolist() == [True, False]
    texts = expected.sentences()
    assert texts[0].startswith("Reference small: the profiles of its labels agree with the query")
    assert "other tissue" in texts[1]
    for text in (repr(expected), expected._repr_html_()):
        assert "small" in text
        assert "other tissue" in text
    assert expected.notes() == ()


def test_tied_references_are_named_in_a_note(expected: ReferenceChoice) -> None:
    best = expected.scores[0]
    assert best.correlation is not None
    near = replace(best, name="near", correlation=best.correlation - 0.015)
    far = replace(best, name="far", correlation=best.correlation - 0.03)
    choice = ReferenceChoice((best, near, far), expected.cells)
    assert choice.ties == ("near",)
    assert "small and near suit the query about equally well; small was used" in choice.notes()[0]
    assert ReferenceChoice((), 0).best is None


def test_a_reference_with_fewer_unknown_cells_ranks_higher() -> None:
    scores = [
        ReferenceScore("misses types", True, "", correlation=0.92, unknown_fraction=0.13),
        ReferenceScore("has all types", True, "", correlation=0.91, unknown_fraction=0.02),
        ReferenceScore("refused", False, "", correlation=0.6, unknown_fraction=1.0),
        ReferenceScore("farther", False, "", correlation=0.5, unknown_fraction=0.4),
        ReferenceScore("no cells read", False, ""),
    ]
    ranked = sorted(scores, key=lambda score: score.rank)
    assert [score.name for score in ranked] == ["has all types", "misses types", "refused", "farther", "no cells read"]
    choice = ReferenceChoice(tuple(ranked), 100)
    assert choice.best == "has all types"
    assert choice.ties == ()
    assert choice.sentences()[0].startswith("Reference has all types:  (r = 0.91, 2% Unknown). 5 references")
    assert "misses types: r = 0.92, 13% Unknown, suits" in " ".join(choice.sentences())


def test_annotation_by_the_best_reference_records_the_choice(
    few: AnnData, shipped: SpikGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    adata, alone = few.copy(), few.copy()
    annotation = annotate(adata)
    expected = shipped.annotate(alone)
    np.testing.assert_array_equal(annotation.labels, expected.labels)
    assert adata.uns["spikgpt"]["choice"]["reference"].tolist()[0] == "pancreas"
    adata.write_h5ad(tmp_path / "labelled.h5ad")
    read = anndata.read_h5ad(tmp_path / "labelled.h5ad")
    assert read.uns["spikgpt"]["choice"]["suits"].tolist()[0]
    labels = annotate(QUERY_FILE, "pancreas").labels
    np.testing.assert_array_equal(labels, annotate(QUERY_FILE, [shipped]).labels)


def test_all_cells_are_unknown_if_no_reference_suits(models: list[NamedModel], foreign: AnnData) -> None:
    annotation, choice, nearest = annotate_by_best(foreign, models[1:], OPTIONS)
    assert choice.best is None
    assert nearest.name == "small"
    assert annotation.rejected.all()
    assert annotation.compatibility is not None
    assert not annotation.compatibility.usable
    assert "No reference suits the query; 1 reference was compared with 120 cells. small:" in " ".join(
        annotation.notes()
    )
    explanation = annotation.explain()
    assert explanation.groups
    assert sum(group.cells for group in explanation.groups) == foreign.n_obs
    for group in explanation.groups:
        assert group.unknown is not None
        assert group.unknown.rule.startswith("no available reference suits this query (small is nearest: ")
    with pytest.raises(DataError, match="No reference suits the query; 0 references were compared"):
        annotate_by_best(foreign, [], OPTIONS)


@pytest.mark.usefixtures("brief")
def test_genes_of_a_named_species_are_mapped_to_the_species_of_each_reference(
    models: list[NamedModel], cells: AnnData, few: AnnData
) -> None:
    mouse_cells, mouse_query = cells.copy(), few.copy()
    for adata in (mouse_cells, mouse_query):
        adata.var_names = [name.capitalize() for name in adata.var_names]
    mouse_model = SpikGPT.train(mouse_cells, "cell_type", name="mouse")
    both = [models[1], model_of(mouse_model.reference)]
    for query, species in ((mouse_query, "mouse"), (few, "human")):
        choice = choose(query, both, structs.replace(OPTIONS, species=species))
        assert [score.suits for score in choice.scores] == [True, True], choice.sentences()


def test_another_species_and_empty_droplets_are_refused(models: list[NamedModel], few: AnnData) -> None:
    mouse = few.copy()
    mouse.var_names = [name.capitalize() for name in few.var_names]
    assert (
        choose(mouse, models[1:], OPTIONS).scores[0].reason == "the query looks like mouse, and the reference is human"
    )
    profile = np.asarray(few.X.sum(axis=0)).ravel()
    droplets = np.random.default_rng(0).multinomial(200, profile / profile.sum(), size=300)
    empty = AnnData(sparse.csr_matrix(droplets.astype(np.float32)), var=few.var[[]])
    assert choose(empty, models, OPTIONS).best is None
    nothing = AnnData(sparse.csr_matrix((5, few.n_vars), dtype=np.float32), var=few.var[[]])
    with pytest.raises(DataError, match="X holds only zeros"):
        choose(nothing, models, OPTIONS)


def test_few_genes_are_refused(models: list[NamedModel], few: AnnData) -> None:
    genes = [name for name in models[1].reference.genes.symbols if name in few.var_names]
    score = choose(few[:, genes[:30]].copy(), models[1:], OPTIONS).scores[0]
    assert not score.suits
    assert score.genes_found <= 30


def test_cached_references_are_compared_without_a_connection(
    hub: LoopbackHub, client: Hub, small_folder: Path, tmp_path: Path
) -> None:
    push(small_folder, "islets/small", hub=client)
    open_reference("islets/small", hub=client)
    requests = len(hub.requests)
    models, failed = models_at_hand(hub=client)
    assert [model.name for model in models] == [*shipped_references(), "islets/small"]
    assert not failed
    assert len(hub.requests) == requests
    weights = next((tmp_path / "cache").rglob("model.safetensors"))
    weights.resolve().write_bytes(b"damaged")
    models, failed = models_at_hand(hub=client)
    assert [model.name for model in models] == [*shipped_references()]
    assert isinstance(failed[0], ReferenceScore)
    assert failed[0].reason.startswith("cannot be opened: ")


def test_functions_for_one_reference_refuse_several(few: AnnData, tmp_path: Path) -> None:
    for name in ("auto", "pancreas,retina"):
        with pytest.raises(ConfigError, match="One reference is needed here"):
            SpikGPT.from_pretrained(name)
    with pytest.raises(ConfigError, match=r"expected a reference: SpikGPT.from_pretrained"):
        annotate_shards("auto", [QUERY_FILE], tmp_path / "labels")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="model is 3; expected a name"):
        annotate(few.copy(), [3])  # type: ignore[list-item]
    with pytest.raises(DataError, match="choose_reference got None"):
        choose_reference(None)


def test_a_tie_gives_a_warning(models: list[NamedModel], few: AnnData) -> None:
    again = replace(models[1], name="again")
    adata = few.copy()
    annotation, choice, _ = annotate_by_best(adata, [models[1], again], OPTIONS)
    assert choice.ties == ("small",)
    with pytest.warns(SpikGPTWarning, match="again and small suit the query about equally well"):
        annotation.write_to(adata)


@pytest.fixture(scope="module")
def all_shipped() -> list[NamedModel]:
    return [open_model(name) for name in shipped_references()]


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_references())
def test_simulated_cells_get_the_shipped_reference_of_their_tissue(all_shipped: list[NamedModel], name: str) -> None:
    model = next(model for model in all_shipped if model.name == name)
    cells = simulated_cells(model.reference)
    choice = choose(cells, all_shipped, OPTIONS)
    assert [score.name for score in choice.scores if score.suits] == [choice.best] == [name]
    annotation = annotate_by_best(cells, [model], OPTIONS)[0]
    assert (annotation.labels == cells.obs["cell_type"].to_numpy()).mean() > 0.95
