"""How much the writing of shards adds to the extraction of faces: measured with 1, 2 and 4 writers, simulated for more.

    python tests/benchmarks/merge.py                            on local disk, and on the S3 server of tests/s3.py
    python tests/benchmarks/merge.py --items 64 --faces-per-s 90 --store-gb-per-s 20 [--out FILE]

Each writer is a process that writes parts as a worker of a pipeline does: it reads the faces of their items, writes shards and
deletes the faces. What a writer costs is measured as time of its core, so that other programs disturb little; the elapsed time
of 2 and 4 writers says something only where there are as many cores. The rest is simulated from these costs: items and parts
are given to the workers in their order, each to the first that is free, and all share the bandwidth of the store. The speed
of the extraction (`--faces-per-s`, of one core) is measured by tests/benchmarks/ingest.py.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from results import ResultWriter, add_out_option

from facscale.data.manifest import RowGroup, Shard
from facscale.data.storage import Folder
from facscale.data.writer import INDEX_SCHEMA, TIMING_SCHEMA, WrittenTracks, build_schema, finish_dataset
from facscale.ingest.extract import to_fixed_size_list
from facscale.ingest.merge import Merge, PartWriter
from facscale.ingest.parts import Part, plan_parts
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.spec import Pipeline

sys.path.insert(0, str(Path(__file__).parents[1]))

FACES = 200  # of an item: 8 s at 25 frames/s, the mean of VoxCeleb2
VOXCELEB2_ITEMS = 1_092_009
SIZE = 256  # pixels
SHARD_MB = 32
COLUMNS = {
    "cost on": None,
    "workers": 0,
    "GB": 0,
    "extraction, s": 0,
    "shards, s": 0,
    "more, %": 0,
    "shards by one process, s": 0,
}


class Cost(NamedTuple):
    """The cost of the writers together."""

    writers: int
    mb: float
    cpu_s: float  # of their cores
    wall_s: float

    def __str__(self) -> str:
        rate, wall = self.mb / self.cpu_s, self.mb / self.wall_s
        return f"{self.writers} writers: {rate:6.0f} MB/s a core ({self.mb:.0f} MB in {self.wall_s:.1f} s: {wall:.0f} MB/s)"


class Simulation(NamedTuple):
    """What a cluster takes for the extraction and the merge."""

    workers: int
    gb: float
    extraction_s: float
    shards_s: float
    more: float  # per cent of the extraction
    single_s: float  # shards written by one process

    def __str__(self) -> str:
        return (
            f"{self.workers:4} workers, {self.gb:6.0f} GB: extraction {self.extraction_s:7.0f} s, shards {self.shards_s:6.0f} s "
            f"= {self.more:.0f}% more (by one process: {self.single_s:.0f} s)"
        )


@dataclass(frozen=True)
class Cluster:
    """The assumptions of the simulation."""

    face_kb: float
    faces_per_s: float  # of one core, in the extraction
    write_mb_per_s: float  # of one core, in the merge: its own work
    store_gb_per_s: float  # of the store, reading and writing together, all workers together
    part_mb: float = 192.0
    part_s: float = 1.0  # of each part: starting the task, its record, deleting the faces
    driver_s_per_item: float = 0.0  # planning, index, manifest: on the driver alone


def main() -> None:
    """Print what was measured, then what it means for larger clusters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=32, help="that are written, of 200 faces each")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--faces-per-s", type=float, default=90.0)
    parser.add_argument("--store-gb-per-s", type=float, default=20.0)
    parser.add_argument("--local-only", action="store_true", help="without the S3 server")
    add_out_option(parser)
    options = parser.parse_args()
    with ResultWriter(options.out, title="Writing of shards, simulated for larger clusters", columns=COLUMNS) as table:
        compare(options, table)


