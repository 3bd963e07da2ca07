"""Read small tables of counts, cells x genes, from JSON and Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from spikgpt.cells.storage import as_data_errors
from spikgpt.errors import DataError, needs, with_noun
from spikgpt.service.refusals import Kind, Refusal

# Largest JSON table in bytes. A number takes at least 2 bytes in the file, and 32 bytes in memory.
LARGEST_JSON = 32 * 1024 * 1024
# Largest number of values of a Parquet table that are in a dense array at a time.
DENSE_VALUES = 4_000_000
EXAMPLE = '{"genes": ["INS", "GCG"], "cells": ["cell 1"], "counts": [[12, 0]]}'


class CountTable(msgspec.Struct, forbid_unknown_fields=True):
    """JSON table of n cells and G genes.

    ``counts`` has the shape (n, G). ``genes`` and ``cells`` are names; without ``cells``, cells are numbered. ``obs``
    has columns of n values, such as batches.
    """

    genes: list[str]
    counts: list[list[float]]
    cells: list[str] | None = None
    obs: dict[str, list[str | int | float | bool | None]] = {}


def check_cells(cells: int, limit: int) -> None:
    """Refuse more cells than the service labels in one request."""
    if cells > limit:
        msg = f"The request has {cells} cells; expected at most {limit}. Send fewer, or use spikgpt annotate."
        raise Refusal(Kind.TOO_MANY_CELLS, msg)


def read_json(path: Path, max_cells: int) -> AnnData:
    """Read a JSON table of counts.

    Raises
    ------
    DataError
        When the JSON is not a table of counts, or the numbers of counts, names and values do not agree.
    Refusal
        When the table has too many bytes or cells.
    """
    if (size := path.stat().st_size) > LARGEST_JSON:
        msg = f"The JSON has {size} bytes; expected at most {LARGEST_JSON}. Send an .h5ad or a Parquet file."
        raise Refusal(Kind.TOO_MANY_BYTES, msg)
    try:
        table = msgspec.json.decode(path.read_bytes(), type=CountTable)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = f"{path} is no table ({error}); expected JSON such as {EXAMPLE}."
        raise DataError(msg) from None
    check_cells(len(table.counts), max_cells)
    for row, values in enumerate(table.counts):
        if len(values) != len(table.genes):
            msg = (
                f"{path} has {with_noun(len(values), 'count')} in row {row} and "
                f"{with_noun(len(table.genes), 'gene')}; give one count per gene."
            )
            raise DataError(msg)
    columns = {f"obs[{name!r}]": values for name, values in table.obs.items()}
    for name, column in (columns | ({"cells": table.cells} if table.cells is not None else {})).items():
        if len(column) != len(table.counts):
            msg = (
                f"{path} has {with_noun(len(column), 'value')} in {name} and "
                f"{with_noun(len(table.counts), 'row')} of counts; give one per row."
            )
            raise DataError(msg)
    counts = np.array(table.counts, dtype=np.float64).reshape(len(table.counts), len(table.genes))  # (n, G)
    return _cells([counts], table.genes, table.cells, {name: pd.Series(values) for name, values in table.obs.items()})


def read_parquet(path: Path, max_cells: int) -> AnnData:
    """Read a Parquet table of counts: columns of numbers are genes, and the other columns belong to ``obs``.

    Names of cells come from the index that pandas wrote, else from the first column of text.

    Raises
    ------
    DataError
        When the file is damaged or has no column of numbers.
    Refusal
        When there are too many cells.
    """
    with needs("pyarrow"):
        import pyarrow as pa
        from pyarrow import parquet
    parts: list[sparse.csr_matrix] = []
    obs_parts: list[pa.Table] = []
    remedy = "Write it again with pandas.DataFrame.to_parquet(), one row per cell and one column per gene."
    with as_data_errors(path, remedy=remedy), parquet.ParquetFile(path) as file:
        check_cells(file.metadata.num_rows, max_cells)
        layout = _ParquetLayout.from_schema(file.schema_arrow, path)
        for batch in file.iter_batches(batch_size=max(1, DENSE_VALUES // len(layout.genes))):
            dense = [batch.column(name).to_numpy(zero_copy_only=False) for name in layout.genes]
            parts.append(sparse.csr_matrix(np.stack(dense, axis=1).astype(np.float64)))  # (rows, G)
            obs_parts.append(pa.table({name: batch.column(name) for name in layout.obs_columns}))
            check_cells(sum(part.shape[0] for part in parts), max_cells)
        obs = {name: pa.concat_tables(obs_parts).column(name).to_pandas() for name in layout.obs_columns if obs_parts}
    names = obs.pop(layout.cell_names).astype(str).tolist() if layout.cell_names in obs else None
    return _cells(parts, layout.genes, names, obs)


class _ParquetLayout(NamedTuple):
    """Columns of a Parquet table: genes, other columns, and the column with the names of the cells, None without."""

    genes: list[str]
    obs_columns: list[str]
    cell_names: str | None

    @classmethod
    def from_schema(cls, schema: Any, path: Path) -> _ParquetLayout:
        """Return the layout of a Parquet table from the types of its columns."""
        from pyarrow import types

        fields = {field.name: field.type for field in schema}
        if len(fields) != len(schema):
            msg = f"{path} repeats names of columns; give each gene a name of its own."
            raise DataError(msg)
        listed = (schema.pandas_metadata or {}).get("index_columns", ())
        index = [name for name in listed if isinstance(name, str) and name in fields]
        genes, texts = [], []
        for name, kind in fields.items():
            values = kind.value_type if types.is_dictionary(kind) else kind
            if types.is_integer(kind) or types.is_floating(kind):
                if name not in index:
                    genes.append(name)
            elif types.is_string(values) or types.is_large_string(values):
                texts.append(name)
            elif not types.is_boolean(kind):
                msg = f"{path} has {kind} in the column {name!r}; expected numbers for genes, or text."
                raise DataError(msg)
        if not genes:
            msg = f"{path} has no column of numbers; expected one row per cell and one column per gene."
            raise DataError(msg)
        counted = set(genes)
        return cls(genes, [name for name in fields if name not in counted], next(iter(index or texts), None))


def _cells(parts: list[Any], genes: list[str], names: list[str] | None, obs: dict[str, pd.Series[Any]]) -> AnnData:
    """Return an AnnData object from counts in parts, each of shape (rows, G); without names, cells are numbered."""
    if not parts or not sum(part.shape[0] for part in parts):
        msg = "The table has no rows; expected one row per cell."
        raise DataError(msg)
    counts = sparse.vstack([sparse.csr_matrix(part) for part in parts], format="csr")
    # Use float32, as most .h5ad files do, unless rounding to float32 would change a value.
    with np.errstate(over="ignore", invalid="ignore"):
        single = counts.astype(np.float32)
    exact = np.array_equal(single.data.astype(np.float64), counts.data, equal_nan=True)
    index = pd.Index(names if names is not None else [str(row) for row in range(counts.shape[0])], dtype=object)
    frame = pd.DataFrame({name: column.to_numpy() for name, column in obs.items()}, index=index)
    return AnnData(single if exact else counts, obs=frame, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))
