"""Index of all samples: their order, location and augmentation parameters. Reads no pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from facscale.data import augment, order
from facscale.data.errors import DataError
from facscale.data.frame_table import OVERREAD
from facscale.data.labels import union_aus
from facscale.data.rows import ReadFailureLog, RowGroupKey, resolve_columns
from facscale.data.shards import Dataset
from facscale.data.views import View
from facscale.spec import models


class SampleIndex:
    """The samples of several data sets that are read together, as one of several workers sees them."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        views: Mapping[str, View],
        *,
        spec: models.Data,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        subjects: Mapping[str, Collection[str]] | None = None,
        pin: bool = False,
        is_short: bool = False,
    ) -> None:
        """`batch_size`: samples of all `world` workers together; `subjects`: only these identities, by data set URL.

        `is_short`: a few batches are read, for which a process of `spec.reader` would take longer to start.

        Raises DataError where the data sets lack what the views need.
        """
        if batch_size % world or not 0 <= rank < world:
            raise DataError(f"a batch of {batch_size} samples cannot be shared by {world} workers; make it a multiple")
        _check_inputs(datasets, views, spec=spec)
        self.datasets, self.views, self.spec, self.pin = tuple(datasets), dict(views), spec, pin
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.subjects, self.is_short = subjects, is_short
        names = [name for view in views.values() for name in view.columns]
        self.aus = union_aus(dataset.manifest.au for dataset in datasets)
        self.columns = resolve_columns(datasets, names, aus=len(self.aus))
        extent = max(view.extent for view in views.values())
        identities = None if subjects is None else [subjects[dataset.url] for dataset in datasets]
        self.population = order.select_runs([dataset.runs for dataset in datasets], extent=extent, subjects=identities)
        self.samples_per_epoch = order.count_samples(self.population, **spec.epoch.model_dump())
        if not self.samples_per_epoch:
            raise DataError(_explain_empty(datasets, extent=extent, identities=identities))
        self.deal = order.Deal(self.population, streams=spec.canonical_streams)
        self._row_of_run = np.concatenate([dataset.runs.start for dataset in datasets])
        self._first_run = np.cumsum([0, *(len(dataset.runs) for dataset in datasets)])
        self._first_identity = np.cumsum([0, *(len(dataset.runs.identities) for dataset in datasets)])
        frames = sum(dataset.manifest.counts["frames"] for dataset in datasets)
        self.failure_log = ReadFailureLog(total_frames=frames, max_share=spec.max_bad)

    def compute_bytes_per_epoch(self) -> int:
        """Estimate the bytes that the first epoch reads without a cache, over all workers; others read about as many."""
        groups, samples = self.order_epoch(0).count_by_group()
        frames = samples * sum(view.count for view in self.views.values() if view.pixels)
        total = 0
        for key, needed in zip(map(self._locate_group, groups.tolist()), frames.tolist(), strict=True):
            group = self.datasets[key.dataset].manifest.shards[key.shard].row_groups[key.row_group]
            single = int(needed * group.length / group.rows * (1 + OVERREAD)) + group.table_bytes
            total += min(single, group.length) if group.frame_table else group.length
        return total

    def order_epoch(self, number: int) -> order.EpochOrder:
        """Return the order of the samples of an epoch."""
        settings = {**self.spec.epoch.model_dump(), "block": self.spec.shuffle_block}
        return order.EpochOrder(self.deal, **settings, seed=self.seed, epoch=number)

    def _locate_group(self, group: int) -> RowGroupKey:
        """Return the row group with a number of the population."""
        return self.get_row_group(int(self.deal.list_runs(np.array([group]))[0]))

    def get_row_group(self, member: int) -> RowGroupKey:
        """Return the row group of a run of the population."""
        dataset, run = int(self.population.dataset[member]), int(self.population.run[member])
        runs = self.datasets[dataset].runs
        return RowGroupKey(dataset=dataset, shard=int(runs.shard[run]), row_group=int(runs.row_group[run]))

    def get_first_rows(self, members: np.ndarray) -> np.ndarray:
        """Return the first row, within its row group, of each of the given runs."""
        population = self.population
        rows: np.ndarray = self._row_of_run[self._first_run[population.dataset[members]] + population.run[members]]
        return rows

    def get_identities(self, members: np.ndarray) -> np.ndarray:
        """Return the number of the person in each of the given runs, int64, counted over all data sets."""
        result = np.empty(len(members), dtype=np.int64)
        numbers = self.population.dataset[members]
        for number in np.unique(numbers):
            mask = numbers == number
            codes = self.datasets[number].runs.identity[self.population.run[members[mask]]]
            result[mask] = self._first_identity[number] + codes
        return result

    def sample_augmentation(self, view_name: str, keys: np.ndarray, *, epochs: np.ndarray) -> np.ndarray:
        """Return augmentation parameters [B, F, V, P] float32 of the samples with the given keys [B] and epochs [B]."""
        view = self.views[view_name]
        number = list(self.views).index(view_name)
        shape = (len(keys), 1 if view.shared else view.count, view.views)
        images = shape[1] * shape[2]
        unit = order.to_uniform(order.hash64(keys[:, None], number, np.arange(images * sum(augment.DRAWS))))
        first, second = np.split(unit, [images * augment.DRAWS[0]], axis=1)
        unit = np.concatenate([first.reshape(*shape, -1), second.reshape(*shape, -1)], axis=-1)
        if self.spec.augment.crop_per == "epoch":
            unit[..., augment.CROP_SIDE] = order.to_uniform(order.hash64(self.seed, epochs))[:, None, None]
        parameters = augment.to_params(self.spec.augment, unit, margin=self.datasets[0].manifest.margin)
        return np.broadcast_to(parameters, (len(keys), view.count, *parameters.shape[2:])).copy()


def _check_inputs(datasets: Sequence[Dataset], views: Mapping[str, View], *, spec: models.Data) -> None:
    if not datasets or not views:
        raise DataError("a stream needs at least one data set and one view; check data.unlabelled and data.labelled")
    sizes = {(dataset.manifest.image_size, dataset.manifest.margin): dataset.url for dataset in datasets}
    if len(sizes) > 1:
        listing = ", ".join(f"{url}: {size} px, margin {margin:g}" for (size, margin), url in sizes.items())
        raise DataError(
            f"data sets that are read together need crops of one size and margin ({listing}); make one of them again"
        )
    for dataset in datasets if any(view.pixels for view in views.values()) else ():
        augment.check_margin(spec.augment, margin=dataset.manifest.margin, url=dataset.url)


def _explain_empty(datasets: Sequence[Dataset], *, extent: int, identities: Sequence[Collection[str]] | None) -> str:
    urls = ", ".join(dataset.url for dataset in datasets)
    longest = max((int(dataset.runs.frames.max()) for dataset in datasets if len(dataset.runs)), default=0)
    if longest < extent:
        return (
            f"{urls}: a sample needs {extent} unbroken frames, the longest run has {longest}; shorten the method's clip"
        )
    count = sum(map(len, identities or ()))
    return f"{urls}: no run of {extent} frames belongs to the {count} selected identities"
