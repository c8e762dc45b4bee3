"""The estimate of what a pipeline takes and gives: hours, bytes and cost, scaled from a sample to the whole source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from facscale.data.writer import MB
from facscale.ingest.items import Fault
from facscale.progress import format_duration

REST = "track and crop"  # the stage of all that is not timed by itself
WAITING = "waiting"  # the time in which no processor worked for the sample
TITLES = {  # of the stages, in the order of the work
    "render": "render",
    "decode": "read and decode",
    "detect": "detect",
    "landmarks": "landmarks",
    "recognize": "recognize",
    REST: REST,
    "encode": "encode",
    WAITING: "waiting",
}
SIMULATED_GROUPS = 200  # row groups that are filled to see how full they get
MAX_WAITING = 0.2  # a larger share of the time is worth a line
MIN_ITEMS = 3  # fewer do not tell how far the estimate may be off
SHOWN_FAULTS = 10


@dataclass(frozen=True)
class SampledItem:
    """An item of the sample, with its counts as if all of its frames had been read."""

    weight: float  # what it counts in the scaling: bytes of its files, images or frames
    frames: float
    faces: float
    tracks: float
    stored_bytes: float
    seconds: float  # of a worker
    track_bytes: tuple[float, ...] = ()  # of each track that was read
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Totals:
    """What a whole source holds."""

    people: int | None  # None: not known
    items: int
    unit: str  # of `items`: videos, images
    weight: float  # of all items, in the unit of SampledItem.weight
    read_bytes: float | None = None  # None: not known


@dataclass(frozen=True)
class PipelineEstimate:
    """What a pipeline would take and give, and what was assumed for it."""

    name: str
    output: str
    workers: int
    cpus_per_worker: float
    row_group_mb: float
    shard_mb: float
    totals: Totals
    sample: tuple[SampledItem, ...]
    stages: Mapping[str, float]  # processor seconds that the sample takes, by stage (the keys of TITLES)
    price: float = 0.0  # of a core for an hour; 0: not given
    notes: tuple[str, ...] = ()

    def scale(self, name: str) -> float:
        """Scale a field of the sampled items to the whole source, in proportion to the weights."""
        return self.totals.weight * self.sum_sample(name) / max(self.sum_sample("weight"), 1e-9)

    def sum_sample(self, name: str) -> float:
        """Sum a field over the sampled items."""
        return float(sum(getattr(item, name) for item in self.sample))

    @property
    def error(self) -> float | None:
        """Two standard errors of the time, as a share of it; None where the items are too few to tell."""
        return estimate_ratio_error([item.seconds for item in self.sample], [item.weight for item in self.sample])

    @property
    def row_groups(self) -> int:
        """Row groups of the data set."""
        sizes = [size for item in self.sample for size in item.track_bytes]
        per_byte = count_row_groups_per_byte(sizes, group_bytes=self.row_group_mb * MB)
        return math.ceil(self.scale("stored_bytes") * per_byte)

    @property
    def shards(self) -> int:
        """Shards of the data set: each is closed by the row group that fills it."""
        return math.ceil(self.scale("stored_bytes") / ((self.shard_mb + self.row_group_mb / 2) * MB))

    def format_text(self) -> str:
        """Format the estimate for the terminal."""
        lines = [f"{self.name} -> {self.output}", *(f"  note       {note}" for note in self.notes)]
        return "\n".join([*lines, *self._list_sizes(), *self._list_speeds(), *self._list_costs(), *self._list_faults()])

    def _list_sizes(self) -> Iterator[str]:
        totals, frames, faces, stored = self.totals, *(self.scale(name) for name in ("frames", "faces", "stored_bytes"))
        people = f"{totals.people:,} people, " if totals.people else ""
        yield f"  source     {people}{totals.items:,} {totals.unit}, about {round_number(frames)} frames"
        if not faces:
            yield "  faces      none in the sample"
            return
        tracks = round_number(self.scale("tracks"))
        yield f"  faces      about {round_number(faces)}, in {faces / frames:.1%} of the frames; {tracks} tracks"
        read = f"{format_bytes(totals.read_bytes)} read, " if totals.read_bytes is not None else ""
        yield f"  bytes      {read}{format_bytes(stored)} written, {stored / faces / 1e3:.1f} kB a face"
        yield f"  shards     about {round_number(self.shards)}, with {round_number(self.row_groups)} row groups"

    def _list_speeds(self) -> Iterator[str]:
        frames, total = self.sum_sample("frames"), sum(self.stages.values())
        if not frames or not total:
            return
        yield "  stage            frames/s a core    share of the time"
        for name, title in TITLES.items():
            if seconds := self.stages.get(name, 0.0):
                speed = "" if name == WAITING else format_speed(frames / seconds)
                yield f"    {title:<15}{speed:>15}{seconds / total:>21.0%}"
        yield f"    {'all':<15}{format_speed(frames / total):>15}"

    def _list_costs(self) -> Iterator[str]:
        seconds, error = self.scale("seconds"), self.error
        hours = seconds * self.cpus_per_worker / 3600
        margin = f" (within {error:.0%})" if error is not None else ""
        duration = format_duration(seconds / self.workers)
        cores = f"{self.workers * self.cpus_per_worker:g}"
        yield f"  time       {duration} on {cores} cores: {hours:,.2f} core hours{margin}, without the merge"
        share = self.stages.get(WAITING, 0.0) / max(sum(self.stages.values()), 1e-9)
        if share > MAX_WAITING:
            yield (
                f"             {(1 - share) * hours:,.2f} core hours without the waiting, which is for the storage or for "
                "other programs on this machine"
            )
        if self.price:
            yield f"  cost       {hours * self.price:,.2f}, at {self.price:g} for an hour of a core"

    def _list_faults(self) -> Iterator[str]:
        faults = [fault for item in self.sample for fault in item.faults]
        faceless = sum(not item.faces for item in self.sample)
        faulty = len({fault.item for fault in faults})
        frames = round_number(self.sum_sample("frames"))
        yield f"  sample     {len(self.sample)} items, {frames} frames; {faceless} without a face, {faulty} with faults"
        yield from (f"    {fault.item}  {fault.stage}  {fault.reason}" for fault in faults[:SHOWN_FAULTS])
        if len(faults) > SHOWN_FAULTS:
            yield f"    ... and {len(faults) - SHOWN_FAULTS} more"


def estimate_ratio_error(values: Sequence[float], weights: Sequence[float]) -> float | None:
    """Estimate two standard errors of the ratio sum(values) / sum(weights), as a share of it.

    Linearization of the ratio estimator (Cochran, 1977, Sampling Techniques, equation 6.13), without the correction for a
    finite population. None for fewer than MIN_ITEMS items, or where the ratio is 0.
    """
    y, x = np.asarray(values, float), np.asarray(weights, float)
    if len(y) < MIN_ITEMS or not y.sum() or not x.sum():
        return None
    residuals = y - y.sum() / x.sum() * x
    return float(2 * math.sqrt(len(y) / (len(y) - 1) * (residuals**2).sum()) / y.sum())


def count_row_groups_per_byte(track_bytes: Sequence[float], *, group_bytes: float) -> float:
    """Count the row groups for each byte, by the ShardWriter's rule: a track is not divided unless it exceeds a group.

    `track_bytes`: sizes of some tracks, which are repeated until many row groups are full; 0.0 if there are none.
    """
    groups, pending, total = 0, 0.0, 0.0
    for size in cycle([size for size in track_bytes if size > 0]):
        parts = math.ceil(size / group_bytes)
        if pending and pending + size > group_bytes:
            groups, pending = groups + 1, 0.0
        groups, pending, total = groups + parts - 1, size / parts if parts > 1 else pending + size, total + size
        if total > SIMULATED_GROUPS * group_bytes:
            break
    return groups / (total - pending) if total else 0.0


def round_number(value: float) -> str:
    """Format a number that is only estimated, with three digits that count: 12,300."""
    digits = max(0, math.floor(math.log10(value)) - 2) if value >= 1 else 0
    return f"{round(value / 10**digits) * 10**digits:,}"


def format_speed(per_second: float) -> str:
    """Format without decimals, except for less than 10."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def format_bytes(count: float) -> str:
    """Format as 12.3 MB, with powers of 1000."""
    power = min(4, max(1, int(math.log10(max(count, 1)) // 3)))
    return f"{count / 1000**power:.3g} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
