"""Gene names in the spellings of files are converted to symbols and ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from spikgpt.cells.naming.human import human_genes
from spikgpt.cells.naming.spellings import dates, foreign_genes, gene_share, is_gene, plain, spellings, without_suffixes

SYMBOLS = ["INS", "GCG", "HLA-A", "MT-ND1", "NKX2-2", "C3"]
IDS = [human_genes().ids[symbol] for symbol in SYMBOLS]
SPELLED: dict[str, Callable[[str, str], str]] = {
    "GRCh38_": lambda symbol, gene_id: f"GRCh38_{symbol}",
    "hg19_": lambda symbol, gene_id: f"hg19_{symbol}",
    "GRCh38______": lambda symbol, gene_id: f"GRCh38______{symbol}",
    "hg19-": lambda symbol, gene_id: f"hg19-{symbol}",
    "HUMAN_": lambda symbol, gene_id: f"HUMAN_{symbol}",
    "SYMBOL|ID": lambda symbol, gene_id: f"{symbol}|{gene_id}",
    "SYMBOL_ID": lambda symbol, gene_id: f"{symbol}_{gene_id}",
    "ID_SYMBOL": lambda symbol, gene_id: f"{gene_id}_{symbol}",
    "ID|SYMBOL": lambda symbol, gene_id: f"{gene_id}|{symbol}",
    "ID.version|SYMBOL": lambda symbol, gene_id: f"{gene_id}.12|{symbol}",
    "SYMBOL (ID)": lambda symbol, gene_id: f"{symbol} ({gene_id})",
    "SYMBOL.ID": lambda symbol, gene_id: f"{symbol}.{gene_id}",
    "SYMBOL|Entrez": lambda symbol, gene_id: f"{symbol}|3630",
    "SYMBOL__chromosome": lambda symbol, gene_id: f"{symbol}__chr11",
    "prefix, SYMBOL_ID": lambda symbol, gene_id: f"GRCh38_{symbol}_{gene_id}",
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_symbols_are_found_in_every_spelling(spelling: str) -> None:
    spell = SPELLED[spelling]
    names = [spell(symbol, gene_id) for symbol, gene_id in zip(SYMBOLS, IDS, strict=True)]
    assert SYMBOLS in spellings(names)
    assert gene_share(names) == 1


@pytest.mark.parametrize(
    "names", [SYMBOLS, IDS, [f"{gene_id}.3" for gene_id in IDS], [f"{gene_id}_PAR_Y" for gene_id in IDS]]
)
def test_plain_names_have_no_other_spelling(names: list[str]) -> None:
    assert spellings(names) == []


@pytest.mark.parametrize("spelled", ["b'INS'", 'b"INS"', '"INS"', " INS ", "'INS'", "INS"])
def test_quotes_and_spaces_around_names_are_removed(spelled: str) -> None:
    assert plain(spelled) == "INS"


def test_genes_of_other_genomes_are_left_out() -> None:
    names = ["GRCh38_INS", "GRCh38_GCG", "mm10___Ins2", "mm10___Gcg"]
    assert spellings(names) == [["INS", "GCG", "", ""]]
    assert foreign_genes(names) == Counter(mm10=2)
    assert foreign_genes(["mm10___Ins2", "mm10___Gcg"]) == foreign_genes(["INS", "mouse_x", "GCG"]) == Counter()
    assert spellings(["mm10_Ins2", "mm10_Gcg"]) == [["Ins2", "Gcg"]]


@pytest.mark.parametrize("suffix", [".1", "-1", "_1", ".12"])
def test_repeated_names_lose_their_suffix(suffix: str) -> None:
    assert without_suffixes(["INS", "GCG", f"INS{suffix}"]) == ["INS", "GCG", "INS"]


@pytest.mark.parametrize("name", ["HLA-DRB1-1", "IGHV1-69-2", "NKX2-2", "AC012345.1", "novel.1"])
def test_suffixes_that_belong_to_names_are_kept(name: str) -> None:
    names = ["INS", "novel", "NKX2", "IGHV1-69", name]
    assert without_suffixes(names) == names


def test_dates_of_excel_are_recognised() -> None:
    assert dates(["1-Mar", "Sep-2", "2023-03-01", "2023-09-02 00:00:00", "MARCHF1", "1-2"]) == [
        "1-Mar",
        "Sep-2",
        "2023-03-01",
        "2023-09-02 00:00:00",
    ]


@pytest.mark.parametrize("name", ["human2_lib1.final_cell_0107", "AAACCTGAGCATCATC-1", "cell 1", "1007_s_at", "17"])
def test_other_names_are_not_taken_for_genes(name: str) -> None:
    assert not is_gene(name)
