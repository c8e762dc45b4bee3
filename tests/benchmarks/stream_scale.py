"""How a worker starts on 1, 10 and 100 million frames, and what its node's cache finds again.

    python tests/benchmarks/stream_scale.py [--millions 1 10 100] [--only scale] [--out FILE]

`scale`: the manifest and the index of a data set without shards are written to disk: tracks of 100 frames, in row groups of 640
frames and shards of 32 row groups. A new process opens it, plans the first batches of single frames, or of CLP's clips, and
reports the seconds of processor time and its memory.
`cache`: the share of the samples that each node finds in its cache from the second epoch on, by simulation.
`--out` needs `--only`: a file has one table.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402

from facscale.data import Dataset, order  # noqa: E402
from facscale.data.manifest import INDEX, MANIFEST, Manifest, RowGroup, Runs, Shard, compute_checksum  # noqa: E402
from facscale.data.views import FrameSequence, RandomFrames  # noqa: E402
from facscale.data.writer import INDEX_SCHEMA  # noqa: E402
from facscale.spec import models  # noqa: E402

ROWS, GROUPS, TRACK = 640, 32, 100  # frames of a row group, row groups of a shard, frames of a track
COLUMNS: dict[str, dict[str, int | None]] = {  # of the result file of each part
    "scale": {
        "frames, M": 0,
        "epoch": None,
        "start, s": 2,
        "start, processor time, s": 2,
        "plan a batch, ms": 1,
        "memory at most, MB": 0,
        "imports alone, MB": 0,
    },
    "cache": {"nodes": 0, "room on each, %": 2, "found, %": 0, "if the least recently used were replaced, %": 0},
}
SAMPLINGS = {
    "single frames": ({"samples_per": "frame"}, {"face": RandomFrames(count=1)}),
    "CLP": (
        {"samples_per": "identity", "count": 8},
        {"clip": FrameSequence(length=9, stride=2), "faces": RandomFrames(count=2)},
    ),
}


def write_description(folder: Path, *, frames: int) -> None:
    """Write a manifest and an index as of a data set of `frames` frames; people have 20 videos of a track each."""
    groups = frames // ROWS
    first = np.arange(groups) * ROWS
    edges = np.unique(np.concatenate([first, np.arange(0, groups * ROWS, TRACK), [groups * ROWS]]))
    starts, lengths = edges[:-1], np.diff(edges)
    group, track = starts // ROWS, starts // TRACK
    columns = {
        "shard": group // GROUPS, "row_group": group % GROUPS, "start": starts % ROWS, "frames": lengths,
        "identity": pa.array(np.char.add("id", np.char.zfill((track // 20).astype(str), 7))),
        "video": pa.array(np.char.add("v", np.char.zfill((track % 20).astype(str), 2))),
        "track": np.zeros(len(starts), int), "first_frame": starts % TRACK,
    }  # fmt: skip
    (folder / INDEX).parent.mkdir(parents=True)
    pq.write_table(pa.table(columns).cast(INDEX_SCHEMA), folder / INDEX, compression="zstd")
    length = 8_000_000
    row_groups = [
        RowGroup(
            offset=4 + n * (length + 16 * ROWS), length=length, rows=ROWS, checksum=f"{n:032x}", frame_table=f"{n:032x}"
        )
        for n in range(GROUPS)
    ]
    shards = [
        Shard(
            file=f"shard-{number:05d}.parquet", bytes=GROUPS * (length + 16 * ROWS) + 100_000,
            rows=ROWS * min(GROUPS, groups - number * GROUPS), row_groups=tuple(row_groups[: groups - number * GROUPS]),
        )
        for number in range(-(-groups // GROUPS))
    ]  # fmt: skip
    counts = {"identities": int(track[-1]) // 20 + 1, "videos": int(track[-1]) + 1, "tracks": int(track[-1]) + 1}
    manifest = Manifest(
        name="scale", au=(), image_size=256, fps=25.0, recipe={}, counts={**counts, "frames": groups * ROWS, "labelled_frames": 0},
        shards=tuple(shards), fingerprint="", index_checksum=compute_checksum((folder / INDEX).read_bytes()),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.to_json())


def plan(folder: str, sampling: str, *, world: int = 8) -> None:
    """In a process of its own: open the data set, plan 100 batches of a worker, and print the cost as JSON."""
    from facscale.data.stream import Stream

    base = read_peak_mb()
    began, used = time.perf_counter(), time.process_time()
    epoch, views = SAMPLINGS[sampling]
    index = open_index(folder, epoch, views, world=world, kind=Stream)
    epoch_order = index.order_epoch(0)
    opened, opened_used = time.perf_counter() - began, time.process_time() - used
    for first in range(0, 100 * 256, 256):
        positions = order.worker_positions(start=first, stop=first + 256, rank=0, world=world)
        epoch_order.take(positions % len(epoch_order))
    print(
        json.dumps(
            {
                "start": opened,
                "start_cpu": opened_used,
                "batch_ms": 10 * (time.process_time() - used - opened_used),
                "peak_mb": read_peak_mb(),
                "base_mb": base,
            }
        )
    )


def read_peak_mb() -> float:
    """Return the largest resident memory of this process so far; getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000


