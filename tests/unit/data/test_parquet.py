"""Parquet in Python's files is read by the thread that asks: one of pyarrow's could end the process while Python exits."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facscale.data.parquet import read_parquet
from facscale.ingest import containers

TABLE = pa.table({"image": [b"a", b"b"] * 50, **{f"c{number}": list(range(100)) for number in range(20)}})


class WatchedFile(io.BytesIO):
    """Knows the threads that have read it."""

    def __init__(self, content):
        super().__init__(content)
        self.readers = set()

    def read(self, *size):
        self.readers.add(threading.get_ident())
        return super().read(*size)


@pytest.fixture
def file():
    with io.BytesIO() as out:
        pq.write_table(TABLE, out, row_group_size=10)
        return WatchedFile(out.getvalue())


def test_pyarrow_alone_would_read_with_threads_of_its_own(file):
    pq.read_table(file)
    assert file.readers - {threading.get_ident()}


def test_a_table_is_read_by_its_reader(file):
    assert read_parquet(file).equals(TABLE)
    assert file.readers == {threading.get_ident()}
    assert read_parquet(file.getvalue()).equals(TABLE)


def test_a_file_of_a_source_is_read_by_its_reader(file):
    system = SimpleNamespace(protocol="hub", open=lambda *_: file)
    rows, _ = containers.read_columns(system, "faces", "train.parquet", image="image")
    assert rows == TABLE.drop_columns("image").to_pylist()
    assert file.readers == {threading.get_ident()}