def compare(options: argparse.Namespace, table: ResultWriter) -> None:
    """Measure each kind of storage, and simulate clusters with its cost."""
    faces = make_faces()
    face_kb = len(faces) / FACES / 1000
    print(f"{face_kb:.1f} kB a face; {options.items} items of {FACES} faces")
    with tempfile.TemporaryDirectory() as folder:
        costs = {"local disk": measure(f"{folder}/local", faces, options)}
        if not options.local_only:
            from s3 import S3Server

            with S3Server(Path(folder) / "server") as server:
                os.environ |= server.environment
                costs["S3 server"] = measure(server.make_bucket("merge"), faces, options)
    per_item = measure_driver(20_000)
    print(f"driver: {per_item * 1e6:.0f} us an item, {per_item * VOXCELEB2_ITEMS:.0f} s for VoxCeleb2")
    table.note(f"The driver takes {per_item * 1e6:.0f} us an item, {per_item * VOXCELEB2_ITEMS:.0f} s for VoxCeleb2.")
    for place, measured in costs.items():
        slowest = min(cost.mb / cost.cpu_s for cost in measured)
        cluster = Cluster(face_kb, options.faces_per_s, slowest, options.store_gb_per_s, driver_s_per_item=per_item)
        for cost in measured:
            table.note(f"On the {place}, {cost}.")
        print(f"simulated with the cost on the {place}, a store of {cluster.store_gb_per_s:g} GB/s:")
        for workers in (1, 2, 4, 64, 512):
            items = VOXCELEB2_ITEMS if workers > 4 else 2_000
            simulation = simulate(cluster, workers=workers, items=items)
            print(f"  {simulation}")
            table.add(place, *simulation)


