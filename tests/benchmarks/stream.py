"""How fast the stream feeds a training step, beside bare decoding and beside Ray Data and MosaicML Streaming.

    python tests/benchmarks/stream.py [--threads 2] [--rounds 5] [--mosaic-python PYTHON] [--only memory] [--out FILE]

All read the same JPEGs (256 px, quality 92, 12.5 kB) from local disk and end in uint8 batch tensors [B, 256, 256, 3].
Bare decoding is libjpeg-turbo by the same number of threads, from memory into one batch of memory each. It is measured
before and after each of the others, which are compared with the mean of the two, so that whatever else the machine does falls
on both alike; the median of the rounds is printed. On a busy machine the second ratio says more: frames per second of
processor time, all threads together. MosaicML Streaming may live in another Python (it wants other versions of torch
and numpy). `--out` needs `--only`: a file has one table.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent)]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import simplejpeg  # noqa: E402
import torch  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402

from faces import make_track, write_tracks  # noqa: E402
from facscale.data import Dataset, Stream  # noqa: E402
from facscale.data.augment import Augmenter  # noqa: E402
from facscale.data.errors import DatasetNotFoundError  # noqa: E402
from facscale.data.views import FrameSequence, RandomFrames, View  # noqa: E402
from facscale.spec import models  # noqa: E402

SIDE, BATCH = 256, 128
HOUR = 25 * 3600  # frames of one hour of video
COLUMNS: dict[str, dict[str, int | None]] = {  # of the result file of each part
    "speed": {"loader": None, "frames/s": 0, "of bare": 2, "smallest": 2, "largest": 2, "of bare, processor time": 2},
    "traffic": {"samples": None, "bytes read for each used": 2, "requests a clip": 1, "frames/s": 0},
    "augmented": {"device": None, "frames/s": 0},
    "memory": {"frames": 0, "s": 1, "resident, MB": 0},
    "readers": {"samples": None, "data.reader": None, "training process, µs a frame": 1},
}
EVERY_FRAME = {"samples_per": "frame"}
FRAME: dict[str, View] = {"face": RandomFrames(count=1)}
CLIP: dict[str, View] = {"clip": FrameSequence(length=9, stride=2), "faces": RandomFrames(count=2)}  # what CLP asks for


# As jobs/clp.yaml samples: a clip of each of 8 videos of a person, who has 20 here, so that a row group of 8 MB with 6 tracks
# gives 2.5 clips. A canonical stream is a row group here: there are only ten.
CLP_EPOCH = {"samples_per": "identity", "count": 8}


def make_frames(folder: str, *, frames: int, side: int = SIDE) -> Dataset:
    """Write people with 20 videos of one track of 100 frames each, in row groups of about 640 frames."""
    with contextlib.suppress(DatasetNotFoundError):
        return Dataset(folder)
    keys = sorted(((track // 20, track % 20) for track in range(frames // 100)), key=lambda key: (key[0], str(key[1])))
    tracks = (make_track(*key, frames=range(100), size=side, quality=92) for key in keys)
    return write_tracks(folder, tracks, size=side, row_group_mb=8.0 if side == SIDE else 0.8, shard_mb=64.0)


def open_stream(
    dataset: Dataset,
    views: dict[str, View],
    *,
    threads: int,
    batch_size: int,
    epoch: Mapping[str, Any] = EVERY_FRAME,
    reader: str = "threads",
) -> Stream:
    spec = models.Data(epoch=dict(epoch), threads=threads, reader=reader)
    return Stream([dataset], views, spec=spec, batch_size=batch_size, seed=0)


@dataclass(frozen=True)
class Pace:
    """Frames a second by the clock, and a second of this process's processor time (nan: not known)."""

    clock: float
    processor: float


class Watch:
    """`with Watch() as watch:` takes both times; `watch.pace(frames)` divides by them."""

    def __enter__(self) -> Self:
        self._clock, self._processor = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self._clock, self._processor = time.perf_counter() - self._clock, time.process_time() - self._processor

    def pace(self, frames: int) -> Pace:
        return Pace(frames / self._clock, frames / self._processor)


