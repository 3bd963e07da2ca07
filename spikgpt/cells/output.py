"""Write results into a copy of the input or into a table; an interrupted write leaves no incomplete file."""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem

from spikgpt.cells.reading import H5AD, ZARR, read_cells, stored_kind
from spikgpt.cells.storage import Identity, as_data_errors, identity_of, open_store
from spikgpt.cells.stored import CATEGORIES, check_readable, columns_of, names_of, obs_names_of
from spikgpt.errors import ConfigError, DataError, install_command, warn, with_noun
from spikgpt.files import replacing

# Text that a spreadsheet takes for a formula: its first character is =, +, -, @ (also in full width), a tab or a line
# end. Signed numbers and single plus or minus signs are not formulas.
FORMULA = re.compile(r"(?![+-]((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?\Z)[-=+@\t\r\n\uff0b\uff0d\uff1d\uff20]")


def write_copy(
    source: Path,
    target: Path,
    *,
    obs: Mapping[str, Any] | None = None,
    obsm: Mapping[str, Any] | None = None,
    uns: Mapping[str, Any] | None = None,
    obs_names: Iterable[str] | None = None,
    identity: Identity | None = None,
) -> None:
    """Write a copy of a file of cells with elements added or replaced; ``target`` appears once it is complete.

    If source and target are both ``.h5ad`` files or both ``.zarr`` folders, the source is copied byte for byte. A
    warning then names an element that anndata cannot read. In all other cases anndata writes the target.

    Parameters
    ----------
    obs, obsm, uns
        New elements by name: columns of obs, shape (n,), arrays of obsm, shape (n, d), and any value of uns that
        anndata can write.
    obs_names
        Names of the cells to which the rows of the new elements belong, in order. A source with other names is refused.
    identity
        Result of :func:`spikgpt.cells.storage.identity_of` for the source, from before it was read. A source that was
        changed or replaced since then is refused.
    """
    names = None if obs_names is None else list(map(str, obs_names))
    added = {"obs": dict(obs or {}), "obsm": dict(obsm or {}), "uns": dict(uns or {})}
    written = ZARR if target.suffix.lower() == ".zarr" else H5AD
    kind, unreadable = stored_kind(source), ""
    remedy = f"{source} is damaged, or the disk is full, or you may not write here. Correct that, or name another file."
    # pandas 3 holds names as nullable strings, which anndata writes only with this setting.
    nullable = anndata.settings.override(allow_write_nullable_strings=True)
    with as_data_errors(target, "written", remedy), replacing(target) as temporary, nullable:
        if kind != written:
            adata = read_cells(source)
            _check_same(source, identity, names, list(adata.obs_names))
            for group, elements in added.items():
                for name, value in elements.items():
                    getattr(adata, group)[name] = _plain(value)  # a Series would be aligned by its index
            (adata.write_zarr if written == ZARR else adata.write_h5ad)(temporary)
            return
        _copy(source, temporary)
        with open_store(temporary, writable=True, name=source) as root:
            _check_same(source, identity, names, obs_names_of(root, source))
            _add(root, added, source)
        # Some zarr folders repeat all metadata in one file, which has to be written again.
        if kind == ZARR and zarr.open_group(source, mode="r").metadata.consolidated_metadata is not None:
            zarr.consolidate_metadata(temporary)
        with open_store(temporary, name=source) as root:
            with as_data_errors(source):
                for group, elements in added.items():
                    for name in elements:
                        read_elem(root[group][name])
            try:
                check_readable(root, source)
            except DataError as error:
                # The output is a copy, so the element is damaged in the source too.
                unreadable = str(error)
    if unreadable:
        warn(unreadable)


def write_table(parts: Iterable[pd.DataFrame], path: Path) -> None:
    """Write a table with one row per cell, as parquet or as text by the file's ending.

    Only parquet needs all parts of the table in memory.
    """
    if path.suffix.lower() != ".parquet":
        write_csv(parts, path)
        return
    with replacing(path) as temporary:
        try:
            pd.concat(list(parts)).to_parquet(temporary)
        except ImportError:
            msg = f"Writing parquet needs pyarrow: {install_command('pyarrow')}. Or write a .csv file."
            raise ConfigError(msg) from None


