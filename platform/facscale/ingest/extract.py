"""Extracts the faces of one item: decodes, detects, tracks, aligns and crops, and writes them as JPEGs in Parquet."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from facscale.data import DataError
from facscale.ingest import detectors, layouts, quality
from facscale.ingest.coverage import MisalignedError, check_alignment, measure_coverage
from facscale.ingest.crops import FaceCrop, crop_faces
from facscale.ingest.frames import Frame, FrameReader, NoteFault
from facscale.ingest.items import Fault, ImageBatch, Item, Labels, hash_content, read_bytes
from facscale.ingest.people import encode_descriptor
from facscale.ingest.stage_clock import StageClock, TimedDetector
from facscale.ingest.tracking import FaceTracker, drop_short_tracks
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.spec import Pipeline, SpecError

BATCH = 256  # faces held in memory before they are written
ATTEMPTS = 3  # an item that crashed its worker process this often is skipped
# Packages whose errors are the store's fault, not the item's.
NETWORK = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "requests", "urllib3")


class FaceExtractor:
    """Extracts the faces of items in one process. `run` identifies this run of the pipeline: attempts count within it.

    `max_frames`: of an item, those after them are not read; None: all are read.
    """

    def __init__(self, pipeline: Pipeline, *, run: str, max_frames: int | None = None) -> None:
        self.pipeline, self.run, self.max_frames = pipeline, run, max_frames
        cv2.setNumThreads(max(1, int(pipeline.ingest.cpus_per_worker)))  # otherwise: all cores, in every worker
        self.options = detectors.parse_options(pipeline)
        self.clock = StageClock()
        self.detector = TimedDetector(detectors.find(pipeline.detector.name)(self.options), self.clock)
        self.layout = layouts.open_layout(pipeline.source)
        self.store = WorkStore(pipeline.output)
        self.recognizer = None
        if pipeline.recognition:
            from facscale.ingest.recognition import FaceRecognizer  # 22 MB of weights, for those who want them

            self.recognizer = FaceRecognizer(pipeline.recognition, clock=self.clock)

    def __call__(self, item: Item, key: str, stamp: str = "") -> ItemStatus:
        """Process an item unless its status is stored already. Faults of the item are recorded in the status.

        `stamp` is that of its files in the listing.
        Raises DataError when the output cannot be written or the source's store does not answer.
        """
        stored = self.store.read_status(key)
        if stored is not None:
            return stored
        started = time.monotonic()
        blank = ItemStatus(key, item.source, *item.sort_key, split=item.split, images=len(item.numbers), stamp=stamp)
        with tempfile.TemporaryDirectory(prefix="facscale-") as folder:
            path = Path(folder) / "faces.parquet"
            if self.store.count_attempt(key, self.run) > ATTEMPTS:
                status = _add_fault(blank, "crash", f"crashed its worker process {ATTEMPTS} times")
            else:
                status = self._extract(item, blank, path)
            content = hash_content(self.pipeline.source.root, (*item.files, *item.labels))
            status = replace(status, content=content, seconds=round(time.monotonic() - started, 3))
            return self.store.save(status, faces=path if status.faces else None)

    def _extract(self, item: Item, status: ItemStatus, path: Path) -> ItemStatus:
        faults = [Fault(item.source, "list", reason) for reason in item.notes]

        def note(stage: str, reason: str) -> None:
            faults.append(Fault(item.source, stage, reason))

        stage = "labels"
        try:
            labels, remarks = self._read_labels(item)
            for remark in remarks:
                note("labels", remark)
            labels = labels.select_coded(only=self.pipeline.source.aus)
            check_alignment(labels, item.numbers)
            stage = "decode"
            frames = FrameReader(item, root=self.pipeline.source.root, every=self.pipeline.source.every, note=note)
            status = self._write_faces(frames, labels, status, path, note=note)
        except (DataError, SpecError):
            raise
        except MisalignedError as error:
            return _add_fault(replace(status, faults=tuple(faults)), "labels", _format_error(error))
        except Exception as error:  # an error in one video must not end the others
            if _is_outage(error):
                raise DataError(
                    f"{item.source}: interrupted by the storage, not by the file; run the pipeline again later: {error!r}"
                ) from error
            return _add_fault(replace(status, faults=tuple(faults)), stage, _format_error(error))
        if not status.frames and not faults:
            note("decode", "the file holds no frames")
        elif not status.faces and status.frames:
            reason = "only tracks that are too short" if status.dropped else f"no face in its {status.frames} frames"
            note("faces", reason)
        return replace(status, faults=tuple(faults))

    def _read_labels(self, item: Item) -> tuple[Labels, list[str]]:
        if not self.pipeline.source.labels:
            return Labels(), []
        if item.au or isinstance(item, ImageBatch):
            return item.parse_labels(), []
        return self.layout.read_labels(item, lambda name: read_bytes(self.pipeline.source.root, name))

    def _write_faces(
        self, frames: FrameReader, labels: Labels, status: ItemStatus, path: Path, *, note: NoteFault
    ) -> ItemStatus:
        """Write the crops of all tracks to a Parquet file, and return the status with the counts filled in."""
        tracker = FaceTracker(self.detector, config=self.options, step=frames.step)
        dropped: list[int] = []
        is_batch = isinstance(frames.item, ImageBatch)
        is_still = is_batch or frames.item.still
        shortest_s = 0.0 if is_still else self.options.shortest_track_s
        numbers: list[int] = []
        decoded = self.clock.iterate("decode", islice(frames, self.max_frames))
        tracked = tracker.track(_record_numbers(decoded, numbers))
        faces = drop_short_tracks(shortest_s, tracked, dropped, interval_s=lambda: frames.interval_s)
        flow_to = self.pipeline.flow.frames * frames.step if self.pipeline.flow else 0
        kept = KeptCrops()
        writer: pq.ParquetWriter | None = None
        cropped = crop_faces(faces, self.pipeline.crop, flow_to=flow_to)
        recognizer = None if is_batch else self.recognizer  # everybody in a batch is a person of their own
        if recognizer:
            cropped = recognizer.watch(cropped)
        try:
            for crops in _batch_crops(cropped):
                with self.clock.measure("encode"):
                    table = self._build_table(crops, labels, frames.item)
                    writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
                    writer.write_table(table)
                kept.add(crops)
        finally:
            if writer is not None:
                writer.close()
        strangers, descriptor = 0, ""
        if recognizer and len(kept):
            check = recognizer.check(rows=len(kept))
            strangers, descriptor = int((~check.is_kept).sum()), encode_descriptor(check.descriptor)
            if strangers:
                tracks = renumber_tracks(np.array(kept.tracks), check.is_kept)
                kept = kept.select(check.is_kept, tracks=tracks)
                remove_rows(path, check.is_kept, tracks=tracks)
                note("people", f"{strangers} crops show somebody else than most of the video ({check.people} people)")
        present = frames.item.numbers or _fill_gaps(numbers, step=frames.step)
        check_alignment(labels, present)
        return replace(
            status,
            **asdict(measure_coverage(labels, present=present, read=numbers, kept=kept.numbers)),
            frames=frames.frames_read,
            faces=len(kept),
            faceless=tracker.faceless,
            dropped=sum(dropped),
            tracks=len(set(kept.tracks)),
            bystanders=tracker.bystanders.count(shortest_s=shortest_s, interval_s=frames.interval_s),
            strangers=strangers,
            descriptor=descriptor,
            shot_cuts=frames.shot_cuts,
            **kept.summarize_quality().columns,
            fps=0.0 if is_still else frames.fps,
            step=frames.step,
            stills=is_batch,
            au=labels.au,
        )

    def _build_table(self, crops: list[FaceCrop], labels: Labels, item: Item) -> pa.Table:
        jpeg_quality, numbers = self.pipeline.crop.quality, [crop.number for crop in crops]
        columns: dict[str, Any] = {
            "track": pa.array([crop.track for crop in crops], pa.int32()),
            "frame": pa.array(numbers, pa.int32()),
            "time_s": pa.array([crop.time_s for crop in crops], pa.float32()),
            "jpeg": pa.array([simplejpeg.encode_jpeg(crop.image, quality=jpeg_quality) for crop in crops], pa.binary()),
            "landmarks": to_fixed_size_list(np.stack([crop.points.ravel() for crop in crops])),
            **{
                name: pa.array([getattr(crop.quality, name) for crop in crops], pa.float32())
                for name in quality.COLUMNS
            },
        }
        flows = [crop.flow for crop in crops if crop.flow is not None]
        if flows:
            columns["flow"] = to_fixed_size_list(np.stack(flows))
        if labels.au:
            occurrences, intensities = zip(*(labels.get_frame(number) for number in numbers), strict=True)
            columns["au"] = to_fixed_size_list(np.stack(occurrences))
            columns["intensity"] = to_fixed_size_list(np.stack(intensities))
        if isinstance(item, ImageBatch):
            columns["identity"] = pa.array([item.people[number] for number in numbers])
            if item.expressions:
                columns["expression"] = pa.array([item.expressions[number] for number in numbers], pa.int8())
            columns |= {name: pa.array([0] * len(crops), columns[name].type) for name in ("frame", "time_s")}
        return pa.table(columns)


@dataclass(frozen=True)
class KeptCrops:
    """What is remembered of the crops that were written, in their order."""

    numbers: list[int] = field(default_factory=list)  # of the frames
    tracks: list[int] = field(default_factory=list)
    qualities: list[quality.CropQuality] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, crops: Iterable[FaceCrop]) -> None:
        """Add crops."""
        for crop in crops:
            self.numbers.append(crop.number)
            self.tracks.append(crop.track)
            self.qualities.append(crop.quality)

    def select(self, is_kept: np.ndarray, *, tracks: np.ndarray) -> KeptCrops:
        """Select crops by a mask [N]; `tracks` has the new track numbers of all [N]."""
        numbers, qualities = list(compress(self.numbers, is_kept)), list(compress(self.qualities, is_kept))
        return KeptCrops(numbers, tracks[is_kept].tolist(), qualities)

    def summarize_quality(self) -> quality.QualitySummary:
        """Return means and counts."""
        meter = quality.QualityMeter()
        meter.add(self.qualities)
        return meter.summarize()


def renumber_tracks(tracks: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Number tracks [N] anew, so that what is kept of a track on both sides of a gap is two tracks."""
    is_start = np.diff(tracks, prepend=-1) != 0
    is_start[1:] |= is_kept[1:] & ~is_kept[:-1]
    return (np.cumsum(is_start) - 1).astype(np.int32)


