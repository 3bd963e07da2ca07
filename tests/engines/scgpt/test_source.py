"""scGPT as an embedder: vectors do not depend on gene names or storage, and other checkpoints are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData

from spikgpt import SpikGPT
from spikgpt.cells.genes import GeneList, ensembl_ids_of
from spikgpt.engines.scgpt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spikgpt.engines.scgpt.embedding import RunSettings
from spikgpt.engines.scgpt.encoder import ScGPTConfig
from spikgpt.engines.scgpt.source import ScGPTSource, open_scgpt
from spikgpt.engines.scgpt.upstream_tokenizer import UpstreamTokenizer
from spikgpt.engines.torch import embed_query, scgpt_embedding
from spikgpt.errors import CheckpointError, ConfigError, DamagedReference, GenesError
from spikgpt.types import Floats

CHECKPOINT = Path(__file__).parents[2] / "data" / "scgpt_baron"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def source(checkpoint: Checkpoint) -> ScGPTSource:
    return ScGPTSource(checkpoint, "scgpt_baron")


@pytest.fixture(scope="module")
def trained(cells: AnnData, source: ScGPTSource) -> SpikGPT:
    return SpikGPT.train(cells, "cell_type", embedder=source, recipe="paper", name="islets")


def vectors_of(source: ScGPTSource, adata: AnnData, settings: RunSettings | None = None) -> Floats:
    return embed_query(source, adata, settings or RunSettings())[0]


@pytest.mark.slow
def test_vectors_do_not_depend_on_storage_names_or_order(source: ScGPTSource, few: AnnData, tmp_path: Path) -> None:
    expected, _, report = embed_query(source, few, RunSettings())
    ids = ensembl_ids_of(few.var_names)
    known = np.array([gene is not None for gene in ids])
    random = np.random.default_rng(0)
    cells = random.permutation(few.n_obs)

    dense = AnnData(few.X.toarray().astype(np.float64), obs=few.obs, var=few.var)
    logs = AnnData(few.X.log1p(), obs=few.obs, var=few.var)
    logs.layers["counts"] = few.X
    genes = few[:, random.permutation(few.n_vars)].copy()
    renamed = few.copy()
    renamed.var["gene_ids"] = [gene or name for gene, name in zip(ids, few.var_names, strict=True)]
    renamed.var_names = [f"gene {number}" for number in range(few.n_vars)]
    few.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")

    assert known.mean() > 0.8
    for same in (dense, logs, genes, renamed, backed):
        assert vectors_of(source, same) == pytest.approx(expected, abs=1e-6)
    assert vectors_of(source, few[cells].copy()) == pytest.approx(expected[cells], abs=1e-6)
    parts = [vectors_of(source, few[part].copy()) for part in (slice(0, 31), slice(31, None))]
    assert np.concatenate(parts) == pytest.approx(expected, abs=1e-6)
    assert report.genes_matched == len(source.vocabulary.genes)
    assert report.genes_total == few.n_vars


@pytest.mark.slow
def test_upstream_tokens_depend_on_the_gene_order_of_the_query(source: ScGPTSource, few: AnnData) -> None:
    shuffled = few[:, np.random.default_rng(0).permutation(few.n_vars)].copy()

    def upstream_vectors(adata: AnnData) -> Floats:
        return vectors_of(source, adata, RunSettings(tokenizer=UpstreamTokenizer(1, 2)))

    assert np.array_equal(upstream_vectors(few), upstream_vectors(few))
    assert np.abs(upstream_vectors(few) - upstream_vectors(shuffled)).max() > 1e-4
    # The random draws of the upstream tokenizer change a vector little.
    assert np.median((upstream_vectors(few) * vectors_of(source, few)).sum(axis=1)) > 0.95


def test_cells_without_counts_are_marked(source: ScGPTSource, few: AnnData) -> None:
    adata = few[:5].copy()
    counts = adata.X.tolil()
    counts[2] = 0
    adata.X = counts.tocsr()

    assert embed_query(source, adata, RunSettings())[1].tolist() == [False, False, True, False, False]


def test_other_genes_are_refused(source: ScGPTSource, few: AnnData) -> None:
    adata = few.copy()
    adata.var_names = [f"gene {number}" for number in range(few.n_vars)]
    with pytest.raises(GenesError, match=r"Found 0 of the reference's \d+ genes in the query; at least 50 are needed"):
        vectors_of(source, adata)


def test_a_scaling_is_refused(source: ScGPTSource, few: AnnData) -> None:
    with pytest.raises(ConfigError, match="scaling is 'query'"):
        scgpt_embedding(source).read(few, scaling="query")


def test_a_reference_names_its_checkpoint(trained: SpikGPT, few: AnnData, tmp_path: Path) -> None:
    expected = trained.annotate(few.copy())
    folder = trained.save_pretrained(tmp_path / "islets")
    assert json.loads((folder / "config.json").read_text())["embedder"] == {
        "kind": "scgpt",
        "source": "scgpt_baron",
        "revision": None,
        "sha256": load_checkpoint(CHECKPOINT).sha256,
        "max_length": 1200,
        "bundled": False,
    }
    assert (folder / "model.safetensors").stat().st_size < 1_000_000

    with pytest.raises(CheckpointError, match="needs the scGPT checkpoint 'scgpt_baron'; give its folder with scgpt="):
        SpikGPT.from_pretrained(folder)
    annotation = SpikGPT.from_pretrained(folder, scgpt=CHECKPOINT).annotate(few.copy())

    assert np.array_equal(annotation.labels, expected.labels)
    assert annotation.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_another_checkpoint_is_refused(trained: SpikGPT, tmp_path: Path) -> None:
    folder = trained.save_pretrained(tmp_path / "islets")
    other = load_checkpoint(CHECKPOINT)
    other.weights["encoder.enc_norm.bias"][0] += 1e-3
    other_folder = save_checkpoint(other, tmp_path / "other")

    with pytest.raises(CheckpointError, match=r"Found an scGPT checkpoint of sha256 .*expected scgpt_baron of sha256"):
        SpikGPT.from_pretrained(folder, scgpt=other_folder)


@pytest.mark.usefixtures("brief")
def test_a_reference_can_carry_its_checkpoint(cells: AnnData, few: AnnData, tmp_path: Path) -> None:
    bundled = SpikGPT.train(cells, "cell_type", embedder=open_scgpt(CHECKPOINT, bundled=True), name="islets")
    expected = bundled.annotate(few.copy())

    annotation = SpikGPT.from_pretrained(bundled.save_pretrained(tmp_path / "islets")).annotate(few.copy())

    assert np.array_equal(annotation.labels, expected.labels)
    assert annotation.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_a_damaged_source_is_refused(source: ScGPTSource) -> None:
    bundled = replace(source, bundled=True)
    settings, tensors, genes = bundled.settings(), bundled.tensors(), bundled.vocabulary.genes
    fewer = {name: tensor for name, tensor in tensors.items() if "norm2" not in name}
    for changed, stored, message in (
        ({"sha256": 3}, tensors, "The scgpt embedder of config.json is"),
        ({"special_tokens": ["<cls>"]}, tensors, "The scgpt embedder of config.json is .*special_tokens"),
        ({"args": {}}, tensors, "args.json has embsize = None"),
        ({"args": settings["args"] | {"nlayers": 10_000_000}}, tensors, r"nlayers = 1e\+07; expected at most 1000"),
        ({"args": settings["args"] | {"nlayers": 1000}}, tensors, "hold 2 layers; args.json states nlayers = 1000"),
        ({"args": settings["args"] | {"n_bins": 10**12}}, tensors, r"n_bins = 1e\+12; expected at most 10000"),
        ({"max_length": 0}, tensors, "max_length"),
        ({"max_length": 10**12}, tensors, "max_length"),
        ({"special_tokens": {}}, tensors, "lacks the special token '<pad>'"),
        ({}, fewer, "inside the reference is inconsistent: The weights hold nothing for"),
    ):
        with pytest.raises(DamagedReference, match=message):
            ScGPTSource.from_settings(settings | changed, stored, genes)
    with pytest.raises(CheckpointError, match="expected scgpt_baron of sha256"):
        ScGPTSource.from_settings(settings | {"sha256": "0" * 64}, tensors, genes)


def test_a_vocabulary_may_hold_old_symbols_and_special_tokens(checkpoint: Checkpoint) -> None:
    # SEPT2 is SEPTIN2 today; published vocabularies have both symbols.
    vocabulary = {token: index for index, token in enumerate(("<pad>", "SEPT2", "<cls>", "SEPTIN2", "INS", "<eoc>"))}
    genes = Checkpoint(ScGPTConfig(), vocabulary, checkpoint.weights).genes

    assert genes.symbols == ("SEPT2", "SEPTIN2", "INS")
    assert isinstance(genes, GeneList)
    assert genes.ensembl_ids[1] == "ENSG00000168385"
