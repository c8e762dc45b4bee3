"""Features of every frame of a data set, computed once: Ray Data over row groups, kept as a Parquet file.

The file is named after what it depends on (the encoder's weights, the data's fingerprint, the crop), so that it is
never stale: another encoder is another file.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import simplejpeg
import torch
from torch import nn

from facscale.data import CorruptError, DataError, Dataset, augment
from facscale.progress import Progress
from facscale.spec.models import Augment

VERSION = 1  # of what a cached file holds and how it is computed; part of its name
SMALL = ("identity", "video", "frame")
PLACE = ("shard", "row_group", "row")
log = logging.getLogger("facscale.evaluate")


@dataclass(frozen=True)
class Embeddings:
    """One row a frame, in the data set's order; frames that cannot be read are missing."""

    features: np.ndarray  # [N, D] float32
    identity: np.ndarray  # [N] str
    video: np.ndarray  # [N] str
    frame: np.ndarray  # [N] int32, number in the source video
    au: np.ndarray  # [N, n] int8: 1, 0, or -1 for not labelled
    aus: tuple[int, ...]  # the n AU numbers

    def __len__(self) -> int:
        return len(self.features)


def embed(
    encoder: nn.Module, dataset_url: str, *, image_size: int, spec: Augment, cache_dir: str, workers: int = 1,
    batch_size: int = 256, cpus: float = 1.0, gpus: float = 0.0, max_bad: float = 0.001,
) -> Embeddings:  # fmt: skip
    """Features of all frames of a data set, from the cache where they are known.

    encoder: images [N, 3, S, S] in [0, 1] -> [N, D], with attribute `dim` (D); S = image_size, after the centre crop
    that `spec` implies; cache_dir: any fsspec URL; workers: Ray actors, each with `cpus` and `gpus`. Raises DataError if
    the data set cannot be read, or a larger share of its frames than `max_bad` is damaged (each is logged).
    """
    dataset = Dataset(dataset_url)
    store, folder = fsspec.core.url_to_fs(cache_dir)
    key = cache_key(
        encoder, fingerprint=dataset.manifest.fingerprint, crop={"crop": spec.crop, "image_size": image_size}
    )
    path = f"{folder}/{key}.parquet"
    if not store.exists(path):
        options = {"url": dataset_url, "image_size": image_size, "spec": spec, "batch_size": batch_size}
        options["device"] = "cuda" if gpus else "cpu"
        actors = {"compute": ray.data.ActorPoolStrategy(size=workers), "num_cpus": cpus, "num_gpus": gpus}
        tables = _computed(encoder, dataset, options=options, actors=actors)
        table = _checked(tables, dataset=dataset, max_bad=max_bad)
        store.makedirs(folder, exist_ok=True)
        with store.open(f"{path}.part", "wb") as file:
            pq.write_table(table, file)
        store.mv(f"{path}.part", path)
    with store.open(path, "rb") as file:
        return _embeddings(pq.read_table(file), aus=dataset.manifest.au)


