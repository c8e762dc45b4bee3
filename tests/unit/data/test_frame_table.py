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
from facscale.data.frame_table import FAR_OVERREAD, OVERREAD, FrameTable, build_frame_table, plan_ranges
from facscale.data.group_bytes import GroupBytes, RequestTimes, Traffic


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


GROUP = 8_000_000  # bytes


def time_requests(*, latency, per_byte, count=60, times=None):
    """Requests of one frame or a few, each by a tenth slower or faster than on average."""
    random, times = np.random.default_rng(0), times or RequestTimes()
    for size in random.integers(1, 30, count) * 12_500:
        times.add(int(size), (latency + per_byte * size) * random.uniform(0.9, 1.1))
    return times


@pytest.mark.parametrize(
    ("latency", "per_byte", "expected"),
    [
        (0.050, 1e-9, True),  # 50 ms, and 8 ms for a row group
        (0.002, 1e-9, False),
        (0.050, 2e-8, False),  # 160 ms for a row group: bytes are scarce
        (0.050, 0.0, True),
    ],
)
def test_latency_is_compared_with_the_time_of_a_row_group(latency, per_byte, expected):
    times = time_requests(latency=latency, per_byte=per_byte)
    assert times.is_latency_longer(GROUP) is expected
    times.add(12_500, 300.0)  # a store that was away
    assert times.is_latency_longer(GROUP) is expected


def test_too_little_is_known_of_few_requests_and_of_equal_sizes_and_old_ones_fade():
    assert not time_requests(latency=0.05, per_byte=0.0, count=20).is_latency_longer(GROUP)
    equal = RequestTimes()
    for _ in range(100):
        equal.add(12_500, 0.05)
    assert not equal.is_latency_longer(GROUP)
    times = time_requests(latency=0.05, per_byte=1e-9)
    assert not time_requests(latency=0.001, per_byte=1e-9, count=2000, times=times).is_latency_longer(GROUP)


def test_a_far_store_is_asked_less_often_for_the_same_frames(tmp_path):
    dataset = write_tracks(str(tmp_path), [make_track(0, frames=range(60), size=16)], size=16)
    rows = np.array([0, 2, 4, 20, 23, 26, 50, 55])
    read, counts = {}, {}
    for name, times in {
        "near": time_requests(latency=0.0001, per_byte=1e-6),
        "far": time_requests(latency=1.0, per_byte=1e-9),
    }.items():
        traffic = Traffic()
        source = GroupBytes(dataset, shard=0, row_group=0, entry=None, traffic=traffic, times=times)
        table = source.read_frame_table()
        read[name] = list(map(bytes, source.read_frames(table, rows)))
        counts[name] = traffic.requests - 1, traffic.read_bytes - 16 * 60
    assert read["near"] == read["far"] == [dataset.read_columns(["jpeg"])["jpeg"][row].as_py() for row in rows.tolist()]
    used = sum(map(len, read["far"]))
    assert counts["far"][0] < counts["near"][0]
    assert counts["near"][1] <= (1 + OVERREAD) * used < counts["far"][1] <= (1 + FAR_OVERREAD) * used
