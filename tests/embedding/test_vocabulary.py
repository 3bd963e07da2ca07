"""A vocabulary survives a round trip through JSON, and separates genes from special tokens."""

from __future__ import annotations

import json

import pytest

from spikgpt.embedding.vocabulary import Vocabulary
from spikgpt.errors import DamagedReference

WORDS = Vocabulary(("<pad>", "<cls>", "<eoc>", "INS", "GCG", "<mask>"), "<pad>", -2, 51, 1200, "0" * 64)


def test_genes_are_the_tokens_that_are_not_special() -> None:
    assert WORDS.genes.symbols == ("INS", "GCG")
    assert WORDS.genes.ensembl_ids == ("ENSG00000254647", "ENSG00000115263")
    assert WORDS.gene_ids.tolist() == [3, 4]
    assert (WORDS.pad_id, WORDS.cls_id) == (0, 1)


def test_a_vocabulary_survives_a_round_trip() -> None:
    assert Vocabulary.from_json(WORDS.to_json()) == WORDS


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", WORDS.to_json().replace("<cls>", "<other>"), json.dumps({"names": ["<pad>", "<cls>"]})),
        *(json.dumps(json.loads(WORDS.to_json()) | {"n_bins": bins}) for bins in (10**9, 2, "51")),
        *(json.dumps(json.loads(WORDS.to_json()) | size) for size in ({"length": 10**12}, {"pad_value": -(10**9)})),
    ],
    ids=[
        *("nothing", "a list", "no JSON", "no <cls>", "fields missing", "many bins", "few bins", "text", "long", "low"),
    ],
)
def test_invalid_vocabularies_are_refused(text: str) -> None:
    with pytest.raises(DamagedReference, match=r"carries no vocabulary .* Export the reference again"):
        Vocabulary.from_json(text)
