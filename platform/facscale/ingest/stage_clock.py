"""Measures how long the stages of an extraction take.

Frames pass through all stages one by one, as generators, so a stage is timed at each of its calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from facscale.ingest.detectors.base import Box, Detector

Value = TypeVar("Value")
STAGES = ("decode", "detect", "landmarks", "recognize", "encode")  # what remains is tracking, alignment and cropping


class StageClock:
    """Adds up the processor's seconds by stage; stages must not contain each other."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a `with` block to a stage."""
        started = time.process_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.process_time() - started

    def iterate(self, stage: str, values: Iterable[Value]) -> Iterator[Value]:
        """Pass on `values`, and add the time that each takes to be made to a stage."""
        iterator = iter(values)
        while True:
            with self.measure(stage):
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield value


class TimedDetector(Detector):
    """A detector whose calls are timed."""

    def __init__(self, detector: Detector, clock: StageClock) -> None:
        self._detector, self._clock = detector, clock

    def detect(self, image: np.ndarray) -> list[Box]:
        """Detect the faces of an RGB image [H, W, 3] uint8."""
        with self._clock.measure("detect"):
            return self._detector.detect(image)

    def predict_landmarks(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Predict the 68 points [68, 2] of the face in `box`."""
        with self._clock.measure("landmarks"):
            return self._detector.predict_landmarks(image, box)