def cache_key(encoder: nn.Module, *, fingerprint: str, crop: Mapping[str, Any]) -> str:
    """32 hexadecimal digits over the encoder's class, weights and buffers, the data and the crop."""
    facts = [VERSION, type(encoder).__qualname__, fingerprint, dict(crop)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in encoder.state_dict().items():
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class _Embedder:
    """A Ray actor that holds the encoder and turns row groups into rows of features."""

    def __init__(self, encoder: Any, *, url: str, image_size: int, spec: Augment, batch_size: int, device: str) -> None:
        """`encoder` is Ray's reference to it."""
        self.encoder = ray.get(encoder).to(device).eval()
        self.dataset = Dataset(url)
        self.image_size, self.batch_size, self.device = image_size, batch_size, device
        self.parameters = torch.from_numpy(augment.still(spec))

    def __call__(self, group: dict[str, np.ndarray]) -> pa.Table:
        """The readable frames of one row group, which arrays of length 1 name."""
        place = {"shard": int(group["shard"][0]), "row_group": int(group["row_group"][0])}
        labels = ["au"] if self.dataset.manifest.au else []
        try:
            table = self.dataset.read(**place, columns=["jpeg", *SMALL, *labels])
        except CorruptError as error:
            log.warning("left out: %s", error)
            return self._table(place, rows=[], features=np.empty((0, self.encoder.dim), np.float32), rest=None)
        pictures = [self._decoded(jpeg, where=(place, row)) for row, jpeg in enumerate(table["jpeg"].to_pylist())]
        rows = [row for row, picture in enumerate(pictures) if picture is not None]
        good = [picture for picture in pictures if picture is not None]
        features = [self._features(part) for part in _split(good, size=self.batch_size)]
        empty = np.empty((0, self.encoder.dim), np.float32)
        return self._table(place, rows=rows, features=np.concatenate([empty, *features]), rest=table.take(rows))

    def _decoded(self, jpeg: bytes, *, where: Any) -> np.ndarray | None:
        try:
            picture: np.ndarray = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
        except ValueError as error:
            log.warning("left out: frame %s of %s: %s", where, self.dataset.url, error)
            return None
        return picture

    @torch.no_grad()
    def _features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """B times [H, W, 3] uint8 -> [B, D] float32."""
        pixels = torch.from_numpy(np.stack(pictures)).to(self.device)
        parameters = self.parameters.to(self.device).expand(len(pixels), -1)
        faces = augment.apply(pixels, parameters, size=self.image_size)
        features: np.ndarray = self.encoder(faces).float().cpu().numpy()
        return features

    def _table(
        self, place: Mapping[str, int], *, rows: Sequence[int], features: np.ndarray, rest: pa.Table | None
    ) -> pa.Table:
        columns: dict[str, Any] = {name: np.full(len(rows), value, np.int32) for name, value in place.items()}
        columns["row"] = np.array(rows, np.int32)
        columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        kinds = {"identity": pa.string(), "video": pa.string(), "frame": pa.int32()}
        kinds |= {"au": pa.list_(pa.int8(), len(self.dataset.manifest.au))} if self.dataset.manifest.au else {}
        for name, kind in kinds.items():
            columns[name] = pa.array([], kind) if rest is None else rest[name].cast(kind)
        return pa.table(columns)


def _computed(
    encoder: nn.Module, dataset: Dataset, *, options: Mapping[str, Any], actors: Mapping[str, Any]
) -> Iterator[pa.Table]:
    """Tables of rows, in whatever order the actors finish."""
    shards = dataset.manifest.shards
    places = [
        {"shard": number, "row_group": group}
        for number, shard in enumerate(shards)
        for group in range(len(shard.row_groups))
    ]
    groups = ray.data.from_items(places, override_num_blocks=len(places))
    groups.context.enable_progress_bars = False  # ours counts frames
    held = ray.put(copy.deepcopy(encoder).cpu())  # alive until the last table: actors that restart ask for it again
    work = groups.map_batches(
        _Embedder, batch_size=1, fn_constructor_args=(held,), fn_constructor_kwargs=dict(options), **actors
    )
    title, total = f"embedding {dataset.manifest.name}", dataset.manifest.counts["frames"]
    with Progress(title, total=total, unit="frames") as bar:
        for table in work.iter_batches(batch_size=None, batch_format="pyarrow"):
            bar.advance(len(table))
            yield table


def _checked(tables: Iterator[pa.Table], *, dataset: Dataset, max_bad: float) -> pa.Table:
    """All rows in the data set's order. Raises DataError if too many are missing."""
    found = [table for table in tables if len(table)]
    total, good = dataset.manifest.counts["frames"], sum(map(len, found))
    if total - good > max_bad * total or not good:
        raise DataError(
            f"{dataset.url}: {total - good} of {total} frames cannot be read, more than data.max_bad ({max_bad:g}) allows; "
            "the log names them; make the data set again"
        )
    return pa.concat_tables(found).sort_by([(name, "ascending") for name in PLACE])


def _embeddings(table: pa.Table, *, aus: Sequence[int]) -> Embeddings:
    def matrix(name: str, width: int) -> np.ndarray:
        values: np.ndarray = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(table), width)

    return Embeddings(
        features=matrix("features", table.schema.field("features").type.list_size),
        **{name: table[name].to_numpy() for name in SMALL},
        au=matrix("au", len(aus)) if aus else np.empty((len(table), 0), np.int8),
        aus=tuple(aus),
    )


def _split(rows: Sequence[np.ndarray], *, size: int) -> Iterator[Sequence[np.ndarray]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
