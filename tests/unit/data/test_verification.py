"""`verify_dataset`: every kind of damage is found and named, and nothing else is."""

from __future__ import annotations

import pytest

from faces import write_face_data_set
from facscale.data import Dataset
from facscale.data.verification import verify_dataset


@pytest.fixture
def dataset(tmp_path):
    return write_face_data_set(str(tmp_path / "set"), [12] * 12, au=(1, 12))


def find_damage(dataset):
    return [str(fault) for fault in verify_dataset(Dataset(dataset.url))]


def test_an_intact_set_has_no_faults_and_every_shard_is_counted(dataset):
    shards = []
    assert verify_dataset(dataset, advance=lambda: shards.append(1)) == []
    assert len(shards) == len(dataset.manifest.shards) > 1


def test_missing_truncated_and_longer_shards_are_named(dataset):
    first, second, *_ = dataset.manifest.shards
    path = dataset.folder.path
    (path / first.file).unlink()
    (path / second.file).write_bytes((path / second.file).read_bytes()[:-100])
    assert find_damage(dataset) == [
        f"{first.file}: is missing ({first.rows} frames)",
        f"{second.file}: is truncated: {second.bytes - 100:,} bytes instead of {second.bytes:,} ({second.rows} frames)",
    ]
    (path / second.file).write_bytes(bytes(second.bytes + 1))
    assert "has grown" in find_damage(dataset)[1]


def test_each_changed_byte_is_found_with_its_row_group(dataset):
    shard = dataset.manifest.shards[0]
    path = dataset.folder.path / shard.file
    stored = path.read_bytes()
    for number, group in enumerate(shard.row_groups):
        for position in (group.offset, group.offset + group.length - 1):
            path.write_bytes(stored[:position] + bytes([stored[position] ^ 1]) + stored[position + 1 :])
            (fault,) = verify_dataset(Dataset(dataset.url))
            assert (fault.file, fault.row_group, fault.frames) == (shard.file, number, group.rows)
            assert dataset.url not in fault.reason


def test_a_damaged_footer_is_one_fault(dataset):
    shard = dataset.manifest.shards[0]
    path = dataset.folder.path / shard.file
    path.write_bytes(path.read_bytes()[: shard.footer_offset] + bytes(shard.bytes - shard.footer_offset))
    (fault,) = verify_dataset(Dataset(dataset.url))
    assert (fault.file, fault.row_group, fault.frames) == (shard.file, None, shard.rows)
    assert "corrupt footer" in fault.reason


def test_a_damaged_index_is_a_fault_of_its_own(dataset):
    (index,) = dataset.folder.path.rglob("index.parquet")
    index.write_bytes(index.read_bytes()[:-1])
    (fault,) = verify_dataset(Dataset(dataset.url))
    assert fault.file == "__facscale__/index.parquet"
    assert "checksum differs" in fault.reason
