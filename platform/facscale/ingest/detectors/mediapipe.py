"""MediaPipe's face detector and face mesh, in OpenCV. The default: its weights may be used commercially.

BlazeFace, the short-range model (Bazarevsky et al., 2019, arXiv:1907.05047), detects faces in a view of 128 pixels; the
face mesh (Kartynnik et al., 2019, arXiv:1907.06724) locates 468 points on a rotated chip of 192 pixels, of which 68 are
kept. Both files lie beside this module, as `weights/*.tflite`: unchanged from the wheel `mediapipe` 0.10.21, under the
Apache License 2.0 (see NOTICE). Nothing is downloaded, and the package `mediapipe` itself is not needed.

BlazeFace: RGB in [-1, 1] -> `regressors` [1, 896, 16] and `classificators` [1, 896, 1] (logits). Its 896 anchors are the
centres of 16 x 16 cells, two each, and of 8 x 8 cells, six each. A row of regressors has the box's centre, relative to
the anchor, and its width and height, in pixels of the view; six points of the face follow, which are not used here.

Face mesh: RGB in [0, 1] -> `conv2d_21` [1, 1404, 1, 1], 468 points (x, y, z) in pixels of the chip, and `conv2d_31`
[1, 1, 1, 1], the logit of a face being there. The chip is a square of 1.5 times the face, turned so that the eyes are
level. The first chip is upright, from the box; the next ones come from the landmarks of the one before.

Unlike iBUG's, these jaw points lie on the head itself, not on its outline, when it is turned; and the brows are marked a
little differently. `docs/how-to/data.md` compares the errors with dlib's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
from pydantic import Field

from facscale.data.align import transform_points, warp
from facscale.ingest.detectors.base import LANDMARKS, Box, Detector, DetectorConfig
from facscale.spec import SpecError

WEIGHTS = Path(__file__).parent / "weights"
SHA256 = {
    "face_detection_short_range.tflite": "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    "face_landmark.tflite": "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
}
VIEW_SIZE, CHIP_SIZE = 128, 192  # pixels, inputs of the two networks
CELLS = ((16, 2), (8, 6))  # of BlazeFace: cells along a side, anchors in each
MIN_FACE = 16  # pixels of a view: every rendered face of this size was detected, of two thirds of it a third
CHIP_MARGIN = 1.5  # side of the chip, in sides of the face
MAX_PASSES = 5  # of the face mesh
MAX_TURN = 0.06  # rad: if the eyes are further from level than this in a chip, another pass follows
SURE = 0.99  # a first pass with a lower score is repeated, too
MAX_IOU, MAX_INSIDE = 0.3, 0.7  # boxes that overlap more, or of which this share lies in the other, show one face
RIGHT_CORNER, LEFT_CORNER = 33, 263  # outer eye corners in the mesh
# The iBUG 68 points in the mesh, 17 to a line: jaw; brows and bridge of the nose; and so on.
# fmt: off
MESH_TO_IBUG = np.array([
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97,
    2, 326, 305, 33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
])
# fmt: on
assert len(MESH_TO_IBUG) == LANDMARKS


class MediaPipeConfig(DetectorConfig):
    """Options of the MediaPipe detector."""

    smallest_face: Annotated[float, Field(gt=0.02, le=1)] = 0.25  # side, as a share of the image's shorter side
    min_score: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of BlazeFace and of the face mesh; higher is stricter


class FaceMesh(NamedTuple):
    """The landmarks of a face, and how sure the network is that it is one."""

    points: np.ndarray  # [68, 2] float32, pixels of the image
    score: float  # 0..1


class MediaPipe(Detector):
    """BlazeFace boxes and 68 of the mesh's landmarks, on colours."""

    Config = MediaPipeConfig

    def __init__(self, config: MediaPipeConfig) -> None:
        self.config = config
        self._blaze_face = _load_network("face_detection_short_range.tflite")
        self._face_mesh = _load_network("face_landmark.tflite")
        self._anchors = _make_anchors()
        self._detected_image: np.ndarray | None = None  # in which `detect` located
        self._detected_meshes: dict[Box, FaceMesh] = {}  # these

    def detect(self, image: np.ndarray) -> list[Box]:
        """Detect faces no smaller than `smallest_face`, first in the whole image, then in overlapping parts of it.

        Only faces that the mesh recognizes too are returned: BlazeFace alone also sees faces in folds and lamps.
        """
        candidates = np.concatenate(
            [self._search(image, *view) for view in _list_views(image, self.config.smallest_face)]
        )
        meshes = {box: self.locate_mesh(image, box) for box in (Box(*corners) for corners in _merge_boxes(candidates))}
        self._detected_image, self._detected_meshes = image, meshes
        return [box for box, mesh in meshes.items() if mesh.score >= self.config.min_score]

    def predict_landmarks(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Predict the landmarks by one pass of the mesh, or up to five where the face is tilted."""
        if image is self._detected_image and box in self._detected_meshes:
            return self._detected_meshes[box].points.copy()
        return self.locate_mesh(image, box).points

    def locate_mesh(self, image: np.ndarray, box: Box) -> FaceMesh:
        """Locate the landmarks of the face in `box`."""
        centre = np.array([box.left + box.right - 1, box.top + box.bottom - 1]) / 2
        side, angle = max(box.right - box.left, box.bottom - box.top, 1.0), 0.0
        for number in range(1, MAX_PASSES + 1):
            points, score = self._run_face_mesh(image, centre, side * CHIP_MARGIN, angle)
            across = points[LEFT_CORNER] - points[RIGHT_CORNER]
            before, angle = angle, math.atan2(across[1], across[0])
            is_level = abs(math.remainder(angle - before, math.tau)) < MAX_TURN
            if is_level and (score >= SURE or number > 1):
                break
            upright = points @ _rotation(angle).T
            low, high = upright.min(axis=0), upright.max(axis=0)
            centre, side = (low + high) / 2 @ _rotation(angle), max(float((high - low).max()), 1.0)
        return FaceMesh(points[MESH_TO_IBUG].astype(np.float32), score)

    def _search(self, image: np.ndarray, left: float, top: float, side: float) -> np.ndarray:
        """Run BlazeFace on a square of the image: rows [N, 5] of score and corners, those of cut faces left out."""
        scale = VIEW_SIZE / side
        matrix = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
        view = warp(image, matrix, VIEW_SIZE)
        self._blaze_face.setInput(cv2.dnn.blobFromImage(view, 2 / 255, mean=(127.5,) * 3))
        regressors, logits = self._blaze_face.forward(["regressors", "classificators"])
        scores = _sigmoid(logits[0, :, 0])
        kept = scores >= self.config.min_score
        rows = regressors[0, kept].astype(np.float64) / VIEW_SIZE
        centres, halves = rows[:, :2] + self._anchors[kept], rows[:, 2:4] / 2
        boxes = np.hstack([centres - halves, centres + halves]) * side + np.array([left, top, left, top])
        candidates = np.column_stack([scores[kept], boxes])
        return candidates[_find_whole(boxes, image.shape[:2], left=left, top=top, side=side)]

    def _run_face_mesh(
        self, image: np.ndarray, centre: np.ndarray, side: float, angle: float
    ) -> tuple[np.ndarray, float]:
        """Return all points [468, 2] in pixels of the image, and the score."""
        turn = _rotation(angle) * CHIP_SIZE / side
        matrix = np.hstack([turn, ((CHIP_SIZE - 1) / 2 - turn @ centre)[:, None]])
        chip = warp(image, matrix, CHIP_SIZE)
        self._face_mesh.setInput(cv2.dnn.blobFromImage(chip, 1 / 255))
        mesh, logit = self._face_mesh.forward(["conv2d_21", "conv2d_31"])
        points = (
            mesh.reshape(-1, 3)[:, :2].astype(np.float64) - 0.5
        )  # the centre of the first pixel is (0.5, 0.5) there
        return transform_points(points, cv2.invertAffineTransform(matrix)), float(_sigmoid(logit).item())


def _load_network(name: str) -> Any:
    """Load one of the two files. Raises SpecError if it is missing or damaged."""
    path = WEIGHTS / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error}; install facscale again") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise SpecError(f"{path} is damaged: its checksum differs from MediaPipe's; install facscale again")
    # OpenCV 5's new engine offers only one of a network's outputs; OpenCV 4 has but one engine. The path is read again,
    # since for bytes OpenCV 5.0 ignores the engine.
    engine = {"engine": cv2.dnn.ENGINE_CLASSIC} if hasattr(cv2.dnn, "ENGINE_CLASSIC") else {}
    return cv2.dnn.readNetFromTFLite(str(path), **engine)


def _make_anchors() -> np.ndarray:
    """Return the anchors' centres [896, 2] as shares of the view."""
    centres = []
    for cells, anchors in CELLS:
        y, x = np.divmod(np.arange(cells * cells), cells)
        centres.append(np.repeat((np.column_stack([x, y]) + 0.5) / cells, anchors, axis=0))
    return np.concatenate(centres)


def _list_views(image: np.ndarray, smallest_face: float) -> Iterator[tuple[float, float, float]]:
    """Yield the squares (left, top, side) to search: the whole image, then halves, until the smallest face is large enough.

    Squares of one size overlap by half, so that a face of up to half their side lies in one of them as a whole.
    """
    height, width = image.shape[:2]
    side, target = float(max(height, width)), smallest_face * min(height, width) * VIEW_SIZE / MIN_FACE
    while True:
        for left in _spread(width, side):
            for top in _spread(height, side):
                yield left, top, side
        if side <= target * 1.001:  # rounding must not add a level
            return
        side = max(side / 2, target)


def _spread(length: float, side: float) -> list[float]:
    """Return the starts of intervals of `side` that cover `length` and overlap by at least half; centred if one will do."""
    if length <= side:
        return [(length - side) / 2]
    return np.linspace(0, length - side, math.ceil(2 * (length - side) / side) + 1).tolist()


def _find_whole(boxes: np.ndarray, shape: tuple[int, int], *, left: float, top: float, side: float) -> np.ndarray:
    """Return bool [N]: whether each box [N, 4] keeps clear of the view's edges, save where the image itself ends."""
    height, width = shape
    clear = 0.01 * side
    return (
        ((boxes[:, 0] > left + clear) | (left <= 0))
        & ((boxes[:, 1] > top + clear) | (top <= 0))
        & ((boxes[:, 2] < left + side - clear) | (left + side >= width))
        & ((boxes[:, 3] < top + side - clear) | (top + side >= height))
    )


def _merge_boxes(candidates: np.ndarray) -> Iterator[list[float]]:
    """Yield the corners of one box for each face, the surest first, from rows [N, 5] of score and corners.

    Boxes of a face are averaged by their scores, as in MediaPipe: the average trembles less than the best of them.
    """
    candidates = candidates[np.argsort(-candidates[:, 0], kind="stable")]
    while len(candidates):
        low, high = np.maximum(candidates[:, 1:3], candidates[0, 1:3]), np.minimum(candidates[:, 3:], candidates[0, 3:])
        common = np.clip(high - low, 0, None).prod(axis=1)
        areas = (candidates[:, 3:] - candidates[:, 1:3]).prod(axis=1)
        is_same = common > MAX_IOU * (areas + areas[0] - common)
        is_same[0] = True  # also a box without any area
        yield np.average(candidates[is_same, 1:], axis=0, weights=candidates[is_same, 0]).tolist()
        candidates = candidates[~is_same & (common < MAX_INSIDE * np.minimum(areas, areas[0]))]


def _rotation(angle: float) -> np.ndarray:
    """Return the matrix [2, 2] that turns a line at `angle` (rad) level."""
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))
    return result
