"""Reads data sets track by track, and writes new ones from the tracks of others."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facscale.data.errors import CorruptError, DataError
from facscale.data.labels import reindex_labels, union_aus
from facscale.data.manifest import Manifest
from facscale.data.rows import PER_AU, to_numpy
from facscale.data.shards import Dataset
from facscale.data.writer import BASE_SCHEMA, ShardWriter

PART = "part"  # the column with the part of the published split
TrackKey = tuple[str, str, int]  # identity, video, track
Advance = Callable[[], None]


@dataclass(frozen=True)
class Track:
    """All stored frames of one track, ascending."""

    key: TrackKey
    rows: pa.Table
    fps: float  # of the source video; 0: single images
    every: int  # difference of the numbers of neighbouring frames; 0: single images


def iterate_tracks(
    dataset: Dataset, *, identities: Collection[str] | None = None, advance: Advance = lambda: None
) -> Iterator[Track]:
    """Yield the tracks of a data set in stored order, of the given identities only (None: all).

    Only row groups that hold one of them are read, and verified; `advance` is called after each of these. Raises
    CorruptError, DataError.
    """
    pieces: list[Track] = []
    timing = _Timing(dataset)
    for shard, row_group in find_row_groups(dataset, identities=identities):
        table = dataset.read(shard=shard, row_group=row_group)
        if identities is not None:
            table = table.filter(pc.is_in(table["identity"], value_set=pa.array(sorted(identities), pa.string())))
        for piece in _split_tracks(table, timing.find(shard=shard, row_group=row_group)):
            if pieces and pieces[0].key != piece.key:
                yield _join(pieces)
                pieces = []
            pieces.append(piece)
        advance()
    if pieces:
        yield _join(pieces)


def find_row_groups(dataset: Dataset, *, identities: Collection[str] | None = None) -> list[tuple[int, int]]:
    """List (shard, row group) of all row groups that hold one of the identities (None: all), in stored order."""
    runs = dataset.runs
    mask = np.ones(len(runs), bool) if identities is None else runs.mask_subjects(identities)
    pairs = np.unique(np.stack([runs.shard[mask], runs.row_group[mask]], axis=1), axis=0)
    return [(int(shard), int(row_group)) for shard, row_group in pairs]


class _Timing:
    """Frame rate and step of the tracks of a data set; of the whole data set where the index is of an earlier release."""

    def __init__(self, dataset: Dataset) -> None:
        runs = dataset.runs
        self._runs = runs
        self._first = runs.shard.astype(np.int64) << 32 | runs.row_group  # runs are in stored order
        self.fps = np.full(len(runs), dataset.manifest.fps) if runs.fps is None else runs.fps
        self.every = np.full(len(runs), find_frame_step(dataset)) if runs.every is None else runs.every

    def find(self, *, shard: int, row_group: int) -> dict[TrackKey, tuple[float, int]]:
        """Return (fps, every) of each track in a row group."""
        runs, place = self._runs, np.int64(shard) << 32 | row_group
        places = range(*np.searchsorted(self._first, [place, place + 1]).tolist())
        return {
            (runs.identities[runs.identity[run]], runs.videos[runs.video[run]], int(runs.track[run])): (
                float(self.fps[run]),
                int(self.every[run]),
            )
            for run in places
        }


def measure_run_seconds(dataset: Dataset) -> np.ndarray:
    """Return the length of each run in seconds of the source video [R]; nan for single images."""
    timing, frames = _Timing(dataset), dataset.runs.frames
    fps, every = timing.fps.astype(float), timing.every
    return np.divide(frames * every, fps, out=np.full(len(frames), np.nan), where=(fps > 0) & (every > 0))


def find_frame_step(dataset: Dataset) -> int:
    """Return the distance of neighbouring frames in the runs of a data set; 1 where no run has two frames."""
    runs = dataset.runs
    longer = np.flatnonzero(runs.frames > 1)
    if not len(longer):
        return int(dataset.manifest.recipe.get("every", 1) or 1)
    run = int(longer[0])
    table = dataset.read(shard=int(runs.shard[run]), row_group=int(runs.row_group[run]), columns=["frame"])
    first = int(runs.start[run])
    return int(table["frame"][first + 1].as_py() - table["frame"][first].as_py())


def check_identities(dataset: Dataset, identities: Iterable[str]) -> None:
    """Raise DataError for an identity that a data set does not have."""
    if missing := sorted(set(identities) - set(dataset.runs.identities)):
        example = ", ".join(dataset.runs.identities[:3])
        raise DataError(
            f"{dataset.url} has no identity {', '.join(missing)}; its {len(dataset.runs.identities)} identities are named "
            f"like {example}"
        )


def write_tracks(
    url: str,
    sources: Sequence[Dataset],
    *,
    identities: Sequence[Collection[str] | None],
    recipe: Mapping[str, Any],
    name: str = "",
    prefixes: Sequence[str] = (),
    advance: Advance = lambda: None,
) -> Manifest:
    """Write a data set from the tracks of `sources`: of each, those of the given identities (None: all).

    Labels get the AUs of all sources; -1 where a source does not have one. `prefixes`: put in front of the identities,
    one for each source. Raises DataError where the sources cannot be one data set: crops of several sizes, other
    columns, other expressions, or a track that two of them have.
    """
    manifests = [source.manifest for source in sources]
    _check_compatible(sources)
    aus = tuple(sorted(union_aus(manifest.au for manifest in manifests)))
    largest = max(manifests, key=lambda manifest: manifest.counts["frames"])
    streams = [
        _prefix(iterate_tracks(source, identities=chosen, advance=advance), prefix)
        for source, chosen, prefix in zip(sources, identities, prefixes or [""] * len(sources), strict=True)
    ]
    writer = ShardWriter(
        url,
        name=name or largest.name,
        au=aus,
        expressions=largest.expressions,
        image_size=largest.image_size,
        margin=largest.margin,
        fps=largest.fps,
        every=find_frame_step(sources[0]),
        recipe=recipe,
    )
    with writer:
        measures = find_measures(sources)
        has_parts = any(PART in source.arrow_schema.names for source in sources)
        labelled = [
            _complete_columns(stream, given=manifest.au, wanted=aus, measures=measures, has_parts=has_parts)
            for stream, manifest in zip(streams, manifests, strict=True)
        ]
        for key, same in groupby(heapq.merge(*labelled, key=lambda track: track.key), key=lambda track: track.key):
            track, *others = same
            if others:
                raise DataError(f"the track {'/'.join(map(str, key))} is in several of the data sets")
            writer.add_track(track.rows, fps=track.fps, every=track.every)
        return writer.close()


def _split_tracks(table: pa.Table, timing: Mapping[TrackKey, tuple[float, int]]) -> Iterator[Track]:
    """Split the rows of a row group where identity, video or track changes."""
    if not table.num_rows:
        return
    columns = [table[name].combine_chunks().dictionary_encode() for name in ("identity", "video")]
    codes = [column.indices.to_numpy() for column in map(_unchunk, columns)]
    codes.append(table["track"].to_numpy())
    changes = np.any([np.diff(values) != 0 for values in codes], axis=0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), table.num_rows]
    for start, end in pairwise(edges):
        rows = table.slice(start, end - start)
        key = (rows["identity"][0].as_py(), rows["video"][0].as_py(), rows["track"][0].as_py())
        if key not in timing:
            raise CorruptError(f"the index of the data set does not list the track {'/'.join(map(str, key))}")
        yield Track(key, rows, *timing[key])


def _unchunk(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _join(pieces: Sequence[Track]) -> Track:
    return replace(pieces[0], rows=pa.concat_tables(piece.rows for piece in pieces))


def _prefix(tracks: Iterator[Track], prefix: str) -> Iterator[Track]:
    for track in tracks:
        if not prefix:
            yield track
            continue
        identity, video, number = track.key
        names = pa.array([f"{prefix}{identity}"] * track.rows.num_rows)
        position = track.rows.column_names.index("identity")
        rows = track.rows.set_column(position, "identity", names)
        yield replace(track, key=(f"{prefix}{identity}", video, number), rows=rows)


def find_measures(datasets: Sequence[Dataset]) -> list[str]:
    """List the columns with a measured number for each frame (float32) that a data set may lack, such as its sharpness."""
    fields = [field for dataset in datasets for field in dataset.arrow_schema if field.name not in BASE_SCHEMA.names]
    return sorted({field.name for field in fields if field.type == pa.float32()})


def _complete_columns(
    tracks: Iterator[Track], *, given: Sequence[int], wanted: Sequence[int], measures: Sequence[str], has_parts: bool
) -> Iterator[Track]:
    """Give each track the label columns of all AUs in `wanted`, nan for measures that its data set lacks, and no part."""
    for track in tracks:
        rows = track.rows
        for name in PER_AU if tuple(given) != tuple(wanted) else ():
            has_column = name in rows.column_names
            stored = to_numpy(rows[name]) if has_column else np.empty((rows.num_rows, 0), np.int8)
            values = reindex_labels(stored, given=given, wanted=wanted)
            column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), len(wanted))
            rows = rows.drop_columns([name]) if has_column else rows
            rows = rows.append_column(name, column)
        for name in measures:
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.array(np.full(rows.num_rows, np.nan, np.float32)))
        if has_parts and PART not in rows.column_names:
            rows = rows.append_column(PART, pa.array([""] * rows.num_rows))
        yield replace(track, rows=rows)


def _check_compatible(sources: Sequence[Dataset]) -> None:
    """Raise DataError where the sources differ in what all rows of a data set share."""
    own = {*PER_AU, *find_measures(sources), PART}
    properties: dict[str, Callable[[Dataset], str]] = {
        "crops of one size": lambda source: f"{source.manifest.image_size} px",
        "crops of one margin": lambda source: f"{source.manifest.margin:g}",
        "the same expressions": lambda source: ", ".join(source.manifest.expressions) or "none",
        "the same columns": lambda source: ", ".join(sorted(set(source.arrow_schema.names) - own)),
    }
    for title, describe in properties.items():
        values = [(source.url, describe(source)) for source in sources]
        if len({value for _, value in values}) > 1:
            listing = "; ".join(f"{url}: {value}" for url, value in values)
            raise DataError(f"a data set needs {title} ({listing}); make one of them again")
