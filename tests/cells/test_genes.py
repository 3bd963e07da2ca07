"""Gene names: the table of human genes, the genes of a reference, and matching of a query's genes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from spikgpt.cells.genes import NOT_MOUSE, GeneList, ensembl_ids_of, genes_of, match_genes, species_of, symbols_of
from spikgpt.cells.naming.orthologues import orthologue_names
from spikgpt.errors import GenesError

# Ensembl ids of well-known genes; C1orf112 is now called FIRRM.
KNOWN = {
    "GCG": "ENSG00000115263",
    "INS": "ENSG00000254647",
    "SST": "ENSG00000157005",
    "CD3E": "ENSG00000198851",
    "MS4A1": "ENSG00000156738",
    "HLA-A": "ENSG00000206503",
    "C1orf112": None,
}


def human_symbols(n: int) -> list[str]:
    genes = genes_of(var_of([f"ENSG{number:011}" for number in range(3, 9000)]))
    by_id = sorted(zip(genes.ensembl_ids, genes.symbols, strict=True))
    return [symbol for _, symbol in by_id if not symbol.startswith("ENSG")][:n]


@pytest.fixture(scope="module")
def reference() -> GeneList:
    symbols = human_symbols(200)
    return GeneList(tuple(symbols), tuple(ensembl_ids_of(symbols)))


def var_of(names: list[str] | tuple[str, ...], **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names))


def test_known_genes_have_their_ids() -> None:
    assert ensembl_ids_of(KNOWN) == list(KNOWN.values())
    known = {gene_id: symbol for symbol, gene_id in KNOWN.items() if gene_id is not None}
    assert genes_of(var_of(list(known))).symbols == tuple(sorted(known.values()))
    other_ids = ["ENSG00000115263.16", "ENSG00000254647.7_PAR_Y", "ENSMUSG00000000394"]
    assert genes_of(var_of(other_ids)).symbols == ("ENSMUSG00000000394", "GCG", "INS")


def test_other_spellings_have_the_same_ids() -> None:
    assert ensembl_ids_of(["gcg", "HLA.A", "hla_a", "no such gene"]) == [
        KNOWN["GCG"],
        KNOWN["HLA-A"],
        KNOWN["HLA-A"],
        None,
    ]


def test_a_symbol_on_x_and_y_has_one_id_and_a_symbol_of_many_genes_none() -> None:
    # CD99 is on X and Y; Y_RNA names hundreds of genes and so identifies none.
    assert ensembl_ids_of(["CD99", "Y_RNA"]) == ["ENSG00000002586", None]
    assert genes_of(var_of(["ENSG00000292348"])).symbols == ("CD99",)


def test_the_table_has_the_checked_content() -> None:
    content = (files("spikgpt") / "resources" / "human_genes.tsv.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "312656d138c38d63920194c91052a7fa4802888507a74267abf12f25181b5ba4"


def test_the_digest_of_a_gene_list_is_that_of_its_json() -> None:
    genes = GeneList(("GCG", "novel"), ("ENSG00000115263", None))
    canonical = b'{"ensembl_ids":["ENSG00000115263",null],"symbols":["GCG","novel"]}'
    assert len(genes) == 2
    assert genes.sha256 == hashlib.sha256(canonical).hexdigest()
    assert genes.sha256 != GeneList(("novel", "GCG"), (None, "ENSG00000115263")).sha256


@pytest.mark.parametrize(
    ("symbols", "ids", "message"),
    [
        (("GCG",), (), r"^1 symbol for 0 Ensembl ids; give one id, or None, a symbol\.$"),
        (
            ("GCG", "GCG"),
            (None, None),
            r"^A gene list names GCG more than once; name every gene of a reference once\.$",
        ),
        (("GCG", "INS"), ("ENSG00000115263", "ENSG00000115263"), "names ENSG00000115263 more than once"),
    ],
)
def test_invalid_gene_lists_are_refused(symbols: tuple[str, ...], ids: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(GenesError, match=message):
        GeneList(symbols, ids)


def test_genes_of_a_training_set_are_sorted_by_symbol() -> None:
    expected = GeneList(("GCG", "INS", "novel"), (KNOWN["GCG"], KNOWN["INS"], None))
    assert genes_of(var_of(["novel", "INS", "GCG", "INS"])) == expected
    ids = ["ENSG00000254647.8", "ENSG00000115263", "ENSG00000115263.2", "novel"]
    assert genes_of(var_of(ids)) == expected
    assert genes_of(var_of(["0", "1", "2", "3"], gene_ids=ids)) == expected


def test_a_gene_without_a_symbol_is_named_by_its_id() -> None:
    assert genes_of(var_of(["ENSG00000999999.1", "ENSG00000292348", "ENSG00000002586"])) == GeneList(
        ("CD99", "ENSG00000292348", "ENSG00000999999"), ("ENSG00000002586", "ENSG00000292348", "ENSG00000999999")
    )


def test_genes_are_matched_by_symbol_in_any_order(reference: GeneList) -> None:
    order = np.random.default_rng(0).permutation(len(reference))
    match = match_genes(var_of([reference.symbols[gene] for gene in order]), reference)
    assert np.array_equal(order[match.columns], np.arange(len(reference)))
    assert match.how == {"symbol": 200, "Ensembl id": 0, "respelled symbol": 0}
    assert match.naming == "var_names"
    assert match.notes == ()


def test_genes_are_matched_by_versioned_id(reference: GeneList) -> None:
    match = match_genes(var_of([f"{gene_id}.12" for gene_id in reference.ensembl_ids]), reference)
    assert match.columns.tolist() == list(range(200))
    assert match.how == {"symbol": 0, "Ensembl id": 200, "respelled symbol": 0}


@pytest.mark.parametrize("column", ["gene_ids", "feature_id", "Ensembl_ID", "Gene Symbol", "name"])
def test_genes_are_matched_by_a_column_of_var(reference: GeneList, column: str) -> None:
    ids = [gene_id or "" for gene_id in reference.ensembl_ids]
    match = match_genes(var_of([str(gene) for gene in range(200)], **{column: ids}), reference)
    assert match.genes_present.all()
    assert match.naming == f"var[{column!r}]"
    # A note is given if the column has an unusual name, because it may hold other genes, such as genes near a peak.
    assert [f"so {match.naming} was read. Pass gene_key" in note for note in match.notes] == (
        [True] if column in ("Gene Symbol", "name") else []
    )


def test_other_columns_are_read_only_if_nothing_else_holds_genes(reference: GeneList) -> None:
    mouse = [symbol.capitalize() for symbol in reference.symbols]
    assert match_genes(var_of(list(reference.symbols), mouse_gene=mouse), reference).naming == "var_names"
    assert species_of(var_of(list(reference.symbols), mouse_gene=mouse)) is None
    assert species_of(var_of([str(gene) for gene in range(200)], mouse_gene=mouse)) == "mouse"
    trained = genes_of(var_of([str(gene) for gene in range(200)], **{"Gene Symbol": list(reference.symbols)}))
    assert trained.symbols == tuple(sorted(reference.symbols))


def test_symbols_are_preferred_for_display(reference: GeneList) -> None:
    numbers, symbols = [str(gene) for gene in range(200)], list(reference.symbols)
    ids = [gene_id or "" for gene_id in reference.ensembl_ids]
    assert symbols_of(var_of(symbols, gene_ids=ids)) == symbols
    assert symbols_of(var_of(ids, feature_name=symbols)) == symbols
    assert symbols_of(var_of(numbers, **{"Gene Symbol": [*symbols[:-1], ""]})) == [*symbols[:-1], "199"]
    assert symbols_of(var_of(numbers, gene_ids=ids)) == ids
    assert symbols_of(var_of(numbers, chromosome=numbers)) == numbers
    assert symbols_of(var_of(ids, chromosome=numbers)) == ids


def test_the_column_with_the_most_matches_is_used(reference: GeneList) -> None:
    half = [symbol if gene % 2 else "" for gene, symbol in enumerate(reference.symbols)]
    var = var_of(half, gene_symbols=list(reference.symbols), gene_ids=half)
    assert match_genes(var, reference).naming == "var['gene_symbols']"


def test_missing_names_in_a_categorical_are_not_matched(reference: GeneList) -> None:
    var = var_of([str(gene) for gene in range(200)])
    var["feature_name"] = pd.Categorical([None, *reference.symbols[1:]])
    match = match_genes(var, reference)
    assert match.columns[0] == -1
    assert match.genes_present.sum() == 199


def test_respelled_symbols_are_matched(reference: GeneList) -> None:
    names = [symbol.lower().replace("-", ".") for symbol in reference.symbols]
    match = match_genes(var_of(names), reference)
    assert match.columns.tolist() == list(range(200))
    assert match.how["respelled symbol"] == 200
    assert match.notes == ()


def test_an_exact_symbol_beats_another_spelling(reference: GeneList) -> None:
    first = reference.symbols[0]
    match = match_genes(var_of([first.lower(), *reference.symbols]), reference)
    assert match.selection[:, 0].nonzero()[0].tolist() == [1]


def test_a_renamed_gene_is_matched_by_its_id() -> None:
    # The gene AARS was renamed AARS1 and kept its Ensembl id.
    filler = human_symbols(60)
    genes = GeneList(("AARS", *filler), ("ENSG00000090861", *ensembl_ids_of(filler)))
    match = match_genes(var_of([*filler, "AARS1"]), genes)
    assert match.columns[0] == 60
    assert match.how == {"symbol": 60, "Ensembl id": 1, "respelled symbol": 0}


def test_genes_are_matched_by_ids_that_the_reference_does_not_state() -> None:
    symbols = human_symbols(60)
    match = match_genes(
        var_of([gene_id or "" for gene_id in ensembl_ids_of(symbols)]), GeneList(tuple(symbols), (None,) * 60)
    )
    assert match.how["Ensembl id"] == 60


def test_columns_of_the_same_name_are_summed(reference: GeneList) -> None:
    names = [*reference.symbols, reference.symbols[3], reference.symbols[3]]
    match = match_genes(var_of(names), reference)
    assert match.selection[:, 3].nonzero()[0].tolist() == [3, 200, 201]
    assert match.columns[3] == 3
    assert match.selection.sum() == 202
    assert match.notes == ("The query has several columns for 1 of the genes; their values were summed.",)


@pytest.mark.parametrize("suffix", ["-1", ".1", "_2"])
def test_repeated_genes_with_a_suffix_are_summed(suffix: str, reference: GeneList) -> None:
    match = match_genes(var_of([*reference.symbols, f"{reference.symbols[3]}{suffix}"]), reference)
    assert match.selection[:, 3].sum() == 2
    assert match.notes == ("The query has several columns for 1 of the genes; their values were summed.",)
    assert match_genes(var_of([*reference.symbols, f"novel{suffix}"]), reference).selection.sum() == 200


def test_too_few_genes_are_refused(reference: GeneList) -> None:
    names = [*reference.symbols[:49], "novel1", "novel2"]
    expected = (
        rf"^Found 49 of the reference's 200 genes in the query; at least 50 are needed\. The query names 51 genes like "
        rf"{', '.join(names[:3])} \(var_names\), the reference like {', '.join(names[:3])}, or ENSG00000000003, "
        r"ENSG00000000005, ENSG00000000419\. Pass the AnnData with all measured genes, from before its genes were "
        r"selected\.$"
    )
    with pytest.raises(GenesError, match=expected):
        match_genes(var_of(names), reference)
    unknown = [f"novel{number}" for number in range(60)]
    with pytest.raises(GenesError, match="Put human gene symbols or Ensembl gene ids into var_names, or into"):
        match_genes(var_of(unknown), reference)
    assert match_genes(var_of([*names, reference.symbols[49]]), reference).genes_present.sum() == 50


def test_the_minimum_share_of_genes_can_be_set(reference: GeneList) -> None:
    query = var_of(reference.symbols[:100])
    assert match_genes(query, reference, minimum_share=0.5).genes_present.sum() == 100
    with pytest.raises(
        GenesError, match="Found 100 of the reference's 200 genes in the query; at least 120 are needed"
    ):
        match_genes(query, reference, minimum_share=0.6)


def test_a_small_reference_needs_all_genes(reference: GeneList) -> None:
    small = GeneList(reference.symbols[:10], reference.ensembl_ids[:10])
    assert match_genes(var_of(reference.symbols), small).genes_present.all()
    with pytest.raises(GenesError, match="Found 9 of the reference's 10 genes in the query; at least 10 are needed"):
        match_genes(var_of(reference.symbols[1:]), small)


@pytest.mark.parametrize(
    ("prefix", "species"),
    [
        ("ENSMUSG", "mouse"),
        ("ENSRNOG", "rat"),
        ("ENSDARG", "zebrafish"),
        ("ENSXETG", r"another species \(ENSXETG ids\)"),
    ],
)
def test_ids_of_another_species_are_refused(reference: GeneList, prefix: str, species: str) -> None:
    names = [f"{prefix}{gene:011}" for gene in range(300)]
    with pytest.raises(GenesError, match=f"The query looks like {species}; this reference is human"):
        match_genes(var_of(names), reference)


def test_mouse_symbols_with_too_few_matches_are_refused(reference: GeneList) -> None:
    with pytest.raises(GenesError, match="The query looks like mouse; this reference is human. To map genes"):
        match_genes(var_of([f"Gm{gene}" for gene in range(300)]), reference)


def test_mouse_symbols_that_match_are_noted(reference: GeneList) -> None:
    match = match_genes(var_of([symbol.capitalize() for symbol in reference.symbols]), reference)
    assert match.genes_present.all()
    assert match.notes[0].startswith("The query looks like mouse: 200 of its 200 matched genes share only the letters")


@pytest.mark.parametrize("spelled", [str.lower, str.upper])
def test_mouse_symbols_in_any_case_are_noted(reference: GeneList, spelled: Callable[[str], str]) -> None:
    mouse = ["Gm10000", "0610009B22Rik", "Gm867"]
    match = match_genes(var_of([spelled(symbol) for symbol in (*reference.symbols, *mouse)]), reference)
    assert match.genes_present.all()
    expected = f"The query looks like mouse: 3 of its genes are mouse genes, like {spelled(mouse[0])},"
    assert match.notes[0].startswith(expected)
    assert not match_genes(var_of([spelled(symbol) for symbol in reference.symbols]), reference).notes


@pytest.mark.parametrize(
    ("names", "cells", "match"),
    [
        (
            [f"cell {number}" for number in range(90)],
            "genes",
            "The names of the cells, .*: transpose the AnnData",
        ),
        ([str(number) for number in range(90)], "", "The names are row numbers: put gene symbols"),
        ([str(3000 + 7 * number) for number in range(90)], "", "such as Entrez ids: map Entrez ids to symbols"),
    ],
)
def test_names_other_than_genes_are_refused(names: list[str], cells: str, match: str, reference: GeneList) -> None:
    with pytest.raises(GenesError, match=match):
        match_genes(var_of(names), reference, cells=reference.symbols if cells else ())


def test_gene_names_that_excel_made_dates_are_noted(reference: GeneList) -> None:
    match = match_genes(var_of([*reference.symbols, "1-Mar", "2-Sep"]), reference)
    assert match.notes == (
        "2 gene names are dates, like 1-Mar. Excel makes dates of names such as MARCHF1 or SEPTIN2. Genes with such "
        "names are not found.",
    )


def test_names_stored_as_bytes_are_matched(reference: GeneList) -> None:
    var = pd.DataFrame(index=pd.Index([symbol.encode() for symbol in reference.symbols], dtype=object))
    assert match_genes(var, reference).columns.tolist() == list(range(200))


def mouse_var(n: int = 200) -> pd.DataFrame:
    """Return the mouse orthologues of the reference's genes, with their Ensembl ids, and genes that only mice have."""
    symbols, ids = orthologue_names(human_symbols(n), "human")
    only = [f"Gm{number}" for number in range(1000, 1020)]
    return var_of([*symbols, *only], mouse_id=[*ids, *only])


