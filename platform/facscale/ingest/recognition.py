"""Recognizes faces, so that another person does not go on under the same identity.

dlib's ResNet (King, 2017, "High quality face recognition with deep metric learning") maps an aligned face of 150 pixels to
128 numbers; faces of a person are mostly less than 0.6 apart (Euclidean), those of two people more. Its weights are in the
public domain (CC0) and come from PyPI with those of the detector `dlib`, in face_recognition_models.

A few faces of each track are compared: the first, the last, and one every few seconds in between. The numbers of a face are
biometric data: they are compared and then forgotten, and no data set or report holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import dlib
import numpy as np

from facscale.data import align
from facscale.ingest.crops import FaceCrop
from facscale.ingest.detectors.dlib import find_packaged_file
from facscale.ingest.people import PersonCheck, RecognizedFace, check_person
from facscale.ingest.stage_clock import StageClock
from facscale.spec import SpecError
from facscale.spec.pipelines import Crop, RecognitionBlock

WEIGHTS = "dlib_face_recognition_resnet_model_v1.dat"
CHIP = Crop(
    size=150, eyes_y=0.314, eyes_distance=0.35
)  # as dlib's `get_face_chip` with a padding of 0.25 places the eyes


class FaceRecognizer:
    """Compares some of the faces of an item, one item after the other."""

    def __init__(self, config: RecognitionBlock, *, clock: StageClock) -> None:
        """Load the weights. Raises SpecError if they are not installed."""
        path = find_packaged_file(WEIGHTS)
        if path is None or not path.is_file():
            raise SpecError(f"recognition needs the file {WEIGHTS} of the package face_recognition_models; install it")
        self.config, self._clock = config, clock
        self._network = dlib.face_recognition_model_v1(str(path))
        self._faces: list[RecognizedFace] = []
        self._recognized_s = 0.0

    def watch(self, crops: Iterable[FaceCrop]) -> Iterator[FaceCrop]:
        """Pass on the crops of an item in order: the first and the last of each track are recognized, and some between."""
        self._faces = []
        previous: FaceCrop | None = None
        for row, crop in enumerate(crops):
            if previous is None or crop.track != previous.track:
                self._recognize_last(previous, row)
                self._recognize(crop, row)
            elif crop.time_s - self._recognized_s >= self.config.every_s:
                self._recognize(crop, row)
            previous, rows = crop, row + 1
            yield crop
        if previous is not None:
            self._recognize_last(previous, rows)

    def check(self, *, rows: int) -> PersonCheck:
        """Decide which of the `rows` crops that were watched show the person that most of them show."""
        return check_person(self._faces, rows=rows, max_distance=self.config.max_distance)

    def compute_descriptor(self, crop: FaceCrop) -> np.ndarray:
        """Compute the numbers [128] of a face. Raises SpecError for a detector without landmarks."""
        if np.isnan(crop.points).any():
            raise SpecError("recognition needs landmarks, which this detector does not give; remove recognition")
        eyes = align.locate_eyes(crop.points)
        matrix = align.fit_similarity(eyes, CHIP)
        if matrix is None:
            distance = np.hypot(*(eyes[1] - eyes[0]))
            raise SpecError(
                f"recognition needs larger crops: the eyes are only {distance:.1f} pixels apart; set crop.size"
            )
        with self._clock.measure("recognize"):
            return np.array(self._network.compute_face_descriptor(align.warp(crop.image, matrix, CHIP.size)))

    def _recognize(self, crop: FaceCrop, row: int) -> None:
        self._faces.append(RecognizedFace(row, crop.track, self.compute_descriptor(crop)))
        self._recognized_s = crop.time_s

    def _recognize_last(self, last: FaceCrop | None, next_row: int) -> None:
        """Recognize the last crop of a track, unless it was."""
        if last is not None and self._faces[-1].row != next_row - 1:
            self._recognize(last, next_row - 1)