def make_faces() -> bytes:
    """Make the stored faces of one item: a Parquet file as the extraction writes it, with JPEGs as large as those of faces."""
    generator = np.random.default_rng(0)
    jpegs = []
    for _ in range(FACES):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        jpegs.append(simplejpeg.encode_jpeg(image, quality=92))
    table = pa.table(
        {
            "track": pa.array(np.zeros(FACES, np.int32)),
            "frame": pa.array(np.arange(FACES, dtype=np.int32)),
            "time_s": pa.array(np.arange(FACES, dtype=np.float32) / 25),
            "jpeg": pa.array(jpegs, pa.binary()),
            "landmarks": to_fixed_size_list(generator.random((FACES, 136), dtype=np.float32)),
            **{name: pa.array(np.ones(FACES, np.float32)) for name in ("disagreement", "sharpness", "outside")},
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


def measure(url: str, faces: bytes, options: argparse.Namespace) -> list[Cost]:
    """Write a data set with each number of writers, and print what it cost."""
    costs = []
    for writers in options.writers:
        output = f"{url}/{writers}"
        pipeline = Pipeline.model_validate(
            {
                "source": {"layout": "videos", "root": "/nowhere"},
                "output": output,
                "ingest": {"shard_mb": SHARD_MB},
            }
        )
        statuses = store_items(output, faces, options.items)
        parts = plan_parts(statuses, settings={}, shard_mb=SHARD_MB)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(writers, mp_context=context, initializer=warm_up, initargs=(faces,)) as pool:
            list(pool.map(time.sleep, [0.2] * writers))  # all of them are ready
            started = time.monotonic()
            cpu_s = sum(pool.map(write, [pipeline.model_dump_json()] * len(parts), [part.to_json() for part in parts]))
            wall_s = time.monotonic() - started
        records = WorkStore(output).read_parts([part.key for part in parts])
        manifest = finish_dataset(
            Folder(output), records.values(), name="merge", au=(), image_size=SIZE, fps=25.0, recipe={}
        )
        assert manifest.counts["frames"] == options.items * FACES
        cost = Cost(writers, sum(shard.bytes for shard in manifest.shards) / 1e6, cpu_s, wall_s)
        print(f"{url.split(':', maxsplit=1)[0] if '://' in url else 'local disk'}, {cost}", flush=True)
        costs.append(cost)
    return costs


def store_items(output: str, faces: bytes, count: int) -> list[ItemStatus]:
    """Store items as the extraction does, with the same faces."""
    store, statuses = WorkStore(output), []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            path = Path(folder) / f"{number}.parquet"
            path.write_bytes(faces)
            status = ItemStatus(
                f"{number:032d}", "s", f"id{number:05d}", "v", "", faces=FACES, tracks=1, frames=FACES, fps=25.0
            )
            statuses.append(store.save(status, faces=path))
            path.unlink()
    return statuses


def warm_up(faces: bytes) -> None:
    """Write a small data set, so that all that a writer needs is imported and built."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline.model_validate({"source": {"layout": "videos", "root": "/nowhere"}, "output": folder})
        (part,) = plan_parts(store_items(folder, faces, 1), settings={}, shard_mb=16)
        PartWriter(Merge(pipeline, (), "run"))(part)


def write(pipeline: str, part: str) -> float:
    """Write a part; return the seconds that its process has worked."""
    writer = PartWriter(Merge(Pipeline.model_validate_json(pipeline), (), "run"))
    started = time.process_time()
    writer(Part.from_json(part))
    return time.process_time() - started


def measure_driver(count: int) -> float:
    """Measure the seconds an item that planning, index and manifest take in the one process that does them."""
    statuses = [
        ItemStatus(
            f"{number:032d}", "s", f"id{number:07d}", "v", "", faces=FACES, tracks=1, fps=25.0, face_bytes=3_000_000,
            checksum=f"{number:032d}",
        )
        for number in range(count)
    ]  # fmt: skip
    started = time.process_time()
    parts = plan_parts(statuses, settings={}, shard_mb=256.0)
    total = len([part.to_json() for part in parts])
    seconds = time.process_time() - started
    records = [make_record(part) for part in parts]
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        loaded = [WrittenTracks.from_bytes(record) for record in records]
        finish_dataset(Folder(folder), loaded, name="n", au=(), image_size=SIZE, fps=25.0, recipe={})
    assert total == len(loaded)
    return (seconds + time.process_time() - started) / count


def make_record(part: Part) -> bytes:
    """Make the record of a part: a run and 200 faces for each item, 32 row groups of 8 MB."""
    rows = len(part.items) * FACES
    groups = tuple(
        RowGroup(offset=4 + 8 * n, length=8_000_000, rows=rows // 32 or 1, checksum="0" * 32) for n in range(32)
    )
    shard = Shard(part.name_shard(0), 256_000_000, rows, groups, labelled_frames=0, origin=part.key)
    columns = {
        "identity": [item.identity for item in part.items],
        "video": [item.video for item in part.items],
        "frames": [FACES] * len(part.items),
    }
    zeros = [0] * len(part.items)
    index = {name: columns.get(name, zeros) for name in (*INDEX_SCHEMA.names, *TIMING_SCHEMA.names)}
    schema = pa.schema([*INDEX_SCHEMA, *TIMING_SCHEMA])
    return WrittenTracks((shard,), pa.table(index, schema=schema), build_schema(())).to_bytes()


def simulate(cluster: Cluster, *, workers: int, items: int) -> Simulation:
    """Simulate the extraction and the merge of items of VoxCeleb2's lengths."""
    lengths = draw_lengths(items)
    item_mb = [faces * cluster.face_kb / 1000 for faces in lengths]
    store_mb_per_s = cluster.store_gb_per_s * 1000
    # A worker waits for the store where all of them together ask for more than it can give.
    extract = [faces / cluster.faces_per_s for faces in lengths]
    extraction_s = max(schedule(extract, workers), sum(item_mb) / store_mb_per_s)
    parts, current = [], 0.0
    for size in item_mb:
        current += size
        if current >= cluster.part_mb:
            parts.append(current)
            current = 0.0
    parts.append(current)
    busy = [size / cluster.write_mb_per_s + cluster.part_s for size in parts]
    merge_s = max(schedule(busy, workers), 2 * sum(item_mb) / store_mb_per_s)  # read once, written once
    merge_s += cluster.driver_s_per_item * items
    single_s = sum(item_mb) / cluster.write_mb_per_s
    more = 100 * merge_s / extraction_s
    return Simulation(workers, sum(item_mb) / 1000, extraction_s, merge_s, more, single_s)


def draw_lengths(items: int) -> list[int]:
    """Draw the numbers of faces of items: a mean of 200, and a long tail."""
    draw = random.Random(0)
    return [max(60, round(draw.lognormvariate(5.15, 0.55))) for _ in range(items)]


def schedule(durations: Sequence[float], workers: int) -> float:
    """Return when the last task ends, if each goes to the first worker that is free."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


if __name__ == "__main__":
    main()