def test_mouse_genes_are_mapped_to_orthologues(reference: GeneList) -> None:
    var = mouse_var()
    expected = np.array([bool(name) for name in var.index[:200]])
    assert 100 < expected.sum() < 200
    for query in (var, var.set_index("mouse_id"), var_of([f"{name}.3" for name in var["mouse_id"][:200]])):
        match = match_genes(query, reference, species="mouse")
        np.testing.assert_array_equal(match.genes_present, expected)
        np.testing.assert_array_equal(match.columns[expected], np.flatnonzero(expected))
        assert (match.orthologues_of, match.notes) == ("mouse", ())


def test_human_genes_are_mapped_for_a_reference_of_mouse(reference: GeneList) -> None:
    symbols, ids = orthologue_names(list(reference.symbols), "human")
    mapped = [row for row, name in enumerate(symbols) if name]
    query = var_of(list(reference.symbols))
    for names in (symbols, ids):
        of_mouse = GeneList(tuple(names[row] for row in mapped), (None,) * len(mapped))
        match = match_genes(query, of_mouse, species="human")
        assert match.columns.tolist() == mapped
        assert match.orthologues_of == "human"


def test_naming_the_species_of_the_reference_changes_nothing(reference: GeneList) -> None:
    query = var_of(list(reference.symbols))
    with_species, without = match_genes(query, reference, species="human"), match_genes(query, reference)
    assert (with_species.selection != without.selection).nnz == 0
    assert with_species.orthologues_of is None