def open_index(folder: str, epoch: dict, views: dict, *, world: int, kind: type) -> object:
    """Open a stream on a description without shards; the schema, which is in a footer, is that of every data set."""
    from facscale.data.writer import BASE_SCHEMA

    dataset = Dataset(folder)
    dataset._schema = BASE_SCHEMA
    spec = models.Data(epoch=epoch)
    return kind([dataset], views, spec=spec, batch_size=256, seed=0, world=world)


def scale(options: argparse.Namespace, table: ResultWriter) -> None:
    print("frames      sampling        start: clock, processor   plan a batch   memory at most (before: imports alone)")
    for millions in options.millions:
        with tempfile.TemporaryDirectory() as folder:
            write_description(Path(folder), frames=int(millions * 1e6))
            for sampling in SAMPLINGS:
                command = [sys.executable, __file__, "--plan", folder, sampling]
                result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                print(
                    f"{millions:4.0f} M      {sampling:<16}{result['start']:6.2f} s {result['start_cpu']:8.2f} s "
                    f"{result['batch_ms']:12.1f} ms {result['peak_mb']:12.0f} MB ({result['base_mb']:.0f})",
                    flush=True,
                )
                table.add(
                    millions,
                    sampling,
                    *(result[key] for key in ("start", "start_cpu", "batch_ms", "peak_mb", "base_mb")),
                )


def cache(options: argparse.Namespace, table: ResultWriter) -> None:
    """One node that holds 58 % of the data, 8 nodes that hold 12.5 % each; CLP's sampling of 500 people."""
    frames = 500 * 20 * TRACK
    with tempfile.TemporaryDirectory() as folder:
        write_description(Path(folder), frames=frames)
        runs: Runs = Dataset(folder).runs
    population = order.select_runs([runs], extent=17)
    deal = order.Deal(population, streams=64)
    for world, share in ((1, 0.58), (8, 0.125), (8, 0.0725)):
        room = round(share * population.groups)
        kept, recent = [set() for _ in range(world)], [{} for _ in range(world)]
        found = least_recent = read = 0
        for epoch in range(8):
            samples = order.EpochOrder(deal, samples_per="identity", count=8, seed=0, epoch=epoch, block=4)
            groups = population.group[samples.take(np.arange(len(samples))).member]
            for rank in range(world):
                own = groups[(epoch * len(samples) + np.arange(len(samples))) % world == rank]
                for group in dict.fromkeys(own.tolist()):
                    if epoch == 7:
                        read, found, least_recent = (
                            read + 1,
                            found + (group in kept[rank]),
                            least_recent + (group in recent[rank]),
                        )
                    if len(kept[rank]) < room and deal.is_own(group, rank=rank, world=world):
                        kept[rank].add(group)
                    recent[rank].pop(group, None)
                    recent[rank][group] = None
                    if len(recent[rank]) > room:
                        recent[rank].pop(next(iter(recent[rank])))
        print(
            f"{world} nodes, each with room for {share:.1%} of the row groups: {found / read:.0%} are found in the eighth epoch "
            f"(the least recently used replaced: {least_recent / read:.0%})"
        )
        table.add(world, 100 * share, 100 * found / read, 100 * least_recent / read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 10, 100])
    parser.add_argument("--only", choices=["scale", "cache"])
    parser.add_argument("--plan", nargs=2, help=argparse.SUPPRESS)
    add_out_option(parser)
    options = parser.parse_args()
    if options.out and not options.only:
        parser.error("--out needs --only: a file has one table")
    if options.plan:
        plan(*options.plan)
        return
    for part in (scale, cache):
        if options.only in (None, part.__name__):
            title = {"scale": "The start of a worker", "cache": "Row groups that a node finds in its cache"}[
                part.__name__
            ]
            with ResultWriter(options.out, title=title, columns=COLUMNS[part.__name__]) as table:
                part(options, table)


if __name__ == "__main__":
    main()
