"""The cache: bounded, shared by processes, and harmless to foreign files."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faces import write_face_data_set
from facscale.data import CorruptError, order
from facscale.data.cache import IDLE_S, MARKER, Cache
from facscale.data.manifest import Runs, compute_checksum

KB = 1000


def block(number: int, size: int = 10 * KB) -> bytes:
    return number.to_bytes(4, "little") * (size // 4)


class Store:
    """Counts how often each block is fetched."""

    def __init__(self, size: int = 10 * KB) -> None:
        self.fetched: list[int] = []
        self.size = size

    def read(self, cache: Cache, number: int) -> bytes:
        data = block(number, self.size)

        def fetch() -> bytes:
            self.fetched.append(number)
            return data

        assert cache.get(compute_checksum(data), fetch) == data
        return data


def files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.rows"))


def test_a_second_read_is_served_from_disk_even_in_another_cache_object(tmp_path):
    store = Store()
    for cache in (Cache(tmp_path, limit_bytes=100 * KB), Cache(tmp_path, limit_bytes=100 * KB)):
        for _ in range(2):
            store.read(cache, 1)
    assert store.fetched == [1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 15), max_size=60), st.integers(9, 70))
def test_the_bound_holds_after_every_read(tmp_path_factory, reads, limit_kb):
    folder = tmp_path_factory.mktemp("cache")
    cache, store = Cache(folder, limit_bytes=limit_kb * KB), Store()
    for number in reads:
        store.read(cache, number)
        assert files(folder) <= limit_kb * KB
        assert cache.measure_bytes() == files(folder)


def test_the_least_recently_used_block_is_evicted_first(tmp_path):
    cache, store = Cache(tmp_path, limit_bytes=40 * KB), Store()
    for when, number in enumerate([1, 2, 3, 4]):
        store.read(cache, number)
        os.utime(tmp_path / f"{compute_checksum(block(number))}.rows", (when, when))
    store.read(cache, 1)
    store.read(cache, 5)  # evicts 2 (and 3, to get below the low-water mark)
    store.fetched.clear()
    for number in (1, 4, 5):
        store.read(cache, number)
    assert store.fetched == []
    store.read(cache, 2)
    assert store.fetched == [2]


def test_what_is_in_stays_when_an_epoch_reads_more_than_fits(tmp_path):
    """Each epoch reads 50 blocks once, in another order; 29 fit (58 %), and these are found again in each epoch."""
    cache, store = Cache(tmp_path, limit_bytes=290 * KB), Store()
    for epoch in range(4):
        store.fetched.clear()
        for number in np.random.default_rng(epoch).permutation(50).tolist():
            store.read(cache, number)
        assert len(store.fetched) == (50 if epoch == 0 else 21)


def test_only_idle_files_of_other_data_sets_make_room(tmp_path):
    own = [compute_checksum(block(number)) for number in (1, 2, 3)]
    cache, store = Cache(tmp_path, limit_bytes=40 * KB, protected=own[:2]), Store()
    for number in (1, 2, 7, 8):  # 7 was used an hour ago, 8 just now
        store.read(cache, number)
    hour_ago = time.time() - IDLE_S - 10
    for number in (1, 2, 7):
        os.utime(tmp_path / f"{compute_checksum(block(number))}.rows", (hour_ago, hour_ago))
    store.read(cache, 3)
    assert {path.stem for path in tmp_path.glob("*.rows")} == {*own, compute_checksum(block(8))}


def test_stretches_are_kept_in_place_and_holes_are_zeros(tmp_path):
    cache = Cache(tmp_path, limit_bytes=10 * KB)
    with cache.open("a" * 32, 8 * KB) as entry:
        entry.write(1000, b"frame")
    with Cache(tmp_path, limit_bytes=10 * KB).open("a" * 32, 8 * KB) as entry:
        assert entry.read(998, 9) == b"\0\0frame\0\0"
    assert cache.measure_bytes() == 8 * KB, "the space is reserved before it is used"
    with cache.open("b" * 32, 8 * KB) as entry:
        assert entry is None
    with cache.open("c" * 32, KB, is_kept=False) as entry:
        assert entry is None


@pytest.mark.parametrize(("world", "share", "hits"), [(1, 0.58, 0.57), (8, 0.125, 0.97)])
def test_a_node_finds_the_row_groups_of_its_streams_again(world, share, hits):
    """From the second epoch on, where each node's disk holds `share` of the data."""
    groups = 800
    runs = Runs(
        shard=np.arange(groups) // 10,
        row_group=np.arange(groups) % 10,
        frames=np.full(groups, 30),
        identity=np.arange(groups),
        video=np.arange(groups),
        track=np.zeros(groups, int),
        start=np.zeros(groups, int),
        first_frame=np.zeros(groups, int),
        identities=tuple(map(str, range(groups))),
        videos=tuple(map(str, range(groups))),
    )
    population = order.select_runs([runs], extent=1)
    deal, size = order.Deal(population, streams=64), population.groups * 30
    kept = [set() for _ in range(world)]
    for epoch in range(3):
        samples = order.EpochOrder(deal, samples_per="frame", seed=0, epoch=epoch, block=4).take(np.arange(size))
        read = found = 0
        for rank in range(world):
            places = np.flatnonzero((epoch * size + np.arange(size)) % world == rank)
            for group in dict.fromkeys(population.group[samples.member[places]].tolist()):
                weight = np.count_nonzero(population.group[samples.member[places]] == group)
                read, found = read + weight, found + weight * (group in kept[rank])
                if len(kept[rank]) < round(share * groups) and deal.is_own(group, rank=rank, world=world):
                    kept[rank].add(group)
    assert found / read >= hits


