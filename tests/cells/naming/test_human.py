"""The table of human genes converts symbols to Ensembl ids and back."""

from __future__ import annotations

import pytest

from spikgpt.cells.naming.human import human_genes, human_id, respelled


def test_both_directions_of_the_table_agree() -> None:
    table = human_genes()
    assert table.ids["INS"] == "ENSG00000254647"
    assert all(table.symbols[gene_id] == symbol for symbol, gene_id in table.ids.items())
    assert table.respelled_ids[respelled("hla.a")] == table.ids["HLA-A"]


@pytest.mark.parametrize(
    ("name", "gene_id"),
    [
        ("ENSG00000254647.7", "ENSG00000254647"),
        ("ensg00000254647", "ENSG00000254647"),
        ("ENSG00000254647.7_PAR_Y", "ENSG00000254647"),
        ("ENSMUSG00000000394", None),
        ("INS", None),
    ],
)
def test_human_ids_are_recognised(name: str, gene_id: str | None) -> None:
    assert human_id(name) == gene_id
