"""Tables of predictions: one row for each face of each frame, appended to a CSV or Parquet file; and their summaries.

Columns: `input`, `frame`, `timestamp` (seconds), `face`, `confidence`, `left`, `top`, `right`, `bottom` (the box, pixels),
`pitch`, `yaw`, `roll` (degrees), `x_0` to `x_67`, `y_0` to `y_67` (iBUG's landmarks, pixels), and for each AU `AU01`
(calibrated probability), `AU01_c` (decision, 1 or 0) and, where the detector estimates intensities, `AU01_r` (0 to 5). A
frame without a face is a row with confidence 0 in which everything about a face is empty.

`COLUMN_SETS` has the names that other tools give to the same values.
"""

from __future__ import annotations

import glob
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq

from facscale.files import replace_file
from facscale.inference.detector import Detector
from facscale.inference.predictor import FaceResult, FrameResult
from facscale.names import sanitize_filename

ColumnSet = Literal["facscale", "py-feat", "openface", "pyafar"]
COLUMN_SETS: tuple[ColumnSet, ...] = ("facscale", "py-feat", "openface", "pyafar")
FORMATS = ("csv", "parquet")
ROWS = 1024  # that are written at once
POINTS = 68


@dataclass(frozen=True)
class AULayout:
    """Which AUs a detector reports: their numbers, thresholds [n], and those with intensities."""

    aus: tuple[int, ...]
    thresholds: np.ndarray
    intensity_aus: tuple[int, ...] = ()

    @classmethod
    def from_detector(cls, detector: Detector) -> Self:
        """The layout of what a detector reports; its thresholds may lie on any device."""
        return cls(detector.aus, detector.thresholds.cpu().numpy(), detector.intensity_aus)

    def decide(self, probability: np.ndarray) -> np.ndarray:
        """Decisions bool [..., n] of probabilities [..., n]."""
        decisions: np.ndarray = probability >= self.thresholds
        return decisions


def build_schema(layout: AULayout) -> pa.Schema:
    """The columns of our own table, in their order."""
    fields = [("input", pa.string()), ("frame", pa.int64()), ("timestamp", pa.float64()), ("face", pa.int64())]
    numbers = ["confidence", "left", "top", "right", "bottom", "pitch", "yaw", "roll"]
    numbers += _list_points()
    fields += [(name, pa.float32()) for name in numbers]
    for au in layout.aus:
        fields += [(f"AU{au:02d}", pa.float32()), (f"AU{au:02d}_c", pa.int8())]
        fields += [(f"AU{au:02d}_r", pa.float32())] if au in layout.intensity_aus else []
    return pa.schema(fields)


def build_table(
    results: Iterable[FrameResult], layout: AULayout, *, source: str, columns: ColumnSet = "facscale"
) -> pa.Table:
    """Build the rows of some frames. `source`: what stands in the column `input`."""
    rows: list[tuple[FrameResult, FaceResult | None]] = [
        (frame, face) for frame in results for face in (frame.faces or (None,))
    ]
    schema = build_schema(layout)
    mask = np.array([face is None for _, face in rows], bool)
    faces = [face for _, face in rows if face is not None]
    values: dict[str, Any] = {
        "input": [source] * len(rows),
        "frame": [frame.number for frame, _ in rows],
        "timestamp": [round(frame.time_s, 6) for frame, _ in rows],
        "face": [None if face is None else face.face for _, face in rows],
        "confidence": [0.0 if face is None else _clean(face.confidence) for _, face in rows],
    }

    def spread(name: str, column: np.ndarray, kind: Any) -> None:
        """Put the values of faces in their rows; the others are empty, and so is nan."""
        full = np.zeros(len(rows), column.dtype)
        full[~mask] = column
        is_missing = mask.copy()
        is_missing[~mask] = ~np.isfinite(column) if column.dtype.kind == "f" else False
        values[name] = pa.array(full, kind, mask=is_missing)

    matrices = {
        ("left", "top", "right", "bottom"): [face.box for face in faces],
        ("pitch", "yaw", "roll"): [face.pose for face in faces],
        tuple(f"x_{number}" for number in range(POINTS)): [face.points[:, 0] for face in faces],
        tuple(f"y_{number}" for number in range(POINTS)): [face.points[:, 1] for face in faces],
    }
    for names, matrix in matrices.items():
        array = np.round(np.array(matrix, np.float32).reshape(len(faces), len(names)), 2)
        for number, name in enumerate(names):
            spread(name, array[:, number], pa.float32())
    probability = np.array([face.probability for face in faces], np.float32).reshape(len(faces), len(layout.aus))
    decisions = layout.decide(probability).astype(np.int8)
    for number, au in enumerate(layout.aus):
        spread(f"AU{au:02d}", probability[:, number], pa.float32())
        spread(f"AU{au:02d}_c", decisions[:, number], pa.int8())
    rated = [np.full(len(layout.intensity_aus), np.nan) if face.intensity is None else face.intensity for face in faces]
    intensity = np.array(rated, np.float32).reshape(len(faces), len(layout.intensity_aus))
    for number, au in enumerate(layout.intensity_aus):
        spread(f"AU{au:02d}_r", intensity[:, number], pa.float32())
    table = pa.table(
        [
            pa.array(values[field.name], field.type) if isinstance(values[field.name], list) else values[field.name]
            for field in schema
        ],
        schema=schema,
    )
    return RENAMERS[columns](table, layout)


