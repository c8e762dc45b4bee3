"""CLP's sampling from an S3 server at several latencies: what reading single frames costs and saves.

    python tests/benchmarks/stream_s3.py [--latencies 0 50] [--frames 2000] [--threads 1] [--out FILE]

The server (SeaweedFS), a proxy that adds the latency to each request, and the stream share this machine. All variants read
the same data set; each has its own first pass, without a cache. "of bare" divides frames a second by those of bare decoding in
the same number of threads, measured directly before and after: by the clock, and by the processor time of the stream's process
alone, without the server and the proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import statistics
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent), str(HERE)]

import pyarrow as pa  # noqa: E402
import simplejpeg  # noqa: E402
import stream as local  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402

from facscale.data import Dataset, Stream, frame_table, group_bytes  # noqa: E402
from facscale.spec import models  # noqa: E402
from s3 import S3Server, free_ports  # noqa: E402

VARIANTS = {
    "row groups": None,
    "each frame alone": 0.0,
    f"ranges ({frame_table.OVERREAD:g})": frame_table.OVERREAD,
    "gaps within clips": 0.8,
}
COLUMNS = {
    "latency, ms": 0,
    "what is requested": None,
    "of bare": 2,
    "of bare, processor time": 2,
    "bytes read for each used": 2,
    "requests a clip": 1,
}


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delay_s: float) -> None:
    """Pass bytes on, each `delay_s` after it came."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while True:
            due, data = await queue.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    sender = asyncio.create_task(send())
    try:
        while data := await reader.read(1 << 18):
            queue.put_nowait((loop.time() + delay_s, data))
    except ConnectionError:
        pass
    queue.put_nowait((loop.time() + delay_s, b""))
    await asyncio.gather(sender, return_exceptions=True)


def serve(port: int, target: int, delay_s: float) -> None:
    """Run the proxy: requests are delayed, answers are not."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(forward(reader, there_writer, delay_s=delay_s), forward(there_reader, writer, delay_s=0.0))

    async def run() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(run())


def without_tables(dataset: Dataset) -> Dataset:
    """The data set as if an earlier release had written it."""
    shards = [
        dataclasses.replace(
            shard, row_groups=tuple(dataclasses.replace(group, frame_table="") for group in shard.row_groups)
        )
        for shard in dataset.manifest.shards
    ]
    dataset.manifest = dataclasses.replace(dataset.manifest, shards=tuple(shards))
    return dataset


def measure(url: str, overread: float | None, *, threads: int, frames: int, scratch: Path) -> tuple[local.Pace, Stream]:
    """Stream CLP's clips of a data set without a cache; `overread` None: by whole row groups."""
    dataset = Dataset(url) if overread is not None else without_tables(Dataset(url))
    if overread is not None:
        group_bytes.OVERREAD = overread
    spec = models.Data(epoch=local.CLP_EPOCH, threads=threads, cache=str(scratch / "cache"), cache_gb=1e-9)
    stream = Stream([dataset], local.CLIP, spec=spec, batch_size=16, seed=0)
    return local.streamed(stream, frames=frames), stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.0, 50.0], help="milliseconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=1)
    add_out_option(parser)
    options = parser.parse_args()
    with ResultWriter(options.out, title="CLP's clips from S3", columns=COLUMNS, threads=options.threads) as table:
        compare(options, table)


def compare(options: argparse.Namespace, table: ResultWriter) -> None:
    """Read by each variant at each latency."""
    print(f"{os.cpu_count()} cores, {options.threads} decoding threads; pyarrow {pa.__version__}, simplejpeg "
          f"{simplejpeg.__version__}, Python {sys.version.split()[0]}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, S3Server(Path(folder) / "s3") as server:
        os.environ |= server.environment
        url = f"{server.make_bucket('faces')}/set"
        jpegs = local.make_frames(url, frames=6_000).read_columns(["jpeg"])["jpeg"].to_pylist()
        for latency in options.latencies:
            (port,) = free_ports(1)
            target = urlsplit(server.environment["AWS_ENDPOINT_URL"]).port
            proxy = get_context("spawn").Process(target=serve, args=(port, target, latency / 1000), daemon=True)
            proxy.start()
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
            for name, overread in VARIANTS.items():
                clocks, processors = [], []
                for _ in range(options.rounds):
                    before = local.bare(jpegs, threads=options.threads, frames=1_000)
                    pace, stream = measure(
                        url, overread, threads=options.threads, frames=options.frames, scratch=Path(folder)
                    )
                    after = local.bare(jpegs, threads=options.threads, frames=1_000)
                    clocks.append(pace.clock / ((before.clock + after.clock) / 2))
                    processors.append(pace.processor / ((before.processor + after.processor) / 2))
                counts = stream.traffic
                clock, processor = statistics.median(clocks), statistics.median(processors)
                share, requests = (
                    counts.read_bytes / counts.used_bytes,
                    counts.requests / (counts.used_bytes / 12_500 / 11),
                )
                print(
                    f"{latency:4.0f} ms, {name:<18} {clock:5.2f} of bare by the clock, {processor:5.2f} by processor time, "
                    f"{share:5.2f} bytes read for each one used, {requests:4.1f} requests a clip",
                    flush=True,
                )
                table.add(latency, name, clock, processor, share, requests)
            proxy.terminate()
            proxy.join()


if __name__ == "__main__":
    main()
