"""Reading Parquet whose bytes are Python's, in the thread that asks for it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def open_parquet(source: Any) -> pq.ParquetFile:
    """Open bytes or an open file; read from it with `use_threads=False`, too. Raises pyarrow's errors.

    A thread of pyarrow's that has read or decoded a column lets go of the Python object behind it a little after the
    reader has returned. If Python exits in between, the process ends with SIGABRT ("terminate called without an active
    exception"), up to Python 3.13. Files that pyarrow opens by their path have no such object.
    """
    file = pa.BufferReader(source) if isinstance(source, bytes) else source
    return pq.ParquetFile(file, pre_buffer=False)


def read_parquet(source: Any) -> pa.Table:
    """Read the whole table, as `open_parquet` says."""
    return open_parquet(source).read(use_threads=False)
