"""Write results all or nothing, next to everything the input holds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem

from spikgpt.annotate import PROBABILITIES, PROVENANCE, Annotation
from spikgpt.errors import ConfigError

TABLE_SUFFIXES = (".csv", ".parquet")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file in the folder of ``path``, which takes its name when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def write_annotated(annotation: Annotation, adata: AnnData, source: Path, target: Path) -> None:
    """Write a copy of the file ``source``, which ``adata`` was read from, with the annotation added."""
    annotation.write_to(adata)
    added = {("obsm", PROBABILITIES): adata.obsm[PROBABILITIES], ("uns", PROVENANCE): adata.uns[PROVENANCE]}
    write_added(source, target, added, obs=adata.obs)


def write_added(
    source: Path, target: Path, added: dict[tuple[str, str], Any], *, obs: pd.DataFrame | None = None
) -> None:
    """Write a copy of an h5ad file with elements added or replaced, by group and key, such as obsm and X_pca.

    Everything else is copied as it is: matrices, layers, ``raw``, and their compression.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        with h5py.File(temporary, "r+") as file:
            if obs is not None:
                write_elem(file, "obs", obs)
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
    table = annotation.table()
    with replacing(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary)
            return
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
