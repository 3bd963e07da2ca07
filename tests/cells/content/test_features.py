"""Features other than RNA are left out, by their type or by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.content.features import rna_features
from spikgpt.cells.expression import find_expression
from spikgpt.cells.reading import open_cells
from spikgpt.errors import DataError
from tests.cells.conftest import log_of, with_x, write_zarr

ANTIBODIES = ("CD3", "CD4", "CD8A", "CD19")


def with_antibodies(real: AnnData, column: str | None, types: tuple[Any, Any], names: tuple[str, ...]) -> AnnData:
    """Return cells with antibody counts (mean 50) in columns before and after the genes."""
    counts = real.X.toarray()
    more = np.random.default_rng(0).poisson(50, (real.n_obs, len(names))).astype(np.float32)
    var = pd.DataFrame(index=[*names[:1], *real.var_names, *names[1:]])
    if column is not None:
        var[column] = [types[1], *[types[0]] * real.n_vars, *[types[1]] * (len(names) - 1)]
    return AnnData(sparse.csr_matrix(np.hstack([more[:, :1], counts, more[:, 1:]])), obs=real.obs, var=var)


@pytest.mark.parametrize(
    ("column", "types"),
    [
        ("feature_types", ("Gene Expression", "Antibody Capture")),
        ("feature_types", ("GEX", "ADT")),
        ("feature_types", (b"Gene Expression", b"Antibody Capture")),
        ("feature_type", ("gene_expression", "Custom")),
        ("featureType", ("Gene expression", "Negative Control Probe")),
        ("modality", ("rna", "prot")),
        ("Type", ("RNA", "CRISPR Guide Capture")),
        ("feature_type", ("protein_coding", "Antibody Capture")),
        ("feature_types", (None, "Peaks")),
    ],
)
def test_features_of_another_type_are_left_out(real: AnnData, column: str, types: tuple[Any, Any]) -> None:
    expression = find_expression(with_antibodies(real, column, types, ANTIBODIES))
    assert (expression.rows(0, real.n_obs) != real.X).nnz == 0
    assert expression.var.index.equals(real.var_names)
    (note,) = expression.notes
    assert f"4 of 1204 features that are not RNA by var['{column}'] (4 " in note


@pytest.mark.parametrize(
    "names",
    [
        ("CD3_TotalSeqB", "CD4-TotalSeqC", "CD19 (TotalSeqA)"),
        ("anti-human_CD4", "Anti-Human-CD8"),
        ("ADT_CD3", "prot:CD4", "CD45RA-TSB"),
        ("chr1:9848-10355", "chr1-9848-10355", "chrX_1_20"),
    ],
)
def test_features_without_a_type_are_recognised_by_name(real: AnnData, names: tuple[str, ...]) -> None:
    expression = find_expression(with_antibodies(real, None, (None, None), names))
    assert (expression.rows(0, real.n_obs) != real.X).nnz == 0
    assert f"{len(names)} of {1200 + len(names)} features that are not RNA by their names" in expression.notes[0]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("feature_types", ["Gene Expression"]),
        ("feature_type", ["protein_coding", "lncRNA", "processed_pseudogene"]),
        ("type", ["gene", "pseudogene"]),
        ("feature_types", [None]),
        ("feature_types", [float("nan"), "Gene Expression"]),
    ],
)
def test_all_biotypes_of_genes_count_as_rna(real: AnnData, column: str, values: list[Any]) -> None:
    var = real.var.copy()
    var[column] = np.resize(np.array(values, dtype=object), real.n_vars)
    assert rna_features(var) == (None, "")


@pytest.mark.parametrize("stored", ["memory", "dense", "csc", "h5ad", "zarr", "raw"])
def test_antibodies_are_left_out_of_every_kind_of_input(real: AnnData, stored: str, tmp_path: Path) -> None:
    cells = with_antibodies(real, "feature_types", ("Gene Expression", "Antibody Capture"), ANTIBODIES)
    if stored == "raw":
        cells.raw = cells.copy()
        cells = cells[:, cells.var_names.isin(real.var_names[:300])].copy()
    elif stored in ("dense", "csc"):
        cells.X = cells.X.toarray() if stored == "dense" else cells.X.tocsc()
    if stored in ("h5ad", "zarr"):
        path = tmp_path / f"cells.{stored}"
        cells.write_h5ad(path) if stored == "h5ad" else write_zarr(cells, path, 2)
        with open_cells(path) as opened:
            rows = find_expression(opened).rows(0, real.n_obs)
    else:
        rows = find_expression(cells).rows(0, real.n_obs)
    assert (rows != real.X).nnz == 0


def test_the_kind_of_values_is_that_of_the_rna(real: AnnData) -> None:
    cells = with_antibodies(real, "feature_types", ("Gene Expression", "Antibody Capture"), ANTIBODIES)
    plain = log_of(real).toarray()
    # Antibody values such as -1 (centred) or 90 (counts) must not change the recognised kind of the RNA values.
    cells.X = np.hstack([np.full((real.n_obs, 1), -1.0), plain, np.full((real.n_obs, 3), 90.0)]).astype(np.float32)
    expression = find_expression(cells)
    assert expression.kind == "log"
    assert expression.target_sum == pytest.approx(1e4, rel=1e-5)


def test_cells_without_rna_are_refused(real: AnnData) -> None:
    cells = with_x(real, real.X)
    cells.var["feature_types"] = "Antibody Capture"
    with pytest.raises(DataError, match="X holds 1200 of 1200 features that are not RNA by var.'feature_types'."):
        find_expression(cells)
