"""The table of orthologues: known pairs, one-to-one in both directions."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikgpt.cells.naming.orthologues import orthologue_names, orthologues

TABLE = orthologues()["human"]
IDS = sorted(name for name in TABLE if name.startswith("ENSG"))


@pytest.mark.parametrize(
    ("mouse", "human", "gene_id"),
    [
        ("Gcg", "GCG", "ENSG00000115263"),
        ("GCG", "GCG", "ENSG00000115263"),
        ("gcg", "GCG", "ENSG00000115263"),
        # Mouse and human symbols that differ not only in upper and lower case.
        ("H2-DMa", "HLA-DMA", "ENSG00000204257"),
        ("Trp53", "TP53", "ENSG00000141510"),
        # The mouse gene Gcg by its Ensembl id.
        ("ENSMUSG00000000394", "GCG", "ENSG00000115263"),
        ("ENSMUSG00000000394.16", "GCG", "ENSG00000115263"),
        # Mouse genes without a one-to-one orthologue: human has one INS for Ins1 and Ins2, CD8B and CD8B2 for Cd8b1,
        # and no gene for Gm12345.
        ("Ins1", "", ""),
        ("Cd8b1", "", ""),
        ("Ins2", "", ""),
        ("Gm12345", "", ""),
        ("", "", ""),
    ],
)
def test_known_mouse_genes_have_their_human_orthologue(mouse: str, human: str, gene_id: str) -> None:
    assert orthologue_names([mouse], "mouse") == [[human], [gene_id]]


def test_known_human_genes_have_their_mouse_orthologue() -> None:
    names = ["GCG", "HLA-DMA", "ENSG00000115263.16", "INS", "no such gene"]
    assert orthologue_names(names, "human")[0] == ["Gcg", "H2-DMa", "Gcg", "", ""]


@given(st.lists(st.sampled_from(IDS), unique=True, max_size=50))
def test_mapping_to_mouse_and_back_gives_the_same_gene(ids: list[str]) -> None:
    mouse_ids = orthologue_names(ids, "human")[1]
    assert len(set(mouse_ids)) == len(ids)
    assert orthologue_names(mouse_ids, "mouse")[1] == ids


def test_the_table_has_the_checked_content() -> None:
    content = (files("spikgpt") / "resources" / "mouse_orthologues.tsv.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "bd079f6739c4c1bfd94c8d5f2ba38e633bcb6afbaeaaac9e4faf368967d1ff28"
    assert len(IDS) == 17110
