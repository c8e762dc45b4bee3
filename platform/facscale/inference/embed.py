"""Features of every frame of a data set, computed once over its row groups and cached as a Parquet file.

Ray Data spreads the row groups over actors; a small data set is embedded in the process that asks.

The file's name is a hash of everything that it depends on (the encoder's weights, the data's fingerprint, the crop), so
that it is never stale.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from facscale.data import CorruptError, DataError, Dataset, augment, pixels
from facscale.data.errors import NoSpaceError
from facscale.data.parquet import read_parquet
from facscale.data.rows import to_numpy
from facscale.data.storage import open_fsspec
from facscale.data.views import View
from facscale.files import is_disk_full
from facscale.inference.models import FrameModel, stack_samples
from facscale.progress import Progress
from facscale.spec.models import Augment

LOCAL_FRAMES = 2000  # at most so many are embedded in this process: starting actors would take longer
VERSION = 2  # of the cached files' content and computation; part of their names
FRAME_COLUMNS = ("identity", "video", "frame")
ROW_KEY = ("shard", "row_group", "row")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embeddings:
    """Features and labels of frames, one row a frame in the data set's order; unreadable frames are missing."""

    features: np.ndarray  # [N, D] float32
    identity: np.ndarray  # [N] str
    video: np.ndarray  # [N] str
    frame: np.ndarray  # [N] int32, number in the source video
    au: np.ndarray  # [N, n] int8: 1, 0, or -1 for not labelled
    aus: tuple[int, ...]  # the n AU numbers

    def __len__(self) -> int:
        return len(self.features)

    def select(self, rows: np.ndarray) -> Embeddings:
        """Return the frames with these row numbers."""
        return Embeddings(
            self.features[rows], self.identity[rows], self.video[rows], self.frame[rows], self.au[rows], self.aus
        )


def embed_dataset(
    model: FrameModel,
    dataset_url: str,
    *,
    image_size: int,
    spec: Augment,
    cache_dir: str,
    workers: int = 1,
    batch_size: int = 256,
    cpus: float = 1.0,
    gpus: float = 0.0,
    max_bad: float = 0.001,
    subjects: Collection[str] | None = None,
) -> Embeddings:
    """Compute the features of all frames of a data set, or of some `subjects`, or read them from the cache.

    model: computes dim features of each frame (`FrameEncoder` makes one of an encoder); image_size: side of its images,
    after the centre crop that `spec` implies; cache_dir: any fsspec URL; workers: Ray actors, each with `cpus` and
    `gpus`, where Ray is joined; without it, or for few frames, this process computes. Raises DataError if the data set
    cannot be read, or if more than a share of `max_bad` of its frames is damaged (each is logged).
    """
    dataset = Dataset(dataset_url)
    storage, folder = open_fsspec(cache_dir)
    augment.check_margin(spec, margin=dataset.manifest.margin, url=dataset.url, is_trained_on=False)
    settings: dict[str, Any] = {"crop": spec.crop, "image_size": image_size}
    if spec.eval_crop:
        settings["eval_crop"] = spec.eval_crop
    if subjects is not None:
        settings["subjects"] = sorted(subjects)
    key = cache_key(model, fingerprint=dataset.manifest.fingerprint, settings=settings)
    path = f"{folder}/{key}.parquet"
    if not storage.exists(path):
        options = {"url": dataset_url, "image_size": image_size, "spec": spec, "batch_size": batch_size}
        options |= {"threads": max(1, int(cpus))}
        options |= {"device": "cuda" if gpus else "cpu", "subjects": subjects}
        resources = {"num_cpus": cpus, "num_gpus": gpus}
        runs = _select_runs(dataset, subjects=subjects)
        tables = _compute_tables(model, dataset, runs=runs, options=options, workers=workers, resources=resources)
        table = _concat_tables(tables, dataset=dataset, total=int(dataset.runs.frames[runs].sum()), max_bad=max_bad)
        try:
            storage.makedirs(folder, exist_ok=True)
            with storage.open(f"{path}.part", "wb") as file:
                pq.write_table(table, file)
            storage.mv(f"{path}.part", path)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise NoSpaceError(
                f"{cache_dir} has no room for the embeddings of {dataset_url} ({table.nbytes:,} bytes): free space there, "
                "then run this again"
            ) from None
    with storage.open(path, "rb") as file:
        return _from_table(read_parquet(file), aus=dataset.manifest.au)


