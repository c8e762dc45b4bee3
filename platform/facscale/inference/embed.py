"""Features of every frame of a data set, computed once: Ray Data over row groups, kept as a Parquet file.

The file is named after what it depends on (the encoder's weights, the data's fingerprint, the crop), so that it is
never stale: another encoder is another file.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from torch import Tensor, nn

from facscale.data import CorruptError, DataError, Dataset, augment, pixels
from facscale.data.rows import as_numpy
from facscale.data.views import Batch, Faces, Frames, View
from facscale.progress import Progress
from facscale.spec.models import Augment

VERSION = 2  # of what a cached file holds and how it is computed; part of its name
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

    def chosen(self, rows: np.ndarray) -> Embeddings:
        """Some of the frames, by their numbers."""
        return Embeddings(
            self.features[rows], self.identity[rows], self.video[rows], self.frame[rows], self.au[rows], self.aus
        )


class Embeds(nn.Module):
    """What gives each frame of a data set `dim` features: from a batch with `views` of it, to [B, dim]."""

    dim: int
    views: Mapping[str, View]  # of a sample that starts at the frame


class OfFace(Embeds):
    """An encoder of images [N, 3, S, S] in [0, 1] -> [N, dim], asked about each frame alone."""

    def __init__(self, encoder: Any) -> None:
        """`encoder`: a module with the attribute `dim`."""
        super().__init__()
        self.encoder, self.dim = encoder, encoder.dim
        self.views = {"face": Frames(source="labelled")}

    def forward(self, batch: Batch) -> Tensor:
        """[B, dim]."""
        features: Tensor = self.encoder(batch.face.images[:, 0, 0])
        return features


def embed(
    model: Embeds, dataset_url: str, *, image_size: int, spec: Augment, cache_dir: str, workers: int = 1,
    batch_size: int = 256, cpus: float = 1.0, gpus: float = 0.0, max_bad: float = 0.001,
    subjects: Collection[str] | None = None,
) -> Embeddings:  # fmt: skip
    """Features of all frames of a data set (of `subjects` alone, if some are named), from the cache where they are known.

    model: gives D features to each frame (`OfFace` makes one of an encoder); image_size: side of its images, after the
    centre crop that `spec` implies; cache_dir: any fsspec URL; workers: Ray actors, each with `cpus` and `gpus`. Raises
    DataError if the data set cannot be read, or a larger share of its frames than `max_bad` is damaged (each is logged).
    """
    dataset = Dataset(dataset_url)
    store, folder = fsspec.core.url_to_fs(cache_dir)
    about: dict[str, Any] = {"crop": spec.crop, "image_size": image_size}
    if subjects is not None:
        about["subjects"] = sorted(subjects)
    key = cache_key(model, fingerprint=dataset.manifest.fingerprint, about=about)
    path = f"{folder}/{key}.parquet"
    if not store.exists(path):
        options = {"url": dataset_url, "image_size": image_size, "spec": spec, "batch_size": batch_size}
        options |= {"device": "cuda" if gpus else "cpu", "subjects": subjects}
        needs = {"num_cpus": cpus, "num_gpus": gpus}
        wanted = _wanted(dataset, subjects=subjects)
        tables = _computed(model, dataset, runs=wanted, options=options, workers=workers, needs=needs)
        table = _checked(tables, dataset=dataset, total=int(dataset.runs.frames[wanted].sum()), max_bad=max_bad)
        store.makedirs(folder, exist_ok=True)
        with store.open(f"{path}.part", "wb") as file:
            pq.write_table(table, file)
        store.mv(f"{path}.part", path)
    with store.open(path, "rb") as file:
        return _embeddings(pq.read_table(file), aus=dataset.manifest.au)


def cache_key(model: Embeds, *, fingerprint: str, about: Mapping[str, Any]) -> str:
    """32 hexadecimal digits over the model's class, views, weights and buffers, the data and what else is `about` it."""
    views = {name: repr(view) for name, view in model.views.items()}
    facts = [VERSION, type(model).__qualname__, views, fingerprint, dict(about)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in model.state_dict().items():
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class _Embedder:
    """A Ray actor that holds the model and turns row groups into rows of features."""

    def __init__(
        self, model: Any, *, url: str, image_size: int, spec: Augment, batch_size: int, device: str,
        subjects: Collection[str] | None,
    ) -> None:  # fmt: skip
        """`model` is Ray's reference to it."""
        self.subjects = subjects
        self.model = ray.get(model).to(device).eval()
        self.dataset = Dataset(url)
        self.prepare, self.batch_size, self.device = augment.Augmenter(size=image_size), batch_size, device
        self.parameters = torch.from_numpy(augment.still(spec))

    def __call__(self, group: dict[str, np.ndarray]) -> pa.Table:
        """The readable frames of one row group, which arrays of length 1 name."""
        place = {"shard": int(group["shard"][0]), "row_group": int(group["row_group"][0])}
        labels = ["au"] if self.dataset.manifest.au else []
        wanted = {name for view in self.model.views.values() for name in view.columns}
        empty = np.empty((0, self.model.dim), np.float32)
        try:
            table = self.dataset.read(**place, columns=sorted({"jpeg", *SMALL, *labels, *wanted}))
        except CorruptError as error:
            log.warning("left out: %s", error)
            return self._table(place, rows=np.empty(0, int), features=empty, rest=None)
        rows = np.arange(len(table))
        if self.subjects is not None:
            rows = np.flatnonzero(np.isin(table["identity"].to_pylist(), list(self.subjects)))
        chosen = {name: self._chosen(view, **place) for name, view in self.model.views.items()}
        needed = {int(row) for numbers in chosen.values() for row in numbers[rows].ravel()}
        pictures = {row: self._decoded(table["jpeg"][row].as_py(), where=(place, row)) for row in sorted(needed)}
        readable = [row for row, picture in pictures.items() if picture is not None]
        rows = rows[np.all([np.isin(numbers[rows], readable).all(axis=1) for numbers in chosen.values()], axis=0)]
        columns = {name: as_numpy(table[name]) for name in wanted}
        features = [
            self._features({name: numbers[part] for name, numbers in chosen.items()}, pictures, columns)
            for part in np.split(rows, range(self.batch_size, len(rows), self.batch_size))
            if len(part)
        ]
        return self._table(place, rows=rows, features=np.concatenate([empty, *features]), rest=table.take(rows))

    def _chosen(self, view: View, *, shard: int, row_group: int) -> np.ndarray:
        """The rows of this row group [rows, F] that the view of each row wants, within its own run."""
        runs = self.dataset.runs
        return np.stack(
            [
                runs.start[run] + view.choose(frame, int(runs.frames[run]), np.random.default_rng(0))
                for run in np.flatnonzero((runs.shard == shard) & (runs.row_group == row_group))
                for frame in range(int(runs.frames[run]))
            ]
        )

    def _decoded(self, jpeg: bytes, *, where: Any) -> np.ndarray | None:
        try:
            picture: np.ndarray = pixels.jpeg(jpeg)
        except ValueError as error:
            log.warning("left out: frame %s of %s: %s", where, self.dataset.url, error)
            return None
        return picture

    @torch.no_grad()
    def _features(
        self, chosen: Mapping[str, np.ndarray], pictures: Mapping[int, Any], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Of samples whose views show the given rows [B, F]: [B, D] float32."""
        batch = Batch()
        for name, rows in chosen.items():
            images = np.stack([np.stack([pictures[row] for row in sample.tolist()]) for sample in rows])
            batch[name] = Faces(
                images=torch.from_numpy(images),
                identity=torch.zeros(len(rows), dtype=torch.int64),
                augmentation=self.parameters.expand(*rows.shape, 1, -1),
                columns={column: torch.from_numpy(columns[column][rows]) for column in self.model.views[name].columns},
            )
        features: np.ndarray = self.model(self.prepare(batch.to(torch.device(self.device)))).float().cpu().numpy()
        return features

    def _table(
        self, place: Mapping[str, int], *, rows: np.ndarray, features: np.ndarray, rest: pa.Table | None
    ) -> pa.Table:
        columns: dict[str, Any] = {name: np.full(len(rows), value, np.int32) for name, value in place.items()}
        columns["row"] = rows.astype(np.int32)
        columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        kinds = {"identity": pa.string(), "video": pa.string(), "frame": pa.int32()}
        kinds |= {"au": pa.list_(pa.int8(), len(self.dataset.manifest.au))} if self.dataset.manifest.au else {}
        for name, kind in kinds.items():
            columns[name] = pa.array([], kind) if rest is None else rest[name].cast(kind)
        return pa.table(columns)


def _wanted(dataset: Dataset, *, subjects: Collection[str] | None) -> np.ndarray:
    """The numbers of the runs that show one of them."""
    runs = dataset.runs
    if subjects is None:
        return np.arange(len(runs))
    return np.flatnonzero(runs.of(subjects))


def _computed(
    model: Embeds, dataset: Dataset, *, runs: np.ndarray, options: Mapping[str, Any], workers: int,
    needs: Mapping[str, float],
) -> Iterator[pa.Table]:  # fmt: skip
    """Tables of rows of the row groups that hold `runs`, in whatever order the actors finish."""
    found = np.unique(np.stack([dataset.runs.shard[runs], dataset.runs.row_group[runs]], axis=1), axis=0)
    places = [{"shard": int(shard), "row_group": int(group)} for shard, group in found]
    groups = ray.data.from_items(places, override_num_blocks=len(places))
    groups.context.enable_progress_bars = False  # ours counts frames
    held = ray.put(copy.deepcopy(model).cpu())  # alive until the last table: actors that restart ask for it again
    actors = ray.data.ActorPoolStrategy(size=min(workers, len(places)))  # one more would have nothing to do
    work = groups.map_batches(
        _Embedder,
        batch_size=1,
        fn_constructor_args=(held,),
        fn_constructor_kwargs=dict(options),
        compute=actors,
        **needs,
    )
    total = int(dataset.runs.frames[runs].sum())
    with Progress(f"embedding {dataset.manifest.name}", total=total, unit="frames") as bar:
        for table in work.iter_batches(batch_size=None, batch_format="pyarrow"):
            bar.advance(len(table))
            yield table


def _checked(tables: Iterator[pa.Table], *, dataset: Dataset, total: int, max_bad: float) -> pa.Table:
    """All rows in the data set's order. Raises DataError if too many of `total` are missing."""
    found = [table for table in tables if len(table)]
    good = sum(map(len, found))
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
