"""Parts of the labels of a query: one Parquet file for each shard."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from spikgpt.cells.storage import as_data_errors
from spikgpt.files import replacing, sha256_of
from spikgpt.scoring.annotation import Annotation
from spikgpt.scoring.notes import Tally

# Key of the metadata in the Parquet file of a part.
KEY = b"spikgpt"
REMEDY = "Make room on the disk, or correct your access, and run the same command again."


class FinishedPart(msgspec.Struct, frozen=True):
    """A finished part: the sha256 of its file, and its numbers of cells."""

    sha256: str
    tally: Tally


class PartMetadata(msgspec.Struct):
    """Metadata in the file of a part: digests of the run's arguments and of the query model, and numbers of cells."""

    run: str
    query_model: str
    tally: Tally


def part_name(number: int) -> str:
    """Return the file name of a part."""
    return f"part-{number:05}.parquet"


def write_part(path: Path, annotation: Annotation, shard: str, *, run: str, query_model: str) -> FinishedPart:
    """Write the labels of a shard to a Parquet file, which appears once it is complete.

    Parameters
    ----------
    shard
        Path of the file with the cells, for the column ``shard``.
    run, query_model
        Digests of the arguments and of the query model.
    """
    tally = annotation.query_summary.tally
    frame = annotation.table()
    frame.insert(0, "shard", shard)
    table = pa.Table.from_pandas(frame.reset_index(), preserve_index=False)
    # Write categorical columns as text, because their categories differ between parts.
    names = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    for name in names:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.string()))
    metadata = msgspec.json.encode(PartMetadata(run, query_model, tally))
    table = table.replace_schema_metadata({KEY: metadata})
    with as_data_errors(path, "written", REMEDY), replacing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
        sha256 = sha256_of(temporary)
    return FinishedPart(sha256, tally)


def finished_part(path: Path, expected: FinishedPart | None, *, run: str, query_model: str) -> FinishedPart | None:
    """Return the part of a shard if it is complete and of the same run; None if the shard must be labelled.

    Parameters
    ----------
    expected
        Part that the manifest lists; None if the manifest lists none. A driver that was killed may have left a finished
        part that the manifest does not list. Such a part is read as a whole, and its checksums are compared.
    """
    if not path.is_file():
        return None
    sha256 = sha256_of(path)
    if expected is not None and expected.sha256 != sha256:
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = msgspec.json.decode((file.schema_arrow.metadata or {})[KEY], type=PartMetadata)
            if (metadata.run, metadata.query_model) != (run, query_model):
                return None
            if expected is None:
                for group in range(file.num_row_groups):
                    file.read_row_group(group)
    except (OSError, KeyError, pa.ArrowException, msgspec.DecodeError):
        return None
    return FinishedPart(sha256, metadata.tally)
