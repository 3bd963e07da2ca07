"""Checks of the arguments of public functions, with the remedy for the usual mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anndata import AnnData

from spikgpt.errors import ConfigError, DataError, with_noun


def check_cells(cells: Any, function: str, *, paths: bool = False) -> None:
    """Raise a DataError that says how to make an AnnData, unless ``cells`` is an AnnData.

    If ``paths`` is True, the path of a file is accepted too.
    """
    if isinstance(cells, AnnData) or (paths and isinstance(cells, str | Path)):
        return
    kind = type(cells).__name__
    if isinstance(cells, str | Path):
        remedy = f"Read the file first: adata = anndata.read_h5ad({str(cells)!r})."
    elif cells is None:
        remedy = "Most functions of scanpy change the AnnData and return None: pass the AnnData itself."
    elif kind == "MuData":
        remedy = f"Pass the AnnData of its RNA, such as mdata['rna']; it holds {', '.join(map(str, cells.mod))}."
    elif kind == "SpatialData":
        remedy = "Pass the AnnData of its table, such as sdata.tables['table']."
    elif kind == "Raw":
        remedy = "Pass adata.raw.to_adata(), or the AnnData itself with layer='raw'."
    elif kind == "DataFrame":
        remedy = "Make an AnnData, with cells as rows and genes as columns: anndata.AnnData(df)."
    elif hasattr(cells, "shape"):
        remedy = (
            "The value has no gene names. Make an AnnData, with cells as rows and genes as columns: "
            "anndata.AnnData(X, var=pandas.DataFrame(index=gene_names))."
        )
    elif isinstance(cells, Sequence | Mapping):
        remedy = "Pass one AnnData, or join several: anndata.concat(adatas)."
    else:
        remedy = "Read your cells first: adata = anndata.read_h5ad(FILE)."
    expected = "an AnnData or the path of a file" if paths else "an AnnData"
    msg = f"{function} got {described(cells)}; expected {expected}. {remedy}"
    raise DataError(msg)


def check_folder(folder: Any) -> None:
    """Raise a ConfigError unless ``folder`` is a text or a path."""
    if not isinstance(folder, str | Path):
        msg = f"folder is {described(folder)}; expected the path of a folder to write, such as 'my_reference'."
        raise ConfigError(msg)


def check_label_key(label_key: Any) -> None:
    """Raise a ConfigError unless ``label_key`` is a text, the name of a column of ``obs``."""
    if not isinstance(label_key, str):
        name = getattr(label_key, "name", None)
        example = name if isinstance(name, str) else "cell_type"
        msg = (
            f"label_key is {described(label_key)}; expected the name of a column of obs, such as label_key={example!r}."
        )
        raise ConfigError(msg)


def described(value: Any) -> str:
    """Return the type and size of a value, such as "a DataFrame of shape (3, 2)"."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:100]
    shape = getattr(value, "shape", None)
    size = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    if isinstance(value, list | tuple | dict | set):
        size = f" of {with_noun(len(value), 'item')}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}{size}"
