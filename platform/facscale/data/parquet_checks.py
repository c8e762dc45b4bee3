"""Validation of untrusted Parquet files: their schema and sizes are checked before anything is read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data.manifest import MAX_BYTES, Shard

EQUIVALENT_TYPES = {pa.large_binary(): pa.binary(), pa.large_string(): pa.string()}


def check_columns(schema: pa.Schema, *, required: pa.Schema) -> None:
    """Raise ValueError where a required column is missing or has another type; additional columns are allowed."""
    for field in required:
        kind = schema.field(field.name).type if field.name in schema.names else "missing"
        if EQUIVALENT_TYPES.get(kind, kind) != field.type:
            raise ValueError(f"its column {field.name!r} is {kind}, not {field.type}")


def check_row_groups(footer: pq.FileMetaData, *, shard: Shard) -> None:
    """Raise ValueError where a file's row groups differ from the manifest's, or unpack to more than MAX_BYTES."""
    rows = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    if rows != [group.rows for group in shard.row_groups]:
        raise ValueError(f"the sizes of its {len(rows)} row groups differ from those in the manifest")
    for number in range(footer.num_row_groups):
        check_unpacked_size(footer.row_group(number).total_byte_size)


def check_table_size(footer: pq.FileMetaData, *, max_rows: int) -> None:
    """Raise ValueError for more than `max_rows` rows, or for more than MAX_BYTES when unpacked."""
    if footer.num_rows > max_rows:
        raise ValueError(f"it has {footer.num_rows} rows, more than the {max_rows} that there can be")
    check_unpacked_size(sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)))


def check_unpacked_size(size: int) -> None:
    """Raise ValueError where `size` bytes are more than MAX_BYTES, or negative."""
    if not 0 <= size <= MAX_BYTES:
        raise ValueError(f"it unpacks to {size:,} bytes, more than {MAX_BYTES:,}")
