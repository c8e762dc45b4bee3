"""One item from its files to its part: decode, detect and follow, align, crop, JPEG, Parquet."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from facscale.data import DataError
from facscale.ingest import detectors, layouts
from facscale.ingest.crops import Face, crops
from facscale.ingest.frames import Frames
from facscale.ingest.items import Fault, Item, Labels, Stills, read_bytes
from facscale.ingest.parts import Parts, Status
from facscale.ingest.tracking import Tracker, longer_than
from facscale.spec import Pipeline, SpecError

BATCH = 256  # faces held in memory before they are written
ATTEMPTS = 3  # workers that one item may bring down before it is given up
NETWORK = (
    "aiobotocore",
    "aiohttp",
    "botocore",
    "gcsfs",
    "requests",
    "urllib3",
)  # their errors are the source's, not the item's


class Extractor:
    """Works through items in one process. `run` names this run of the pipeline: attempts are counted within it."""

    def __init__(self, pipeline: Pipeline, *, run: str) -> None:
        self.pipeline, self.run = pipeline, run
        self.options = detectors.options(pipeline)
        self.detector = detectors.find(pipeline.detector.name)(self.options)
        self.layout = layouts.find(pipeline.source.layout)
        self.parts = Parts(pipeline.output)

    def __call__(self, item: Item, key: str) -> Status:
        """Do one item, unless it is done. Faults of the item end up in its status.

        Raises DataError when the output cannot be written or the source's store does not answer: no item's fault.
        """
        done = self.parts.status(key)
        if done is not None:
            return done
        begun = time.monotonic()
        blank = Status(key, item.source, *item.order)
        with tempfile.TemporaryDirectory(prefix="facscale-") as folder:
            path = Path(folder) / "faces.parquet"
            if self.parts.attempt(key, self.run) > ATTEMPTS:
                status = self._failed(blank, "crash", f"brought its worker process down {ATTEMPTS} times")
            else:
                status = self._extract(item, blank, path)
            status = replace(status, seconds=round(time.monotonic() - begun, 3))
            self.parts.finish(status, faces=path if status.faces else None)
        return status

    def _extract(self, item: Item, status: Status, path: Path) -> Status:
        faults: list[Fault] = []

        def note(stage: str, reason: str) -> None:
            faults.append(Fault(item.source, stage, reason))

        stage = "labels"
        try:
            labels, remarks = self._labels(item)
            for remark in remarks:
                note("labels", remark)
            stage = "decode"
            labels = labels.coded(only=self.pipeline.source.aus)
            frames = Frames(item, root=self.pipeline.source.root, every=self.pipeline.source.every, note=note)
            status = self._faces(frames, labels, status, path)
        except (DataError, SpecError):
            raise
        except Exception as error:  # whatever is wrong with one video must not end the others
            if _is_outage(error):
                raise DataError(
                    f"{item.source}: stopped by no fault of its own, run it again later: {error!r}"
                ) from error
            return self._failed(replace(status, faults=tuple(faults)), stage, _sentence(error))
        if not status.frames and not faults:
            note("decode", "there are no frames in it")
        elif not status.faces and status.frames:
            note(
                "faces",
                f"no face in its {status.frames} frames" if not status.dropped else "only tracks that are too short",
            )
        return replace(status, faults=tuple(faults))

    def _labels(self, item: Item) -> tuple[Labels, list[str]]:
        if isinstance(item, Stills):
            return Labels(), []  # it holds its own
        return self.layout.labels(item, lambda name: read_bytes(self.pipeline.source.root, name))

    def _faces(self, frames: Frames, labels: Labels, status: Status, path: Path) -> Status:
        tracker = Tracker(self.detector, config=self.options, step=frames.step)
        dropped: list[int] = []
        stills = isinstance(frames.item, Stills)
        shortest = 1 if stills else self.options.shortest_track
        sightings = longer_than(shortest, tracker.follow(frames), dropped)
        kept, tracks = 0, set()
        writer: pq.ParquetWriter | None = None
        try:
            flow = self.pipeline.flow.frames * frames.step if self.pipeline.flow else 0
            for faces in _batched(crops(sightings, self.pipeline.crop, flow_to=flow)):
                table = self._table(faces, labels, frames.item)
                writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
                writer.write_table(table)
                kept += len(faces)
                tracks |= {face.track for face in faces}
        finally:
            if writer is not None:
                writer.close()
        return replace(
            status,
            frames=frames.seen,
            faces=kept,
            faceless=tracker.faceless,
            dropped=sum(dropped),
            tracks=len(tracks),
            fps=0.0 if stills else frames.fps,
            step=frames.step,
            stills=stills,
            au=labels.au,
        )

    def _table(self, faces: list[Face], labels: Labels, item: Item) -> pa.Table:
        quality, numbers = self.pipeline.crop.quality, [face.number for face in faces]
        columns: dict[str, Any] = {
            "track": pa.array([face.track for face in faces], pa.int32()),
            "frame": pa.array(numbers, pa.int32()),
            "time_s": pa.array([face.time_s for face in faces], pa.float32()),
            "jpeg": pa.array([simplejpeg.encode_jpeg(face.image, quality=quality) for face in faces], pa.binary()),
            "landmarks": fixed(np.stack([face.points.ravel() for face in faces])),
        }
        told = [face.flow for face in faces if face.flow is not None]
        if told:
            columns["flow"] = fixed(np.stack(told))
        if labels.au:
            found = [labels.at(face.number) for face in faces]
            columns["au"] = fixed(np.stack([occurrence for occurrence, _ in found]))
            columns["intensity"] = fixed(np.stack([intensity for _, intensity in found]))
        if isinstance(item, Stills):
            columns["identity"] = pa.array([item.people[number] for number in numbers])
            columns["expression"] = pa.array([item.expressions[number] for number in numbers], pa.int8())
            columns |= {name: pa.array([0] * len(faces), columns[name].type) for name in ("frame", "time_s")}
        return pa.table(columns)

    def _failed(self, status: Status, stage: str, reason: str) -> Status:
        fault = Fault(status.source, stage, reason)
        return replace(status, faults=(*status.faults, fault))


def fixed(rows: np.ndarray) -> pa.FixedSizeListArray:
    """An array [N, K] as a column of N lists of K."""
    flat = pa.array(np.ascontiguousarray(rows).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def _batched(faces: Iterator[Face]) -> Iterator[list[Face]]:
    batch: list[Face] = []
    for face in faces:
        batch.append(face)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_outage(error: Exception) -> bool:
    """Whether it will hit the other items just as well: a store that does not answer, a full disk."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE)
    return full or isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.split(".")[0] in NETWORK


def _sentence(error: Exception) -> str:
    """Errors of libraries on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}")[:300]
