"""One measurement of another loader on the frames of `stream.py`; prints frames a second after its first batch.

    python stream_rivals.py {ray,mosaic} FOLDER THREADS FRAMES BATCH

What a loader has prepared by the time of its first batch counts for it, not against it.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

SIDE = 256


def rate(batches: Iterable[Any], *, frames: int, batch: int) -> float:
    """Frames a second, from the second batch on."""
    iterator = iter(batches)
    next(iterator)
    begun, count = time.perf_counter(), 0
    for _ in itertools.islice(iterator, frames // batch):
        count += batch
    assert count >= frames - batch, f"only {count} frames came"
    return count / (time.perf_counter() - begun)


def decode_all(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A block of JPEGs to [n, 256, 256, 3]."""
    images = np.empty((len(rows["jpeg"]), SIDE, SIDE, 3), np.uint8)
    for place, jpeg in enumerate(rows["jpeg"]):
        simplejpeg.decode_jpeg(jpeg, buffer=images[place])
    return {"images": images}


def ray_data(folder: Path, *, threads: int, frames: int, batch: int) -> float:
    """Parquet, decoding in `map_batches`, `iter_torch_batches`; `threads` cores."""
    import ray

    ray.init(address="local", num_cpus=threads, log_to_driver=False, include_dashboard=False, logging_level="error")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    shards = sorted(map(str, folder.glob("shard-*.parquet")))
    passes = -(-frames // 6_000) + 1
    data = ray.data.read_parquet(shards * passes, columns=["jpeg"]).map_batches(decode_all, batch_size=batch)
    return rate(data.iter_torch_batches(batch_size=batch, prefetch_batches=4), frames=frames, batch=batch)


def mosaic(folder: Path, *, threads: int, frames: int, batch: int) -> float:
    """MDS shards of the same JPEGs, decoding in `threads` DataLoader workers."""
    import pyarrow.parquet as pq
    import torch
    from streaming import MDSWriter, StreamingDataset

    class Faces(StreamingDataset):
        def __getitem__(self, at: int) -> torch.Tensor:
            return torch.from_numpy(simplejpeg.decode_jpeg(super().__getitem__(at)["jpeg"]))

    shards = folder.parent / "mds"
    if not shards.exists():
        with MDSWriter(out=str(shards), columns={"jpeg": "bytes"}) as writer:
            for shard in sorted(folder.glob("shard-*.parquet")):
                for jpeg in pq.read_table(shard, columns=["jpeg"])["jpeg"].to_pylist():
                    writer.write({"jpeg": jpeg})
    data = Faces(local=str(shards), shuffle=True, batch_size=batch)
    loader = torch.utils.data.DataLoader(data, batch_size=batch, num_workers=threads, persistent_workers=True)
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    return rate((images for images in epochs if len(images) == batch), frames=frames, batch=batch)


def main() -> None:
    name, folder, threads, frames, batch = sys.argv[1:]
    measure = {"ray": ray_data, "mosaic": mosaic}[name]
    print(measure(Path(folder), threads=int(threads), frames=int(frames), batch=int(batch)))


if __name__ == "__main__":
    main()
