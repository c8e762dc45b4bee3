"""Reading Parquet whose bytes are Python's, in the thread that asks for it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(source: Any) -> pa.Table:
    """Read a table from bytes or from an open file, without pyarrow's threads. Raises pyarrow's errors.

    A thread of pyarrow's that has decoded a column lets go of the Python object behind it a little after the reader has
    returned. If Python exits in between, the process ends with SIGABRT ("terminate called without an active exception"),
    up to Python 3.13. Files that pyarrow opens by their path have no such object.
    """
    file = pa.BufferReader(source) if isinstance(source, bytes) else source
    return pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