def test_a_folder_with_other_files_is_left_alone(tmp_path, caplog):
    dataset = write_face_data_set(str(tmp_path), [5, 6])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    cache, store = Cache(tmp_path, limit_bytes=15 * KB), Store()
    for number in (1, 2, 3, 1):
        store.read(cache, number)
    assert store.fetched == [1, 2, 3, 1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(caplog.records) == 1
    assert f"the cache {tmp_path} is not used: it holds files that are not the cache's" in caplog.text
    assert dataset.read_columns(["frame"]).num_rows == 11


def test_foreign_files_that_are_added_later_are_never_deleted(tmp_path):
    cache, store = Cache(tmp_path, limit_bytes=25 * KB), Store()
    store.read(cache, 1)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "shard-00000.parquet").write_bytes(bytes(50 * KB))
    for number in range(10):
        store.read(cache, number)
    assert (tmp_path / "manifest.json").exists()
    assert (tmp_path / "shard-00000.parquet").stat().st_size == 50 * KB
    assert files(tmp_path) <= 25 * KB


def test_damaged_files_are_fetched_again(tmp_path):
    cache, store = Cache(tmp_path, limit_bytes=100 * KB), Store()
    store.read(cache, 1)
    path = tmp_path / f"{compute_checksum(block(1))}.rows"
    path.write_bytes(path.read_bytes()[:-1])
    store.read(cache, 1)
    assert store.fetched == [1, 1]
    assert path.read_bytes() == block(1)


@pytest.mark.parametrize(("number", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only")])
def test_a_full_disk_costs_one_warning(tmp_path, monkeypatch, caplog, number, why):
    cache, store = Cache(tmp_path, limit_bytes=100 * KB), Store()
    store.read(cache, 1)

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    for read in (2, 3, 2, 1):
        store.read(cache, read)
    assert store.fetched == [1, 2, 3, 2], "cached blocks are still used"
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert why in warnings[0]
    assert cache.measure_bytes() == files(tmp_path) == 10 * KB


def test_a_folder_that_cannot_be_created_costs_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache, store = Cache(tmp_path / "file" / "cache", limit_bytes=100 * KB), Store()
    store.read(cache, 1)
    store.read(cache, 1)
    assert store.fetched == [1, 1]
    assert len(caplog.records) == 1


def test_failures_of_the_store_pass_through(tmp_path):
    def fetch() -> bytes:
        raise CorruptError("gone")

    with pytest.raises(CorruptError, match="gone"):
        Cache(tmp_path, limit_bytes=100 * KB).get("0" * 32, fetch)
    assert {path.name for path in tmp_path.iterdir()} == {MARKER, "lock", "usage"}


def test_a_block_beyond_the_bound_is_not_kept(tmp_path):
    cache, store = Cache(tmp_path, limit_bytes=15 * KB), Store(size=20 * KB)
    store.read(cache, 1)
    assert files(tmp_path) == 0


def test_abandoned_partial_files_make_room_young_ones_stay(tmp_path):
    cache, store = Cache(tmp_path, limit_bytes=25 * KB), Store()
    old, young = (tmp_path / f".{'a' * 32}.{name}.partial" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(bytes(10 * KB))
    os.utime(old, (0, 0))
    again = Cache(tmp_path, limit_bytes=25 * KB)
    store.read(again, 1)
    assert not old.exists()
    assert young.exists()
    assert cache.measure_bytes() <= 25 * KB


def _work(folder: str, seed: int, limit: int, largest) -> None:
    cache, store = Cache(folder, limit_bytes=limit), Store()
    for step in range(60):
        store.read(cache, (seed * 7 + step * step) % 23)
        with largest.get_lock():
            largest.value = max(largest.value, cache.measure_bytes())


def test_four_processes_share_one_bound(tmp_path):
    """They also read what the others write and delete; `Store.read` asserts that every byte is right."""
    context = multiprocessing.get_context("spawn")
    largest = context.Value("q", 0)
    workers = [context.Process(target=_work, args=(str(tmp_path), seed, 85 * KB, largest)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert 40 * KB < largest.value <= 85 * KB
    assert (tmp_path / "usage").read_text() == str(files(tmp_path))