def remove_rows(path: Path, is_kept: np.ndarray, *, tracks: np.ndarray) -> None:
    """Rewrite a Parquet file of crops without the rows that a mask [N] leaves out, with new track numbers [N]."""
    unfiltered = path.rename(path.with_suffix(".unfiltered"))
    file, row = pq.ParquetFile(unfiltered), 0
    with pq.ParquetWriter(path, file.schema_arrow, compression="none", use_dictionary=False) as writer:
        for batch in file.iter_batches(batch_size=BATCH, use_threads=False):
            rows, row = slice(row, row + batch.num_rows), row + batch.num_rows
            table = pa.Table.from_batches([batch])
            column = table.schema.get_field_index("track")
            table = table.set_column(column, table.schema.field(column), pa.array(tracks[rows], pa.int32()))
            if is_kept[rows].any():
                writer.write_table(table.filter(pa.array(is_kept[rows])))
    unfiltered.unlink()


def _record_numbers(frames: Iterable[Frame], numbers: list[int]) -> Iterator[Frame]:
    """Pass the frames on, and append their numbers to `numbers`."""
    for frame in frames:
        numbers.append(frame.number)
        yield frame


def _fill_gaps(numbers: Sequence[int], *, step: int) -> range:
    """Return the numbers of all frames of a video file of which every `step`-th was read."""
    return range(numbers[0], numbers[-1] + max(step, 1)) if numbers else range(0)


def to_fixed_size_list(rows: np.ndarray) -> pa.FixedSizeListArray:
    """Convert an array [N, K] to a column of N lists of K values."""
    flat = pa.array(np.ascontiguousarray(rows).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def _add_fault(status: ItemStatus, stage: str, reason: str) -> ItemStatus:
    fault = Fault(status.source, stage, reason)
    return replace(status, faults=(*status.faults, fault))


def _batch_crops(crops: Iterator[FaceCrop]) -> Iterator[list[FaceCrop]]:
    batch: list[FaceCrop] = []
    for crop in crops:
        batch.append(crop)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_outage(error: Exception) -> bool:
    """Return whether the error would hit other items just as well: a store that does not answer, a full disk."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE)
    is_network = type(error).__module__.split(".")[0] in NETWORK
    return is_full or is_network or isinstance(error, ConnectionError | TimeoutError)


def _format_error(error: Exception) -> str:
    """Format a library's error on one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}")[:300]