def write_csv(parts: Iterable[pd.DataFrame], path: Path, *, index: bool = True) -> None:
    """Write parts of a table as text, with or without the index, so that spreadsheets take no text for a formula.

    The columns are separated by commas, or by tabs in a ``.tsv`` file. A file that ends in ``.gz`` is compressed.
    """
    compressed = path.suffix.lower() == ".gz"
    separator = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes[-2:]] else ","
    with ExitStack() as opened:
        file: Any = opened.enter_context(opened.enter_context(replacing(path)).open("wb"))
        if compressed:
            # The gzip header gets no time and no file name, because these differ from run to run.
            file = opened.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        text = opened.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        for number, part in enumerate(parts):
            frame = _without_formulas(part)
            # Without quotes, readers would take a carriage return within a text for the end of the line.
            quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if _has_returns(frame) else csv.QUOTE_MINIMAL
            frame.to_csv(text, sep=separator, header=number == 0, index=index, quoting=quoting, lineterminator="\n")


def _without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with an apostrophe before each text that a spreadsheet would take for a formula."""
    columns = {}
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            columns[_inert(name)] = column.cat.rename_categories(_inert)
        else:
            columns[_inert(name)] = column if column.dtype.kind in "biufc" else column.map(_inert)
    return pd.DataFrame(columns, index=table.index, copy=False).set_axis(table.index.map(_inert))


def _has_returns(table: pd.DataFrame) -> bool:
    """Return True if a text of a table holds a carriage return."""
    texts: list[Any] = [table.columns, table.index]
    for _, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            texts.append(column.cat.categories)
        elif column.dtype.kind not in "biufc":
            texts.append(column)
    return any(isinstance(text, str) and "\r" in text for values in texts for text in values)


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder; the copy is writable even if the source is not."""
    if source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o644)
        return
    target.mkdir()
    for entry in source.iterdir():
        _copy(entry, target / entry.name)


def _check_same(source: Path, identity: Identity | None, names: list[str] | None, current: list[str]) -> None:
    """Raise DataError if the source changed since it was read, because cells would get the labels of other cells."""
    if names is not None and names != current:
        change = (
            f"now holds {with_noun(len(current), 'other cell')} than the {len(names)} that were read, or "
            "another order of cells"
        )
    elif identity is not None and identity_of(source) != identity:
        change = "was changed or replaced since it was read"
    else:
        return
    msg = f"{source} {change}. Nothing was written; run the command again."
    raise DataError(msg)


def _add(root: Any, added: Mapping[str, Mapping[str, Any]], source: Path) -> None:
    """Write new elements into an open store; a new element replaces a stored element of the same name."""
    attributes, names = root["obs"].attrs, names_of(root["obs"], source)
    order = columns_of(root["obs"], names)
    if names in added["obs"]:
        msg = f"{source} keeps the names of its cells in obs[{names!r}], which would be replaced; rename its index."
        raise DataError(msg)
    for group, elements in added.items():
        if elements and group not in root:
            write_elem(root, group, {})  # also writes the encoding metadata that anndata needs
        for name, value in elements.items():
            write_elem(root[group], name, _plain(value))
    if new := [name for name in added["obs"] if name not in order]:
        attributes["column-order"] = [*order, *new]
    if not isinstance(attributes.get("_index"), str) or attributes.get("encoding-type") != "dataframe":
        # Some writers in R leave out the attributes that anndata needs.
        version = "0.1.0" if CATEGORIES in root["obs"] else "0.2.0"
        attributes.update({"_index": names, "encoding-type": "dataframe", "encoding-version": version})


def _plain(value: Any) -> Any:
    """Return a Series as an array without its index; return any other value unchanged."""
    if not isinstance(value, pd.Series):
        return value
    return value.to_numpy() if isinstance(value.dtype, np.dtype) else value.array