def bare(jpegs: list[bytes], *, threads: int, frames: int) -> Pace:
    """Decoding alone."""
    mine = list(itertools.islice(itertools.cycle(jpegs), frames))
    places = np.zeros((threads, BATCH, SIDE, SIDE, 3), np.uint8)
    decode = simplejpeg.decode_jpeg

    def work(thread: int) -> None:
        for jpeg, place in zip(mine[thread::threads], itertools.cycle(places[thread]), strict=False):
            decode(jpeg, buffer=place)

    with ThreadPoolExecutor(threads) as pool, Watch() as watch:
        list(pool.map(work, range(threads)))
    return watch.pace(frames)


def streamed(stream: Stream, *, frames: int, then: Callable | None = None) -> Pace:
    """What reaches the consumer, after the first batches."""
    batches = stream.batches()
    # Take first what was prepared before the clock started: those decoded, those fetched, and their memory.
    for batch in itertools.islice(batches, 2 * stream.spec.prefetch + 4):
        per_batch = sum(faces.images.shape[0] * faces.images.shape[1] for faces in batch.values())
    count = -(-frames // per_batch)
    with Watch() as watch:
        for batch in itertools.islice(batches, count):
            if then is not None:
                then(batch)
    batches.close()
    return watch.pace(count * per_batch)


def rival(name: str, python: str, dataset: Dataset, *, threads: int, frames: int) -> Pace:
    """`stream_rivals.py NAME`, in a process of its own."""
    command = [python, str(HERE / "stream_rivals.py"), name, dataset.url, str(threads), str(frames), str(BATCH)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(f"{name} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return Pace(math.nan, math.nan)
    return Pace(float(done.stdout.strip().splitlines()[-1]), math.nan)


def speed(dataset: Dataset, options: argparse.Namespace, table: ResultWriter) -> None:
    """Print and write the table of ratios."""
    threads, frames = options.threads, options.frames
    contestants = {
        "stream, single frames": lambda: streamed(
            open_stream(dataset, FRAME, threads=threads, batch_size=BATCH), frames=frames
        ),
        "stream, all clips of 9 and 2": lambda: streamed(
            open_stream(dataset, CLIP, threads=threads, batch_size=16), frames=frames
        ),
        "stream, CLP's clips": lambda: streamed(
            open_stream(dataset, CLIP, threads=threads, batch_size=16, epoch=CLP_EPOCH), frames=frames
        ),
        "stream, CLP's clips, reader process": lambda: replace(
            streamed(
                open_stream(dataset, CLIP, threads=threads, batch_size=16, epoch=CLP_EPOCH, reader="process"),
                frames=frames,
            ),
            processor=math.nan,  # another process's
        ),
        "Ray Data": lambda: rival("ray", sys.executable, dataset, threads=threads, frames=frames),
        "MosaicML Streaming": lambda: rival("mosaic", options.mosaic_python, dataset, threads=threads, frames=frames),
    }
    if options.skip_rivals:
        contestants = {name: measure for name, measure in contestants.items() if name.startswith("stream")}
    jpegs = dataset.read_columns(["jpeg"])["jpeg"].to_pylist()
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contestants}
    before = bare(jpegs, threads=threads, frames=frames // 2)
    for number, (name, measure) in itertools.product(range(options.rounds), contestants.items()):
        found, after = measure(), bare(jpegs, threads=threads, frames=frames // 2)
        clock = found.clock / ((before.clock + after.clock) / 2)
        processor = found.processor / ((before.processor + after.processor) / 2)
        results[name].append((found.clock, clock, processor))
        print(
            f"round {number + 1}: {name:<26}{found.clock:6.0f} frames/s, bare {before.clock:.0f} and {after.clock:.0f}"
        )
        before = after
    print(
        f"\n{threads} threads, median of {options.rounds} rounds   frames/s   of bare: clock (min..max)  processor time"
    )
    for name, values in results.items():
        rates, clocks, processors = zip(*values, strict=True)
        spread = f"{statistics.median(clocks):5.2f} ({min(clocks):.2f}..{max(clocks):.2f})"
        print(f"{name:<36}{statistics.median(rates):6.0f}      {spread}        {statistics.median(processors):8.2f}")
        ratios = statistics.median(clocks), min(clocks), max(clocks), statistics.median(processors)
        table.add(name, statistics.median(rates), *ratios)


def traffic(dataset: Dataset, options: argparse.Namespace, table: ResultWriter) -> None:
    """Print the bytes that are read for each byte that is used, by CLP's sampling."""
    stream = open_stream(dataset, CLIP, threads=options.threads, batch_size=16, epoch=CLP_EPOCH)
    pace = streamed(stream, frames=options.frames // 4)
    counts = stream.traffic
    share, requests = counts.read_bytes / counts.used_bytes, counts.requests / (counts.used_bytes / 12_500 / 11)
    print(
        f"CLP's clips: {share:.2f} bytes read for each one used, {requests:.1f} requests a clip ({pace.clock:.0f} frames/s)"
    )
    table.add("CLP's clips", share, requests, pace.clock)


def augmented(dataset: Dataset, options: argparse.Namespace, table: ResultWriter) -> None:
    """Print how fast batches come out augmented, where a device does it (here: the best there is)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    augmenter = Augmenter(size=224)
    stream = open_stream(dataset, CLIP, threads=options.threads, batch_size=16)
    with_it = streamed(stream, frames=options.frames // 4, then=lambda batch: augmenter(batch.to(device)))
    print(f"stream and augmentation to 224 px on {device.type}: {with_it.clock:.0f} frames/s")
    table.add(device.type, with_it.clock)


def memory(dataset: Dataset, options: argparse.Namespace, table: ResultWriter) -> None:
    """Print the resident memory at the quarters of an hour of video."""
    process, quarter = psutil.Process(), HOUR // 4
    stream = open_stream(dataset, CLIP, threads=options.threads, batch_size=16)
    batches, seen, begun = stream.batches(), 0, time.perf_counter()
    for part in range(5):
        while seen < part * quarter or seen < quarter // 10:  # the first number after a warm-up
            seen += sum(faces.images.shape[0] * faces.images.shape[1] for faces in next(batches).values())
        resident = process.memory_info().rss / 1e6
        elapsed = time.perf_counter() - begun
        print(f"{seen:7d} frames, {elapsed:6.1f} s: {resident:7.0f} MB resident", flush=True)
        table.add(seen, elapsed, resident)
    batches.close()


def readers(dataset: Dataset, options: argparse.Namespace, table: ResultWriter) -> None:
    """Print what reading costs the training process, on images of 16 px, which need hardly any decoding."""
    samplings = {"single frames": (FRAME, EVERY_FRAME, BATCH), "CLP's clips": (CLIP, CLP_EPOCH, 64)}
    with tempfile.TemporaryDirectory() as folder:
        small = make_frames(f"{folder}/small", frames=6_000, side=16)
        for (name, (views, epoch, size)), reader in itertools.product(samplings.items(), ("threads", "process")):
            costs = []
            for _ in range(options.rounds):
                stream = open_stream(small, views, threads=options.threads, batch_size=size, epoch=epoch, reader=reader)
                costs.append(1e6 / streamed(stream, frames=5 * options.frames).processor)
            print(f"{name}, {reader}: {statistics.median(costs):.1f} us a frame in the training process", flush=True)
            table.add(name, reader, statistics.median(costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=8_000, help="frames of a measurement")
    parser.add_argument("--folder", type=Path, help="keep the test data here")
    parser.add_argument("--mosaic-python", default=sys.executable, help="a Python that has mosaicml-streaming")
    parser.add_argument("--skip-rivals", action="store_true")
    parser.add_argument("--only", choices=list(COLUMNS))
    add_out_option(parser)
    options = parser.parse_args()
    if options.out and not options.only:
        parser.error("--out needs --only: a file has one table")
    torch.set_num_threads(max(1, options.threads // 2))
    with tempfile.TemporaryDirectory() as scratch:
        dataset = make_frames(str((options.folder or Path(scratch)) / "faces"), frames=6_000)
        size = sum(shard.bytes for shard in dataset.manifest.shards) / dataset.manifest.counts["frames"] / 1000
        print(f"{dataset.manifest.counts['frames']} frames of {size:.1f} kB, {os.cpu_count()} cores")
        for part in (speed, traffic, augmented, memory, readers):
            if options.only in (None, part.__name__):
                columns = COLUMNS[part.__name__]
                title = f"The stream's {part.__name__}"
                with ResultWriter(options.out, title=title, columns=columns, threads=options.threads) as table:
                    part(dataset, options, table)


if __name__ == "__main__":
    main()
