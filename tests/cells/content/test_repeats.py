"""Spellings of gene names, repeated genes and mouse genes change no bit of the aligned cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.align import align
from spikgpt.cells.content.repeats import own_genes
from spikgpt.cells.expression import find_expression
from spikgpt.cells.genes import GeneList, ensembl_ids_of
from tests.cells.conftest import assert_identical
from tests.cells.naming.test_spellings import SPELLED


def renamed(cells: AnnData, names: list[str]) -> AnnData:
    return AnnData(cells.X.copy(), obs=cells.obs.copy(), var=pd.DataFrame(index=pd.Index(names, dtype=object)))


def wider(cells: AnnData, added: object, names: list[str]) -> AnnData:
    """Return the cells with additional genes, inserted before the last gene."""
    matrix = sparse.hstack([cells.X[:, :-1], added, cells.X[:, -1:]], format="csr")
    var = pd.DataFrame(index=pd.Index([*cells.var_names[:-1], *names, cells.var_names[-1]], dtype=object))
    return AnnData(matrix, obs=cells.obs.copy(), var=var)


@pytest.mark.parametrize("spelling", SPELLED)
def test_spellings_change_no_bit(spelling: str, real: AnnData, genes: GeneList) -> None:
    ids = ensembl_ids_of(real.var_names)
    names = [SPELLED[spelling](symbol, str(gene_id)) for symbol, gene_id in zip(real.var_names, ids, strict=True)]
    assert_identical(align(find_expression(renamed(real, names)), genes), align(find_expression(real), genes))


@pytest.mark.parametrize("spell", ["b'{}'", "{}  ", '"{}"'])
def test_quotes_and_spaces_around_names_change_no_bit(spell: str, real: AnnData, genes: GeneList) -> None:
    spelled = renamed(real, [spell.format(name) for name in real.var_names])
    assert_identical(align(find_expression(spelled), genes), align(find_expression(real), genes))


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("suffix", ["", ".1", "-1"])
def test_a_repeated_column_is_left_out(suffix: str, real: AnnData, genes: GeneList) -> None:
    busiest = int(np.asarray(real.X[:, :-1].sum(axis=0)).argmax())
    name = f"{real.var_names[busiest]}{suffix}"
    expression = find_expression(wider(real, real.X[:, [busiest]], [name]))
    assert_identical(align(expression, genes), align(find_expression(real), genes))
    left_out = f"Left out of X: 1 column that repeats the values of a gene, like {name!r}."
    assert expression.notes == (left_out,)


def test_a_second_column_of_a_gene_is_added(real: AnnData, genes: GeneList) -> None:
    gene = real.var_names.get_loc(genes.symbols[0])
    added = sparse.csr_matrix(np.arange(real.n_obs, dtype=np.float32)[:, None])
    summed = real.copy()
    summed.X = sparse.csr_matrix(sparse.hstack([real.X[:, :gene], real.X[:, [gene]] + added, real.X[:, gene + 1 :]]))
    expected = align(find_expression(summed), genes)
    assert_identical(align(find_expression(wider(real, added, [f"{genes.symbols[0]}.1"])), genes), expected)


def test_mouse_genes_beside_human_genes_are_left_out(real: AnnData, genes: GeneList) -> None:
    human = renamed(real, [f"GRCh38_{name}" for name in real.var_names])
    mixed = wider(human, 3 * real.X, [f"mm10___{name.capitalize()}" for name in real.var_names])
    expression = find_expression(mixed)
    assert expression.notes == (f"Left out of X: {real.n_vars} genes of mm10 beside human ones.",)
    assert_identical(align(expression, genes), align(find_expression(real), genes))


def test_plain_genes_are_all_read(real: AnnData) -> None:
    assert own_genes(real.var_names, real.X, None) == (None, "")
    assert own_genes(["novel", "novel.1"], real.X[:, :2], None) == (None, "")