def cache_key(model: FrameModel, *, fingerprint: str, settings: Mapping[str, Any]) -> str:
    """Hash the model's class, views, weights and buffers, the data's fingerprint and the settings: 32 hex digits."""
    views = {name: repr(view) for name, view in model.views.items()}
    facts = [VERSION, type(model).__qualname__, views, fingerprint, dict(settings)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in model.state_dict().items():
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class _Embedder:
    """Holds the model and computes the features of row groups; a Ray actor, or an object of this process."""

    def __init__(
        self,
        model: Any,
        *,
        url: str,
        image_size: int,
        spec: Augment,
        batch_size: int,
        device: str,
        subjects: Collection[str] | None,
        threads: int,
    ) -> None:
        """`model`: the model, or a reference to it in Ray's object store; `threads`: that decode images."""
        self.subjects, self.pool = subjects, ThreadPoolExecutor(threads)
        model = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self.model = model.to(device).eval()
        self.dataset = Dataset(url)
        self.prepare, self.batch_size, self.device = augment.Augmenter(size=image_size), batch_size, device
        self.parameters = torch.from_numpy(augment.eval_params(spec, margin=self.dataset.manifest.margin))

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Compute the features of the readable frames of one row group: `batch` has its key as arrays of length 1."""
        key = {"shard": int(batch["shard"][0]), "row_group": int(batch["row_group"][0])}
        labels = ["au"] if self.dataset.manifest.au else []
        view_columns = {name for view in self.model.views.values() for name in view.columns}
        no_features = np.empty((0, self.model.dim), np.float32)
        try:
            table = self.dataset.read(**key, columns=sorted({"jpeg", *FRAME_COLUMNS, *labels, *view_columns}))
        except CorruptError as error:
            log.warning("skipped: %s", error)
            return self._make_table(key, rows=np.empty(0, int), features=no_features, stored=None)
        rows = np.arange(len(table))
        if self.subjects is not None:
            rows = np.flatnonzero(np.isin(table["identity"].to_pylist(), list(self.subjects)))
        view_rows = {name: self._select_view_rows(view, **key) for name, view in self.model.views.items()}
        needed = {int(row) for numbers in view_rows.values() for row in numbers[rows].ravel()}
        jpegs = table["jpeg"]
        decoded = self.pool.map(lambda row: self._decode(jpegs[row].as_py(), key=key, row=row), sorted(needed))
        images = dict(zip(sorted(needed), decoded, strict=True))
        readable = [row for row, image in images.items() if image is not None]
        rows = rows[np.all([np.isin(numbers[rows], readable).all(axis=1) for numbers in view_rows.values()], axis=0)]
        columns = {name: to_numpy(table[name]) for name in view_columns}
        parts = [
            self._compute_features({name: numbers[part] for name, numbers in view_rows.items()}, images, columns)
            for part in np.split(rows, range(self.batch_size, len(rows), self.batch_size))
            if len(part)
        ]
        features = np.concatenate([no_features, *parts])
        return self._make_table(key, rows=rows, features=features, stored=table.take(rows))

    def _select_view_rows(self, view: View, *, shard: int, row_group: int) -> np.ndarray:
        """Return the rows of this row group [rows, F] that `view` selects for each row, within the row's own run."""
        runs = self.dataset.runs
        return np.stack(
            [
                runs.start[run] + view.choose(frame, int(runs.frames[run]), np.random.default_rng(0))
                for run in np.flatnonzero((runs.shard == shard) & (runs.row_group == row_group))
                for frame in range(int(runs.frames[run]))
            ]
        )

    def _decode(self, jpeg: bytes, *, key: Mapping[str, int], row: int) -> np.ndarray | None:
        try:
            image: np.ndarray = pixels.decode_jpeg(jpeg)
        except ValueError as error:
            log.warning("skipped: frame %s of %s: %s", (key, row), self.dataset.url, error)
            return None
        return image

    @torch.no_grad()
    def _compute_features(
        self, view_rows: Mapping[str, np.ndarray], images: Mapping[int, Any], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Compute features [B, D] float32 of samples whose views have the rows [B, F]."""
        batch = stack_samples(self.model.views, view_rows, images=images, columns=columns, parameters=self.parameters)
        features: np.ndarray = self.model(self.prepare(batch.to(torch.device(self.device)))).float().cpu().numpy()
        return features

    def _make_table(
        self, key: Mapping[str, int], *, rows: np.ndarray, features: np.ndarray, stored: pa.Table | None
    ) -> pa.Table:
        columns: dict[str, Any] = {name: np.full(len(rows), value, np.int32) for name, value in key.items()}
        columns["row"] = rows.astype(np.int32)
        columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        types = {"identity": pa.string(), "video": pa.string(), "frame": pa.int32()}
        types |= {"au": pa.list_(pa.int8(), len(self.dataset.manifest.au))} if self.dataset.manifest.au else {}
        for name, type_ in types.items():
            columns[name] = pa.array([], type_) if stored is None else stored[name].cast(type_)
        return pa.table(columns)


def _select_runs(dataset: Dataset, *, subjects: Collection[str] | None) -> np.ndarray:
    """Return the numbers of the runs that show one of `subjects`, or of all runs."""
    runs = dataset.runs
    if subjects is None:
        return np.arange(len(runs))
    return np.flatnonzero(runs.mask_subjects(subjects))


def _compute_tables(
    model: FrameModel,
    dataset: Dataset,
    *,
    runs: np.ndarray,
    options: Mapping[str, Any],
    workers: int,
    resources: Mapping[str, float],
) -> Iterator[pa.Table]:
    """Yield tables for the row groups that contain `runs`, in the order in which they are computed."""
    keys = np.unique(np.stack([dataset.runs.shard[runs], dataset.runs.row_group[runs]], axis=1), axis=0)
    items = [{"shard": int(shard), "row_group": int(row_group)} for shard, row_group in keys]
    total = int(dataset.runs.frames[runs].sum())
    is_local = not ray.is_initialized() or (total <= LOCAL_FRAMES and not resources["num_gpus"])
    compute = _compute_here if is_local else partial(_compute_on_actors, workers=workers, resources=resources)
    with Progress(f"embedding {dataset.manifest.name}", total=total, unit="frames") as bar:
        for table in compute(copy.deepcopy(model).cpu(), items, options=options):
            bar.advance(len(table))
            yield table


def _compute_here(
    model: FrameModel, items: Sequence[dict[str, int]], *, options: Mapping[str, Any]
) -> Iterator[pa.Table]:
    embedder = _Embedder(model, **options)
    with embedder.pool:
        for item in items:
            yield embedder({name: np.array([number]) for name, number in item.items()})


def _compute_on_actors(
    model: FrameModel,
    items: Sequence[dict[str, int]],
    *,
    options: Mapping[str, Any],
    workers: int,
    resources: Mapping[str, float],
) -> Iterator[pa.Table]:
    groups = ray.data.from_items(list(items), override_num_blocks=len(items))
    groups.context.enable_progress_bars = False  # ours counts frames
    model_ref = ray.put(model)  # kept to the end: actors that restart request it again
    actors = ray.data.ActorPoolStrategy(size=min(workers, len(items)))  # more would have nothing to do
    results = groups.map_batches(
        _Embedder,
        batch_size=1,
        fn_constructor_args=(model_ref,),
        fn_constructor_kwargs=dict(options),
        compute=actors,
        **resources,
    )
    yield from results.iter_batches(batch_size=None, batch_format="pyarrow")


def _concat_tables(tables: Iterator[pa.Table], *, dataset: Dataset, total: int, max_bad: float) -> pa.Table:
    """Concatenate the tables in the data set's order. Raises DataError if too many of `total` frames are missing."""
    parts = [table for table in tables if len(table)]
    readable = sum(map(len, parts))
    if total - readable > max_bad * total or not readable:
        raise DataError(
            f"{dataset.url}: {total - readable} of {total} frames cannot be read, more than data.max_bad ({max_bad:g}) "
            "allows; the log names them; create the data set again"
        )
    return pa.concat_tables(parts).sort_by([(name, "ascending") for name in ROW_KEY])


def _from_table(table: pa.Table, *, aus: Sequence[int]) -> Embeddings:
    def to_matrix(name: str, width: int) -> np.ndarray:
        values: np.ndarray = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(table), width)

    return Embeddings(
        features=to_matrix("features", table.schema.field("features").type.list_size),
        **{name: table[name].to_numpy() for name in FRAME_COLUMNS},
        au=to_matrix("au", len(aus)) if aus else np.empty((len(table), 0), np.int8),
        aus=tuple(aus),
    )
