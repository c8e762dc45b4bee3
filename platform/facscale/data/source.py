"""Which samples there are, in which order, where they lie, and how each is augmented: all that can be said unread."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from facscale.data import augment, order
from facscale.data.errors import DataError
from facscale.data.labels import union
from facscale.data.rows import Faults, Place, column_shapes
from facscale.data.shards import Dataset
from facscale.data.views import View
from facscale.spec import models


class Source:
    """The samples of one source, as one worker of several sees them: everything about them but their pixels."""

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
    ) -> None:
        """`batch_size` samples are taken by all `world` workers together; `subjects`: only these identities, by data set URL.

        Raises DataError where the data sets cannot give what the views ask for.
        """
        if batch_size % world or not 0 <= rank < world:
            raise DataError(f"a batch of {batch_size} samples cannot be shared by {world} workers; make it a multiple")
        _check(datasets, views)
        self.datasets, self.views, self.spec, self.pin = tuple(datasets), dict(views), spec, pin
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        names = [name for view in views.values() for name in view.columns]
        self.aus = union(dataset.manifest.au for dataset in datasets)
        self.columns = column_shapes(datasets, names, aus=len(self.aus))
        extent = max(view.extent for view in views.values())
        chosen = None if subjects is None else [subjects[dataset.url] for dataset in datasets]
        self.population = order.population([dataset.runs for dataset in datasets], extent=extent, subjects=chosen)
        self.samples_per_epoch = int(order.samples_of_runs(self.population, per_track=spec.per_track).sum())
        if not self.samples_per_epoch:
            raise DataError(_why_empty(datasets, extent=extent, chosen=chosen))
        self._row_of_run = np.concatenate([dataset.runs.start for dataset in datasets])
        self._first_run = np.cumsum([0, *(len(dataset.runs) for dataset in datasets)])
        self._first_identity = np.cumsum([0, *(len(dataset.runs.identities) for dataset in datasets)])
        frames = sum(dataset.manifest.counts["frames"] for dataset in datasets)
        self.faults = Faults(frames_in_all=frames, bound=spec.max_bad)

    @property
    def bytes_per_epoch(self) -> int:
        """Bytes of the row groups that an epoch reads, over all workers."""
        members = np.unique(self.population.group, return_index=True)[1]
        groups = (self.place(int(member)) for member in members)
        return sum(self.datasets[at.dataset].manifest.shards[at.shard].row_groups[at.row_group].length for at in groups)

    def epoch(self, number: int) -> order.Epoch:
        """The samples of an epoch, in order."""
        return order.arrange(
            self.population,
            per_track=self.spec.per_track,
            seed=self.seed,
            epoch=number,
            streams=self.spec.canonical_streams,
            block=self.spec.shuffle_block,
        )

    def place(self, member: int) -> Place:
        """The row group of a run of the population."""
        dataset, run = int(self.population.dataset[member]), int(self.population.run[member])
        runs = self.datasets[dataset].runs
        return Place(dataset=dataset, shard=int(runs.shard[run]), row_group=int(runs.row_group[run]))

    def first_rows(self, members: np.ndarray) -> np.ndarray:
        """First row, within its row group, of each of the given runs."""
        population = self.population
        rows: np.ndarray = self._row_of_run[self._first_run[population.dataset[members]] + population.run[members]]
        return rows

    def identities(self, members: np.ndarray) -> np.ndarray:
        """int64 number of the person in each of the given runs, counted on over the data sets."""
        result = np.empty(len(members), dtype=np.int64)
        numbers = self.population.dataset[members]
        for number in np.unique(numbers):
            those = numbers == number
            codes = self.datasets[number].runs.identity[self.population.run[members[those]]]
            result[those] = self._first_identity[number] + codes
        return result

    def parameters(self, view_name: str, keys: np.ndarray) -> np.ndarray:
        """Augmentation [B, F, V, P] float32 of samples with the given keys [B]."""
        view = self.views[view_name]
        number = list(self.views).index(view_name)
        shape = (len(keys), 1 if view.shared else view.count, view.views)
        images = shape[1] * shape[2]
        unit = order.uniform(order.hashed(keys[:, None], number, np.arange(images * sum(augment.DRAWS))))
        first, second = np.split(unit, [images * augment.DRAWS[0]], axis=1)
        unit = np.concatenate([first.reshape(*shape, -1), second.reshape(*shape, -1)], axis=-1)
        drawn = augment.scale(self.spec.augment, unit)
        return np.broadcast_to(drawn, (len(keys), view.count, *drawn.shape[2:])).copy()


def _check(datasets: Sequence[Dataset], views: Mapping[str, View]) -> None:
    if not datasets or not views:
        raise DataError("a stream needs at least one data set and one view; check data.unlabelled and data.labelled")
    sizes = {dataset.manifest.image_size: dataset.url for dataset in datasets}
    if len(sizes) > 1:
        given = ", ".join(f"{url}: {size} px" for size, url in sizes.items())
        raise DataError(f"data sets that are read together need crops of one size ({given}); make one of them again")


def _why_empty(datasets: Sequence[Dataset], *, extent: int, chosen: Sequence[Collection[str]] | None) -> str:
    where = ", ".join(dataset.url for dataset in datasets)
    longest = max((int(dataset.runs.frames.max()) for dataset in datasets if len(dataset.runs)), default=0)
    if longest < extent:
        return f"{where}: a sample needs {extent} unbroken frames, the longest run has {longest}; shorten the method's clip"
    return f"{where}: no run of {extent} frames belongs to the {sum(map(len, chosen or ()))} chosen identities"
