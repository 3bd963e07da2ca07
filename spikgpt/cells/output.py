"""Results written all or nothing, next to everything that the input holds."""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem
from scipy import sparse

from spikgpt.cells.matrices import on_disk
from spikgpt.cells.reading import H5AD, ZARR, read_cells, stored_kind
from spikgpt.cells.storage import Identity, identity_of, is_array, open_store, refusing
from spikgpt.cells.stores.elements import CATEGORIES, assembled, columns_of, names_of, obs_names_of
from spikgpt.errors import ConfigError, DataError, SpikGPTWarning, install_command
from spikgpt.files import replacing

# What a spreadsheet takes for the start of a formula, also in full width; signed numbers and signs alone are none.
FORMULA = re.compile(r"(?![+-]((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?\Z)[-=+@\t\r\n\uff0b\uff0d\uff1d\uff20]")
# Dense arrays with more bytes are not read as a whole to see whether they can be read.
LARGEST_WHOLE = 32 * 1024 * 1024


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
    """Write a copy of a file of cells with elements added or replaced; ``target`` is not there before it is whole.

    The copy of an ``.h5ad`` file or a ``.zarr`` folder is byte for byte, of whatever else it holds. Other kinds of
    files, and a target of the other kind, are written anew by anndata. An element that anndata cannot read is worth a
    warning. The elements are given by name: columns of obs, shape (n,), arrays of obsm, shape (n, d), and for uns what
    anndata can write.

    Parameters
    ----------
    obs_names
        The names of the cells to which the elements belong, in order; a source with others is refused.
    identity
        :func:`spikgpt.cells.storage.identity_of` the source before it was read; a source that was changed or replaced
        since then is refused.
    """
    names = None if obs_names is None else list(map(str, obs_names))
    added = {"obs": dict(obs or {}), "obsm": dict(obsm or {}), "uns": dict(uns or {})}
    written = ZARR if target.suffix.lower() == ".zarr" else H5AD
    kind = stored_kind(source)
    why = f"{source} is damaged, or there is no room or no right to write; see to that, or name another file."
    # Names are nullable strings where pandas 3 wrote them, which anndata writes only when asked to.
    nullable = anndata.settings.override(allow_write_nullable_strings=True)
    with refusing(target, "written", why), replacing(target) as temporary, nullable:
        if kind != written:
            adata = read_cells(source)
            _check_same(source, identity, names, list(adata.obs_names))
            for place, elements in added.items():
                for name, value in elements.items():
                    getattr(adata, place)[name] = _plain(value)  # by row, not by the index of a Series
            (adata.write_zarr if written == ZARR else adata.write_h5ad)(temporary)
            return
        _copy(source, temporary)
        with open_store(temporary, writable=True, name=source) as root:
            _check_same(source, identity, names, obs_names_of(root, source))
            _add(root, added, source)
        # Some zarr folders repeat their metadata in one place.
        if kind == ZARR and zarr.open_group(source, mode="r").metadata.consolidated_metadata is not None:
            zarr.consolidate_metadata(temporary)
        with open_store(temporary, name=source) as root:
            unreadable = _check_opens(root, added, source)
    for sentence in unreadable:
        warnings.warn(sentence, SpikGPTWarning, stacklevel=2)


def write_table(parts: Iterable[pd.DataFrame], path: Path) -> None:
    """Write one row a cell, in the format of the file's ending; only parquet needs all parts in memory."""
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
    """Write parts of a table, with or without its index, in which nothing is a formula.

    The columns are separated by commas, or by tabs in a ``.tsv`` file. A file that ends in ``.gz`` is compressed.
    """
    compressed = path.suffix.lower() == ".gz"
    separator = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes[-2:]] else ","
    with ExitStack() as opened:
        file: Any = opened.enter_context(opened.enter_context(replacing(path)).open("wb"))
        if compressed:
            # Without the time and the name of the file, which differ from run to run.
            file = opened.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        text = opened.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        for number, part in enumerate(parts):
            frame = _without_formulas(part)
            # Python writes a carriage return without quotes, where readers see the end of a line.
            quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if _has_returns(frame) else csv.QUOTE_MINIMAL
            frame.to_csv(text, sep=separator, header=number == 0, index=index, quoting=quoting, lineterminator="\n")


