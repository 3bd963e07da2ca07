"""Write results all or nothing, next to everything the input holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
from anndata.io import write_elem

from spikgpt.errors import ConfigError
from spikgpt.files import replacing
from spikgpt.labels.annotation import Annotation

TABLE_SUFFIXES = (".csv", ".parquet")


def write_added(source: Path, target: Path, added: dict[tuple[str, str], Any]) -> None:
    """Write a copy of an h5ad file with elements added or replaced, by group and key, such as obsm and X_pca.

    Everything else is copied as it is: matrices, layers, ``raw``, and their compression.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        with h5py.File(temporary, "r+") as file:
            for (group, key), value in added.items():
                if group not in file:
                    write_elem(file, group, {})  # with the encoding metadata that h5py's own groups lack
                write_elem(file[group], key, value)


def write_table(annotation: Annotation, path: Path) -> None:
    """Write one row a cell, as CSV or parquet after the file's name.

    Raises
    ------
    ConfigError
        When parquet is asked for and pyarrow is not installed.
    """
    if path.suffix == ".csv":
        annotation.write_csv(path)
        return
    table = annotation.table()
    with replacing(path) as temporary:
        try:
            table.to_parquet(temporary)
        except ImportError as error:
            msg = "Writing parquet needs pyarrow: pip install 'spikgpt[parquet]'. Or write a .csv file."
            raise ConfigError(msg) from error


def check_table(path: Path) -> None:
    """Refuse a table of an unknown kind before the work.

    Raises
    ------
    ConfigError
        When the file's name ends in neither .csv nor .parquet.
    """
    if path.suffix not in TABLE_SUFFIXES:
        msg = f"{path} ends in {path.suffix!r}; a table is written as {' or '.join(TABLE_SUFFIXES)}."
        raise ConfigError(msg)
