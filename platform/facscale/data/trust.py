"""Parquet files of others: their columns and sizes are looked at before anything is read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data.manifest import MOST_BYTES, Shard

SAME = {pa.large_binary(): pa.binary(), pa.large_string(): pa.string()}


def refuse_other_columns(found: pa.Schema, wanted: pa.Schema) -> None:
    """Raise ValueError where a column of `wanted` is missing or of another type; further ones do no harm."""
    for field in wanted:
        kind = found.field(field.name).type if field.name in found.names else "missing"
        if SAME.get(kind, kind) != field.type:
            raise ValueError(f"its column {field.name!r} is {kind}, not {field.type}")


def refuse_other_groups(footer: pq.FileMetaData, shard: Shard) -> None:
    """Raise ValueError where a file's row groups are not those of the manifest, or unpack to more than is ever stored."""
    rows = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    if rows != [group.rows for group in shard.row_groups]:
        raise ValueError(f"it has {len(rows)} row groups of other sizes than the manifest says")
    for number in range(footer.num_row_groups):
        refuse_large(footer.row_group(number).total_byte_size)


def refuse_large_table(footer: pq.FileMetaData, *, rows: int) -> None:
    """Raise ValueError for more than `rows` rows, or for bytes that memory does not hold."""
    if footer.num_rows > rows:
        raise ValueError(f"it has {footer.num_rows} rows, more than the {rows} that there can be")
    refuse_large(sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)))


def refuse_large(size: int) -> None:
    """Raise ValueError for what unpacks to more than MOST_BYTES."""
    if not 0 <= size <= MOST_BYTES:
        raise ValueError(f"it unpacks to {size:,} bytes, more than {MOST_BYTES:,}")