def test_a_wrong_species_is_refused_or_noted(reference: GeneList) -> None:
    ids = var_of([gene_id or "" for gene_id in reference.ensembl_ids])
    with pytest.raises(GenesError, match="the query has human genes like ENSG.*Leave species out"):
        match_genes(ids, reference, species="mouse")
    match = match_genes(var_of(list(reference.symbols)), reference, species="mouse")
    assert match.notes == (NOT_MOUSE,)
    rat = GeneList(tuple(f"ENSRNOG{number:011}" for number in range(60)), (None,) * 60)
    with pytest.raises(GenesError, match="the reference is rat; the table of orthologues has human and mouse"):
        match_genes(mouse_var(), rat, species="mouse")


def test_mouse_genes_without_species_name_the_option(reference: GeneList) -> None:
    var = mouse_var()
    remedy = r"looks like mouse; this reference is human\. .*species='mouse' \(--species mouse\)"
    with pytest.raises(GenesError, match=remedy):
        match_genes(var.set_index("mouse_id"), reference)
    (note,) = match_genes(var, reference).notes
    assert "The query looks like mouse" in note
    assert "species='mouse' (--species mouse)" in note
    with pytest.raises(GenesError, match="Map the genes to human orthologues first"):
        match_genes(var_of([f"ENSRNOG{number:011}" for number in range(60)]), reference)


def test_gene_key_names_the_column(reference: GeneList) -> None:
    var = var_of(list(reference.symbols)[::-1], mine=list(reference.symbols))
    assert match_genes(var, reference).columns.tolist() == list(range(200))[::-1]
    match = match_genes(var, reference, gene_key="mine")
    assert (match.columns.tolist(), match.naming) == (list(range(200)), "var['mine']")
    assert genes_of(var_of(["GCG", "INS"], mine=["SST", "INS"]), "mine").symbols == ("INS", "SST")
