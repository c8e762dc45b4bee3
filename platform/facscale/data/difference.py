"""What differs between two data sets: settings, people, videos, tracks, labels and pictures."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from facscale.data.labels import reindex_labels
from facscale.data.rows import to_numpy
from facscale.data.shards import Dataset
from facscale.data.tracks import Advance, Track, TrackKey, iterate_tracks

SETTINGS = ("name", "au", "image_size", "margin", "fps", "expressions", "kind")


@dataclass
class DatasetDifference:
    """Pairs are (first, second). Names of videos are "identity/video", of tracks "identity/video/track"."""

    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # of the manifest and the recipe
    identities: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))  # that only one of the two has
    videos: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))  # of identities that both have
    tracks: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))  # of videos that both have
    lengths: dict[str, tuple[int, int]] = field(default_factory=dict)  # frames of tracks that both have
    labels: dict[str, int] = field(default_factory=dict)  # frames of common tracks whose AUs differ, by track
    pixels: dict[str, int] = field(default_factory=dict)  # whose JPEG differs
    landmarks: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        names = (self.identities, self.videos, self.tracks)
        return any(map(any, names)) or any((self.settings, self.lengths, self.labels, self.pixels, self.landmarks))


def compare_datasets(
    first: Dataset, second: Dataset, *, should_read_frames: bool = False, advance: Advance = lambda: None
) -> DatasetDifference:
    """Compare two data sets by their manifests and indices; `should_read_frames`: also each frame that both have.

    `advance` is called for each row group that is read of either. Raises CorruptError, DataError.
    """
    difference = DatasetDifference(settings=_compare_settings(first, second))
    lengths = [_count_frames(first), _count_frames(second)]
    for depth, target in ((1, difference.identities), (2, difference.videos), (3, difference.tracks)):
        names = [{key[:depth] for key in counts} for counts in lengths]
        parents = [{key[: depth - 1] for key in counts} for counts in lengths]
        for side in (0, 1):
            only = {name for name in names[side] - names[1 - side] if name[:-1] in parents[1 - side]}
            target[side].extend("/".join(map(str, name)) for name in sorted(only))
    for key in sorted(lengths[0].keys() & lengths[1].keys()):
        if lengths[0][key] != lengths[1][key]:
            difference.lengths["/".join(map(str, key))] = (lengths[0][key], lengths[1][key])
    if should_read_frames:
        for one, other in _pair_tracks(first, second, advance=advance):
            _compare_tracks(one, other, difference, aus=(first.manifest.au, second.manifest.au))
    return difference


def _compare_settings(first: Dataset, second: Dataset) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(first.manifest, name), getattr(second.manifest, name)) for name in SETTINGS}
    recipes = (first.manifest.recipe, second.manifest.recipe)
    pairs |= {f"recipe.{key}": (recipes[0].get(key), recipes[1].get(key)) for key in sorted({*recipes[0], *recipes[1]})}
    columns = [", ".join(dataset.arrow_schema.names) for dataset in (first, second)]
    pairs["columns"] = (columns[0], columns[1])
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def _count_frames(dataset: Dataset) -> dict[TrackKey, int]:
    """Count the frames of each track; the index has a row for each of its runs."""
    runs, counts = dataset.runs, dict[TrackKey, int]()
    for identity, video, track, frames in zip(runs.identity, runs.video, runs.track, runs.frames, strict=True):
        key = (runs.identities[identity], runs.videos[video], int(track))
        counts[key] = counts.get(key, 0) + int(frames)
    return counts


def _pair_tracks(first: Dataset, second: Dataset, *, advance: Advance) -> Iterator[tuple[Track, Track]]:
    """Yield the tracks that both data sets have; only people whom both have are read."""
    common = set(first.runs.identities) & set(second.runs.identities)
    streams = [iterate_tracks(dataset, identities=common, advance=advance) for dataset in (first, second)]
    merged = heapq.merge(*streams, key=lambda track: track.key)
    for _, same in groupby(merged, key=lambda track: track.key):
        pair = tuple(same)
        if len(pair) == 2:
            yield pair[0], pair[1]


def _compare_tracks(
    one: Track, other: Track, difference: DatasetDifference, *, aus: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Count the frames of both that differ."""
    _, rows, other_rows = np.intersect1d(
        one.rows["frame"].to_numpy(), other.rows["frame"].to_numpy(), return_indices=True
    )
    first, second = one.rows.take(rows), other.rows.take(other_rows)
    name = "/".join(map(str, one.key))
    jpegs = zip(first["jpeg"], second["jpeg"], strict=True)
    counts = {"pixels": sum(a.as_buffer() != b.as_buffer() for a, b in jpegs)}
    points = [to_numpy(table["landmarks"]) for table in (first, second)]
    counts["landmarks"] = int((~np.isclose(points[0], points[1], equal_nan=True)).any(axis=1).sum())
    if aus[0] and aus[1]:
        values = [reindex_labels(to_numpy(table["au"]), given=own, wanted=sorted({*aus[0], *aus[1]}))
                  for table, own in zip((first, second), aus, strict=True)]  # fmt: skip
        counts["labels"] = int((values[0] != values[1]).any(axis=1).sum())
    for kind, count in counts.items():
        if count:
            getattr(difference, kind)[name] = int(count)
