"""The Python interface of a detector: `facscale.load("models:/NAME@ALIAS").predict("talk.mp4")`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from facscale.data import Dataset
from facscale.inference.detector import Detector, DetectorError
from facscale.inference.inputs import Input, InputError, list_inputs, open_video, read_image
from facscale.inference.predictor import BATCH_SIZE, FrameResult, Predictor, make_frames, read_crops
from facscale.inference.sources import load_detector
from facscale.inference.tables import AULayout, ColumnSet, build_table
from facscale.ingest.frames import Frame

if TYPE_CHECKING:
    import pandas as pd

Results = Iterator[tuple[str, FrameResult]]  # with what stands in the column `input`


class AUDetector:
    """A detector with all that surrounds it: files, faces, batches and tables."""

    def __init__(self, detector: Detector, *, device: str = "", batch_size: int = BATCH_SIZE) -> None:
        """`device`: "cuda", "cpu", ...; "": a GPU where there is one. `batch_size`: faces that pass the networks together."""
        self.detector = detector
        self.predictor = Predictor(detector, device=device, batch_size=batch_size)
        self.layout = AULayout.from_detector(detector)

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, tracker: str = "", device: str = "") -> AUDetector:
        """Load a detector, see `sources.load_detector`. Raises DetectorError."""
        return cls(load_detector(source, tracker=tracker), device=device)

    @property
    def aus(self) -> tuple[int, ...]:
        """The AUs that it detects."""
        return self.detector.aus

    @property
    def card(self) -> dict[str, Any]:
        """What it has learned from, and how well it did on people whom it had not seen."""
        return self.detector.card

    def predict(self, source: Any, *, columns: ColumnSet = "facscale", every: int = 1) -> pd.DataFrame:
        """Predict a table with one row for each face of each frame, see `tables`.

        source: a path or URL of a video, an image, a folder or a data set; an image [H, W, 3]; or several of these in a
        list or as an array [N, H, W, 3]. Arrays are RGB, uint8 or floats, and single images; frames of a video go to
        `stream`. every: of a video, read each n-th frame. Raises InputError, DetectorError.
        """
        tables: list[pa.Table] = []
        waiting: list[FrameResult] = []
        last = ""
        for name, result in self._iterate(source, every=every):
            if waiting and (name != last or len(waiting) >= 1024):
                tables.append(build_table(waiting, self.layout, source=last, columns=columns))
                waiting = []
            waiting.append(result)
            last = name
        tables.append(build_table(waiting, self.layout, source=last, columns=columns))
        return pa.concat_tables(tables).to_pandas()

    def stream(self, frames: Iterable[np.ndarray], *, fps: float = 25.0) -> Iterator[FrameResult]:
        """Yield results of live frames, RGB [H, W, 3], in order, as soon as they are certain: up to half a second late.

        fps: about how many there are a second. Raises DetectorError.
        """
        pictures = make_frames(frames, fps=fps)
        yield from self.predictor.predict_frames(pictures, interval_s=1 / fps, is_live=True)

    def predict_input(
        self, item: Input, *, every: int = 1, note: Callable[[str, str], None] = lambda _stage, _reason: None
    ) -> tuple[Results, float, int]:
        """Open an input: its results, the seconds between its frames (0: single images), and how many frames are expected.

        note(stage, reason): called for what is left out. Raises InputError, DetectorError, DataError.
        """
        if item.kind == "image":
            frames = iter([Frame(0, 0.0, read_image(item))])
            results = self.predictor.predict_frames(frames, interval_s=0)
            return ((item.name, result) for result in results), 0.0, 1
        if item.kind == "data set":
            dataset = Dataset(item.root)
            return self._predict_dataset(dataset), 0.0, dataset.manifest.counts["frames"]
        frames, facts = open_video(item, every=every, note=note)
        interval_s = every / facts.fps
        results = self.predictor.predict_frames(frames, interval_s=interval_s, step=every)
        return ((item.name, result) for result in results), interval_s, -(-facts.frames // every)

    def _predict_dataset(self, dataset: Dataset) -> Results:
        for (identity, video, track), interval_s, frames in read_crops(dataset, self.detector):
            for result in self.predictor.predict_crops(frames, interval_s=interval_s):
                faces = tuple(face._replace(face=track) for face in result.faces)
                yield f"{identity}/{video}", result._replace(faces=faces)

    def _iterate(self, source: Any, *, every: int) -> Results:
        if isinstance(source, str | Path):
            inputs, _ = list_inputs([str(source)])
            for item in inputs:
                results, _, _ = self.predict_input(item, every=every)
                yield from results
        elif isinstance(source, np.ndarray) and source.ndim < 4:
            yield from self._predict_images([source], start=0)
        elif isinstance(source, np.ndarray | Sequence):
            for number, item in zip(count(), source, strict=False):
                is_place = isinstance(item, str | Path)
                yield from self._iterate(item, every=every) if is_place else self._predict_images([item], start=number)
        else:
            raise DetectorError(f"{type(source).__name__} is no input: give a path, an image [H, W, 3], or several")

    def _predict_images(self, images: Sequence[Any], *, start: int) -> Results:
        for result in self.predictor.predict_frames(make_frames(images, fps=0), interval_s=0):
            yield "", result._replace(number=start + result.number)


__all__ = ["AUDetector", "DetectorError", "InputError"]