def _clean(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _keep(table: pa.Table, layout: AULayout) -> pa.Table:  # noqa: ARG001 - one signature for all
    return table


def _rename_py_feat(table: pa.Table, layout: AULayout) -> pa.Table:
    """py-feat's Fex: the box as corner and sides, AU probabilities; frames without a face have no values."""
    left, top = table["left"], table["top"]
    columns: dict[str, Any] = {
        "frame": table["frame"],
        "FaceRectX": left,
        "FaceRectY": top,
        "FaceRectWidth": pa.compute.subtract(table["right"], left),
        "FaceRectHeight": pa.compute.subtract(table["bottom"], top),
        "FaceScore": table["confidence"],
        **{name: table[name] for name in _list_points()},
        "Pitch": table["pitch"],
        "Roll": table["roll"],
        "Yaw": table["yaw"],
        **{f"AU{au:02d}": table[f"AU{au:02d}"] for au in layout.aus},
        "input": table["input"],
        "approx_time": table["timestamp"],
        "Identity": table["face"],
    }
    return pa.table(columns)


def _rename_openface(table: pa.Table, layout: AULayout) -> pa.Table:
    """OpenFace's FeatureExtraction: frames from 1 on, rotations in radians, decisions as _c, and intensities as _r."""
    has_face = pa.compute.is_valid(table["face"])
    radians = {
        name: pa.compute.multiply(table[angle], np.float32(np.pi / 180))
        for name, angle in (("pose_Rx", "pitch"), ("pose_Ry", "yaw"), ("pose_Rz", "roll"))
    }
    columns: dict[str, Any] = {
        "frame": pa.compute.add(table["frame"], 1),
        "face_id": pa.compute.fill_null(table["face"], 0),
        "timestamp": table["timestamp"],
        "confidence": table["confidence"],
        "success": pa.compute.cast(has_face, pa.int8()),
        **radians,
        **{name: table[name] for name in _list_points()},
        **{f"AU{au:02d}_r": table[f"AU{au:02d}_r"] for au in layout.intensity_aus},
        **{f"AU{au:02d}_c": pa.compute.cast(table[f"AU{au:02d}_c"], pa.float32()) for au in layout.aus},
    }
    return pa.table(columns)


def _rename_pyafar(table: pa.Table, layout: AULayout) -> pa.Table:
    """PyAFAR: occurrence probabilities as Occ_au_1, intensities as Int_au_1."""
    columns: dict[str, Any] = {
        "Frame": table["frame"],
        "Timestamp": table["timestamp"],
        "Face": table["face"],
        "Pitch": table["pitch"],
        "Yaw": table["yaw"],
        "Roll": table["roll"],
        **{f"Occ_au_{au}": table[f"AU{au:02d}"] for au in layout.aus},
        **{f"Int_au_{au}": table[f"AU{au:02d}_r"] for au in layout.intensity_aus},
    }
    return pa.table(columns)


RENAMERS: Mapping[ColumnSet, Callable[[pa.Table, AULayout], pa.Table]] = {
    "facscale": _keep,
    "py-feat": _rename_py_feat,
    "openface": _rename_openface,
    "pyafar": _rename_pyafar,
}


def _list_points() -> list[str]:
    return [f"{axis}_{number}" for axis in "xy" for number in range(POINTS)]


class TableWriter:
    """Appends frames to the file of a table, in batches. Use `open_table`."""

    def __init__(self, path: Path, layout: AULayout, *, columns: ColumnSet, kind: str) -> None:
        self.layout, self.columns = layout, columns
        self.rows = 0
        self._path, self._kind = path, kind
        self._writer: Any = None
        self._waiting: dict[str, list[FrameResult]] = {}
        self._count = 0

    def add(self, result: FrameResult, *, source: str) -> None:
        """Append a frame; `source` stands in the column `input`."""
        self._waiting.setdefault(source, []).append(result)
        self._count += max(1, len(result.faces))
        if self._count >= ROWS:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the end of the file; a table without rows has its header."""
        self._flush()
        if self._writer is None:
            self._write(build_table([], self.layout, source="", columns=self.columns))
        self._writer.close()

    def abort(self) -> None:
        """Close the file without what waits."""
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        for source, results in self._waiting.items():
            table = build_table(results, self.layout, source=source, columns=self.columns)
            self._write(table)
            self.rows += len(table)
        self._waiting, self._count = {}, 0

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = self._open(table.schema)
        self._writer.write_table(table)

    def _open(self, schema: pa.Schema) -> Any:
        if self._kind == "parquet":
            return pq.ParquetWriter(self._path, schema, compression="zstd")
        return pyarrow.csv.CSVWriter(
            str(self._path), schema, write_options=pyarrow.csv.WriteOptions(quoting_style="needed")
        )


@contextmanager
def open_table(path: Path, layout: AULayout, *, columns: ColumnSet = "facscale") -> Iterator[TableWriter]:
    """Write the table `path` (.csv or .parquet), which appears when the block ends, complete, or not at all."""
    _remove_abandoned(path)
    with replace_file(path, mark=f"{_get_host()}.{os.getpid()}.") as partial:
        writer = TableWriter(partial, layout, columns=columns, kind=path.suffix.lower().lstrip("."))
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abort()
            raise


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine that were killed have left of a table."""
    prefix = f".{path.name}.{_get_host()}."
    for partial in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        pid = partial.name.removeprefix(prefix).split(".")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            partial.unlink(missing_ok=True)


def _get_host() -> str:
    return sanitize_filename(socket.gethostname())


@dataclass
class _FaceCounts:
    """Sums over the frames of one face."""

    frames: int = 0
    active: Any = None  # int64 [n]
    onsets: Any = None  # int64 [n]
    together: Any = None  # int64 [n, n]
    probability: Any = None  # float64 [n], sum
    was_active: Any = None  # bool [n], in its last frame
    last: int | None = None  # number of its last frame


@dataclass
class SummaryMeter:
    """Sums up the AUs of a video as its frames pass: shares of time, onsets, mean durations, co-occurrence.

    An onset is a frame with an AU whose predecessor, of the same face, has not got it; a face that begins with it has one.
    """

    layout: AULayout
    interval_s: float  # between frames; 0: single images, which have no durations
    step: int = 1
    frames: int = 0
    faceless: int = 0
    _faces: dict[int, _FaceCounts] = field(default_factory=lambda: defaultdict(_FaceCounts))

    def add(self, result: FrameResult) -> None:
        """Add a frame."""
        self.frames += 1
        self.faceless += not result.faces
        count = len(self.layout.aus)
        for face in result.faces:
            sums = self._faces[face.face]
            if sums.active is None:
                sums.active, sums.onsets = np.zeros(count, np.int64), np.zeros(count, np.int64)
                sums.together, sums.probability = np.zeros((count, count), np.int64), np.zeros(count)
            active = self.layout.decide(face.probability)
            is_next = sums.last is not None and result.number == sums.last + self.step
            before = sums.was_active if is_next else np.zeros(count, bool)
            sums.frames += 1
            sums.active += active
            sums.onsets += active & ~before
            sums.together += np.outer(active, active)
            sums.probability += face.probability
            sums.was_active, sums.last = active, result.number

    def summarize(self) -> dict[str, Any]:
        """Return plain values: counts, and for each face each AU's share of its frames, and so on."""
        names = [f"AU{au:02d}" for au in self.layout.aus]
        return {
            "frames": self.frames,
            "frames_without_a_face": self.faceless,
            "seconds": round(self.frames * self.interval_s, 3) if self.interval_s else None,
            "faces": {str(number): self._describe(sums, names) for number, sums in sorted(self._faces.items())},
        }

    def _describe(self, sums: _FaceCounts, names: Sequence[str]) -> dict[str, Any]:
        aus = {}
        for number, name in enumerate(names):
            active, onsets = int(sums.active[number]), int(sums.onsets[number])
            seconds = active * self.interval_s / onsets if onsets and self.interval_s else None
            aus[name] = {
                "share": round(active / sums.frames, 4),
                "mean_probability": round(float(sums.probability[number] / sums.frames), 4),
                "onsets": onsets if self.interval_s else None,
                "mean_seconds": None if seconds is None else round(seconds, 3),
            }
        pairs = {
            f"{names[a]}+{names[b]}": round(int(sums.together[a, b]) / sums.frames, 4)
            for a in range(len(names))
            for b in range(a + 1, len(names))
            if sums.together[a, b]
        }
        return {"frames": sums.frames, "aus": aus, "together": pairs}
