"""Reads tables of predictions back, a frame at a time, so that memory does not grow with the length of a video."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from facscale.inference.inputs import InputError
from facscale.inference.predictor import FaceResult, FrameResult
from facscale.inference.tables import POINTS, AULayout, build_schema
from facscale.ingest.detectors.base import Box

ROWS = 1024  # that are in memory at once
CSV_BLOCK = 1 << 20  # bytes


def read_results(path: Path, layout: AULayout) -> Iterator[FrameResult]:
    """Yield the frames of a CSV or Parquet table of one video, as `tables.open_table` wrote it with our own columns.

    Raises InputError for a table of other columns, such as those of other tools.
    """
    schema = build_schema(layout)
    try:
        batches = _open(path, schema)
        names = next(batches)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from None
    if missing := [name for name in schema.names if name not in names]:
        raise InputError(f"{path}: is no table of this detector with facscale's own columns: {missing[0]} is missing")
    rows = (row for batch in batches for row in _iterate_rows(batch, layout))
    for (number, time_s), group in groupby(rows, key=lambda row: row[:2]):
        yield FrameResult(number, time_s, tuple(face for _, _, face in group if face is not None))


def _open(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """Yield the names of the columns, then record batches."""
    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path) as file:
            yield file.schema_arrow.names
            yield from file.iter_batches(batch_size=ROWS)
        return
    convert = pyarrow.csv.ConvertOptions(column_types=dict(zip(schema.names, schema.types, strict=True)))
    read = pyarrow.csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False)
    with pyarrow.csv.open_csv(path, read_options=read, convert_options=convert) as reader:
        yield reader.schema.names
        yield from reader


def _iterate_rows(batch: pa.RecordBatch, layout: AULayout) -> Iterator[tuple[int, float, FaceResult | None]]:
    """Yield number, time and face of each row; None for a frame without a face."""
    numbers, times, faces = (batch.column(name).to_pylist() for name in ("frame", "timestamp", "face"))
    confidence = _to_matrix(batch, ["confidence"])[:, 0]
    boxes = _to_matrix(batch, ["left", "top", "right", "bottom"])
    pose = _to_matrix(batch, ["pitch", "yaw", "roll"])
    points = np.stack([_to_matrix(batch, [f"{axis}_{point}" for point in range(POINTS)]) for axis in "xy"], axis=-1)
    probability = _to_matrix(batch, [f"AU{au:02d}" for au in layout.aus])
    intensity = _to_matrix(batch, [f"AU{au:02d}_r" for au in layout.intensity_aus])
    for row, face in enumerate(faces):
        result = None
        if face is not None:
            rated = intensity[row] if layout.intensity_aus else None
            box = Box(*boxes[row].tolist())
            result = FaceResult(face, float(confidence[row]), box, pose[row], points[row], probability[row], rated)
        yield numbers[row], times[row], result


def _to_matrix(batch: pa.RecordBatch, names: list[str]) -> np.ndarray:
    """Columns as a matrix [rows, columns] float32, nan where a value is missing."""
    columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in names]
    return np.stack(columns, axis=-1).astype(np.float32) if columns else np.empty((len(batch), 0), np.float32)