def _without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table none of whose texts a spreadsheet takes for a formula: what starts like one gets an apostrophe."""
    columns = {}
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            columns[_inert(name)] = column.cat.rename_categories(_inert)
        else:
            columns[_inert(name)] = column if column.dtype.kind in "biufc" else column.map(_inert)
    return pd.DataFrame(columns, index=table.index, copy=False).set_axis(table.index.map(_inert))


def _has_returns(table: pd.DataFrame) -> bool:
    """Return whether a text of a table holds a carriage return."""
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
    """Copy a file or a folder; the copy can be written to, whatever the source allows."""
    if source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o644)
        return
    target.mkdir()
    for entry in source.iterdir():
        _copy(entry, target / entry.name)


def _check_same(source: Path, identity: Identity | None, names: list[str] | None, found: list[str]) -> None:
    """Refuse a source that is not the one that was read, whose cells would get the labels of others."""
    if names is not None and names != found:
        what = f"now holds {len(found)} other cells than the {len(names)} that were read, or these in another order"
    elif identity is not None and identity_of(source) != identity:
        what = "was changed or replaced since it was read"
    else:
        return
    msg = f"{source} {what}. Nothing was written; run the command again."
    raise DataError(msg)


def _add(root: Any, added: Mapping[str, Mapping[str, Any]], source: Path) -> None:
    """Write elements in place of any of their names."""
    attributes, names = root["obs"].attrs, names_of(root["obs"], source)
    order = columns_of(root["obs"], names)
    if names in added["obs"]:
        msg = f"{source} keeps the names of its cells in obs[{names!r}], which would be replaced; rename its index."
        raise DataError(msg)
    for place, elements in added.items():
        if elements and place not in root:
            write_elem(root, place, {})  # with the encoding metadata that bare groups lack
        for name, value in elements.items():
            write_elem(root[place], name, _plain(value))
    if new := [name for name in added["obs"] if name not in order]:
        attributes["column-order"] = [*order, *new]
    if not isinstance(attributes.get("_index"), str) or attributes.get("encoding-type") != "dataframe":
        # Some writers in R leave out what anndata reads a table by.
        version = "0.1.0" if CATEGORIES in root["obs"] else "0.2.0"
        attributes.update({"_index": names, "encoding-type": "dataframe", "encoding-version": version})


def _plain(value: Any) -> Any:
    """Return a Series as the array behind it, and anything else as it is."""
    if not isinstance(value, pd.Series):
        return value
    return value.to_numpy() if isinstance(value.dtype, np.dtype) else value.array


def _check_opens(root: Any, added: Mapping[str, Mapping[str, Any]], source: Path) -> list[str]:
    """Let anndata open what was written, with matrices read a part at a time in place of matrices in memory.

    Returns a sentence where anndata cannot read an element of the source, which was copied byte for byte.
    """

    def checked(name: str, item: Any, encoding: str) -> Any:
        # A null element, such as uns["log1p"]["base"] of scanpy, has the shape None.
        numbers = is_array(item) and len(item.shape or ()) == 2 and item.dtype.kind in "biufc"
        large = numbers and item.size * item.dtype.itemsize > LARGEST_WHOLE
        if not large and encoding not in ("csr_matrix", "csc_matrix"):
            return None
        matrix = on_disk(item, f"{source}, {name}")
        matrix.check()
        return sparse.csr_matrix(matrix.shape, dtype=np.float32)

    try:
        with refusing(source, "read as a whole", "The output has the labels and all that the file holds."):
            assembled(root, checked)
    except DataError as error:
        with refusing(source):
            for place, elements in added.items():
                for name in elements:
                    read_elem(root[place][name])
        return [str(error)]
    return []
