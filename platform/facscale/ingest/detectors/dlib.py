"""dlib's frontal HOG detector and its 68-landmark regression trees (Kazemi & Sullivan, 2014).

LICENCE: dlib itself is free for any use (Boost licence), but the landmark weights, `shape_predictor_68_face_landmarks`,
were trained on the 300-W pictures, whose licence EXCLUDES COMMERCIAL USE. For such use, bring other weights: `weights:`
takes the path of any shape predictor with 68 points in the 300-W order (train one with dlib's `train_shape_predictor`).
The default detector, `mediapipe`, has no such clause.

HOG detects upright faces turned by up to about 35 degrees. It is fast: 8 ms per frame of 569 x 320 on one core, the
landmarks 1 ms. Both come with their weights from PyPI (`dlib-bin`, `face_recognition_models`); nothing is downloaded at
run time.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import cv2
import dlib
import numpy as np
from pydantic import Field

from facscale.data.align import warp
from facscale.ingest.detectors.base import LANDMARKS, Box, Detector, DetectorConfig
from facscale.spec import SpecError

WINDOW = 80  # pixels, side of dlib's sliding window
CHIP_SIZE = 80  # pixels to which a face box is scaled for the landmarks, which dlib rounds to whole pixels
MARGIN = 0.5  # of the box on each side: the regression trees also sample pixels outside of it


class DlibConfig(DetectorConfig):
    """Options of the dlib detector."""

    smallest_face: Annotated[float, Field(gt=0.02, le=1)] = 0.25  # side, as a share of the image's shorter side
    min_score: float = 0.0  # of the HOG detector; higher is stricter
    weights: str = ""  # a 68-point shape predictor; "": the one in face_recognition_models (not for commercial use)


class Dlib(Detector):
    """HOG faces and 68 landmarks, on grey levels."""

    Config = DlibConfig

    def __init__(self, config: DlibConfig) -> None:
        self.config = config
        weights = Path(config.weights).expanduser() if config.weights else locate_packaged_weights()
        try:
            self._predictor: Any = dlib.shape_predictor(str(weights))
        except RuntimeError as error:
            raise SpecError(f"detector.weights: {weights} is not a dlib shape predictor: {error}") from None
        self._detector: Any = dlib.get_frontal_face_detector()

    def detect(self, image: np.ndarray) -> list[Box]:
        """Detect faces no smaller than `smallest_face`, on a copy scaled so that such a face just fills dlib's window."""
        scale = WINDOW / (self.config.smallest_face * min(image.shape[:2]))
        scaled = _resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), scale)
        rectangles, _, _ = self._detector.run(scaled, 0, self.config.min_score)
        corners = ((r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in rectangles)
        return [Box(*(edge / scale for edge in edges)) for edges in corners]

    def predict_landmarks(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Predict the landmarks on the face scaled to a fixed size, since dlib returns whole pixels."""
        side = max(box.right - box.left, box.bottom - box.top, 1.0)
        scale = CHIP_SIZE / side
        corner = np.array([box.left - MARGIN * side, box.top - MARGIN * side])
        width = round(CHIP_SIZE * (1 + 2 * MARGIN))
        x, y = -scale * corner + (scale - 1) / 2
        matrix = np.array([[scale, 0, x], [0, scale, y]])
        chip = cv2.cvtColor(warp(image, matrix, width), cv2.COLOR_RGB2GRAY)
        edge = round(CHIP_SIZE * MARGIN)
        right, bottom = edge + round(scale * (box.right - box.left)), edge + round(scale * (box.bottom - box.top))
        rectangle = dlib.rectangle(edge, edge, right - 1, bottom - 1)
        parts = self._predictor(chip, rectangle).parts()
        points = np.array([(point.x, point.y) for point in parts], np.float32)
        if len(points) != LANDMARKS:
            raise SpecError(
                f"detector.weights: the shape predictor has {len(points)} points; give one that has {LANDMARKS}"
            )
        return np.asarray((points + 0.5) / scale - 0.5 + corner, np.float32)


def locate_packaged_weights() -> Path:
    """Locate the landmark weights in face_recognition_models. Raises SpecError if it is not installed."""
    path = find_packaged_file("shape_predictor_68_face_landmarks.dat")
    if path is None:
        raise SpecError(
            "the dlib detector needs the package face_recognition_models, or detector.weights=/path/to/weights"
        )
    return path


def find_packaged_file(name: str) -> Path | None:
    """Find a file of face_recognition_models without importing it; None if the package is not installed.

    Its __init__ needs pkg_resources, which setuptools no longer has.
    """
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "models" / name


def _resize(image: np.ndarray, scale: float) -> np.ndarray:
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized: np.ndarray = cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation)
    return resized
