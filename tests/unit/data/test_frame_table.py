"""Frame tables: where each JPEG lies, and which stretches are read together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faces import make_track, write_tracks
from facscale.data import CorruptError, Dataset
from facscale.data.frame_table import FrameTable, build_frame_table, plan_ranges


@settings(max_examples=20, deadline=None)
@given(st.lists(st.none() | st.sampled_from([0, 1, 5, 300, 70_000]) | st.integers(0, 3000), min_size=1, max_size=60))
def test_a_table_finds_every_value_of_a_column_also_across_pages(sizes):
    random = np.random.default_rng(len(sizes))
    values = [None if size is None else random.bytes(size) for size in sizes]
    sink = pa.BufferOutputStream()
    table = pa.table({"frame": pa.array(range(len(sizes)), pa.int32()), "jpeg": pa.array(values, pa.binary())})
    pq.write_table(table, sink, compression="none", use_dictionary=False, data_page_size=2000, write_batch_size=3)
    data = sink.getvalue().to_pybytes()
    entries = FrameTable(
        np.frombuffer(build_frame_table(data, values), "<u4,<u4,<u8").view(
            [
                ("offset", "<u4"),
                ("bytes", "<u4"),
                ("checksum", "<u8"),
            ]
        )
    )
    for row, value in enumerate(values):
        piece = data[entries.starts[row] : entries.ends[row]]
        assert piece == (value or b"")
        assert entries.is_intact(row, piece)
        assert not entries.is_intact(row, piece + b"x")


def test_a_compressed_column_has_no_table():
    values = [bytes(1000), b"abc" * 300]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"jpeg": values}), sink, compression="zstd", use_dictionary=False)
    with pytest.raises(ValueError, match="row 0 is not stored as it is"):
        build_frame_table(sink.getvalue().to_pybytes(), values)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100)), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.4, 1.0, 100.0]),
)
def test_ranges_hold_all_extents_and_read_over_few_bytes(pieces, overread):
    starts, ends, position = [], [], 0
    for gap, size in pieces:
        starts.append(position + gap)
        position += gap + size
        ends.append(position)
    starts, ends = np.array(starts), np.array(ends)
    parts = list(plan_ranges(starts, ends, overread=overread))
    assert [n for part in parts for n in range(len(starts))[part]] == list(range(len(starts)))
    read = sum(int(ends[part][-1] - starts[part][0]) for part in parts)
    assert read <= (1 + overread) * (ends - starts).sum()
    if overread == 100.0 and (ends - starts).sum() >= 20:
        assert len(parts) == 1


def test_nothing_is_planned_for_no_frames():
    assert list(plan_ranges(np.array([], int), np.array([], int), overread=0.4)) == []


def test_other_readers_see_nothing_of_the_tables(tmp_path):
    rows = [make_track(person, frames=range(40), size=64, au=2) for person in range(5)]
    dataset = write_tracks(str(tmp_path), rows, au=(1, 2), size=64, row_group_mb=0.1, shard_mb=0.3)
    assert len(dataset.manifest.shards) > 1
    stored = pa.concat_tables(rows)
    for name in stored.column_names:
        assert dataset.read_columns([name])[name].to_pylist() == stored[name].to_pylist()
    shard = tmp_path / dataset.manifest.shards[0].file
    assert pq.read_table(shard, page_checksum_verification=True).num_rows == dataset.manifest.shards[0].rows


def test_a_forged_or_damaged_table_is_refused(tmp_path):
    dataset = write_tracks(str(tmp_path), [make_track(0, frames=range(9))])
    shard = dataset.manifest.shards[0]
    path = tmp_path / shard.file
    data = bytearray(path.read_bytes())
    data[shard.row_groups[0].end - 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"corrupt frame table of row group 0 of .*: its checksum differs"):
        Dataset(str(tmp_path)).fetch_frame_table(shard=0, row_group=0)
